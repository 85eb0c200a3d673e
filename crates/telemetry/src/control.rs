//! Requests to a run: stop after this step, write the weights down.
//!
//! A run listens on a socket of the file system that only its user can reach: the directory is the
//! user's alone, and so is the process at the other end, which the system is asked about. A request
//! is one line of JSON, the answer another; nothing else goes over it. What a run does stands in
//! its log.

use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes that a request or an answer has at most, with its line feed.
pub const REQUEST_BYTES_MAX: usize = 4096;
/// How long one may take for a line; who is slower is dropped.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a run looks for somebody who wants something.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Requests that wait for the end of a step at most.
const WAITING_MAX: usize = 64;

/// What may be asked of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Whether it is there.
    Ping,
    /// To end after this step.
    Stop,
    /// To write its weights down after this step.
    Checkpoint,
    /// To write its weights down after this step, and to end.
    CheckpointAndStop,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestLine {
    request: Request,
    /// The id of the run that is meant: another one may have got the number of its process.
    run: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct AnswerLine {
    ok: bool,
    message: String,
}

/// Why a request did not arrive, or was refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody is there, or it cannot be spoken to.
    #[error("{path:?} does not answer: {source}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It belongs to somebody else.
    #[error("{path:?} belongs to user {owner}, but this is user {own}")]
    NotOurs {
        /// The socket.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// The user that asks.
        own: u32,
    },
    /// The answer is none.
    #[error("{path:?} does not answer like a run of pptop")]
    Answer {
        /// The socket.
        path: PathBuf,
    },
    /// The run does not do that.
    #[error("{0}")]
    Refused(String),
}

/// Where the sockets of this user are: below `$XDG_RUNTIME_DIR`, else in the directory for
/// temporary files. Nothing is made or checked.
pub fn socket_place() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime.filter(|dir| dir.is_absolute() && dir.is_dir()) {
        Some(dir) => dir.join("pptop"),
        None => std::env::temp_dir().join(format!("pptop-{}", rustix::process::getuid().as_raw())),
    }
}

/// Where a run of this user may have its socket: the run may have had another `XDG_RUNTIME_DIR` or
/// `TMPDIR` than who asks.
pub(crate) fn socket_places() -> Vec<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    vec![
        socket_place(),
        PathBuf::from(format!("/run/user/{uid}/pptop")),
        std::env::temp_dir().join(format!("pptop-{uid}")),
        PathBuf::from(format!("/tmp/pptop-{uid}")),
    ]
}

/// The directory of the sockets of this user, [`socket_place`]. It is made where it is missing.
///
/// # Errors
/// It cannot be made; it is a symbolic link, belongs to another user, or is open to others.
pub fn socket_dir() -> io::Result<PathBuf> {
    let dir = socket_place();
    match DirBuilder::new().mode(0o700).create(&dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    check_dir(&dir)?;
    Ok(dir)
}

pub(crate) fn check_dir(dir: &Path) -> io::Result<()> {
    let about = dir.symlink_metadata()?;
    let own = rustix::process::getuid().as_raw();
    let why = if !about.is_dir() {
        "is not a directory".to_owned()
    } else if about.uid() != own {
        format!("belongs to user {}, this is user {own}", about.uid())
    } else if about.permissions().mode() & 0o077 != 0 {
        format!("is open to others (mode {:o})", about.permissions().mode() & 0o777)
    } else {
        return Ok(());
    };
    Err(io::Error::other(format!("{} {why}", dir.display())))
}

/// The ear of a run.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    /// The id of the run.
    run: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Vec<Request>>,
    closing: AtomicBool,
}

