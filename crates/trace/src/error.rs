//! What can go wrong with the files of a run.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A file or a directory of a run that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TraceError {
    /// Nothing says where runs are kept.
    #[error(
        "no directory for runs; set PPTOP_STATE_DIR, XDG_STATE_HOME or HOME to an absolute path"
    )]
    NoStateDir,
    /// A directory could not be made or opened.
    #[error("cannot use {path:?} as a run directory: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file could not be made or opened.
    #[error("cannot write {path:?}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The thread that writes could not be started.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[source] io::Error),
    /// Too many runs began in the same second.
    #[error(
        "no free name for a run in {path:?}: all {tried} names for this second are taken; try again"
    )]
    Taken {
        /// The directory of all runs.
        path: PathBuf,
        /// How many names were tried.
        tried: u32,
    },
}
