//! A terminal for the tests: a tmux server of its own, with one shell in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

pub(crate) const DEADLINE: Duration = Duration::from_mins(1);
pub(crate) const POLL: Duration = Duration::from_millis(50);
/// Alternate screen off, mouse off, cursor on: what a shell expects.
pub(crate) const RESTORED: &str = "0 0 1";

/// A tmux server of its own, with one shell in it and a directory for one run.
pub(crate) struct Terminal {
    socket: String,
    pub(crate) dir: TempDir,
}

impl Terminal {
    /// A terminal of 80 by 24; `None` without tmux.
    pub(crate) fn open() -> Option<Self> {
        let has_tmux = Command::new("tmux")
            .arg("-V")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok();
        if !has_tmux {
            let required = std::env::var_os("PPTOP_REQUIRE_TMUX").is_some_and(|value| value == "1");
            assert!(!required, "PPTOP_REQUIRE_TMUX=1, and tmux is not there");
            skipped();
            return None;
        }
        let dir = TempDir::with_prefix("pptop-test-").unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let terminal = Self { socket: name.to_owned(), dir };
        // The shell sees nothing of this test's own environment that could change what is drawn.
        let shell = "env -u NO_COLOR -u PPTOP_STATE_DIR RUST_BACKTRACE=0 PS1='$ ' ENV= sh";
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", shell]);
        terminal.wait_for("$");
        Some(terminal)
    }

    pub(crate) fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.socket]).args(args).output().unwrap();
        assert!(
            output.status.success(),
            "tmux {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    pub(crate) fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    pub(crate) fn modes(&self) -> String {
        self.tmux(&["display-message", "-p", "#{alternate_on} #{mouse_any_flag} #{cursor_flag}"])
            .trim()
            .to_owned()
    }

    /// Types `pptop train` for a run of `steps` steps, and `exit=CODE` behind it.
    pub(crate) fn train(&self, environment: &str, steps: u32) {
        let program = env!("CARGO_BIN_EXE_pptop");
        let (pid, run) = (self.dir.path().join("pid"), self.run_dir());
        let job = format!("--model sleep --pp 4 --micro-batches 8 --steps {steps}");
        let line = format!(
            "clear; {environment} sh -c 'echo $$ >{pid}; exec {program} train {job} --run-dir {run}'; echo exit=$?",
            pid = pid.display(),
            run = run.display(),
        );
        self.tmux(&["send-keys", "-l", &line]);
        self.press("Enter");
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Answers the question that has just been asked: its key chooses, and Enter acts once the
    /// question takes keys.
    #[track_caller]
    pub(crate) fn answer(&self, question: &str, key: &str, answer: &str) {
        self.wait_for(question);
        let chosen = format!("▸ {key}  {answer}");
        let began = Instant::now();
        while !self.screen().contains(&chosen) {
            assert!(began.elapsed() < DEADLINE, "{chosen} is not chosen:\n{}", self.screen());
            self.press(key);
            thread::sleep(POLL);
        }
        self.press("Enter");
    }

    /// Closes the question that has just been asked.
    #[track_caller]
    pub(crate) fn closes(&self, question: &str, key: &str) {
        self.wait_for(question);
        let began = Instant::now();
        while self.screen().contains(question) {
            assert!(began.elapsed() < DEADLINE, "{question} stays:\n{}", self.screen());
            self.press(key);
            thread::sleep(POLL);
        }
    }

    /// The monitor's process.
    pub(crate) fn monitor(&self) -> Pid {
        let text = fs::read_to_string(self.dir.path().join("pid")).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }

    /// The trainer's process, once it has said who it is.
    pub(crate) fn trainer(&self) -> Option<Pid> {
        let text = fs::read(self.run_dir().join("status.json")).ok()?;
        let status: serde_json::Value = serde_json::from_slice(&text).unwrap();
        Pid::from_raw(i32::try_from(status["pid"].as_i64()?).unwrap())
    }

    #[track_caller]
    pub(crate) fn wait(&self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let screen = self.screen();
            if is_there(&screen) {
                return screen;
            }
            assert!(began.elapsed() < DEADLINE, "{what} does not come; the screen is\n{screen}");
            thread::sleep(POLL);
        }
    }

    /// Waits until the program of a pane that stays has ended.
    #[track_caller]
    pub(crate) fn wait_dead(&self) {
        let is_dead = || self.tmux(&["display-message", "-p", "#{pane_dead}"]).trim() == "1";
        self.wait("the end of the program", |_| is_dead());
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text))
    }

    /// Waits for the shell to have the terminal again, as it was.
    #[track_caller]
    pub(crate) fn wait_restored(&self, exit: &str) -> String {
        let screen = self.wait_for(exit);
        assert_eq!(self.modes(), RESTORED, "alternate screen, mouse, cursor after {exit}");
        // The shell echoes what is typed, and a line feed begins a line.
        self.tmux(&["send-keys", "-l", "echo a''b"]);
        self.wait_for("echo a''b");
        self.press("Enter");
        self.wait("the shell's own line", |screen| screen.lines().any(|line| line == "ab"));
        screen
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A run that was detached from, or that a failing test leaves behind, ends as well. It may
        // have just begun.
        let began = Instant::now();
        while self.run_dir().exists()
            && self.trainer().is_none()
            && began.elapsed() < Duration::from_secs(5)
        {
            thread::sleep(POLL);
        }
        if let Some(pid) = self.trainer().filter(|&pid| is_trainer(pid, self)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).status();
    }
}

