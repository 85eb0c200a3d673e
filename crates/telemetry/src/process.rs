//! The process of a run: whether it is alive, as far as this machine can tell.

use std::io;
use std::path::PathBuf;

use pp_trace::Status;
use pp_trace::machine::{boot_id, host_name, look_at, pid_namespace, unix_ms};

use crate::control::{connect, socket_places};

/// A summary with another boot id that is younger than this belongs to another machine with the
/// same name.
const OTHER_BOOT_MS: u64 = 60_000;

/// The state of a run's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Process {
    /// It is there.
    There,
    /// It is there but stopped, by SIGSTOP or by a debugger.
    Suspended,
    /// It is gone.
    Gone,
    /// It belongs to another machine or container, so its state is unknown here.
    Elsewhere,
    /// The run has no summary, so its process is unknown.
    #[default]
    Unknown,
}

impl Process {
    /// The state of a run's process, by its summary.
    pub fn of(status: &Status) -> Self {
        if !is_of_this_host(status) {
            return Self::Elsewhere;
        }
        if !is_of_this_namespace(status) {
            return by_its_socket(status);
        }
        match look_at(status.pid) {
            Some((began, letter)) if status.pid != 0 && began == status.pid_began => match letter {
                'T' | 't' => Self::Suspended,
                _ => Self::There,
            },
            _ => Self::Gone,
        }
    }

    /// Whether it is there; `None` for a run on another machine, or in a container whose processes
    /// and socket are invisible from here.
    pub fn is_alive(self) -> Option<bool> {
        match self {
            Self::There | Self::Suspended => Some(true),
            Self::Gone | Self::Unknown => Some(false),
            Self::Elsewhere => None,
        }
    }
}

/// Whether a run belongs to this machine.
pub(crate) fn is_of_this_host(status: &Status) -> bool {
    if status.host != host_name() {
        return false;
    }
    // The machine was restarted, or another one has its name. A run that wrote just now does not
    // belong to an earlier boot.
    let is_other_boot = !status.boot.is_empty() && boot_id().is_some_and(|own| own != status.boot);
    let age_ms = unix_ms().saturating_sub(status.updated_unix_ms);
    !(is_other_boot && age_ms < OTHER_BOOT_MS)
}

/// Whether a run's `pid` belongs to this PID namespace. An older summary has no namespace and
/// counts as one of this namespace.
pub(crate) fn is_of_this_namespace(status: &Status) -> bool {
    status.pid_namespace == 0 || pid_namespace().is_none_or(|own| own == status.pid_namespace)
}

/// The state of a process in a container, whose `pid` has no meaning here. If its socket is
/// visible, connecting shows whether the process listens.
fn by_its_socket(status: &Status) -> Process {
    let Some(socket) = status.socket.as_ref().map(PathBuf::from) else {
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

/// Whether a live process is stopped, by SIGSTOP or by a debugger.
pub fn is_suspended(pid: u32) -> bool {
    look_at(pid).is_some_and(|(_, letter)| matches!(letter, 'T' | 't'))
}

/// The number that a process has in its own PID namespace.
pub(crate) fn pid_in_its_namespace(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pp_trace::machine::process_began;

    #[test]
    fn this_process_is_alive_and_another_with_its_number_would_not_be() {
        let status = Status::starting();
        let is_alive = |status: Status| Process::of(&status).is_alive();
        assert_eq!(is_alive(status.clone()), Some(true));
        assert_eq!(
            is_alive(Status { pid_began: status.pid_began + 1, ..status.clone() }),
            Some(false)
        );
        assert_eq!(is_alive(Status { pid: u32::MAX, ..status.clone() }), Some(false));
        assert_eq!(is_alive(Status { host: "elsewhere".to_owned(), ..status }), None);
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
        assert_eq!(Process::of(&status), Process::There);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while Process::of(&status) != Process::Suspended {
            assert!(std::time::Instant::now() < deadline, "it is not held");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(is_suspended(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Process::of(&status), Process::Gone);
    }
}
