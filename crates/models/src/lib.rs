//! Jobs to run: models, data sets, and layers that only sleep.
//!
//! [`MODELS`] lists them by name, each with its defaults and its own options. A [`Job`] is a model
//! as a stack of layers, its loss, and data to train on: everything that a trainer needs and
//! nothing about how it is cut or scheduled.
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

mod entropy;
mod error;
mod gpt;
mod mlp;
mod model;
mod sleep;
mod text;
mod wine;

pub use error::ModelError;
pub use gpt::{GPT, Gpt, GptConfig, gpt, sample, sample_while};
pub use mlp::{SEED_MLP, SeedMlp, WINE_MLP, WineMlp, seed_mlp, wine_mlp};
pub use model::{Group, Kind, Model, ModelOption, Options, Value};
pub use pp_train::{Classes, DataSet, Job, Samples};
pub use sleep::{SLEEP, Sleep, SleepConfig, sleep};

/// All models, as they are listed.
pub static MODELS: [&Model; 4] = [&SEED_MLP, &WINE_MLP, &GPT, &SLEEP];

/// The model with this name.
pub fn model(name: &str) -> Option<&'static Model> {
    MODELS.into_iter().find(|model| model.name == name)
}
