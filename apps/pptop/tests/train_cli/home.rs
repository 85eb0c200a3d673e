//! A folder for one test, and the program that runs in it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Nothing here takes as long; what does, hangs.
const DEADLINE: Duration = Duration::from_mins(1);

/// A folder that goes away with the test. Programs run in it, and keep their state in it.
pub(crate) struct Home {
    dir: TempDir,
}

/// How a program ended and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A program that runs.
pub(crate) struct Running {
    child: Child,
    pub(crate) stdout: BufReader<ChildStdout>,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::with_prefix("pptop-cli-").unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Every file and folder in it, in order.
    pub(crate) fn contents(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.clone());
                if path.is_dir() {
                    walk(&path, found);
                }
            }
        }
        let mut found = Vec::new();
        walk(self.dir.path(), &mut found);
        found.sort();
        found
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program();
        command.args(args).current_dir(&self.dir).env("PPTOP_STATE_DIR", self.path("state"));
        command.env("PPTOP_DEVICE", "cpu");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        finished(self.command(args).spawn().unwrap())
    }

    /// Runs the program with this for its standard output.
    pub(crate) fn run_into(&self, args: &[&str], stdout: Stdio) -> Ran {
        finished(self.command(args).stdout(stdout).spawn().unwrap())
    }

    /// Runs a command line that must succeed without a word on standard error.
    pub(crate) fn stdout(&self, line: &str) -> String {
        let ran = self.run(&words(line));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{line}");
        ran.stdout
    }

    /// Runs `pptop train --headless --json` with these flags; it must succeed.
    pub(crate) fn train(&self, flags: &str) -> Events {
        Events::of(&self.stdout(&format!("train --headless --json {flags}")))
    }

    /// Starts it through another program, such as `env` or `sh`, whose last arguments are it and
    /// its own.
    pub(crate) fn start_through(&self, wrapper: &[&str], args: &[&str]) -> Running {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(env!("CARGO_BIN_EXE_pptop")).args(args);
        command.current_dir(&self.dir).env("PPTOP_STATE_DIR", self.path("state"));
        command.env("PPTOP_DEVICE", "cpu");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdout }
    }

    /// Starts a program that goes on for a while.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut child = self.command(args).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdout }
    }
}

/// The program, with the default for signals that this test was started to ignore, as under
/// `nohup`: it leaves them ignored.
fn program() -> Command {
    let ends = [("HUP", 1), ("INT", 2), ("TERM", 15)];
    let ignored = ends.into_iter().filter(|&(_, signal)| pp_train::is_ignored(signal));
    let names: Vec<&str> = ignored.map(|(name, _)| name).collect();
    if names.is_empty() {
        return Command::new(env!("CARGO_BIN_EXE_pptop"));
    }
    let mut command = Command::new("env");
    command.arg(format!("--default-signal={}", names.join(",")));
    command.arg(env!("CARGO_BIN_EXE_pptop"));
    command
}

impl Running {
    /// Reads lines up to the first event of a kind.
    pub(crate) fn wait_for(&mut self, kind: &str) -> Value {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "it ended before a {kind}");
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["ev"] == kind {
                return event;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Closes its standard output and waits for the end.
    pub(crate) fn abandon(self) -> Ran {
        drop(self.stdout);
        finished(self.child)
    }

    /// Waits for the end, and gives what it still said.
    pub(crate) fn finish(mut self) -> Ran {
        let mut stdout = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut stdout).unwrap();
        Ran { stdout, ..finished(self.child) }
    }
}

/// Waits for the end, as long as anything here may take.
fn finished(child: Child) -> Ran {
    let pid = Pid::from_child(&child);
    let (sender, receiver) = mpsc::channel::<Output>();
    let waiting = thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    let Ok(output) = receiver.recv_timeout(DEADLINE) else {
        let _ = kill_process(pid, Signal::KILL);
        panic!("still running after {DEADLINE:?}");
    };
    waiting.join().unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// The lines of a run.
#[derive(Debug, Clone)]
pub(crate) struct Events(Vec<Value>);

impl Events {
    /// Each line as JSON.
    pub(crate) fn of(text: &str) -> Self {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        Self(text.lines().map(parse).collect())
    }

    pub(crate) fn all(&self) -> &[Value] {
        &self.0
    }

    /// The events of one kind.
    pub(crate) fn kind(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|event| event["ev"] == kind).collect()
    }

    /// The one event of its kind.
    pub(crate) fn one(&self, kind: &str) -> &Value {
        let found = self.kind(kind);
        assert_eq!(found.len(), 1, "{kind}");
        found[0]
    }

    /// The loss of every step, to the bit.
    pub(crate) fn bits(&self) -> Vec<String> {
        let bits = |step: &&Value| step["loss_bits"].as_str().unwrap().to_owned();
        self.kind("step").iter().map(bits).collect()
    }

    pub(crate) fn weights_hash(&self) -> &str {
        self.one("end")["weights_hash"].as_str().unwrap()
    }
}
