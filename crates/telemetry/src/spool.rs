//! A log that comes through a pipe: `report -`, a named pipe, `/dev/fd/63`.
//!
//! Readers go back and forth in a log, which a pipe does not allow. So it is copied first, into a
//! temporary file without a name. Nothing is waited for without an end, and no more is copied than
//! a log may have.

use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::io::Errno;
use thiserror::Error;

use crate::model::is_intact;
use crate::runs::Run;
use pp_trace::{Event, Line, LineError, path_of_open_file};

/// The most that is copied: four times what a run writes by default.
pub const SPOOL_BYTES_MAX: u64 = 1 << 30;
/// How long a named pipe may be without a writer.
const WRITER_WAIT: Duration = Duration::from_secs(2);
/// How long a writer may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(8);
/// How long it may take in all.
const TOTAL_MAX: Duration = Duration::from_mins(10);
/// At least one of this many first lines has to be an event.
const LINES_LOOKED_AT: usize = 64;
/// Bytes among which these lines have to end.
const BYTES_LOOKED_AT: usize = 32 << 20;
const CHUNK_BYTES: usize = 1 << 18;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why there is no log.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// Nobody writes.
    #[error(
        "no process opened it for writing within {} s; start the writer first",
        WRITER_WAIT.as_secs()
    )]
    NoWriter,
    /// Nothing came.
    #[error("nothing arrived for {} s; send the whole log at once", SILENCE_MAX.as_secs())]
    Silent,
    /// It is too long.
    #[error("it has more than {} MiB; name the file instead", SPOOL_BYTES_MAX >> 20)]
    TooLong,
    /// It is something else.
    #[error("it is not the log of a run; send the events.jsonl of a run")]
    NoLog,
    /// It cannot be read, or not be kept.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A log that was copied from a pipe. It is there as long as this value.
#[derive(Debug)]
pub struct Spool {
    file: File,
    n_bytes: u64,
    is_cut: bool,
}

impl Spool {
    /// Copies a log from a pipe, a terminal or a file that is open; a compressed one is
    /// decompressed.
    ///
    /// # Errors
    /// [`SpoolError`] says what to do.
    pub fn of(from: OwnedFd) -> Result<Self, SpoolError> {
        let from = File::from(from);
        let mut patient = Patient::new(&from)?;
        let mut file = unnamed()?;
        let mut head = Vec::new();
        (&mut patient).take(ZSTD_MAGIC.len() as u64).read_to_end(&mut head)?;
        let is_compressed = head == ZSTD_MAGIC;
        let all = Cursor::new(head).chain(&mut patient);
        let copied = if is_compressed {
            copy(zstd::Decoder::new(all)?, &mut file)
        } else {
            copy(all, &mut file)
        };
        if let Some(why) = patient.why_none.take() {
            return Err(why);
        }
        Ok(Self { n_bytes: copied?, file, is_cut: patient.is_cut })
    }

    /// The run of the log, under a name for people.
    pub fn run(&self, name: &str) -> Run {
        let path = path_of_open_file(self.file.as_raw_fd());
        Run {
            id: name.to_owned(),
            // There is no folder; nothing is below this.
            dir: path.clone(),
            log: path,
            status: None,
            end: None,
            bytes: self.n_bytes,
            modified: SystemTime::now(),
        }
    }

    /// Whether the writer fell silent before the end.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }
}

/// A file that goes with the process, on the disk where that is possible.
fn unnamed() -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => Ok(File::from(fd)),
        Err(_) => Ok(File::from(memfd_create("pptop-log", MemfdFlags::CLOEXEC)?)),
    }
}

/// Copies a log, as long as it can be one.
fn copy(mut from: impl Read, into: &mut File) -> Result<u64, SpoolError> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut looked_at = Some(Vec::new());
    let mut n_bytes = 0;
    loop {
        let n_read = from.read(&mut chunk)?;
        if let Some(begun) = &mut looked_at {
            begun.extend_from_slice(&chunk[..n_read]);
            let is_due =
                chunk[..n_read].contains(&b'\n') || n_read == 0 || begun.len() > BYTES_LOOKED_AT;
            match is_due.then(|| is_log(begun, n_read == 0)).flatten() {
                Some(true) => looked_at = None,
                Some(false) if n_bytes > 0 || n_read > 0 => return Err(SpoolError::NoLog),
                _ => {}
            }
        }
        if n_read == 0 {
            return Ok(n_bytes);
        }
        n_bytes += n_read as u64;
        if n_bytes > SPOOL_BYTES_MAX {
            return Err(SpoolError::TooLong);
        }
        into.write_all(&chunk[..n_read])?;
    }
}

