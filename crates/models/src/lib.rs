#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod entropy;
mod error;
mod gpt;
mod llama;
mod mlp;
mod model;
mod sleep;
mod text;
mod wine;

pub use error::ModelError;
pub use gpt::{GPT, Gpt, GptConfig, gpt, sample, sample_while};
pub use llama::{
    Evaluated, Family, LLAMA, Llama, LlamaConfig, Look, convert, llama, look, model_folder,
};
pub use mlp::{SEED_MLP, SEED_PRESET, SeedMlp, WINE_MLP, WineMlp, seed_mlp, wine_mlp};
pub use model::{Group, Kind, Model, ModelOption, Options, Preset, Value};
pub use pp_train::{Classes, DataSet, Job, Samples, Tokens};
pub use sleep::{SLEEP, Sleep, SleepConfig, sleep};

/// All models, as they are listed.
pub static MODELS: [&Model; 5] = [&SEED_MLP, &WINE_MLP, &GPT, &LLAMA, &SLEEP];

/// The model with this name.
pub fn model(name: &str) -> Option<&'static Model> {
    MODELS.into_iter().find(|model| model.name == name)
}
