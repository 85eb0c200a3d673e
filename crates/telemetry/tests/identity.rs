//! Whether a process is the run that a folder says: a signal never goes to a process because a file
//! names it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pp_telemetry::{
    ControlServer, Event, Hello, NotProven, ProvenRun, Request, socket_dir, status_of,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Set to a folder, this program plays a run in it.
const RUN: &str = "PP_IDENTITY_RUN";
/// Set to a path, this program listens there, and becomes a program of another user.
const LISTEN: &str = "PP_IDENTITY_LISTEN";

struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn forge(&self, status: &Value) {
        fs::write(self.0.path().join("status.json"), status.to_string()).unwrap();
    }

    fn refusal(&self) -> NotProven {
        ProvenRun::of(self.0.path()).unwrap_err()
    }
}

/// A process that ends with its test.
struct Process(Child);

impl Process {
    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap()
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program again, as the test of this name, with a variable set; it has said a line.
fn played(test: &str, variable: &str, value: &Path) -> Process {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(variable, value)
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    let process = Process(child);
    for line in said.lines() {
        if line.unwrap().contains("ready") {
            return process;
        }
    }
    panic!("it does not begin");
}

/// A run of another process, which has written its summary.
fn run_in(dir: &TestDir) -> Process {
    let process = played("plays_a_run", RUN, dir.0.path());
    while status_of(dir.0.path()).is_none_or(|status| status.socket.is_none()) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    process
}

fn victim() -> Process {
    Process(Command::new("sleep").arg("600").spawn().unwrap())
}

fn began(process: &Process) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.0.id())).unwrap();
    stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap()
}

#[expect(clippy::print_stdout, reason = "the process that has started this one waits for it")]
fn ready() {
    println!("ready");
    io::stdout().flush().unwrap();
}

#[test]
fn plays_a_run() {
    let Some(dir) = std::env::var_os(RUN) else { return };
    let recorder = pp_telemetry::recorder(Path::new(&dir)).unwrap();
    let pid = std::process::id();
    let control = ControlServer::listen(&socket_dir().unwrap(), &pid.to_string(), "played");
    let control = control.unwrap();
    let socket = Some(control.path().to_str().unwrap().to_owned());
    let hello = Hello { run: "played".to_owned(), pid, socket, ..Hello::default() };
    recorder.record(Event::Hello(Box::new(hello)));
    ready();
    loop {
        std::thread::park();
    }
}

#[test]
fn listens_and_becomes_another() {
    let Some(path) = std::env::var_os(LISTEN) else { return };
    let listener = UnixListener::bind(path).unwrap();
    ready();
    let stdin = Stdio::from(std::os::fd::OwnedFd::from(listener));
    let error = Command::new("sleep").arg("600").uid(65_534).stdin(stdin).exec();
    panic!("{error}");
}

#[test]
fn a_run_is_proven_asked_and_killed() {
    let dir = TestDir::new();
    let mut run = run_in(&dir);
    let proven = ProvenRun::of(dir.0.path()).unwrap();
    assert_eq!(proven.pid(), run.0.id());
    assert_eq!(proven.ask(Request::Ping).unwrap(), "here");
    // Moved, it is the same run.
    let moved = TestDir::new();
    fs::remove_dir(moved.0.path()).unwrap();
    fs::rename(dir.0.path(), moved.0.path()).unwrap();
    ProvenRun::of(moved.0.path()).unwrap().kill().unwrap();
    assert_eq!(run.0.wait().unwrap().signal(), Some(9));
    assert!(matches!(moved.refusal(), NotProven::Unreachable { .. } | NotProven::Reused(_)));
}

#[test]
fn a_run_that_is_stopped_can_be_killed_and_does_not_answer() {
    let dir = TestDir::new();
    let mut run = run_in(&dir);
    kill_process(run.pid(), Signal::STOP).unwrap();
    assert!(ProvenRun::of(dir.0.path()).unwrap().ask(Request::Ping).is_err());
    ProvenRun::of(dir.0.path()).unwrap().kill().unwrap();
    assert_eq!(run.0.wait().unwrap().signal(), Some(9));
}

