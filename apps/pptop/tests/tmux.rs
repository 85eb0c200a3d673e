//! The monitor as a user meets it: the real program in a real terminal, which tmux stands in for.
//!
//! Each test waits for what it wants to see, with a deadline, and never for a time. Without tmux the tests say so and
//! pass, unless `PPTOP_REQUIRE_TMUX=1`.
#![cfg(feature = "train")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);
/// Alternate screen off, mouse off, cursor on: what a shell expects.
const RESTORED: &str = "0 0 1";

/// A tmux server of its own, with one shell in it and a directory for one run.
struct Terminal {
    socket: String,
    dir: PathBuf,
}

impl Terminal {
    /// A terminal of 80 by 24; `None` without tmux.
    fn open() -> Option<Self> {
        static N_TERMINALS: AtomicU32 = AtomicU32::new(0);
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
        let number = N_TERMINALS.fetch_add(1, Ordering::Relaxed);
        let name = format!("pptop-test-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        let terminal = Self { socket: name, dir };
        // The shell sees nothing of this test's own environment that could change what is drawn.
        let shell = "env -u NO_COLOR -u PPTOP_STATE_DIR RUST_BACKTRACE=0 PS1='$ ' ENV= sh";
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", shell]);
        terminal.wait_for("$");
        Some(terminal)
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.socket]).args(args).output().unwrap();
        assert!(
            output.status.success(),
            "tmux {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn modes(&self) -> String {
        self.tmux(&["display-message", "-p", "#{alternate_on} #{mouse_any_flag} #{cursor_flag}"])
            .trim()
            .to_owned()
    }

    /// Types `pptop train` for a run of `steps` steps, and `exit=CODE` behind it.
    fn train(&self, environment: &str, steps: u32) {
        let program = env!("CARGO_BIN_EXE_pptop");
        let (pid, run) = (self.dir.join("pid"), self.run_dir());
        let job = format!("--model sleep --pp 4 --micro-batches 8 --steps {steps}");
        let line = format!(
            "clear; {environment} sh -c 'echo $$ >{pid}; exec {program} train {job} --run-dir {run}'; echo exit=$?",
            pid = pid.display(),
            run = run.display(),
        );
        self.tmux(&["send-keys", "-l", &line]);
        self.press("Enter");
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Answers the question that has just been asked: its key chooses, and Enter acts once the
    /// question takes keys.
    #[track_caller]
    fn answer(&self, question: &str, key: &str, answer: &str) {
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
    fn closes(&self, question: &str, key: &str) {
        self.wait_for(question);
        let began = Instant::now();
        while self.screen().contains(question) {
            assert!(began.elapsed() < DEADLINE, "{question} stays:\n{}", self.screen());
            self.press(key);
            thread::sleep(POLL);
        }
    }

    /// The monitor's process.
    fn monitor(&self) -> Pid {
        let text = fs::read_to_string(self.dir.join("pid")).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }

    /// The trainer's process, once it has said who it is.
    fn trainer(&self) -> Option<Pid> {
        let text = fs::read(self.run_dir().join("status.json")).ok()?;
        let status: serde_json::Value = serde_json::from_slice(&text).unwrap();
        Pid::from_raw(i32::try_from(status["pid"].as_i64()?).unwrap())
    }

    #[track_caller]
    fn wait(&self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
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
    fn wait_dead(&self) {
        let is_dead = || self.tmux(&["display-message", "-p", "#{pane_dead}"]).trim() == "1";
        self.wait("the end of the program", |_| is_dead());
    }

    #[track_caller]
    fn wait_for(&self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text))
    }

    /// Waits for the shell to have the terminal again, as it was.
    #[track_caller]
    fn wait_restored(&self, exit: &str) -> String {
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
        // A run that was detached from, or that a failing test leaves behind, ends as well. It may have just begun.
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
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Whether the process is still the one that trains in the directory of this terminal.
fn is_trainer(pid: Pid, terminal: &Terminal) -> bool {
    let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    String::from_utf8_lossy(&arguments).contains(&*terminal.run_dir().to_string_lossy())
}

#[expect(clippy::print_stderr, reason = "a test that looks at nothing has to say so")]
fn skipped() {
    eprintln!("skipped: tmux is not there");
}

/// The number behind `step ` in the first line.
fn step(screen: &str) -> Option<u32> {
    // A frozen screen says how many steps it is behind.
    let (_, behind) = screen.lines().next()?.rsplit_once(" step ")?;
    behind.split_once('/')?.0.parse().ok()
}

#[test]
fn one_starts_looks_around_and_stops() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 100_000);
    let screen = terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 2));
    assert_eq!(terminal.modes(), "1 1 0");
    for text in
        ["LIVE", "devices", "timeline", "loss", "pipeline", "bubble", "theory 27.3%", "samples/s"]
    {
        assert!(screen.contains(text), "no {text} in\n{screen}");
    }
    let before = step(&screen).unwrap();
    terminal.wait("later steps", |screen| step(screen).is_some_and(|step| step > before + 3));
    // The loss of `sleep` falls, and it is on the screen.
    terminal.wait("the loss falls", |screen| screen.contains('▼'));

    terminal.press("?");
    terminal.wait_for("freeze the screen");
    terminal.press("Escape");
    terminal.wait("no help", |screen| !screen.contains("freeze the screen"));

    terminal.press("Space");
    let frozen = step(&terminal.wait_for("FROZEN"));
    thread::sleep(Duration::from_millis(500));
    assert_eq!(step(&terminal.screen()), frozen);
    terminal.press("Space");
    terminal.wait("it goes on", |screen| step(screen) > frozen);

    terminal.press("[");
    terminal.wait_for("pinned");
    terminal.press("+");
    terminal.wait_for("x2");
    terminal.press("Home");
    terminal.press("=");
    terminal.wait("the newest step again", |screen| {
        !screen.contains("pinned") && !screen.contains("x2")
    });

    terminal.tmux(&["resize-window", "-x", "40", "-y", "12"]);
    terminal.wait("the small screen", |screen| {
        !screen.contains("devices") && screen.contains("theory 27.3%")
    });
    terminal.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    terminal.wait_for("devices");

    terminal.press("q");
    terminal.closes("leave the run?", "Escape");
    terminal.press("C-c");
    terminal.answer("leave the run?", "s", "stop");
    let screen = terminal.wait_restored("exit=143");
    assert!(screen.contains("was stopped after") && screen.contains("bubble"), "{screen}");
    let trainer = terminal.trainer().unwrap();
    assert!(test_kill_process(trainer).is_err(), "the run has ended");
}

