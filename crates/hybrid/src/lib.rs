#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod hash;
mod mesh;
mod trainer;

pub use hash::weights_hash;
pub use mesh::{DeviceKind, Mesh, MeshError, Place};
pub use trainer::{Evaluation, StepOutcome, Trainer, TrainerConfig, TrainerError};
