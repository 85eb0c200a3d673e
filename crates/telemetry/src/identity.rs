//! Whether a process is the run of a folder.
//!
//! `status.json` is a file: anybody who can write it can name any process. So nothing is sent to a
//! process because a file names it. The system itself has to say that it is the run: it listens on
//! a socket in this user's own folder, belongs to this user, began when the run did, and writes
//! this folder's log. The proof holds a file descriptor of that process, and what is sent goes
//! through it: another process that gets the number later is never reached.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;

use crate::control::{ControlError, Request, ask_over, check_dir, connect, peer_of, socket_places};
use crate::process::{is_of_this_host, is_of_this_namespace, pid_in_its_namespace};
use crate::runs::status_of;
use pp_trace::machine::process_began;
use pp_trace::{EVENTS_FILE, State};

/// Why nothing is sent to the process that a folder names.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NotProven {
    /// The folder has no summary.
    #[error(
        "there is no readable status.json beside this log, so its process is unknown; end the run where it was started"
    )]
    NoStatus,
    /// The run is over.
    #[error("the run has ended already")]
    Ended,
    /// It runs elsewhere.
    #[error("it runs on {0}; end it there")]
    OtherHost(String),
    /// It takes no requests.
    #[error(
        "it has no socket, so process {0} cannot be verified to be this run; check the process, and end it with kill {0}"
    )]
    NoSocket(u32),
    /// Its socket is not in this user's folder.
    #[error(
        "status.json names a socket outside this user's folder {own:?}: {socket:?}; use the XDG_RUNTIME_DIR with which the run was started"
    )]
    Elsewhere {
        /// The socket that is named.
        socket: PathBuf,
        /// Where the sockets of this user are.
        own: PathBuf,
    },
    /// Nobody can be reached at its socket.
    #[error(
        "its socket does not answer ({source}), so process {pid} cannot be verified to be this run"
    )]
    Unreachable {
        /// The process that the summary names.
        pid: u32,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The process is of a PID namespace that cannot be seen from here.
    #[error("its process runs in a container that is not visible from here; end it there")]
    Hidden,
    /// Another process listens at the socket.
    #[error(
        "status.json names process {named}, but process {listens} listens at its socket; nothing is sent"
    )]
    OtherProcess {
        /// The process that the summary names.
        named: u32,
        /// The process that listens.
        listens: u32,
    },
    /// The process that the summary names is gone, or began at another time.
    #[error("process {0} is not the one that started this run; nothing is sent")]
    Reused(u32),
    /// The process is another user's.
    #[error("process {pid} belongs to user {owner}, but this is user {own}; nothing is sent")]
    NotOurs {
        /// The process.
        pid: u32,
        /// Whose it is.
        owner: u32,
        /// The user that asks.
        own: u32,
    },
    /// The process is the one that asks.
    #[error("process {0} is this program itself; nothing is sent")]
    Itself(u32),
    /// The process writes the log of another folder.
    #[error("this log is a copy: process {pid} writes {log:?}; attach to that log")]
    OtherLog {
        /// The process.
        pid: u32,
        /// What it writes.
        log: PathBuf,
    },
    /// The system does not say.
    #[error("cannot find out whether process {pid} is this run: {source}")]
    System {
        /// The process.
        pid: u32,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The process of a folder's run, as the kernel confirms it.
#[derive(Debug)]
pub struct ProvenRun {
    /// Stays with the process whatever becomes of its number.
    process: OwnedFd,
    /// Its number, as this process sees it.
    pid: u32,
    run: String,
    socket: PathBuf,
    /// The connection whose other end was looked at.
    stream: UnixStream,
}

impl ProvenRun {
    /// Proves that a process is the run whose log and summary are in a folder.
    ///
    /// It works for a stopped process as well: the system keeps the connection until somebody takes
    /// it. Never waits.
    ///
    /// # Errors
    /// [`NotProven`] says what does not fit.
    pub fn of(dir: &Path) -> Result<Self, NotProven> {
        let status = status_of(dir).ok_or(NotProven::NoStatus)?;
        if status.state == State::Ended {
            return Err(NotProven::Ended);
        }
        if !is_of_this_host(&status) {
            return Err(NotProven::OtherHost(status.host.clone()));
        }
        let named = status.pid;
        let socket = status.socket.as_ref().map(PathBuf::from).ok_or(NotProven::NoSocket(named))?;
        let stream = connect_to_own(&socket, named)?;
        let own = rustix::process::getuid();
        let system = |source: io::Error| NotProven::System { pid: named, source };
        let peer = peer_of(&stream).map_err(system)?;
        let handle = Pid::from_raw(peer.pid).filter(|_| peer.pid > 0).ok_or(NotProven::Hidden)?;
        let pid = peer.pid.unsigned_abs();
        if pid == std::process::id() {
            return Err(NotProven::Itself(pid));
        }
        // From here on the number may be given to another: what is looked at below is what the
        // descriptor stands for.
        let process = match pidfd_open(handle, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(rustix::io::Errno::SRCH) => return Err(NotProven::Reused(named)),
            Err(errno) => return Err(system(errno.into())),
        };
        let is_named = pid_in_its_namespace(pid) == Some(named)
            && (pid == named || !is_of_this_namespace(&status));
        if !is_named {
            return Err(NotProven::OtherProcess { named, listens: pid });
        }
        if process_began(pid) != Some(status.pid_began) {
            return Err(NotProven::Reused(named));
        }
        let owner = fs::metadata(format!("/proc/{pid}")).map_err(system)?.uid();
        if owner != own.as_raw() {
            return Err(NotProven::NotOurs { pid, owner, own: own.as_raw() });
        }
        if let Some(log) = other_log(pid, dir).map_err(system)? {
            return Err(NotProven::OtherLog { pid, log });
        }
        Ok(Self { process, pid, run: status.run, socket, stream })
    }

    /// The number of the process, as it is seen from here.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends the process at once.
    ///
    /// # Errors
    /// It is gone, or the system refuses.
    pub fn kill(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.process, Signal::KILL)?)
    }

    /// Asks the run for something, over the connection that was proven to be its.
    ///
    /// # Errors
    /// As [`ask`](crate::ask).
    pub fn ask(self, request: Request) -> Result<String, ControlError> {
        ask_over(self.stream, &self.socket, &self.run, request)
    }
}