#[test]
fn one_detaches_and_the_run_goes_on() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 100_000);
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    terminal.press("q");
    terminal.answer("leave the run?", "d", "detach");
    let screen = terminal.wait_restored("exit=0");
    assert!(screen.contains("goes on as process"), "{screen}");
    goes_on(&terminal);
}

/// Asserts that the run makes further steps without its monitor.
#[track_caller]
fn goes_on(terminal: &Terminal) {
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

#[test]
fn a_run_that_ends_stays_on_the_screen_until_one_leaves() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 3);
    let screen = terminal.wait_for("the run has ended; q leaves");
    assert!(screen.contains("ENDED") && screen.contains("step 3/3"), "{screen}");
    terminal.press("q");
    let screen = terminal.wait_restored("exit=0");
    assert!(screen.contains("has ended after 3 of 3 steps"), "{screen}");
}

#[test]
fn a_run_that_is_killed_is_seen_at_once() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 100_000);
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    kill_process(terminal.trainer().unwrap(), Signal::KILL).unwrap();
    let screen = terminal.wait_for("failed: the process was killed");
    assert!(screen.contains("DIED"), "{screen}");
    terminal.press("q");
    terminal.wait_restored("exit=137");
}

#[test]
fn the_terminal_is_given_back_after_a_signal() {
    for (signal, exit) in
        [(Signal::TERM, "exit=143"), (Signal::HUP, "exit=129"), (Signal::INT, "exit=130")]
    {
        let Some(terminal) = Terminal::open() else { return };
        terminal.train("", 100_000);
        terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
        kill_process(terminal.monitor(), signal).unwrap();
        terminal.wait_restored(exit);
        goes_on(&terminal);
    }
}

/// The terminal is closed under the monitor. It once stayed behind for ever, reading the end of a file as fast as a core can.
#[test]
fn a_terminal_that_goes_away_ends_the_monitor_and_not_the_run() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 100_000);
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    let monitor = terminal.monitor();
    terminal.tmux(&["kill-server"]);
    let began = Instant::now();
    while is_alive(monitor) {
        assert!(began.elapsed() < Duration::from_secs(20), "the monitor stays without a terminal");
        thread::sleep(POLL);
    }
    goes_on(&terminal);
}

