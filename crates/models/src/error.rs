//! What can be wrong with a job.

use std::path::PathBuf;

/// Why a job cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The data file cannot be read.
    #[error("cannot read the data file {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Too little text for one window in each part.
    #[error(
        "{name} has {bytes} bytes; a context of {context} needs at least {needed}, so that training and the held-out \
         tenth have a window each: a longer text, or a smaller --context"
    )]
    TooShort {
        /// What was read.
        name: String,
        /// Its size.
        bytes: usize,
        /// The context asked for.
        context: usize,
        /// What would be enough.
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
    /// A tensor operation failed.
    #[error("a tensor operation failed")]
    Tensor(#[from] candle_core::Error),
}