/// A connection to a socket that lies in a folder of this user alone.
fn connect_to_own(socket: &Path, pid: u32) -> Result<UnixStream, NotProven> {
    let places = socket_places();
    let dir = socket.parent().filter(|dir| places.iter().any(|place| place == dir));
    let Some(dir) = dir else {
        let own = places.into_iter().next().unwrap_or_default();
        return Err(NotProven::Elsewhere { socket: socket.to_owned(), own });
    };
    let unreachable = |source| NotProven::Unreachable { pid, source };
    check_dir(dir).map_err(unreachable)?;
    let about = socket.symlink_metadata().map_err(unreachable)?;
    if !about.file_type().is_socket() {
        return Err(unreachable(io::Error::other("it is not a socket")));
    }
    connect(socket).map_err(unreachable)
}

/// The log of another folder that a process writes, where it does not write that of `dir`.
///
/// A run whose disk is full has closed its log: that it writes none says nothing.
fn other_log(pid: u32, dir: &Path) -> io::Result<Option<PathBuf>> {
    let own = fs::metadata(dir.join(EVENTS_FILE)).ok();
    let mut other = None;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let Ok(path) = fs::read_link(entry.path()) else { continue };
        if path.file_name().is_none_or(|name| name != EVENTS_FILE) {
            continue;
        }
        let Ok(about) = fs::metadata(entry.path()) else { continue };
        if own.as_ref().is_some_and(|own| (own.dev(), own.ino()) == (about.dev(), about.ino())) {
            return Ok(None);
        }
        other = Some(path);
    }
    Ok(other)
}