/// Whether a process is there and not just waiting to be buried.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| {
        stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z'))
    })
}

#[test]
fn the_terminal_is_given_back_after_a_panic() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("PPTOP_TEST_PANIC=1", 100_000);
    let screen = terminal.wait_restored("exit=101");
    assert!(screen.contains("PPTOP_TEST_PANIC is set"), "{screen}");
}

#[test]
fn one_suspends_and_comes_back() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 100_000);
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    kill_process(terminal.monitor(), Signal::TSTP).unwrap();
    // The shell has the terminal, and says how the program was stopped.
    terminal.wait_restored("exit=1");
    terminal.tmux(&["send-keys", "-l", "clear; fg; echo left=$?"]);
    terminal.press("Enter");
    terminal.wait("the screen again", |screen| step(screen).is_some());
    assert_eq!(terminal.modes(), "1 1 0");
    terminal.press("q");
    terminal.answer("leave the run?", "d", "detach");
    terminal.wait_restored("left=0");
}

impl Terminal {
    /// Types a command of `pptop` in the directory of this terminal, and `exit=CODE` behind it.
    fn pptop(&self, arguments: &str) {
        let program = env!("CARGO_BIN_EXE_pptop");
        let (pid, dir) = (self.dir.join("pid"), self.dir.display());
        let line = format!(
            "clear; cd {dir}; PPTOP_STATE_DIR={dir} sh -c 'echo $$ >{pid}; exec {program} {arguments}'; echo exit=$?",
            pid = pid.display(),
        );
        self.tmux(&["send-keys", "-l", &line]);
        self.press("Enter");
    }

    /// Starts a run that nobody watches, and waits for its first step.
    fn background_run(&self, flags: &str) -> std::process::Child {
        Self::background_run_in(&self.run_dir(), flags)
    }

    /// The same in another folder.
    fn background_run_in(dir: &Path, flags: &str) -> std::process::Child {
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

/// Ends a run that nobody watches.
fn ends(mut child: std::process::Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn a_demo_shows_every_view() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.pptop("demo");
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 2));
    for (key, text) in [
        ("2", "[2]Timeline"),
        ("3", "[3]Devices"),
        ("4", "[4]Loss"),
        ("5", "where the time goes"),
        ("6", "[6]Log"),
    ] {
        terminal.press(key);
        terminal.wait_for(text);
    }
    terminal.press("5");
    terminal.wait_for("inherent");
    terminal.press("2");
    terminal.wait_for("[2]Timeline");
    terminal.press("+");
    terminal.press("+");
    terminal.wait_for("x4");
    terminal.press("Space");
    terminal.wait_for("FROZEN");
    terminal.press("?");
    terminal.wait_for("this help");
    // Together with the next key it would be another one.
    terminal.press("Escape");
    terminal.wait("no help", |screen| !screen.contains("this help"));
    terminal.press("Space");
    terminal.wait_for("LIVE");
    terminal.press("1");
    terminal.wait_for("pipeline");
    // Its own folder goes with it, so the screen is written where one is.
    terminal.press("s");
    terminal.wait_for("written: ");
    let names = fs::read_dir(&terminal.dir).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let path = names.into_iter().find(|path| name(path).starts_with("screen-")).unwrap();
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().count(), 24, "{text}");
    for part in ["LIVE", "devices", "timeline", "pipeline", "q quit"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    terminal.press("q");
    terminal.wait_restored("exit=0");
}

