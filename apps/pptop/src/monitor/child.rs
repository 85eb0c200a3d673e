//! The process that trains.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;

use pp_telemetry::{STDERR_FILE, is_suspended};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::state::ChildState;

/// The line after what an earlier run has said in the same file.
pub const NEW_MESSAGES: &str = "---- a new run begins here ----";

/// How much of its end is looked at.
const TAIL_BYTES: u64 = 8192;

/// The process that trains, with what is known of it.
#[derive(Debug)]
pub(crate) struct Trainer {
    child: Child,
    stderr: PathBuf,
    state: ChildState,
}

impl Trainer {
    pub(crate) fn new(child: Child, run_dir: &Path) -> Self {
        let state = ChildState { pid: child.id(), ..ChildState::default() };
        Self { child, stderr: run_dir.join(STDERR_FILE), state }
    }

    pub(crate) fn state(&self) -> &ChildState {
        &self.state
    }

    /// Looks whether the process has ended.
    pub(crate) fn poll(&mut self) -> io::Result<()> {
        if self.state.code.is_some() {
            return Ok(());
        }
        if let Some(status) = self.child.try_wait()? {
            let code =
                status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
            if code != 0 {
                self.state.last_error = last_line(&self.stderr);
            }
            self.state.code = Some(code);
        } else {
            self.state.is_suspended = is_suspended(self.child.id());
        }
        Ok(())
    }

    /// Sends a signal. That it is the run needs no proof: it is a child of this process, and its
    /// number is its own until it has been waited for.
    pub(crate) fn signal(&mut self, signal: Signal) -> io::Result<()> {
        self.poll()?;
        if self.state.code.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid
            .ok_or_else(|| io::Error::other(format!("{} is not a process id", self.child.id())))?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(pidfd_send_signal(process, signal)?)
    }
}

/// The last line of a file that is not empty, if this run has said it.
pub(crate) fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let n_bytes = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(n_bytes.saturating_sub(TAIL_BYTES))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    last.filter(|line| *line != NEW_MESSAGES).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    fn ended(mut trainer: Trainer) -> ChildState {
        let deadline = Instant::now() + Duration::from_secs(20);
        while trainer.state().code.is_none() {
            assert!(Instant::now() < deadline, "the process does not end");
            trainer.poll().unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        trainer.state().clone()
    }

    #[test]
    fn a_process_that_fails_leaves_its_last_word() {
        let dir = tempfile::tempdir().unwrap();
        let stderr = File::create(dir.path().join(STDERR_FILE)).unwrap();
        let child = Command::new("sh")
            .args(["-c", "echo one >&2; echo 'two: why' >&2; echo >&2; exit 3"])
            .stderr(stderr)
            .spawn()
            .unwrap();
        let state = ended(Trainer::new(child, dir.path()));
        assert_eq!((state.code, state.last_error.as_deref()), (Some(3), Some("two: why")));
    }

    #[test]
    fn a_process_that_is_killed_ends_with_the_signal() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let mut trainer = Trainer::new(child, Path::new("/nonexistent"));
        trainer.signal(Signal::TERM).unwrap();
        let state = ended(trainer);
        assert_eq!((state.code, state.last_error), (Some(143), None));
    }
}
