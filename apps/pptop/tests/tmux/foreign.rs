//! Jobs of other programs, live: their ranks write files, and the monitor merges them.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::terminal::{Terminal, step};

/// The stand-in for a framework of `integrations/python`.
struct Emitter {
    child: Child,
    ranks: Vec<Pid>,
}

impl Emitter {
    /// Starts a job; `None` without Python.
    fn start(folder: &Path, flags: &str) -> Option<Self> {
        let package =
            PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../integrations/python"));
        let child = Command::new("python3")
            .arg(package.join("tests/emitter.py"))
            .arg(folder)
            .args(flags.split_whitespace())
            .env("PYTHONPATH", package.join("src"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                let required = std::env::var_os("PPTOP_REQUIRE_TMUX").is_some_and(|v| v == "1");
                assert!(!required, "PPTOP_REQUIRE_TMUX=1, and python3 does not start: {error}");
                crate::terminal::skipped_without("python3");
                return None;
            }
        };
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = |word: &str| Pid::from_raw(word.parse().unwrap()).unwrap();
        Some(Self { child, ranks: line.split_whitespace().map(pid).collect() })
    }

    fn signal(&self, rank: usize, signal: Signal) {
        kill_process(self.ranks[rank], signal).unwrap();
    }
}

impl Drop for Emitter {
    fn drop(&mut self) {
        for &rank in &self.ranks {
            let _ = kill_process(rank, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_job_of_another_program_is_watched_while_it_runs() {
    let Some(terminal) = Terminal::open() else { return };
    let folder = terminal.dir.path().join("theirs");
    let Some(job) = Emitter::start(&folder, "--pp 2 --steps 2000 --ms 10") else { return };
    terminal.tmux(&["resize-window", "-x", "120", "-y", "40"]);
    terminal.pptop(&format!("attach {}", folder.display()));
    terminal.wait("two steps", |screen| step(screen).is_some_and(|step| step >= 2));
    let screen = terminal.wait_for("LIVE");
    for part in ["gpipe", "f0", "B3", "theory 20.0%", "q quit"] {
        assert!(screen.contains(part), "{part} is not in\n{screen}");
    }
    for odd in ["NaN", "x stop", "grad norm"] {
        assert!(!screen.contains(odd), "{odd} is in\n{screen}");
    }
    let before = step(&screen).unwrap();
    terminal.wait("more steps", |screen| step(screen).is_some_and(|step| step > before + 2));
    // The job cannot be stopped from here.
    terminal.press("x");
    terminal.wait_for("end it where it was started");
    // A rank that is held, and goes on.
    job.signal(1, Signal::STOP);
    terminal.press("6");
    terminal.wait_for("is stopped by a signal");
    job.signal(1, Signal::CONT);
    terminal.wait_for("goes on");
    // A rank that is killed.
    job.signal(1, Signal::KILL);
    terminal.wait_for("is gone without its last line");
    terminal.wait_for("DIED");
    terminal.press("q");
    terminal.wait_restored("exit=0");
}

#[test]
fn a_job_that_ends_is_shown_as_finished_and_one_that_fails_with_its_error() {
    let Some(terminal) = Terminal::open() else { return };
    let folder = terminal.dir.path().join("theirs");
    let Some(mut job) = Emitter::start(&folder, "--pp 2 --dp 2 --steps 5 --ms 5") else { return };
    terminal.pptop(&format!("attach {}", folder.display()));
    terminal.wait_for("ENDED");
    assert!(job.child.wait().unwrap().success());
    terminal.press("q");
    terminal.wait_restored("exit=0");
    let folder = terminal.dir.path().join("fails");
    let Some(_job) = Emitter::start(&folder, "--pp 2 --steps 5 --ms 5 --fail-at 5") else { return };
    terminal.tmux(&["send-keys", "clear", "Enter"]);
    terminal.pptop(&format!("attach {}", folder.display()));
    terminal.wait_for("FAILED");
    terminal.press("6");
    terminal.wait_for("RuntimeError: as asked");
    terminal.press("q");
    terminal.wait_restored("exit=");
}