#[test]
fn without_a_command_one_watches_what_is_live() {
    let Some(terminal) = Terminal::open() else { return };
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/one_f_one_b_p4_m8.jsonl");
    fs::create_dir_all(terminal.dir.join("runs/old")).unwrap();
    fs::copy(log, terminal.dir.join("runs/old/events.jsonl")).unwrap();
    terminal.pptop("");
    let screen = terminal.wait_for("no run is live; pptop train starts one");
    for part in ["old", "finished", "120/120", "1f1b", "p4 m8"] {
        assert!(screen.contains(part), "{part} is not in\n{screen}");
    }
    terminal.press("q");
    terminal.wait_restored("exit=0");
    let one = Terminal::background_run_in(&terminal.dir.join("runs/one"), "");
    terminal.pptop("");
    let screen = terminal.wait_for("LIVE");
    assert!(screen.contains("step"), "{screen}");
    terminal.press("2");
    terminal.wait_for("[2]Timeline");
    assert!(!terminal.screen().contains("run 1 of"));
    terminal.press("q");
    terminal.wait_restored("exit=0");
    let two = Terminal::background_run_in(&terminal.dir.join("runs/two"), "");
    terminal.pptop("");
    terminal.wait_for("LIVE");
    terminal.press("2");
    terminal.wait_for("run 1 of 2");
    terminal.press("n");
    terminal.wait_for("run 2 of 2");
    terminal.press("q");
    terminal.wait_restored("exit=0");
    ends(one);
    ends(two);
}

#[test]
fn one_attaches_late_twice_and_read_only() {
    let Some(terminal) = Terminal::open() else { return };
    let run = terminal.background_run("");
    terminal.pptop("attach run");
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 2));
    // A read-only one beside the first.
    let other = Terminal::open().unwrap();
    let arguments = format!("attach {} --read-only", terminal.run_dir().display());
    other.pptop(&arguments);
    other.wait("a step", |screen| step(screen).is_some_and(|step| step >= 2));
    other.press("x");
    other.wait_for("this monitor is read-only");
    // Killed, it leaves the run and the other monitor alone; the next one sees everything.
    kill_process(other.monitor(), Signal::KILL).unwrap();
    goes_on(&terminal);
    terminal.press("q");
    let screen = terminal.wait_restored("exit=0");
    assert!(screen.contains("goes on as process"), "{screen}");
    terminal.pptop("attach run");
    terminal.wait_for("LIVE");
    terminal.press("x");
    terminal.answer("end the run?", "w", "write a checkpoint");
    terminal.wait_for("STOPPED");
    assert!(terminal.run_dir().join("checkpoint.safetensors").is_file());
    terminal.press("q");
    let screen = terminal.wait_restored("exit=0");
    assert!(screen.contains("was stopped after"), "{screen}");
    ends(run);
}

#[test]
fn an_attached_run_that_is_killed_is_called_dead() {
    let Some(terminal) = Terminal::open() else { return };
    let mut run = terminal.background_run("");
    terminal.pptop("attach run");
    terminal.wait_for("LIVE");
    // Held, it is there and does nothing; killed, it is gone.
    let trainer = terminal.trainer().unwrap();
    kill_process(trainer, Signal::STOP).unwrap();
    terminal.wait_for("SUSPENDED");
    kill_process(trainer, Signal::KILL).unwrap();
    run.wait().unwrap();
    let screen = terminal.wait_for("DIED");
    assert!(screen.contains("is gone without an end record"), "{screen}");
    terminal.press("q");
    terminal.wait_restored("exit=0");
}

#[test]
fn a_replay_is_paused_moved_and_left() {
    let Some(terminal) = Terminal::open() else { return };
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/one_f_one_b_p4_m8.jsonl");
    fs::copy(log, terminal.dir.join("recorded.jsonl")).unwrap();
    terminal.pptop("replay recorded.jsonl --speed 16 --start step=20");
    terminal.wait("step 20", |screen| step(screen).is_some_and(|step| step >= 20));
    terminal.press("Space");
    let paused = step(&terminal.wait_for("PAUSED")).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(step(&terminal.screen()), Some(paused));
    terminal.press("]");
    terminal.wait("the next step", |screen| step(screen) == Some(paused + 1));
    terminal.press("{");
    terminal.wait("ten back", |screen| step(screen) == Some(paused - 9));
    terminal.tmux(&["send-keys", "-l", ":100"]);
    terminal.press("Enter");
    terminal.wait("step 100", |screen| step(screen) == Some(100));
    terminal.press(">");
    terminal.press("Space");
    terminal.wait_for("REPLAY 32x");
    terminal.wait("the end", |screen| step(screen) == Some(120));
    terminal.wait_for(" end");
    terminal.press("Space");
    terminal.wait("the beginning", |screen| step(screen).is_some_and(|step| step < 100));
    terminal.press("q");
    terminal.wait_restored("exit=0");
}

