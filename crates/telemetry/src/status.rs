//! The summary of a run that is renewed each second: enough to list runs without reading their logs.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::standing::Process;

/// How far a run has come, by its own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing is trained yet.
    #[default]
    Starting,
    /// It trains.
    Running,
    /// Its last line is written.
    Ended,
}

/// The summary of a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The major version of the log.
    pub schema: u32,
    /// The id of the run.
    pub run: String,
    /// The process of the trainer.
    pub pid: u32,
    /// When that process began, in clock ticks since the machine did: another process with its number began at another time.
    pub pid_began: u64,
    /// The machine that it runs on.
    pub host: String,
    /// The name of the model.
    pub model: String,
    /// The name of the schedule.
    pub schedule: String,
    /// Ranks along the pipeline.
    pub pp: u32,
    /// Replicas.
    pub dp: u32,
    /// How far it has come.
    pub state: State,
    /// Steps that are over.
    pub step: u64,
    /// Steps that are planned.
    pub steps: u64,
    /// The last loss.
    pub loss: Option<f32>,
    /// What goes on that is no step, and how far it is: `evaluating 3/12`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// What is wrong with the training, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// The exit code.
    pub code: Option<i32>,
    /// How it ended, in a line.
    pub reason: Option<String>,
    /// Why nothing is written into the log any more, while the run goes on.
    pub recording_failed: Option<String>,
    /// How long a step takes: the median of the last ones.
    pub step_seconds: Option<f64>,
    /// Events that were lost.
    pub dropped: u64,
    /// Bytes of the log.
    pub events_bytes: u64,
    /// Where the run takes requests.
    pub socket: Option<String>,
    /// When it began, in milliseconds of Unix time.
    pub started_unix_ms: u64,
    /// When this was written, in milliseconds of Unix time.
    pub updated_unix_ms: u64,
    /// When the run last did anything but look at its devices, in milliseconds of Unix time; 0 in a summary of an older version.
    pub progressed_unix_ms: u64,
}

impl Status {
    /// That of a run of this process that has not said hello yet.
    pub(crate) fn starting() -> Self {
        let pid = std::process::id();
        Self {
            schema: crate::event::SCHEMA,
            pid,
            pid_began: process_began(pid).unwrap_or(0),
            host: host_name(),
            started_unix_ms: unix_ms(),
            ..Self::default()
        }
    }

    /// Whether the process of the run is there, as far as this machine can tell: `None` for a run of another machine.
    pub fn is_alive(&self) -> Option<bool> {
        match self.process() {
            Process::There | Process::Suspended => Some(true),
            Process::Gone | Process::Unknown => Some(false),
            Process::Elsewhere => None,
        }
    }

    /// How its process stands.
    pub fn process(&self) -> Process {
        if self.host != host_name() {
            return Process::Elsewhere;
        }
        match look_at(self.pid) {
            Some((began, letter)) if self.pid != 0 && began == self.pid_began => match letter {
                'T' | 't' => Process::Suspended,
                _ => Process::There,
            },
            _ => Process::Gone,
        }
    }
}

/// Whether a process that is known to be there is held by SIGSTOP or a debugger.
pub fn is_suspended(pid: u32) -> bool {
    look_at(pid).is_some_and(|(_, letter)| matches!(letter, 'T' | 't'))
}

/// Milliseconds of Unix time.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    u64::try_from(since).unwrap_or(u64::MAX)
}

/// The name of this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Bytes of memory that this machine has; `None` where the system does not say.
pub fn host_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// When a process began, in clock ticks since the machine did; `None` if it is gone, or has ended and nobody has asked how.
pub(crate) fn process_began(pid: u32) -> Option<u64> {
    look_at(pid).map(|(began, _)| began)
}

/// When a process began, and the letter of its state; `None` as for [`process_began`].
fn look_at(pid: u32) -> Option<(u64, char)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program stands in brackets and may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    if matches!(state, 'Z' | 'X') {
        return None;
    }
    Some((fields.nth(18)?.parse().ok()?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_another_with_its_number_would_not_be() {
        let status = Status::starting();
        assert_eq!(status.is_alive(), Some(true));
        assert_eq!(
            Status { pid_began: status.pid_began + 1, ..status.clone() }.is_alive(),
            Some(false)
        );
        assert_eq!(Status { pid: u32::MAX, ..status.clone() }.is_alive(), Some(false));
        assert_eq!(Status { host: "elsewhere".to_owned(), ..status }.is_alive(), None);
    }

    #[test]
    fn a_process_that_is_held_is_told_from_one_that_runs() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let status = Status {
            pid: child.id(),
            pid_began: process_began(child.id()).unwrap(),
            ..Status::starting()
        };
        assert_eq!(status.process(), Process::There);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while status.process() != Process::Suspended {
            assert!(std::time::Instant::now() < deadline, "it is not held");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(is_suspended(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(status.process(), Process::Gone);
    }

    #[test]
    fn the_machine_says_how_much_memory_it_has() {
        assert!(host_memory_bytes().is_some_and(|bytes| bytes > 1 << 26));
    }

    #[test]
    fn a_summary_of_another_version_can_be_read() {
        let status: Status =
            serde_json::from_str(r#"{"schema":1,"run":"a","state":"running","later":[1]}"#)
                .unwrap();
        assert_eq!((status.run.as_str(), status.state), ("a", State::Running));
    }
}
