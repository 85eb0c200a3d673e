//! What training on candle needs beyond candle-nn.
//!
//! candle-nn's layer norm and softmax run kernels without a backward, its generator cannot be
//! seeded on the CPU, and its optimizers make a dozen passes. This crate has layers whose forward
//! *and* backward are written for training, initial weights and dropout that depend on nothing but
//! a seed and a name, and optimizers that work in place.
//!
//! **The weight gradient can wait.** Every layer here returns only the gradient of its *input*
//! while candle walks the graph. What is needed for the gradient of its weights goes, as a
//! [`Residue`], to the [`ResidueQueue`] of the [`ForwardContext`]; [`Gradients::accumulate`] turns
//! residues into sums, in place, when the schedule says so (Qi et al. 2023, arXiv:2401.10241, W). A
//! layer of one's own can do the same: see [`WeightGradient`].
//! Without a queue the layers behave like any candle layer and hand all gradients to candle.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use pp_nn::{ForwardContext, Gradients, Linear, ParameterStore, ResidueQueue};
//!
//! # fn main() -> candle_core::Result<()> {
//! let store = ParameterStore::seeded(7);
//! let layer = Linear::new(4, 2, store.builder(DType::F32, &Device::Cpu).pp("layer"))?;
//!
//! let queue = ResidueQueue::default();
//! let context = ForwardContext::training(7, 1).with_residues(queue.clone());
//! let x = Tensor::ones((3, 4), DType::F32, &Device::Cpu)?;
//! layer.forward(&x, &context)?.sum_all()?.backward()?;
//!
//! let mut gradients = Gradients::new(store.parameters())?;
//! for residue in queue.take() {
//!     gradients.accumulate(residue)?;
//! }
//! assert_eq!(gradients.get("layer.bias").unwrap().to_vec1::<f32>()?, [3.0, 3.0]);
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]

mod activation;
mod attention;
mod buffer;
mod chain;
mod context;
mod cpu;
mod deferred;
mod dropout;
mod embedding;
mod gelu;
mod gradients;
mod layer_norm;
mod learning_rate;
mod linear;
mod loss;
pub mod memory;
mod optimizer;
mod packed_weights;
mod parameters;
mod random;
mod relu;
mod residue;
mod tuning;

pub use activation::Activation;
pub use attention::CausalSelfAttention;
pub use buffer::Buffer;
pub use chain::{Backward, Chain, ChainLayer, ChainPass, InputGradient};
pub use context::ForwardContext;
pub use cpu::{Kernel, Kernels, KernelsError, Panels, Product, ROWS_OF_CLASSES, View, gemm};
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use gelu::gelu;
pub use gradients::{Gradients, clip_factor, global_norm};
pub use layer_norm::LayerNorm;
pub use learning_rate::{LearningRate, LearningRateCurve};
pub use linear::Linear;
pub use loss::cross_entropy;
pub use optimizer::{Optimizer, OptimizerKind};
pub use packed_weights::PackedWeights;
pub use parameters::{Parameter, ParameterStore, parameter_shapes};
pub use random::{hash, uniform};
pub use relu::relu;
pub use residue::{Residue, ResidueQueue, WeightGradient};
pub use tuning::{NEEDED, Trial, Tuning, tune};
