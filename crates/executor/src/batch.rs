//! The data of one step, cut into micro-batches.

use candle_core::Tensor;
use pp_schedule::MicroBatch;

use crate::error::ExecError;
use crate::lane::Lane;

/// What one replica trains on in one step, or evaluates.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Inputs and targets of each micro-batch.
    pub micro_batches: Vec<(Vec<Tensor>, Tensor)>,
    /// The index, in the whole batch of the step, of this replica's first sample.
    pub first_sample: u64,
    /// What counts in the whole step, over all replicas, where the objective says how much does
    /// ([`pp_partition::Objective::weight`]).
    pub weight: Option<f64>,
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
        Ok(Self { micro_batches, first_sample, weight: None })
    }

    /// The same samples, with what counts in the whole step.
    #[must_use]
    pub fn weighted(mut self, weight: Option<f64>) -> Self {
        self.weight = weight;
        self
    }

    /// The inputs of a micro-batch, on the device of `lane`.
    pub(crate) fn inputs(
        &self,
        micro_batch: MicroBatch,
        lane: &Lane,
    ) -> candle_core::Result<Vec<Tensor>> {
        self.micro_batches[micro_batch.idx()].0.iter().map(|t| lane.upload(t)).collect()
    }

    /// The targets of a micro-batch, on the device of `lane`.
    pub(crate) fn targets(
        &self,
        micro_batch: MicroBatch,
        lane: &Lane,
    ) -> candle_core::Result<Tensor> {
        lane.upload(&self.micro_batches[micro_batch.idx()].1)
    }

    /// The index of the first sample of each micro-batch, in one pass over all of them. A sum over
    /// the earlier micro-batches for each one would take quadratic time.
    pub(crate) fn first_samples(&self) -> Vec<u64> {
        let mut next = self.first_sample;
        let first = |(_, targets): &(Vec<Tensor>, Tensor)| {
            #[cfg(test)]
            LOOKED_AT.set(LOOKED_AT.get() + 1);
            let rows = targets.dim(0).unwrap_or(0) as u64;
            next += rows;
            next - rows
        };
        self.micro_batches.iter().map(first).collect()
    }
}

#[cfg(test)]
thread_local! {
    /// Micro-batches that this thread looked at to number samples.
    static LOOKED_AT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;

    use candle_core::{DType, Device, Result};
    use pp_nn::{ForwardContext, Linear, OptimizerKind};
    use pp_partition::{Cut, LayerStack, Objective, single};
    use pp_schedule::{Rank, Replica, ScheduleName, Sizes};

    use super::*;
    use crate::config::RankConfig;
    use crate::link;
    use crate::post::{Neighbours, Post};
    use crate::progress::Progress;
    use crate::walk::Route;
    use crate::worker::{Seat, Worker};

    struct MeanSquare;

    impl Objective for MeanSquare {
        fn loss(&self, outputs: &[Tensor], targets: &Tensor, _: &ForwardContext) -> Result<Tensor> {
            (&outputs[0] - targets)?.sqr()?.mean_all()
        }
    }

    fn ones(rows: usize) -> Tensor {
        Tensor::ones((rows, 2), DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn samples_are_numbered_through_all_micro_batches() {
        let batch = Batch::split(&[ones(12)], &ones(12), 4, 100).unwrap();
        assert_eq!(batch.first_samples(), [100, 103, 106, 109]);
    }

    /// A step of one rank, on this thread. How many micro-batches were looked at to number their
    /// samples.
    fn looked_at_in_a_step(n_micro_batches: u32) -> u64 {
        let mut stack = LayerStack::default();
        stack.push("a", |vb| {
            let linear = Linear::new(2, 2, vb.pp("a"))?;
            Ok(single(move |x, c| linear.forward(x, c)))
        });
        let sizes =
            Sizes { n_ranks: 1, n_micro_batches, n_virtual_stages: 1, interleave_group: None };
        let plan = ScheduleName::OneFOneB.generate(&sizes).unwrap();
        let partition = Cut::Uniform.solve(&stack, 1, None).unwrap();
        let config =
            RankConfig::new(plan, partition, stack, Arc::new(MeanSquare), OptimizerKind::Sgd);
        let (address, mailbox) = link::mailbox(Duration::ZERO, false);
        let (replica, rank) = (Replica(0), Rank(0));
        let seat = Seat {
            replica,
            rank,
            post: Post::new(Neighbours::Threads {
                addresses: Arc::new([address]),
                first: 0,
                mailbox: Rc::new(RefCell::new(mailbox)),
            }),
            copies: None,
            progress: Progress::new(1, 1).of(replica, rank),
        };
        let route = Arc::new(Route::new(Arc::clone(&config.plan)));
        let mut worker = Worker::new(config, route, seat).unwrap();
        let rows = n_micro_batches as usize;
        let batch = Batch::split(&[ones(rows)], &ones(rows), rows, 0).unwrap();
        let before = LOOKED_AT.get();
        let report = worker.step(1, &batch).unwrap();
        assert_eq!(report.losses.len(), rows);
        LOOKED_AT.get() - before
    }

    #[test]
    fn a_step_looks_at_each_micro_batch_once_however_many_there_are() {
        // Each forward added up the rows of all micro-batches before it: with 40,000 of them a step
        // took 11.6 s.
        assert_eq!([5, 50, 500].map(looked_at_in_a_step), [5, 50, 500]);
    }
}