/// Whether the process is still the one that trains in the directory of this terminal.
pub(crate) fn is_trainer(pid: Pid, terminal: &Terminal) -> bool {
    let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    String::from_utf8_lossy(&arguments).contains(&*terminal.run_dir().to_string_lossy())
}

pub(crate) fn skipped() {
    skipped_without("tmux");
}

#[expect(clippy::print_stderr, reason = "a test that looks at nothing has to say so")]
pub(crate) fn skipped_without(program: &str) {
    eprintln!("skipped: {program} is not there");
}

/// The number behind `step ` in the first line.
pub(crate) fn step(screen: &str) -> Option<u32> {
    // A frozen screen says how many steps it is behind.
    let (_, behind) = screen.lines().next()?.rsplit_once(" step ")?;
    behind.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

impl Terminal {
    /// Types a command of `pptop` in the directory of this terminal, and `exit=CODE` behind it.
    pub(crate) fn pptop(&self, arguments: &str) {
        let program = env!("CARGO_BIN_EXE_pptop");
        let (pid, dir) = (self.dir.path().join("pid"), self.dir.path().display());
        let line = format!(
            "clear; cd {dir}; PPTOP_STATE_DIR={dir} sh -c 'echo $$ >{pid}; exec {program} {arguments}'; echo exit=$?",
            pid = pid.display(),
        );
        self.tmux(&["send-keys", "-l", &line]);
        self.press("Enter");
    }

    /// Starts a run without a monitor, and waits for its first step.
    pub(crate) fn background_run(&self, flags: &str) -> std::process::Child {
        Self::background_run_in(&self.run_dir(), flags)
    }

    /// The same in another folder.
    pub(crate) fn background_run_in(dir: &Path, flags: &str) -> std::process::Child {
        let job = "train --headless --model sleep --pp 4 --micro-batches 8 --steps 100000";
        let child = Command::new(env!("CARGO_BIN_EXE_pptop"))
            .args(job.split_whitespace())
            .args(flags.split_whitespace())
            .arg("--run-dir")
            .arg(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let log = dir.join("events.jsonl");
        let began = Instant::now();
        while !fs::read_to_string(&log).is_ok_and(|text| text.contains("\"ev\":\"step\"")) {
            assert!(began.elapsed() < DEADLINE, "no step comes");
            thread::sleep(POLL);
        }
        child
    }
}

impl Terminal {
    /// The program of this pane without a shell between: stopped and continued, it is never in the
    /// background.
    pub(crate) fn respawn(&self, environment: &str, arguments: &str) {
        let program = env!("CARGO_BIN_EXE_pptop");
        let dir = self.dir.path().display();
        let line = format!(
            "cd {dir}; echo $$ >{dir}/pid; exec env {environment} PPTOP_STATE_DIR={dir} {program} {arguments}"
        );
        self.tmux(&["set-option", "-g", "remain-on-exit", "on"]);
        self.tmux(&["respawn-pane", "-k", &line]);
    }
}

/// Ends a run without a monitor.
pub(crate) fn ends(mut child: std::process::Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Whether a process is there and not just waiting to be buried.
pub(crate) fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| {
        stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z'))
    })
}

/// Asserts that the run makes further steps without its monitor.
#[track_caller]
pub(crate) fn goes_on(terminal: &Terminal) {
    let trainer = terminal.trainer().unwrap();
    let log = terminal.run_dir().join("events.jsonl");
    let n_bytes = fs::metadata(&log).unwrap().len();
    let began = Instant::now();
    while fs::metadata(&log).unwrap().len() < n_bytes + 1000 {
        assert!(began.elapsed() < DEADLINE, "the run does not go on");
        thread::sleep(POLL);
    }
    assert!(test_kill_process(trainer).is_ok(), "the run is alive");
}
