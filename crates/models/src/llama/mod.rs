//! Models of the Llama family (Touvron et al. 2023, arXiv:2307.09288): RMS norms, rotary positions,
//! heads that share keys and values, and gated MLPs. Shapes: `b` samples, `t` positions, `w` width.

mod config;
mod evaluated;
mod folder;
mod gguf;
mod json;
mod layers;
mod look;
mod rows;
mod words;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::Cut;
use pp_train::{BoxError, DataSet, Defaults, Job, SampleLength, Tokens, Topology, Workload};

pub use config::{Family, LlamaConfig};
pub use evaluated::Evaluated;
pub use folder::model_folder;
pub use gguf::convert;
pub use look::{Look, look};

use crate::error::ModelError;
use crate::gpt::{CONTEXT, DATA, HEADS, LAYERS, WIDTH, size};
use crate::model::{Group, Kind, Model, ModelOption, Options};
use crate::text::Text;
use folder::{context_of, folder_companions, read_config};
use rows::TokenText;
use words::{BadLines, Words};

/// The model with a name.
pub static LLAMA: Model = Model {
    name: "llama",
    about: "A model of the Llama family over the bytes of a text",
    defaults: Defaults {
        steps: 600,
        batch_size: Some(32),
        micro_batches: 8,
        rate: LearningRate { peak: 2e-3, curve: LearningRateCurve::Cosine, warmup: 20 },
        optimizer: OptimizerKind::AdamW { weight_decay: 0.01 },
        clip_norm: Some(1.0),
        eval_every: Some(100),
        cut: Cut::Time,
    },
    options: &[
        DATA,
        LAYERS,
        WIDTH,
        size("ffn", "Width inside of the MLPs of llama"),
        HEADS,
        size("kv-heads", "Heads of keys and values of llama; must divide the heads"),
        CONTEXT,
        ModelOption {
            name: "skip-bad-lines",
            value_name: "BOOL",
            help: "Leave out lines of a .jsonl that are no documents, and count them",
            kind: Kind::Flag,
            group: Group::Model,
        },
        ModelOption {
            name: "tied",
            value_name: "BOOL",
            help: "Make embedding and head of llama one parameter",
            kind: Kind::Flag,
            group: Group::Model,
        },
    ],
    own_defaults: || {
        let LlamaConfig { layers, width, ffn, heads, key_value_heads, context, .. } =
            LlamaConfig::default();
        format!(
            "--layers {layers} --width {width} --ffn {ffn} --heads {heads} --kv-heads \
             {key_value_heads} --context {context}"
        )
    },
    make: |options| Ok(Arc::new(Llama::new(options)?)),
};

/// The model, and the text that it learns.
#[derive(Clone, Debug)]
pub struct Llama {
    /// Its sizes.
    pub config: LlamaConfig,
    /// The folder that it is from, with its tokenizer; `None` for a new model over bytes.
    pub folder: Option<PathBuf>,
    /// Whether lines of a text that are no documents are left out.
    pub skips_bad_lines: bool,
    /// The text file; `None` for the embedded book.
    pub data: Option<PathBuf>,
}

impl Llama {
    fn new(options: &Options) -> Result<Self, ModelError> {
        let data = options.file("data").map(Path::to_owned);
        if let Some(folder) = options.folder() {
            let mut config = read_config(folder)?;
            config.context = context_of(folder, &config, options.count("context"))?;
            let skips_bad_lines = options.flag("skip-bad-lines");
            return Ok(Self { config, folder: Some(folder.to_owned()), skips_bad_lines, data });
        }
        if options.is_given("skip-bad-lines") {
            let why = "--skip-bad-lines needs the folder of a model; use --model DIR";
            return Err(ModelError::Size(why.to_owned()));
        }
        let default = LlamaConfig::default();
        let width = options.count("width").unwrap_or(default.width);
        let heads = options.count("heads").unwrap_or(default.heads);
        if !width.is_multiple_of(heads) {
            return Err(ModelError::Heads { width, heads });
        }
        // As many heads of keys and values as there were, if these divide.
        let kept = if heads.is_multiple_of(default.key_value_heads) {
            default.key_value_heads
        } else {
            heads
        };
        let config = LlamaConfig {
            layers: options.count("layers").unwrap_or(default.layers),
            width,
            ffn: options.count("ffn").unwrap_or(3 * width),
            heads,
            key_value_heads: options.count("kv-heads").unwrap_or(kept),
            head_width: width / heads,
            context: options.count("context").unwrap_or(default.context),
            is_tied: options.flag("tied"),
            ..default
        };
        config.check()?;
        Ok(Self { config, folder: None, skips_bad_lines: false, data })
    }
}

impl Workload for Llama {
    fn name(&self) -> &str {
        LLAMA.name
    }

    fn defaults(&self) -> Defaults {
        LLAMA.defaults.clone()
    }

    fn layers(&self) -> Option<usize> {
        Some(self.config.layers + 2)
    }

    fn job(&self, seed: u64, _: &Topology) -> Result<Job, BoxError> {
        let Some(folder) = &self.folder else {
            return Ok(llama(self.config, self.data.as_deref(), seed)?);
        };
        let Some(data) = &self.data else {
            let why = "it needs a text to train on; use --data FILE".to_owned();
            return Err(ModelError::Folder { path: folder.clone(), why }.into());
        };
        let words = Words::open(folder, self.config.vocabulary)?;
        let bad = BadLines::of(self.skips_bad_lines);
        let data = TokenText::load(&words, data, self.config.context, seed, bad)?;
        Ok(job(self.config, data)?)
    }

    fn parameters(&self) -> Option<u128> {
        Some(self.config.parameters())
    }

    fn bytes_per_sample(&self) -> u64 {
        // Tokens and targets, four bytes each.
        8 * self.config.context as u64
    }

    fn activation_bytes_per_sample(&self) -> Option<u128> {
        let LlamaConfig { layers, width, ffn, context, .. } = self.config;
        // About ten tensors of a block's width and five of its MLP's.
        Some(4 * (layers * context) as u128 * (10 * width + 5 * ffn) as u128)
    }

    fn sample_length(&self) -> Option<SampleLength> {
        let unit = if self.folder.is_some() { "tokens" } else { "bytes" };
        Some(SampleLength { length: self.config.context, unit, option: "context" })
    }

    fn companions(&self) -> Result<Vec<(String, Vec<u8>)>, BoxError> {
        let Some(folder) = &self.folder else {
            let config = serde_json::to_vec_pretty(&self.config.to_json())?;
            return Ok(vec![(folder::CONFIG.to_owned(), config)]);
        };
        Ok(folder_companions(folder)?)
    }

    fn facts(&self) -> Vec<(String, String)> {
        vec![("config".to_owned(), self.config.to_json().to_string())]
    }
}

/// The model on the bytes of `text` (a file, or the embedded book).
///
/// # Errors
/// If sizes do not fit each other, or the text cannot be read or is too short.
pub fn llama(config: LlamaConfig, text: Option<&Path>, seed: u64) -> Result<Job, ModelError> {
    config.check()?;
    job(config, Text::load(text, config.context, seed)?)
}

fn job(config: LlamaConfig, data: impl DataSet + 'static) -> Result<Job, ModelError> {
    Ok(Job {
        stack: layers::stack(config)?,
        objective: Arc::new(Tokens),
        data: Box::new(data),
        flops_per_sample: config.flops_per_sample(config.context),
    })
}
