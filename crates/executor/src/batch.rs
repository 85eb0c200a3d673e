//! The data of one step, cut into micro-batches.

use candle_core::Tensor;

use crate::error::ExecError;

/// What one replica trains on in one step, or evaluates.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Inputs and targets of each micro-batch.
    pub micro_batches: Vec<(Vec<Tensor>, Tensor)>,
    /// The index, in the whole batch of the step, of this replica's first sample.
    pub first_sample: u64,
}

impl Batch {
    /// Cuts inputs and targets, whose first dimension counts samples, into equal micro-batches.
    /// Nothing is copied.
    ///
    /// # Errors
    /// [`ExecError::Uneven`] if the samples do not divide, [`ExecError::Samples`] if inputs and
    /// targets differ.
    pub fn split(
        inputs: &[Tensor],
        targets: &Tensor,
        n_micro_batches: usize,
        first_sample: u64,
    ) -> Result<Self, ExecError> {
        let samples = targets.dim(0)?;
        if n_micro_batches == 0 || samples == 0 || !samples.is_multiple_of(n_micro_batches) {
            return Err(ExecError::Uneven { samples, micro_batches: n_micro_batches });
        }
        for (input, tensor) in inputs.iter().enumerate() {
            let rows = tensor.dim(0)?;
            if rows != samples {
                return Err(ExecError::Samples { input, rows, targets: samples });
            }
        }
        let rows = samples / n_micro_batches;
        let micro_batches = (0..n_micro_batches)
            .map(|j| {
                let inputs =
                    inputs.iter().map(|t| t.narrow(0, j * rows, rows)).collect::<Result<_, _>>()?;
                Ok((inputs, targets.narrow(0, j * rows, rows)?))
            })
            .collect::<Result<_, candle_core::Error>>()?;
        Ok(Self { micro_batches, first_sample })
    }

    /// Samples of the micro-batches before number `micro_batch`, and of those before this batch.
    pub(crate) fn first_sample_of(&self, micro_batch: usize) -> u64 {
        let before = self.micro_batches.iter().take(micro_batch);
        self.first_sample
            + before.map(|(_, targets)| targets.dim(0).unwrap_or(0) as u64).sum::<u64>()
    }
}
