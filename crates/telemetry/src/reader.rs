//! Following a log while it grows.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::event::{Event, Line, LineError};
use crate::lines::LineSplitter;

/// Bytes read by one [`Follower::poll`]: a reader with a long log behind it stays responsive.
const POLL_BYTES: usize = 1 << 20;

/// A log that cannot be followed any further.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file could not be opened or read.
    #[error("cannot read {path:?}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file has become shorter: it is no log, which only ever grows.
    #[error("{path:?} has shrunk from {was} to {is} bytes; a log only grows")]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// Bytes that were read.
        was: u64,
        /// Bytes that it has now.
        is: u64,
    },
    /// The log is of a newer format.
    #[error("{path:?}: {source}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Which format.
        #[source]
        source: LineError,
    },
}

/// What one look at the file has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poll {
    /// Events that were handed over.
    pub n_events: u64,
    /// Whether the end of the file was reached; if not, there is more to read at once.
    pub at_end: bool,
}

/// Reads a log from its beginning, and then what is added to it.
///
/// The file need not exist yet. A last line without its line feed is read when the rest of it has come; a line that is
/// no event is counted and skipped.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    splitter: LineSplitter,
    buffer: Vec<u8>,
    n_bytes: u64,
    n_malformed: u64,
    n_unknown: u64,
}

impl Follower {
    /// A follower of the file at `path`.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            splitter: LineSplitter::new(),
            buffer: vec![0; POLL_BYTES],
            n_bytes: 0,
            n_malformed: 0,
            n_unknown: 0,
        }
    }

    /// Reads what is there, up to a limit, and hands over each event in order.
    ///
    /// # Errors
    /// The file cannot be read, has shrunk, or is of a newer format.
    pub fn poll(&mut self, mut on_event: impl FnMut(Event)) -> Result<Poll, ReadError> {
        let mut poll = Poll { n_events: 0, at_end: true };
        let Some(n_read) = self.read_some()? else { return Ok(poll) };
        poll.at_end = n_read < self.buffer.len();
        let mut newer = None;
        let (n_malformed, n_unknown) = (&mut self.n_malformed, &mut self.n_unknown);
        self.splitter.push(&self.buffer[..n_read], |line| match Event::parse(line) {
            Ok(Line::Event(event)) if newer.is_none() => {
                poll.n_events += 1;
                on_event(event);
            }
            Ok(Line::Event(_)) => {}
            Ok(Line::Unknown) => *n_unknown += 1,
            Err(error @ LineError::NewerSchema { .. }) => newer = newer.take().or(Some(error)),
            Err(LineError::Malformed(_)) => *n_malformed += 1,
        });
        match newer {
            Some(source) => Err(ReadError::Newer { path: self.path.clone(), source }),
            None => Ok(poll),
        }
    }

    /// Fills the buffer as far as the file goes; `None` while there is no file.
    fn read_some(&mut self) -> Result<Option<usize>, ReadError> {
        let failed = |source| ReadError::File { path: self.path.clone(), source };
        let file = match &mut self.file {
            Some(file) => file,
            None => match File::open(&self.path) {
                Ok(file) => self.file.insert(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed(error)),
            },
        };
        let mut n_read = 0;
        while n_read < self.buffer.len() {
            match file.read(&mut self.buffer[n_read..]) {
                Ok(0) => break,
                Ok(n) => n_read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        if n_read == 0 {
            let is = file.metadata().map_err(failed)?.len();
            if is < self.n_bytes {
                return Err(ReadError::Shrunk { path: self.path.clone(), was: self.n_bytes, is });
            }
        }
        self.n_bytes += n_read as u64;
        Ok(Some(n_read))
    }

    /// The file that is followed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes read so far.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Lines that were no events, or too long.
    pub fn n_bad_lines(&self) -> u64 {
        self.n_malformed + self.splitter.n_too_long()
    }

    /// Well-formed lines of a kind that is not known here.
    pub fn n_unknown_lines(&self) -> u64 {
        self.n_unknown
    }
}
