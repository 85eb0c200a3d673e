//! A model in a folder, with a text to evaluate.

use std::path::Path;

use pp_train::{BoxError, DataSet, Job, Samples, Topology, Workload};

use super::config::LlamaConfig;
use super::folder::read_config;
use super::words::{BadLines, Words};
use super::{LLAMA, job, rows};
use crate::error::ModelError;

/// The model in a folder with a text to evaluate: its held-out part is the whole text, each document
/// in pieces of at most the model's context. There is nothing to train on.
#[derive(Clone, Debug)]
pub struct Evaluated {
    config: LlamaConfig,
    pieces: Vec<Samples>,
    n_skipped: usize,
}

impl Evaluated {
    /// Reads the configuration and the tokenizer of the folder, and the text.
    ///
    /// # Errors
    /// If the folder or the text cannot be used.
    pub fn new(folder: &Path, text: &Path, skips_bad_lines: bool) -> Result<Self, ModelError> {
        let config = read_config(folder)?;
        let words = Words::open(folder, config.vocabulary)?;
        let bad = BadLines::of(skips_bad_lines);
        let (pieces, n_skipped) = rows::pieces(&words, text, config.context, bad)?;
        Ok(Self { config, pieces, n_skipped })
    }

    /// Lines of the text that are no documents, and were left out.
    pub fn n_skipped(&self) -> usize {
        self.n_skipped
    }
}

impl Workload for Evaluated {
    fn name(&self) -> &str {
        LLAMA.name
    }

    fn layers(&self) -> Option<usize> {
        Some(self.config.layers + 2)
    }

    fn job(&self, _: u64, _: &Topology) -> Result<Job, BoxError> {
        Ok(job(self.config, self.clone())?)
    }

    fn parameters(&self) -> Option<u128> {
        Some(self.config.parameters())
    }
}

impl DataSet for Evaluated {
    fn batch(&self, _: u64, _: usize) -> candle_core::Result<Samples> {
        candle_core::bail!("a text to evaluate has no batches to train on")
    }

    fn validation(&self, _: usize) -> candle_core::Result<Vec<Samples>> {
        Ok(self.pieces.clone())
    }
}
