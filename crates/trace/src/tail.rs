//! The lines of a file that grows.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::lines::LineSplitter;
use crate::poll::ReadError;
use crate::source::Source;

/// Reads the lines of a log as they are appended, compressed logs included.
///
/// The file need not exist yet. A last line without its line feed is handed over when the rest of
/// it has come.
pub(crate) struct Tail {
    path: PathBuf,
    source: Option<Source>,
    splitter: LineSplitter,
    n_bytes: u64,
}

impl Tail {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), source: None, splitter: LineSplitter::new(), n_bytes: 0 }
    }

    /// Fills `buffer` as far as the file goes, and hands over each line that is whole. Returns the
    /// bytes that were read; `None` while there is no file. `open` is called once, as soon as there
    /// is one, and gives the log and the offset at which it is read.
    ///
    /// # Errors
    /// The file cannot be read, has shrunk, or is no text.
    pub(crate) fn poll(
        &mut self,
        buffer: &mut [u8],
        open: impl FnOnce(&Path) -> io::Result<(Source, u64)>,
        on_line: impl FnMut(&[u8]),
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
        self.splitter.push(&buffer[..n_read], on_line);
        self.splitter.has_lines().map_err(failed)?;
        Ok(Some(n_read))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The byte up to which the file was read.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Lines that were too long, and skipped.
    pub(crate) fn n_too_long(&self) -> u64 {
        self.splitter.n_too_long()
    }
}
