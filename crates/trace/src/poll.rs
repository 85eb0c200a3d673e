//! What one look at a log brings, and why there may be no more.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::event::LineError;

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

impl ReadError {
    /// The text with what to do about it, for a command that ends here.
    pub fn with_remedy(&self) -> String {
        match self {
            Self::File { .. } => format!("{self}; name a log that can be read"),
            Self::Shrunk { .. } => format!("{self}; name a log that is complete"),
            // The reason already says that a newer program is needed.
            Self::Newer { .. } => self.to_string(),
        }
    }
}

/// What one look at the file has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poll {
    /// Events that were handed over.
    pub n_events: u64,
    /// Whether the end of the file was reached; if not, there is more to read at once.
    pub at_end: bool,
}
