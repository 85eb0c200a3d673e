#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod data;
mod error;
mod gpt;
mod job;
mod mlp;
mod sleep;
mod text;
mod wine;

pub use data::{DataSet, Samples};
pub use error::ModelError;
pub use gpt::{GptConfig, gpt, sample, sample_while};
pub use job::{Classes, Job};
pub use mlp::{seed_mlp, wine_mlp};
pub use sleep::{SleepConfig, sleep};
