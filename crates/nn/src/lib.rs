#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod activation;
mod attention;
mod buffer;
mod chain;
mod columns;
mod constant;
mod context;
mod cpu;
mod deferred;
mod documents;
mod dropout;
mod embedding;
mod gelu;
mod gradients;
mod head_norm;
mod learning_rate;
mod linear;
mod loss;
pub mod memory;
mod norm;
mod optimizer;
mod packed_weights;
mod parameters;
mod random;
mod relu;
mod residue;
mod rotary;
mod shares;
mod side_by_side;
mod swiglu;
mod tuning;

// candle calls the driver's functions, and this crate defines them: without the line the linker would
// not look into it.
#[cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]
use pp_cuda_loader as _;

pub use activation::Activation;
pub use attention::CausalSelfAttention;
pub use buffer::Buffer;
pub use chain::{Backward, Chain, ChainLayer, ChainPass, InputGradient};
pub use constant::Constant;
pub use context::ForwardContext;
pub use cpu::{Kernel, Kernels, KernelsError, Panels, Product, ROWS_OF_CLASSES, View, gemm};
pub use documents::Documents;
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use gelu::gelu;
pub use gradients::{Gradients, clip_factor, global_norm};
pub use head_norm::HeadNorm;
pub use learning_rate::{LearningRate, LearningRateCurve};
pub use linear::{IGNORED, Linear, linear_cross_entropy};
pub use loss::cross_entropy;
pub use norm::Norm;
pub use optimizer::{Optimizer, OptimizerKind};
pub use packed_weights::PackedWeights;
pub use parameters::{Parameter, ParameterStore, Ties, Values, parameter_shapes};
pub use random::{hash, uniform};
pub use relu::relu;
pub use residue::{Residue, ResidueQueue, WeightGradient};
pub use rotary::{Rotary, RotaryFrequencies, RotaryScaling};
pub use shares::{Piece, SHARE_BLOCK, shares};
pub use side_by_side::SideBySide;
pub use swiglu::SwiGlu;
pub use tuning::{NEEDED, Trial, Tuning, tune};