#[test]
fn several_runs_are_watched_at_once() {
    let Some(terminal) = Terminal::open() else { return };
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/one_f_one_b_p4_m8.jsonl");
    fs::copy(log, terminal.dir.join("recorded.jsonl")).unwrap();
    let run = terminal.background_run("");
    terminal.pptop("attach recorded.jsonl run");
    terminal.wait_for("step 120/120");
    terminal.press("n");
    terminal.wait("the other run", |screen| step(screen).is_some() && screen.contains("LIVE"));
    terminal.press("2");
    terminal.wait_for("run 2 of 2");
    terminal.press("p");
    terminal.wait_for("run 1 of 2");
    terminal.press("q");
    terminal.wait_restored("exit=0");
    ends(run);
}

/// A run of one step that is over, in the folder of all runs.
fn finished_run(terminal: &Terminal, name: &str, seed: u32) {
    let job =
        format!("train --headless --model sleep --pp 2 --micro-batches 4 --steps 3 --seed {seed}");
    let ran = Command::new(env!("CARGO_BIN_EXE_pptop"))
        .args(job.split_whitespace())
        .arg("--run-dir")
        .arg(terminal.dir.join("runs").join(name))
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn the_runs_that_are_kept_are_a_list() {
    let Some(terminal) = Terminal::open() else { return };
    fs::create_dir(terminal.dir.join("runs")).unwrap();
    for (name, seed) in [("apple", 1), ("banana", 2), ("cherry", 3)] {
        finished_run(&terminal, name, seed);
    }
    terminal.pptop("");
    let screen = terminal.wait_for("cherry");
    for part in ["3 runs", "finished", "3/3", "1f1b", "p2 m4", "newest first"] {
        assert!(screen.contains(part), "{part} is not in\n{screen}");
    }
    // The newest is chosen; one searches, opens, and comes back.
    terminal.wait("the newest", |screen| screen.contains("▸  cherry"));
    terminal.press("j");
    terminal.wait_for("▸  banana");
    terminal.press("/");
    terminal.wait_for("search /");
    terminal.tmux(&["send-keys", "-l", "app"]);
    terminal.press("Enter");
    terminal.wait("one run", |screen| screen.contains("▸  apple") && !screen.contains("banana"));
    terminal.press("Enter");
    terminal.wait_for("ENDED");
    terminal.press("q");
    terminal.wait_for("▸  apple");
    terminal.press("Escape");
    terminal.wait_for("banana");
    // Two are compared.
    terminal.press("o");
    terminal.wait_for("by loss");
    terminal.press("g");
    terminal.press("Space");
    terminal.press("Space");
    terminal.wait_for("compare the two");
    terminal.press("c");
    let screen = terminal.wait_for("two runs");
    assert!(screen.contains("last loss") && screen.contains("samples a second"), "{screen}");
    terminal.press("Enter");
    terminal.wait_for("[4]Loss");
    terminal.press("q");
    terminal.wait("the list", |screen| screen.contains("3 runs") && !screen.contains("two runs"));
    // What is asked about opens on Cancel, and Enter acts on what is chosen.
    terminal.press("/");
    terminal.wait_for("search /");
    terminal.tmux(&["send-keys", "-l", "banana"]);
    terminal.press("Enter");
    terminal.wait_for("▸● banana");
    terminal.press("d");
    terminal.wait_for("▸ c  cancel: keep it");
    terminal.closes("delete the run?", "Enter");
    assert!(terminal.dir.join("runs/banana/events.jsonl").is_file());
    terminal.press("d");
    terminal.answer("delete the run?", "d", "delete the run");
    terminal.wait_for("banana was deleted");
    assert!(!terminal.dir.join("runs/banana").exists());
    assert!(terminal.dir.join("runs/apple/events.jsonl").is_file());
    terminal.press("q");
    terminal.wait_restored("exit=0");
}

/// Pastes a text: as a terminal with bracketed paste does, or as keys.
fn paste(terminal: &Terminal, text: &str, is_bracketed: bool) {
    terminal.tmux(&["set-buffer", "-b", "pasted", text]);
    let flags: &[&str] = if is_bracketed { &["-p"] } else { &[] };
    terminal.tmux(&[&["paste-buffer"], flags, &["-b", "pasted"]].concat());
}

#[test]
fn pasted_text_ends_no_run() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 100_000);
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    for text in ["fix this", "x\ns\n", "q\ns\n"] {
        paste(&terminal, text, true);
        terminal.wait_for("pasted text is ignored here");
        assert!(!terminal.screen().contains("the run?"));
        // The next key removes the note.
        terminal.press("h");
        terminal.wait("nothing said", |screen| !screen.contains("pasted text"));
        paste(&terminal, text, false);
        let question = if text.starts_with('q') { "leave the run?" } else { "end the run?" };
        let screen = terminal.wait_for(question);
        assert!(screen.contains("▸ c  cancel"), "{screen}");
        terminal.closes(question, "Escape");
        goes_on(&terminal);
    }
    let names = fs::read_dir(terminal.run_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let written: Vec<_> =
        names.filter(|name| name.to_string_lossy().starts_with("screen-")).collect();
    assert!(written.is_empty(), "{written:?}");
}

