#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod checkpoint;
mod hash;
mod mesh;
mod tensors;
mod trainer;

pub use hash::{sha256_hex, weights_hash};
pub use mesh::{DeviceKind, Mesh, MeshError, Place};
pub use tensors::{first_nonfinite, write_tensors};
pub use trainer::{
    Evaluation, ModelState, NotFinite, OnNonfinite, StepOutcome, Trainer, TrainerConfig,
    TrainerError,
};
