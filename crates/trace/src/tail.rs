//! The lines of a file that grows.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::event::LineError;
use crate::lines::{LINE_BYTES_MAX, LineSplitter};
use crate::poll::{Poll, ReadError};
use crate::source::Source;

/// Reads the lines of a log as they are appended, compressed logs included.
///
/// The file need not exist yet. A last line without its line feed is read when the rest of it has
/// come. A line that cannot be used is counted and skipped.
pub(crate) struct Tail {
    path: PathBuf,
    source: Option<Source>,
    splitter: LineSplitter,
    n_bytes: u64,
    n_malformed: u64,
    n_unknown: u64,
    /// Why the first malformed line was rejected.
    refusal: Option<String>,
}

impl Tail {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            source: None,
            splitter: LineSplitter::new(),
            n_bytes: 0,
            n_malformed: 0,
            n_unknown: 0,
            refusal: None,
        }
    }

    /// Fills `buffer` as far as the file goes, and hands over what `parse` makes of each whole
    /// line; it returns `None` for a line of an unknown kind. `open` is called once, as soon as
    /// there is a file, and returns the log and the offset at which it is read.
    ///
    /// # Errors
    /// The file cannot be read, has shrunk, is no text, or is of a newer format.
    pub(crate) fn poll<T>(
        &mut self,
        buffer: &mut [u8],
        open: impl FnOnce(&Path) -> io::Result<(Source, u64)>,
        parse: impl Fn(&[u8]) -> Result<Option<T>, LineError>,
        mut on_line: impl FnMut(T),
    ) -> Result<Poll, ReadError> {
        let n_read = self.fill(buffer, open)?;
        let mut poll = Poll { n_events: 0, at_end: n_read.is_none_or(|n| n < buffer.len()) };
        let mut newer = None;
        let (n_malformed, n_unknown) = (&mut self.n_malformed, &mut self.n_unknown);
        let refusal = &mut self.refusal;
        self.splitter.push(&buffer[..n_read.unwrap_or(0)], |line| match parse(line) {
            Ok(Some(line)) if newer.is_none() => {
                poll.n_events += 1;
                on_line(line);
            }
            Ok(Some(_)) => {}
            Ok(None) => *n_unknown += 1,
            Err(error @ LineError::NewerSchema { .. }) => newer = newer.take().or(Some(error)),
            Err(error @ (LineError::Malformed(_) | LineError::Damaged)) => {
                *n_malformed += 1;
                refusal.get_or_insert_with(|| error.to_string());
            }
        });
        let no_text = |source| ReadError::File { path: self.path.clone(), source };
        self.splitter.has_lines().map_err(no_text)?;
        match newer {
            Some(source) => Err(ReadError::Newer { path: self.path.clone(), source }),
            None => Ok(poll),
        }
    }

    /// Fills `buffer` as far as the file goes. Returns the bytes that were read; `None` while there
    /// is no file.
    fn fill(
        &mut self,
        buffer: &mut [u8],
        open: impl FnOnce(&Path) -> io::Result<(Source, u64)>,
    ) -> Result<Option<usize>, ReadError> {
        let failed = |source| ReadError::File { path: self.path.clone(), source };
        let log = match &mut self.source {
            Some(log) => log,
            None => match open(&self.path) {
                Ok((log, offset)) => {
                    self.n_bytes = offset;
                    self.source.insert(log)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed(error)),
            },
        };
        let mut n_read = 0;
        while n_read < buffer.len() {
            match log.read(&mut buffer[n_read..]) {
                Ok(0) => break,
                Ok(n) => n_read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        if n_read == 0 {
            let is = log.len().map_err(failed)?;
            if let Some(is) = is.filter(|&is| is < self.n_bytes) {
                return Err(ReadError::Shrunk { path: self.path.clone(), was: self.n_bytes, is });
            }
        }
        self.n_bytes += n_read as u64;
        Ok(Some(n_read))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The byte up to which the file was read.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Lines that were malformed or too long.
    pub(crate) fn n_bad_lines(&self) -> u64 {
        self.n_malformed + self.splitter.n_too_long()
    }

    /// What is wrong with the first line that could not be used.
    pub(crate) fn first_refusal(&self) -> Option<String> {
        let too_long = || {
            let most = LINE_BYTES_MAX >> 20;
            (self.splitter.n_too_long() > 0).then(|| format!("a line has more than {most} MiB"))
        };
        self.refusal.clone().or_else(too_long)
    }

    /// Well-formed lines of an unknown kind.
    pub(crate) fn n_unknown_lines(&self) -> u64 {
        self.n_unknown
    }
}