/// Every part of a summary that names somebody else's process, one after another: nothing is sent.
#[test]
fn what_a_file_names_is_not_taken_for_the_run() {
    let (dir, forged) = (TestDir::new(), TestDir::new());
    let mut run = run_in(&dir);
    let mut victim = victim();
    let text = fs::read_to_string(dir.0.path().join("status.json")).unwrap();
    let genuine: Value = serde_json::from_str(&text).unwrap();
    let with = |changes: &[(&str, Value)]| {
        let mut status = genuine.clone();
        for (name, value) in changes {
            status[*name] = value.clone();
        }
        forged.forge(&status);
        forged.refusal()
    };
    let (pid, tick) = (json!(victim.0.id()), json!(began(&victim)));
    let of_victim = [("pid", pid), ("pid_began", tick)];
    let and = |more: &[(&'static str, Value)]| [&of_victim[..], more].concat();

    let refused = with(&of_victim);
    assert!(matches!(refused, NotProven::OtherProcess { .. }), "{refused}");
    let refused = with(&and(&[("socket", Value::Null)]));
    assert!(matches!(refused, NotProven::NoSocket(_)), "{refused}");
    let elsewhere = forged.0.path().join("a.sock");
    let _listener = UnixListener::bind(&elsewhere).unwrap();
    let refused = with(&and(&[("socket", json!(elsewhere))]));
    assert!(matches!(refused, NotProven::Elsewhere { .. }), "{refused}");
    let real = PathBuf::from(genuine["socket"].as_str().unwrap());
    let dotted = real.parent().unwrap().join("../pptop/x.sock");
    let refused = with(&and(&[("socket", json!(dotted))]));
    assert!(matches!(refused, NotProven::Elsewhere { .. }), "{refused}");
    // The right process with another beginning: its number was used again.
    let tick = genuine["pid_began"].as_u64().unwrap() + 1;
    let refused = with(&[("pid_began", json!(tick))]);
    assert!(matches!(refused, NotProven::Reused(_)), "{refused}");
    for pid in [0, 1, u32::MAX] {
        let refused = with(&[("pid", json!(pid))]);
        assert!(matches!(refused, NotProven::OtherProcess { .. }), "{pid}: {refused}");
    }
    let refused = with(&[("host", json!("elsewhere"))]);
    assert!(matches!(refused, NotProven::OtherHost(_)), "{refused}");
    let refused = with(&[("state", json!("ended"))]);
    assert!(matches!(refused, NotProven::Ended), "{refused}");
    // All is right, but this is a copy: the process writes another log.
    let refused = with(&[]);
    assert!(matches!(refused, NotProven::OtherLog { .. }), "{refused}");
    fs::remove_file(forged.0.path().join("status.json")).unwrap();
    assert!(matches!(forged.refusal(), NotProven::NoStatus));
    assert!(run.is_alive() && victim.is_alive());
}

#[test]
fn a_link_or_a_deserted_socket_proves_nothing() {
    let (dir, forged) = (TestDir::new(), TestDir::new());
    let mut run = run_in(&dir);
    let text = fs::read_to_string(dir.0.path().join("status.json")).unwrap();
    let mut status: Value = serde_json::from_str(&text).unwrap();
    let real = PathBuf::from(status["socket"].as_str().unwrap());
    let own = real.parent().unwrap();
    let link = own.join(format!("link-{}.sock", std::process::id()));
    let deserted = own.join(format!("deserted-{}.sock", std::process::id()));
    std::os::unix::fs::symlink(&real, &link).unwrap();
    drop(UnixListener::bind(&deserted).unwrap());
    let missing = own.join("no such.sock");
    for path in [&link, &deserted, &missing] {
        status["socket"] = json!(path);
        forged.forge(&status);
        let refused = forged.refusal();
        assert!(matches!(refused, NotProven::Unreachable { .. }), "{path:?}: {refused}");
    }
    fs::remove_file(link).unwrap();
    fs::remove_file(deserted).unwrap();
    assert!(run.is_alive());
}

#[test]
fn this_process_is_never_taken_for_a_run() {
    let dir = TestDir::new();
    let control = ControlServer::listen(&socket_dir().unwrap(), "itself", "run").unwrap();
    let host = pp_telemetry::host_name();
    let pid = std::process::id();
    dir.forge(
        &json!({"schema": 1, "run": "run", "pid": pid, "host": host, "socket": control.path()}),
    );
    assert!(matches!(dir.refusal(), NotProven::Itself(_)));
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that looks at nothing has to say so")]
fn a_process_of_another_user_is_left_alone() {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: only root can start a process of another user");
        return;
    }
    let dir = TestDir::new();
    let socket = socket_dir().unwrap().join(format!("other-{}.sock", std::process::id()));
    let mut other = played("listens_and_becomes_another", LISTEN, &socket);
    let proc = format!("/proc/{}", other.0.id());
    while fs::metadata(&proc).unwrap().uid() == 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let status = json!({
        "schema": 1, "run": "run", "pid": other.0.id(), "pid_began": began(&other),
        "host": pp_telemetry::host_name(), "socket": socket, "state": "running",
    });
    dir.forge(&status);
    let refused = dir.refusal();
    assert!(matches!(refused, NotProven::NotOurs { owner: 65_534, .. }), "{refused}");
    fs::remove_file(socket).unwrap();
    assert!(other.is_alive());
}
