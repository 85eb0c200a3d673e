//! `pptop train`, `compare` and `devices`, run as a user runs them.
#![cfg(feature = "train")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checkpoints;
mod comparison;
mod contract;
mod failures;
mod files;
mod gpus;
mod home;
mod kernels;
mod learning;
mod nonfinite;
mod outputs;
mod phases;
mod refusals;
#[path = "../common/remedy.rs"]
mod remedy;
mod requests;
mod restarts;
mod resumed;
mod signals;
mod standing;