/// Whether a text begins as a log does; `None` where more has to be seen.
fn is_log(begun: &[u8], is_all: bool) -> Option<bool> {
    let lines = begun.split_inclusive(|&byte| byte == b'\n');
    let whole = lines.filter(|line| is_all || line.ends_with(b"\n"));
    let mut n_lines = 0;
    for line in whole.take(LINES_LOOKED_AT) {
        n_lines += 1;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        match Event::parse(line) {
            Ok(Line::Event(Event::Index(index))) if !is_intact(index.line()) => {}
            // A later version is told by whoever reads it.
            Ok(_) | Err(LineError::NewerSchema { .. }) => return Some(true),
            Err(_) => {}
        }
    }
    let is_enough = is_all || n_lines == LINES_LOOKED_AT || begun.len() > BYTES_LOOKED_AT;
    is_enough.then_some(false)
}

/// Reads what comes, and waits no longer than it should.
struct Patient<'a> {
    from: &'a File,
    is_fifo: bool,
    begun: Instant,
    has_read: bool,
    /// The writer fell silent: what came so far is all.
    is_cut: bool,
    why_none: Option<SpoolError>,
}

impl<'a> Patient<'a> {
    fn new(from: &'a File) -> io::Result<Self> {
        use rustix::fs::{FileType, fcntl_getfl, fcntl_setfl};
        let is_fifo = FileType::from_raw_mode(from.metadata()?.mode()) == FileType::Fifo;
        if is_fifo {
            // Else one could not tell a pipe that nobody writes into from one that is empty now.
            fcntl_setfl(from, fcntl_getfl(from)? | OFlags::NONBLOCK)?;
        }
        Ok(Self {
            from,
            is_fifo,
            begun: Instant::now(),
            has_read: false,
            is_cut: false,
            why_none: None,
        })
    }

    fn give_up(&mut self, why: SpoolError) {
        if self.has_read {
            self.is_cut = true;
        } else {
            self.why_none = Some(why);
        }
    }

    fn is_ready(&self, wait: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.from, PollFlags::IN)];
        let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&wait)) {
            Ok(n_ready) => Ok(n_ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const LOOK_EVERY: Duration = Duration::from_millis(100);
        if self.is_cut || self.why_none.is_some() {
            return Ok(0);
        }
        let since = Instant::now();
        loop {
            let is_ready = self.is_ready(LOOK_EVERY)?;
            if is_ready || self.is_fifo {
                match self.from.read(buffer) {
                    // Nobody has the other end open: at the end that is the end.
                    Ok(0) if self.is_fifo && !self.has_read && !is_ready => {
                        if since.elapsed() > WRITER_WAIT {
                            self.give_up(SpoolError::NoWriter);
                            return Ok(0);
                        }
                        continue;
                    }
                    Ok(n_read) => {
                        self.has_read |= n_read > 0;
                        return Ok(n_read);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                }
            }
            if since.elapsed() > SILENCE_MAX || self.begun.elapsed() > TOTAL_MAX {
                self.give_up(SpoolError::Silent);
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Follower;

    const HELLO: &[u8] = b"{\"ev\":\"hello\",\"schema\":1,\"run\":\"a\",\"pid\":1,\"argv\":[]}\n";

    fn piped(bytes: &[u8]) -> Result<Spool, SpoolError> {
        let (reader, mut writer) = io::pipe().unwrap();
        std::thread::scope(|scope| {
            // A reader that refuses goes away, which is no fault of the writer.
            scope.spawn(move || drop(writer.write_all(bytes)));
            Spool::of(reader.into())
        })
    }

    #[test]
    fn a_log_through_a_pipe_is_read_as_a_file_is() {
        let mut text = HELLO.to_vec();
        text.extend_from_slice(b"{\"ev\":\"log\",\"elapsed_ns\":5,\"message\":\"a\"}\n");
        let packed = zstd::encode_all(&text[..], 3).unwrap();
        for bytes in [&text, &packed] {
            let spool = piped(bytes).unwrap();
            let run = spool.run("-");
            assert_eq!((run.bytes, spool.is_cut()), (text.len() as u64, false));
            for mut follower in [Follower::new(&run.log), Follower::from_last_mark(&run.log)] {
                let mut n_events = 0;
                while !follower.poll(|_| n_events += 1).unwrap().at_end {}
                assert_eq!(n_events, 2);
            }
        }
    }

    #[test]
    fn what_is_no_log_is_refused_before_it_is_all_there() {
        assert!(matches!(piped(&b"roses\n".repeat(100_000)), Err(SpoolError::NoLog)));
        assert!(matches!(piped(&b"x".repeat(BYTES_LOOKED_AT + 2)), Err(SpoolError::NoLog)));
        assert!(matches!(piped(b"a poem"), Err(SpoolError::NoLog)));
        assert!(matches!(
            piped(&zstd::encode_all(&[0; 99][..], 3).unwrap()),
            Err(SpoolError::NoLog)
        ));
        // The reader reports that the log is empty.
        assert_eq!(piped(b"").unwrap().n_bytes, 0);
        // Some lines of another program before the first event are none of a log's fault.
        assert!(piped(&[&b"module loaded\n".repeat(9), HELLO].concat()).is_ok());
    }

    #[test]
    fn nobody_waits_for_a_writer_that_never_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let fd = open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        assert!(matches!(Spool::of(fd), Err(SpoolError::NoWriter)));
    }
}