/// A folder whose summary names somebody's process: nothing is sent to that, and the question says
/// why.
#[test]
fn a_process_that_a_file_names_is_left_alone() {
    let Some(terminal) = Terminal::open() else { return };
    let mut victim = Command::new("sleep").arg("600").spawn().unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", victim.id())).unwrap();
    let began = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap();
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/one_f_one_b_p4_m8.jsonl");
    let log = fs::read_to_string(log).unwrap();
    let without_end = &log[..=log.trim_end().rfind('\n').unwrap()];
    fs::create_dir(terminal.dir.join("forged")).unwrap();
    fs::write(terminal.dir.join("forged/events.jsonl"), without_end).unwrap();
    let status = format!(
        r#"{{"schema":1,"run":"gpt-20261101-141233","pid":{},"pid_began":{began},"host":"{}","state":"running"}}"#,
        victim.id(),
        pp_telemetry::host_name()
    );
    fs::write(terminal.dir.join("forged/status.json"), status).unwrap();
    terminal.pptop("attach ./forged");
    terminal.wait_for("step 120/120");
    terminal.press("x");
    let screen = terminal.wait_for("end the run?");
    assert!(screen.contains("This cannot be done from here"), "{screen}");
    assert!(!screen.contains("kill it"), "{screen}");
    for key in ["a", "s", "Down", "Enter"] {
        thread::sleep(Duration::from_millis(350));
        terminal.press(key);
    }
    terminal.wait("no question", |screen| !screen.contains("end the run?"));
    terminal.press("q");
    terminal.wait_restored("exit=0");
    assert!(victim.try_wait().unwrap().is_none(), "the process that was named is alive");
    victim.kill().unwrap();
    victim.wait().unwrap();
}

/// A run that is stopped hears nothing; it is killed all the same, for the system still says who
/// listens.
#[test]
fn a_stopped_run_can_be_killed() {
    let Some(terminal) = Terminal::open() else { return };
    let mut run = terminal.background_run("");
    terminal.pptop("attach ./run");
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    kill_process(terminal.trainer().unwrap(), Signal::STOP).unwrap();
    terminal.press("x");
    terminal.answer("end the run?", "a", "at once");
    let status = run.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    terminal.press("q");
    terminal.wait_restored("exit=0");
}

impl Terminal {
    /// The program of this pane without a shell between: stopped and continued, it is never in the
    /// background.
    fn respawn(&self, environment: &str, arguments: &str) {
        let program = env!("CARGO_BIN_EXE_pptop");
        let dir = self.dir.display();
        let line = format!(
            "cd {dir}; echo $$ >{dir}/pid; exec env {environment} PPTOP_STATE_DIR={dir} {program} {arguments}"
        );
        self.tmux(&["set-option", "-g", "remain-on-exit", "on"]);
        self.tmux(&["respawn-pane", "-k", &line]);
    }
}

