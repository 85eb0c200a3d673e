//! The errors of checkpoints.

use std::io;
use std::path::PathBuf;

use super::SCHEMA;

/// A checkpoint that cannot be written, read, or trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file or folder cannot be written. The last checkpoint stays.
    #[error("cannot write {}", path.display())]
    Write {
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file or folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not as its checkpoint says, or no part of one.
    #[error("{}: {why}", path.display())]
    Broken {
        /// The file at fault.
        path: PathBuf,
        /// The fault.
        why: String,
    },
    /// A checkpoint of a later version.
    #[error("{}: schema {schema}; this version reads up to {SCHEMA}", path.display())]
    Newer {
        /// Its manifest.
        path: PathBuf,
        /// Its schema.
        schema: u32,
    },
    /// The disk is too full.
    #[error("{} has {} MiB free, a checkpoint needs {}", dir.display(), free >> 20, needed.div_ceil(1 << 20))]
    NoRoom {
        /// The folder.
        dir: PathBuf,
        /// Bytes that are free there.
        free: u64,
        /// Bytes that a checkpoint needs.
        needed: u64,
    },
    /// Hosts of the run do not see the folder, so that their processes cannot write into it.
    #[error("{} is not seen by {}; use a folder that all hosts share", dir.display(), hosts.join(", "))]
    NotShared {
        /// The folder.
        dir: PathBuf,
        /// The hosts.
        hosts: Vec<String>,
    },
    /// Another process could not write its part, or has ended before.
    #[error("process {process} on {host}: {why}")]
    Elsewhere {
        /// The index of the process.
        process: u32,
        /// Its host.
        host: String,
        /// The reason.
        why: String,
    },
    /// A weight, or a moment of the optimizer, is not finite. The earlier checkpoints stay.
    #[error("{name} is not finite")]
    NotFinite {
        /// The parameter.
        name: String,
    },
    /// A run that has not ended writes its checkpoints into the folder.
    #[error("a run still writes checkpoints into {}; end it first", dir.display())]
    Busy {
        /// The folder.
        dir: PathBuf,
    },
}

impl CheckpointError {
    /// The error of a file that is not as it has to be.
    pub(crate) fn broken(path: impl Into<PathBuf>, why: impl Into<String>) -> Self {
        Self::Broken { path: path.into(), why: why.into() }
    }

    /// Makes the error of a path that cannot be written.
    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Write { path, source }
    }

    /// Makes the error of a path that cannot be read.
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Read { path, source }
    }
}
