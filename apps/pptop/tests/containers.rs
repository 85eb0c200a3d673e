//! Runs in containers that share a folder for sockets: the number of a process is that of another
//! one there.
#![cfg(feature = "train")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "these tests write no files of their own")]
#[path = "common/folder.rs"]
mod folder;

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use folder::Folder;
use pp_telemetry::{Request, ask, status_of};

const DEADLINE: Duration = Duration::from_mins(1);

/// A run in a PID namespace of its own, where it is process 1.
struct Contained(Child);

impl Drop for Contained {
    fn drop(&mut self) {
        // The process that made the namespace is the parent of its first one, which ends with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const UNSHARE: [&str; 4] = ["-rp", "--fork", "--mount-proc", "--kill-child"];

fn start(home: &Folder, name: &str) -> Contained {
    let job = "train --headless --model sleep --pp 2 --micro-batches 4 --steps 100000 --run-dir";
    let child = Command::new("unshare")
        .args(UNSHARE)
        .arg(env!("CARGO_BIN_EXE_pptop"))
        .args(job.split_whitespace())
        .arg(home.path("runs").join(name))
        .env("XDG_RUNTIME_DIR", home.path("runtime"))
        .env("PPTOP_STATE_DIR", home.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Contained(child)
}

fn socket_of(home: &Folder, name: &str) -> PathBuf {
    let began = Instant::now();
    loop {
        let status = status_of(&home.path("runs").join(name));
        if let Some(socket) = status.and_then(|status| status.socket) {
            return PathBuf::from(socket);
        }
        assert!(began.elapsed() < DEADLINE, "{name} does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn pptop(home: &Folder, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pptop"))
        .args(line.split_whitespace())
        .env("XDG_RUNTIME_DIR", home.path("runtime"))
        .env("XDG_CONFIG_HOME", home.path(""))
        .env("PPTOP_STATE_DIR", home.path(""))
        .output()
        .unwrap()
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that looks at nothing has to say so")]
fn two_runs_with_the_same_number_have_a_socket_each() {
    let can = Command::new("unshare").args(UNSHARE).arg("true").stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this user may not make a PID namespace (unshare -rp)");
        return;
    }
    let home = Folder::new();
    fs::create_dir(home.path("runs")).unwrap();
    fs::DirBuilder::new().mode(0o700).create(home.path("runtime")).unwrap();
    let first = start(&home, "first");
    let socket_of_first = socket_of(&home, "first");
    let second = start(&home, "second");
    let socket_of_second = socket_of(&home, "second");
    let status = |name| status_of(&home.path("runs").join(name)).unwrap();
    assert_eq!(status("first").pid, status("second").pid, "both are process 1");
    assert_ne!(socket_of_first, socket_of_second);
    for (socket, name) in [(&socket_of_first, "first"), (&socket_of_second, "second")] {
        assert_eq!(ask(socket, name, Request::Ping).unwrap(), "here", "{name}");
    }
    // From outside both are seen to be alive, though process 1 is another here, and the number
    // names none of them alone.
    let list = String::from_utf8(pptop(&home, "runs list --json").stdout).unwrap();
    assert_eq!(list.matches(r#""state":"live""#).count(), 2, "{list}");
    let refused = pptop(&home, "attach --once 1");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("first") && said.contains("second"), "{said}");
    drop((first, second));
}
