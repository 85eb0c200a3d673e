//! The monitor in a terminal that tmux stands in for, and what its process takes.
#![expect(clippy::print_stdout, reason = "what is skipped is told on standard output")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::{is_there, number_after};

/// Columns and rows.
const SIZE: [&str; 2] = ["160", "50"];
/// How long one waits for what is to be seen.
const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Linux counts the time of a process in hundredths of a second.
const TICKS_A_SECOND: f64 = 100.0;

/// A tmux server of its own with one monitor in it.
pub(crate) struct Terminal {
    socket: String,
    pid: u32,
    began: Instant,
    _folder: TempDir,
}

impl Terminal {
    /// A terminal with `pptop ARGS` in it; `None` without tmux.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn open(pptop: &Path, args: &[&str]) -> anyhow::Result<Option<Self>> {
        if !is_there("tmux", "-V") {
            println!("skipped: there is no tmux to run `pptop {}` in", args.join(" "));
            return Ok(None);
        }
        let folder = TempDir::with_prefix("pptop-viewer-")?;
        let pid_file = folder.path().join("pid");
        let line = format!(
            "env -u NO_COLOR sh -c 'echo $$ >{}; exec {} {}'",
            pid_file.display(),
            pptop.display(),
            args.join(" "),
        );
        let socket = folder.path().file_name().and_then(OsStr::to_str);
        let socket = socket.context("the folder for temporary files has no name")?.to_owned();
        let began = Instant::now();
        let size = ["-x", SIZE[0], "-y", SIZE[1]];
        let start = ["-f", "/dev/null", "new-session", "-d"];
        tmux(&socket, &[&start[..], &size[..], &[&line]].concat())?;
        let pid = read_pid(&pid_file)?;
        Ok(Some(Self { socket, pid, began, _folder: folder }))
    }

    /// The process of the monitor.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn screen(&self) -> anyhow::Result<String> {
        tmux(&self.socket, &["capture-pane", "-p"])
    }

    pub(crate) fn press(&self, key: &str) -> anyhow::Result<()> {
        tmux(&self.socket, &["send-keys", key]).map(drop)
    }

    /// Waits for a text on the screen; how long it took from the start of the program.
    ///
    /// # Errors
    /// It does not come.
    pub(crate) fn wait_for(&self, text: &str) -> anyhow::Result<Duration> {
        loop {
            let screen = self.screen()?;
            let elapsed = self.began.elapsed();
            if screen.contains(text) {
                return Ok(elapsed);
            }
            if elapsed > DEADLINE {
                bail!("{text:?} does not come; the screen is\n{screen}");
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It ends with the program in it, if that has ended already.
        let _ = tmux(&self.socket, &["kill-server"]);
    }
}

fn tmux(socket: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("tmux").args(["-L", socket]).args(args).output()?;
    if !output.status.success() {
        bail!("tmux {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn read_pid(file: &PathBuf) -> anyhow::Result<u32> {
    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if let Ok(pid) = text.trim().parse() {
            return Ok(pid);
        }
        anyhow::ensure!(began.elapsed() < DEADLINE, "the terminal does not start");
        thread::sleep(POLL);
    }
}

/// What a process has taken so far.
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) most_mib: f64,
}

impl Usage {
    /// # Errors
    /// There is no such process.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        let stat = read("stat").context("the monitor has ended")?;
        // Behind the name, which may hold anything, the times are the 12th and the 13th.
        let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
        let ticks: Vec<f64> =
            behind.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
        anyhow::ensure!(ticks.len() == 2, "what /proc says of {pid} cannot be read");
        Ok(Self {
            cpu_seconds: ticks.iter().sum::<f64>() / TICKS_A_SECOND,
            most_mib: number_after(&read("status")?, "VmHWM:")? / 1024.0,
        })
    }
}
