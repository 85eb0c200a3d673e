//! Data sets.

use candle_core::{Result, Tensor};

/// Inputs and targets of some samples; the first dimension of each tensor counts them.
pub type Samples = (Vec<Tensor>, Tensor);

/// Training batches by step, and a held-out part. Tensors are on the CPU.
pub trait DataSet: Send {
    /// The whole batch of a step, counted from 1. The same step and size give the same batch.
    ///
    /// # Errors
    /// Errors of candle.
    fn batch(&self, step: u64, size: usize) -> Result<Samples>;

    /// The held-out part, in pieces of at most `rows` samples; empty if there is none.
    ///
    /// # Errors
    /// Errors of candle.
    fn validation(&self, rows: usize) -> Result<Vec<Samples>> {
        let _ = rows;
        Ok(Vec::new())
    }

    /// What should be said of the data before the training begins, such as what was left out. The
    /// run warns of each.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Tokens of one sample; 0 where samples are no sequences of tokens.
    fn tokens_per_sample(&self) -> u64 {
        0
    }

    /// The cross-entropy of the best guess that ignores the inputs: that of the targets'
    /// frequencies in the training part.
    fn blind_loss(&self) -> Option<f64> {
        None
    }

    /// Whether the inputs say anything about the targets. Where they do not, no loss stays below
    /// [`DataSet::blind_loss`].
    fn is_learnable(&self) -> bool {
        true
    }

    /// What tells these data from others, such as a hash of a file; `None` if nothing does. A run
    /// that resumes from a checkpoint refuses data with another fingerprint.
    fn fingerprint(&self) -> Option<String> {
        None
    }

    /// The accuracy of always guessing the most frequent class of the training part, on the
    /// held-out part.
    fn majority_accuracy(&self) -> Option<f64> {
        None
    }
}
