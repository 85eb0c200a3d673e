//! Runs a validated plan on ranks: one thread a rank, boundaries, stash, links, one training step.
//!
//! A [`Ranks`] holds the threads. Each builds its own stages on its own device and then obeys
//! [`Command`]s: one micro-batch after another through the rows of the plan, a gradient mean over
//! replicas, an optimizer step. The first error of any rank ends the step on all of them.
//!
//! ```
//! use std::sync::Arc;
//! use candle_core::{DType, Device, Result, Tensor};
//! use pp_executor::{Batch, Command, RankConfig, Ranks, Reply};
//! use pp_nn::{Linear, OptimizerKind};
//! use pp_partition::{Cut, LayerStack, Objective, single};
//! use pp_schedule::{ScheduleName, Sizes};
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
//! let replies = ranks.all(|_, _| Command::Step { step: 1, batch: Arc::clone(&batch) })?;
//! let Reply::Stepped(last) = &replies[1] else { unreachable!() };
//! assert_eq!(last.losses.len(), 3);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod batch;
mod boundary;
mod clock;
mod command;
mod config;
mod device;
mod error;
mod link;
mod ranks;
mod recompute;
mod rehearsal;
mod stage_run;
mod stash;
mod worker;

pub use batch::Batch;
pub use command::{
    Command, Evaluated, RankMemory, Reply, StageGradients, StageParameters, StepReport, What,
};
pub use config::{Fault, FaultKind, RankConfig};
pub use device::DeviceSpec;
pub use error::{ExecError, RankError};
pub use ranks::{Ranks, check_threads};
pub use recompute::Recompute;
pub use rehearsal::{PlannedMemory, rehearse};
pub use stash::{Held, Kept, Stash};