impl ControlServer {
    /// Listens on a socket of its own in a directory such as [`socket_dir`], for requests to the
    /// run of this id.
    ///
    /// The socket is called after `name`, such as the number of the process, with something behind
    /// it that no other run has: a container may see this directory and have processes of the same
    /// numbers. An existing file is never replaced.
    ///
    /// # Errors
    /// The socket cannot be made, or the directory is not this user's alone.
    pub fn listen(dir: &Path, name: &str, run: &str) -> io::Result<Self> {
        check_dir(dir)?;
        forget_the_dead(dir);
        let (listener, path) = bind_new(dir, name)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let run_of_thread = run.to_owned();
        let thread = thread::Builder::new().name("pp-control".to_owned()).spawn(move || {
            while !for_thread.closing.load(Ordering::Acquire) {
                match listener.accept() {
                    Ok((stream, _)) => answer(stream, &run_of_thread, &for_thread),
                    Err(_) => thread::park_timeout(LOOK_EVERY),
                }
            }
        })?;
        Ok(Self { path, run: run.to_owned(), shared, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id of the run that it listens for.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// What was asked for since the last call.
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Letters and figures that make the name of a socket one that no other has.
const NONCE_LETTERS: usize = 4;
/// The same where the path has no room for more.
const NONCE_LETTERS_ALONE: usize = 7;
/// Names that are tried.
const NAMES_MAX: usize = 100;
/// Bytes of a socket's path that the system takes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Binds a name that nothing has: the system refuses one that is taken, by whomever.
fn bind_new(dir: &Path, name: &str) -> io::Result<(UnixListener, PathBuf)> {
    for _ in 0..NAMES_MAX {
        let whole = dir.join(format!("{name}-{}.sock", nonce(NONCE_LETTERS)));
        let path = if whole.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            whole
        } else {
            dir.join(format!("{}.sock", nonce(NONCE_LETTERS_ALONE)))
        };
        match UnixListener::bind(&path) {
            Ok(listener) => return Ok((listener, path)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("no free name for a socket in {}", dir.display())))
}

/// So many letters and figures by chance.
fn nonce(n_letters: usize) -> String {
    const LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    // Each has its own keys, which the system has chosen by chance.
    let mut random = std::hash::RandomState::new().build_hasher().finish();
    let mut letters = String::with_capacity(n_letters);
    for _ in 0..n_letters {
        letters.push(char::from(LETTERS[(random % 36) as usize]));
        random /= 36;
    }
    letters
}

/// How old a socket has to be before it may be taken for one that was left behind: one that was
/// just bound does not listen yet.
const DESERTED_AFTER: Duration = Duration::from_mins(1);

/// Removes sockets that were left behind: who was killed could not do so. One on which somebody
/// listens stays, whatever its name: its process may be one of another container.
fn forget_the_dead(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let own = rustix::process::getuid().as_raw();
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(about) = entry.metadata() else { continue };
        let is_old = about.modified().is_ok_and(|when| {
            SystemTime::now().duration_since(when).is_ok_and(|age| age > DESERTED_AFTER)
        });
        let is_socket = about.file_type().is_socket() && about.uid() == own;
        let is_ours = is_socket && path.extension().is_some_and(|ending| ending == "sock");
        let is_deserted =
            || connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if is_ours && is_old && is_deserted() {
            // Somebody else may have done it already.
            let _ = fs::remove_file(path);
        }
    }
}

/// Connects without waiting: a run that is stopped takes nobody, and its queue may be full.
pub(crate) fn connect(socket: &Path) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
    let address = SocketAddrUnix::new(socket)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let end = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&end, &address) {
        Ok(()) => {}
        Err(rustix::io::Errno::AGAIN) => {
            return Err(io::Error::other("too many requests wait for an answer; try again"));
        }
        Err(errno) => return Err(errno.into()),
    }
    let stream = UnixStream::from(end);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The process at the other end of a connection, from the kernel's peer credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its process as this one sees it: the one that called `listen`, or that connected. 0 for one
    /// of a PID namespace that cannot be seen from here, for which `rustix` has no value.
    pub(crate) pid: i32,
    pub(crate) uid: u32,
}

/// Reads the peer credentials.
pub(crate) fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    let peer = getsockopt(stream, PeerCredentials)?;
    Ok(Peer { pid: peer.pid(), uid: peer.uid() })
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It only ever waits for half a second; should it have panicked there is nothing left
            // to do.
            let _ = thread.join();
        }
        // Somebody may have tidied up already.
        let _ = fs::remove_file(&self.path);
    }
}

fn answer(mut stream: UnixStream, run: &str, shared: &Shared) {
    let own = rustix::process::getuid().as_raw();
    // Whoever is not this user gets no answer at all.
    if !peer_of(&stream).is_ok_and(|peer| peer.uid == own) {
        return;
    }
    let Some(line) = read_line(&mut stream) else { return };
    let answer = match understood(&line, run) {
        Ok(request) => accept(request, shared),
        Err(why) => AnswerLine { ok: false, message: why },
    };
    let Ok(text) = pp_schedule::to_json(&answer) else { return };
    let mut text = text.into_bytes();
    text.push(b'\n');
    // Who does not read is dropped.
    let _ = stream.write_all(&text);
}