#[test]
fn stopped_and_continued_from_outside_it_draws_anew() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.respawn("", "demo");
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 2));
    let monitor = terminal.monitor();
    kill_process(monitor, Signal::STOP).unwrap();
    // Another program changed the terminal's modes meanwhile.
    let tty = terminal.tmux(&["display-message", "-p", "#{pane_tty}"]);
    let tty = fs::OpenOptions::new().write(true).read(true).open(tty.trim()).unwrap();
    let sane = Command::new("stty").arg("sane").stdin(tty.try_clone().unwrap()).status().unwrap();
    assert!(sane.success());
    std::io::Write::write_all(
        &mut &tty,
        b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1049l\x1b[?25h\x1b[?2004l",
    )
    .unwrap();
    drop(tty);
    assert_eq!(terminal.modes(), RESTORED);
    kill_process(monitor, Signal::CONT).unwrap();
    terminal.wait("the modes again", |_| terminal.modes() == "1 1 0");
    let screen = terminal.wait("the screen again", |screen| step(screen).is_some());
    assert!(screen.contains("devices"), "{screen}");
    // In raw mode a key needs no Enter, and nothing is echoed.
    terminal.press("3");
    terminal.wait_for("[3]Devices");
    terminal.press("q");
    terminal.wait_dead();
}

#[test]
fn in_the_background_it_leaves_the_terminal_alone_and_ends_on_a_signal() {
    let Some(terminal) = Terminal::open() else { return };
    let program = env!("CARGO_BIN_EXE_pptop");
    let line = format!("clear; {program} demo & echo $! >{}/pid", terminal.dir.display());
    terminal.tmux(&["send-keys", "-l", &line]);
    terminal.press("Enter");
    let began = Instant::now();
    while fs::read_to_string(terminal.dir.join("pid")).map_or(true, |text| text.trim().is_empty()) {
        assert!(began.elapsed() < DEADLINE);
        thread::sleep(POLL);
    }
    // The shell keeps the terminal as it was.
    thread::sleep(Duration::from_millis(500));
    assert_eq!(terminal.modes(), RESTORED);
    assert!(is_alive(terminal.monitor()));
    terminal.tmux(&["send-keys", "-l", "clear; fg"]);
    terminal.press("Enter");
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    // Stopped from outside and sent to the background, it gives the terminal back.
    kill_process(terminal.monitor(), Signal::STOP).unwrap();
    terminal.wait("the shell", |_| {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", terminal.monitor().as_raw_nonzero()));
        stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
    });
    // This shell leaves the terminal's mode as it is: a line ends with a line feed in it.
    terminal.tmux(&["send-keys", "-l", "bg"]);
    terminal.press("C-j");
    terminal.wait("the modes of the shell", |_| terminal.modes() == RESTORED);
    kill_process(terminal.monitor(), Signal::TERM).unwrap();
    let began = Instant::now();
    while is_alive(terminal.monitor()) {
        assert!(began.elapsed() < DEADLINE, "it does not end in the background");
        thread::sleep(POLL);
    }
    terminal.tmux(&["send-keys", "-l", "stty sane; clear; echo a''b"]);
    terminal.press("C-j");
    terminal.wait("the shell's own line", |screen| screen.lines().any(|line| line == "ab"));
}

/// What is drawn follows the terminal and the locale.
#[test]
fn characters_and_colours_are_those_that_the_terminal_has() {
    let Some(terminal) = Terminal::open() else { return };
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/one_f_one_b_p4_m8.jsonl");
    fs::copy(log, terminal.dir.join("recorded.jsonl")).unwrap();
    for (environment, is_ascii, has_colour) in [
        ("LC_ALL=C TERM=screen", true, true),
        ("LC_ALL=de_DE.ISO-8859-1 TERM=screen", true, true),
        ("LC_ALL=C.UTF-8 LANG=C TERM=screen", false, true),
        ("LC_ALL=C.UTF-8 TERM=linux", true, true),
        ("LC_ALL=C.UTF-8 TERM=vt100", true, false),
        ("-u TERM LC_ALL=C.UTF-8", true, false),
        ("LC_ALL=C PPTOP_ASCII=0 TERM=screen", false, true),
        ("LC_ALL=C.UTF-8 TERM=vt100 PPTOP_COLOR=always", true, true),
    ] {
        terminal
            .respawn(&format!("-u NO_COLOR -u COLORTERM {environment}"), "attach recorded.jsonl");
        let screen = terminal.wait_for("step 120/120");
        assert_eq!(screen.is_ascii(), is_ascii, "{environment}:\n{screen}");
        let coloured = terminal.tmux(&["capture-pane", "-p", "-e"]);
        let is_coloured = coloured.contains("[34m") || coloured.contains("[44m");
        assert_eq!(is_coloured, has_colour, "{environment}:\n{coloured}");
        assert!(!coloured.contains("[38;5;") && !coloured.contains("[48;5;"), "{environment}");
        terminal.press("q");
        terminal.wait_dead();
    }
}
