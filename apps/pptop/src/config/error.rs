//! Why a configuration is not accepted.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::values::Refused;

/// A configuration that is not accepted: one line with the place, what is wrong and what would be accepted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Nothing says where the file would be.
    #[error(
        "no directory for the configuration; accepted: XDG_CONFIG_HOME or HOME with an absolute path"
    )]
    NoDirectory,
    /// The file is there and cannot be read.
    #[error("cannot read {path:?}: {source}; accepted: a file that this user may read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is a folder, a device, a pipe.
    #[error("{path:?} is no regular file; accepted: a text file in TOML")]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// It is larger than any configuration.
    #[error("{path:?} is too large; accepted: at most {most} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How large it may be.
        most: u64,
    },
    /// Something is wrong on a line.
    #[error("{path:?}, line {line}: {refused}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// What is wrong there.
        refused: Refused,
    },
    /// Something is wrong with a variable of the environment.
    #[error("{name}: {refused}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// What is wrong with it.
        refused: Refused,
    },
}
