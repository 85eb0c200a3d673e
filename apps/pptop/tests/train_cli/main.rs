//! `pptop train`, `compare` and `devices`, run as a user runs them.
#![cfg(feature = "train")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod comparison;
mod contract;
mod failures;
mod files;
mod gpus;
mod home;
mod kernels;
mod learning;
mod outputs;
mod phases;
mod refusals;
#[path = "../common/remedy.rs"]
mod remedy;
mod requests;
mod signals;
mod standing;
