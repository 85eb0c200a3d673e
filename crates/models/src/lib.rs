//! Jobs to run: models, data sets, and layers that only sleep.
//!
//! A [`Job`] is a model as a stack of layers, its loss, and data to train on: everything that a
//! trainer needs and nothing about how it is cut or scheduled.
//!
//! ```
//! use pp_models::{DataSet, GptConfig, gpt};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = GptConfig { layers: 2, width: 32, heads: 2, context: 16, dropout: 0.0 };
//! let job = gpt(config, None, 1)?;
//! assert_eq!(job.stack.len(), 4); // embedding, two blocks, head
//! let (inputs, targets) = job.data.batch(1, 8)?;
//! assert_eq!((inputs[0].dims(), targets.dims()), (&[8, 16][..], &[8, 16][..]));
//! # Ok(())
//! # }
//! ```

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
