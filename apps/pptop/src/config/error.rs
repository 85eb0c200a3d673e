//! Why a configuration is refused.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::values::{Refused, plain};

/// A configuration that is refused: one line with the place, what is wrong and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Nothing says where the file would be.
    #[error("no directory for the configuration; set XDG_CONFIG_HOME or HOME to an absolute path")]
    NoDirectory,
    /// The file is there and cannot be read.
    #[error("cannot read {at}: {source}; name a file that this user may read", at = short(.path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is a folder, a device, a pipe.
    #[error("{at} is not a regular file; name a TOML file", at = short(.path))]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// It is larger than any configuration.
    #[error("{at} is too large; use at most {most} bytes", at = short(.path))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How large it may be.
        most: u64,
    },
    /// Something is wrong on a line.
    #[error("{at}, line {line}: {refused}", at = short(.path))]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// The refusal.
        refused: Refused,
    },
    /// Something is wrong with a variable of the environment.
    #[error("{name}: {refused}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// The refusal.
        refused: Refused,
    },
}

/// A path within the room that a message has. What tells files apart is at the end.
fn short(path: &Path) -> String {
    const CHARS_MAX: usize = 90;
    let shown = plain(&path.to_string_lossy());
    match shown.chars().count().checked_sub(CHARS_MAX) {
        None | Some(0) => shown,
        Some(n_over) => ['…'].into_iter().chain(shown.chars().skip(n_over + 1)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_keeps_its_end() {
        assert_eq!(short(Path::new("/c\n/config.toml")), "/c\u{fffd}/config.toml");
        let long = short(&Path::new(&"ü".repeat(500)).join("config.toml"));
        assert_eq!(long.chars().count(), 90);
        assert!(long.starts_with("…ü") && long.ends_with("/config.toml"), "{long}");
    }
}
