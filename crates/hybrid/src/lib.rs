//! Replicas × ranks: the mesh, the gradient mean over replicas, and the trainer.
//!
//! A [`Trainer`] runs whole steps: it splits the batch over replicas and micro-batches, lets the
//! ranks run the plan, averages gradients over replicas in a fixed order, clips the norm over the
//! whole model in layer order, and steps the optimizer. Loss, norm and weights have the same bits
//! for every schedule and every cut.
//!
//! ```
//! use std::sync::Arc;
//! use candle_core::{DType, Device, Result, Tensor};
//! use pp_hybrid::{Trainer, TrainerConfig};
//! use pp_nn::{LearningRate, LearningRateCurve, Linear, OptimizerKind};
//! use pp_executor::RankConfig;
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
//! let sizes = Sizes { n_ranks: 2, n_micro_batches: 4, n_virtual_stages: 1, interleave_group: None };
//! let plan = ScheduleName::OneFOneB.generate(&sizes)?;
//! let partition = Cut::Uniform.solve(&stack, 2, None)?;
//! let ranks = RankConfig::new(plan, partition, stack, Arc::new(MeanSquare), OptimizerKind::Sgd);
//! let rate = LearningRate { peak: 0.1, curve: LearningRateCurve::Constant, warmup: 0 };
//! let mut trainer = Trainer::new(TrainerConfig { ranks, clip_norm: Some(1.0), rate, steps: 3 })?;
//! let x = Tensor::ones((8, 4), DType::F32, &Device::Cpu)?;
//! let first = trainer.step(1, || Ok((vec![x.clone()], x.clone())))?;
//! let second = trainer.step(2, || Ok((vec![x.clone()], x.clone())))?;
//! assert!(second.loss < first.loss);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod hash;
mod mesh;
mod trainer;

pub use hash::weights_hash;
pub use mesh::{DeviceKind, Mesh, MeshError, Place};
pub use trainer::{Evaluation, StepOutcome, Trainer, TrainerConfig, TrainerError};
