//! Errors of jobs.

use std::io;
use std::path::PathBuf;

/// The reason why a job cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The data file cannot be read.
    #[error("cannot read the data file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Too little text for one window in each part.
    #[error(
        "{name} has {bytes} bytes; a context of {context} needs at least {needed}, so that training and the held-out \
         tenth have a window each; use a longer text, or a smaller context"
    )]
    TooShort {
        /// The name of the text.
        name: String,
        /// Its bytes.
        bytes: usize,
        /// The context asked for.
        context: usize,
        /// The bytes that it needs at least.
        needed: usize,
    },
    /// Heads that do not divide the width.
    #[error("width {width} is not a multiple of {heads} heads")]
    Heads {
        /// Features of a token.
        width: usize,
        /// Attention heads.
        heads: usize,
    },
    /// Sizes of a model that do not fit each other.
    #[error("{0}")]
    Size(String),
    /// A `config.json` that cannot be used.
    #[error("cannot use this config.json: {0}")]
    Config(String),
    /// A file that cannot become the folder of a model.
    #[error("cannot convert {}: {why}", path.display())]
    Convert {
        /// The file, or the folder that was to be written.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The folder of a model that cannot be used.
    #[error("cannot use the model in {}: {why}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// A tensor operation failed.
    #[error("a tensor operation failed")]
    Tensor(#[from] candle_core::Error),
}