fn accept(request: Request, shared: &Shared) -> AnswerLine {
    let (ok, message) = match request {
        Request::Ping => (true, "here"),
        Request::Stop | Request::Checkpoint | Request::CheckpointAndStop => {
            let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() < WAITING_MAX {
                waiting.push(request);
                (true, "after this step")
            } else {
                (false, "too many requests wait for the end of this step; try again after it")
            }
        }
    };
    AnswerLine { ok, message: message.to_owned() }
}

/// The request to the run of this id that a line holds.
///
/// # Errors
/// What is wrong with it, and what to send instead.
pub fn understood(line: &[u8], run: &str) -> Result<Request, String> {
    let parsed = serde_json::from_slice::<RequestLine>(line).map_err(|error| {
        let why: String = error.to_string().chars().filter(|&c| !pp_schedule::is_obeyed(c)).take(120).collect();
        format!(
            "not a request: {why}; send {{\"request\":\"ping\",\"run\":\"ID\"}}, or stop, checkpoint, checkpoint_and_stop"
        )
    })?;
    if parsed.run != run {
        return Err("the request names another run; send the id of this run".to_owned());
    }
    Ok(parsed.request)
}

/// One line without its line feed; `None` if it is too long, too slow, or does not come.
fn read_line(stream: &mut UnixStream) -> Option<Vec<u8>> {
    stream.set_nonblocking(false).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let deadline = Instant::now() + PATIENCE;
    let mut line = Vec::new();
    let mut chunk = [0; 512];
    loop {
        let left =
            deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        stream.set_read_timeout(Some(left)).ok()?;
        let n_read = match stream.read(&mut chunk) {
            Ok(0) => return None,
            Ok(n_read) => n_read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return None,
        };
        line.extend_from_slice(&chunk[..n_read]);
        if let Some(end) = line.iter().position(|&byte| byte == b'\n') {
            line.truncate(end);
            return (line.len() < REQUEST_BYTES_MAX).then_some(line);
        }
        if line.len() >= REQUEST_BYTES_MAX {
            return None;
        }
    }
}

/// Asks the run of this id for something, and returns what it says.
///
/// # Errors
/// [`ControlError`]: nobody answers, it is somebody else's, or the run refuses.
pub fn ask(socket: &Path, run: &str, request: Request) -> Result<String, ControlError> {
    let unreachable = |source| ControlError::Unreachable { path: socket.to_owned(), source };
    if let Some(dir) = socket.parent() {
        check_dir(dir).map_err(unreachable)?;
    }
    let stream = connect(socket).map_err(unreachable)?;
    ask_over(stream, socket, run, request)
}

/// The same over a connection that is there.
pub(crate) fn ask_over(
    mut stream: UnixStream,
    socket: &Path,
    run: &str,
    request: Request,
) -> Result<String, ControlError> {
    let unreachable = |source| ControlError::Unreachable { path: socket.to_owned(), source };
    let own = rustix::process::getuid().as_raw();
    let peer = peer_of(&stream).map_err(unreachable)?;
    if peer.uid != own {
        return Err(ControlError::NotOurs { path: socket.to_owned(), owner: peer.uid, own });
    }
    let no_answer = || ControlError::Answer { path: socket.to_owned() };
    let mut text = serde_json::to_vec(&RequestLine { request, run: run.to_owned() })
        .map_err(|_| no_answer())?;
    text.push(b'\n');
    stream.set_write_timeout(Some(PATIENCE)).map_err(unreachable)?;
    stream.write_all(&text).map_err(unreachable)?;
    let line = read_line(&mut stream).ok_or_else(no_answer)?;
    let answer: AnswerLine = serde_json::from_slice(&line).map_err(|_| no_answer())?;
    if answer.ok { Ok(answer.message) } else { Err(ControlError::Refused(answer.message)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that is stopped takes nobody: whoever comes when its queue is full does not wait.
    #[test]
    fn a_full_queue_keeps_nobody_waiting() {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("full.sock");
        let end = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&end, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&end, 0).unwrap();
        let mut held = Vec::new();
        let refused = loop {
            match connect(&path) {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
            assert!(held.len() < 100, "the queue has no end");
        };
        assert!(refused.to_string().contains("too many requests"), "{refused}");
    }

    #[test]
    fn names_are_made_of_letters_and_differ() {
        let names: std::collections::HashSet<String> = (0..100).map(|_| nonce(7)).collect();
        assert_eq!(names.len(), 100);
        assert!(
            names
                .iter()
                .all(|name| name.len() == 7 && name.bytes().all(|b| b.is_ascii_alphanumeric()))
        );
    }
}
