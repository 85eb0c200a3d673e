//! The summary of a run that is renewed each second: enough to list runs without reading their logs.

use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::control::{connect, socket_places};
use crate::limits::Limits;
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
    /// The PID namespace in which that is its number, by the system's own; 0 where it is not known.
    /// Two containers have processes of the same numbers.
    pub pid_namespace: u64,
    /// Which start of the machine it is, in the system's own words; empty where it is not known.
    /// Two machines may have one name.
    pub boot: String,
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
    /// Virtual stages of a rank; 0 in a summary of an older version, as the next two.
    pub virtual_stages: u32,
    /// Micro-batches of a replica.
    pub micro_batches: u32,
    /// Samples of a step.
    pub batch_size: u64,
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
    /// Files with weights that the run has written into its folder, by their names.
    pub files: Vec<String>,
    /// When it began, in milliseconds of Unix time.
    pub started_unix_ms: u64,
    /// When this was written, in milliseconds of Unix time.
    pub updated_unix_ms: u64,
    /// When the run last did anything but look at its devices, in milliseconds of Unix time; 0 in a
    /// summary of an older version.
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
            pid_namespace: pid_namespace().unwrap_or(0),
            boot: boot_id().unwrap_or_default(),
            host: host_name(),
            started_unix_ms: unix_ms(),
            ..Self::default()
        }
    }

    /// Whether the process of the run is there, as far as one can tell from here: `None` for a run
    /// of another machine, or of a container whose processes and socket cannot be seen.
    pub fn is_alive(&self) -> Option<bool> {
        match self.process() {
            Process::There | Process::Suspended => Some(true),
            Process::Gone | Process::Unknown => Some(false),
            Process::Elsewhere => None,
        }
    }

    /// Whether it is of this machine.
    pub(crate) fn is_of_this_host(&self) -> bool {
        if self.host != host_name() {
            return false;
        }
        // The machine was restarted, or another one has its name. A run that wrote just now does
        // not belong to an earlier boot.
        let is_other_boot = !self.boot.is_empty() && boot_id().is_some_and(|own| own != self.boot);
        let age_ms = unix_ms().saturating_sub(self.updated_unix_ms);
        !(is_other_boot && age_ms < OTHER_BOOT_MS)
    }

    /// Whether its number is one of this PID namespace. A summary of before does not say; then it
    /// is taken for one.
    pub(crate) fn is_of_this_namespace(&self) -> bool {
        self.pid_namespace == 0 || pid_namespace().is_none_or(|own| own == self.pid_namespace)
    }

    /// How its process stands.
    pub fn process(&self) -> Process {
        if !self.is_of_this_host() {
            return Process::Elsewhere;
        }
        if !self.is_of_this_namespace() {
            return self.process_by_its_socket();
        }
        match look_at(self.pid) {
            Some((began, letter)) if self.pid != 0 && began == self.pid_began => match letter {
                'T' | 't' => Process::Suspended,
                _ => Process::There,
            },
            _ => Process::Gone,
        }
    }

    /// The process of a container: its number means another process here, or none. Where its socket
    /// can be seen, the system knows whether anybody listens.
    fn process_by_its_socket(&self) -> Process {
        let Some(socket) = self.socket.as_ref().map(PathBuf::from) else {
            return Process::Elsewhere;
        };
        if !socket.parent().is_some_and(|dir| socket_places().iter().any(|p| p == dir)) {
            return Process::Elsewhere;
        }
        match connect(&socket) {
            Ok(_) => Process::There,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Process::Gone,
            Err(_) => Process::Elsewhere,
        }
    }
}

/// Whether a process that is known to be there is held by SIGSTOP or a debugger.
pub fn is_suspended(pid: u32) -> bool {
    look_at(pid).is_some_and(|(_, letter)| matches!(letter, 'T' | 't'))
}

/// A summary of another start of the machine that is as young as this is one of another machine
/// with the same name.
const OTHER_BOOT_MS: u64 = 60_000;

/// Milliseconds of Unix time.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    u64::try_from(since).unwrap_or(u64::MAX)
}

/// The name of this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Bytes of memory that this machine has, or this process may use if that is less; `None` where the
/// system does not say.
pub fn host_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let bytes = kibibytes.checked_mul(1024)?;
    Some(Limits::here().memory_bytes.map_or(bytes, |limit| limit.min(bytes)))
}

/// The PID namespace of this process, by the number that the system gives it.
fn pid_namespace() -> Option<u64> {
    let link = std::fs::read_link("/proc/self/ns/pid").ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

/// Which start of the machine this is.
fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

/// The number that a process has in its own PID namespace.
pub(crate) fn pid_in_its_namespace(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().next_back()?.parse().ok()
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
