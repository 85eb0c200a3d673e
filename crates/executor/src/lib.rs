//! Runs a validated plan on ranks: one thread a rank, boundaries, stash, links, one training step.
//!
//! A [`Ranks`] holds the threads. Each builds its own stages on its own device and then does what
//! it is called for: a step, one micro-batch after another through its row of the plan, with the
//! mean of the gradients over all copies of the model; an update of the weights; an evaluation. The
//! first error of any rank ends the call on all of them.
//!
//! ```
//! use std::sync::Arc;
//! use candle_core::{DType, Device, Result, Tensor};
//! use pp_executor::{Batch, RankConfig, Ranks};
//! use pp_nn::{Linear, OptimizerKind};
//! use pp_partition::{Cut, LayerStack, Objective, single};
//! use pp_schedule::{Rank, Replica, ScheduleName, Sizes};
//!
//! struct MeanSquare;
//! impl Objective for MeanSquare {
//!     fn loss(&self, outputs: &[Tensor], targets: &Tensor) -> Result<Tensor> {
//!         (&outputs[0] - targets)?.sqr()?.mean_all()
//!     }
//! }
//!
//! # fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//! let mut stack = LayerStack::default();
//! for name in ["a", "b"] {
//!     stack.push(name, move |builder| {
//!         let linear = Linear::new(4, 4, builder.pp(name))?;
//!         Ok(single(move |x, context| linear.forward(x, context)))
//!     });
//! }
//! let sizes = Sizes { n_ranks: 2, n_micro_batches: 3, n_virtual_stages: 1, interleave_group: None };
//! let plan = ScheduleName::OneFOneB.generate(&sizes)?;
//! let partition = Cut::Uniform.solve(&stack, 2, None)?;
//! let config = RankConfig::new(plan, partition, stack, Arc::new(MeanSquare), OptimizerKind::Sgd);
//! let mut ranks = Ranks::spawn(&config)?;
//!
//! let x = Tensor::ones((6, 4), DType::F32, &Device::Cpu)?;
//! let batch = Arc::new(Batch::split(&[x.clone()], &x, 3, 0)?);
//! let reports = ranks.step(1, &[batch])?;
//! let losses = |rank| reports.get(Replica(0), rank).map(|report| report.losses.len());
//! assert_eq!((losses(Rank(0)), losses(Rank(1))), (Some(0), Some(3)));
//! ranks.update(0.1, 1.0)?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod batch;
mod boundary;
mod clock;
mod config;
mod copies;
mod device;
mod error;
mod evaluation;
#[cfg(feature = "fault-injection")]
mod fault;
mod gauge;
mod journal;
mod link;
mod per_rank;
mod post;
mod progress;
mod ranks;
mod recompute;
mod rehearsal;
mod report;
mod stage_run;
mod stages;
mod stash;
mod thread;
mod training;
mod walk;
mod worker;

pub use batch::Batch;
pub use config::{Pace, RankConfig};
pub use device::DeviceSpec;
pub use error::{ExecError, RankError};
#[cfg(feature = "fault-injection")]
pub use fault::{Fault, FaultKind};
pub use per_rank::PerRank;
pub use progress::{Doing, Progress, RankProgress};
pub use ranks::{Ranks, check_threads};
pub use recompute::Recompute;
pub use rehearsal::{PlannedMemory, rehearse};
pub use report::{Evaluated, RankMemory, StageParameters, StepReport, UpdateReport, What};
pub use stash::{Held, Kept, Stash};
