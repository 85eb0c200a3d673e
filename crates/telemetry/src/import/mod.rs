//! Traces of other programs as runs.
//!
//! A trace is a JSON object with a list `traceEvents`, or that list alone. It is read as a stream:
//! a trace of gigabytes needs little memory. What is found is written as the files of ranks, and
//! these are merged like those of a live job.

mod chrome;
mod kineto;
mod rank_writer;
mod stream;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use chrome::import_chrome_trace;
pub use kineto::import_kineto;

/// Why a trace cannot be imported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A trace cannot be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// The trace.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is no trace, or a broken one.
    #[error("{path:?} is not a whole trace: {source}")]
    Broken {
        /// The trace.
        path: PathBuf,
        /// Where it goes wrong.
        #[source]
        source: serde_json::Error,
    },
    /// It has nothing that could be shown.
    #[error("{path:?}: {why}")]
    Nothing {
        /// The trace.
        path: PathBuf,
        /// What is missing, and what to do.
        why: String,
    },
    /// The traces do not fit together.
    #[error("{0}")]
    Unfit(String),
    /// The files of the run cannot be written.
    #[error("cannot write {path:?}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl ImportError {
    /// The text with what to do about it, for a command that ends here.
    pub fn with_remedy(&self) -> String {
        match self {
            Self::Read { .. } => format!("{self}; name a trace that can be read"),
            Self::Broken { .. } => format!("{self}; name a trace that is complete"),
            // The reason already says what to do, or the user can do nothing about it.
            Self::Nothing { .. } | Self::Unfit(_) | Self::Write { .. } => self.to_string(),
        }
    }

    fn nothing(path: &Path, why: impl Into<String>) -> Self {
        Self::Nothing { path: path.to_owned(), why: why.into() }
    }
}
