//! A decoder-only transformer over bytes (Radford et al. 2019): pre-norm, causal attention, learned
//! positions, tanh GELU, untied head. Shapes: `b` samples, `t` positions, `w` width.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use pp_nn::{
    Activation, CausalSelfAttention, Chain, Constant, Dropout, Embedding, ForwardContext,
    LearningRate, LearningRateCurve, Linear, Norm, OptimizerKind, hash, uniform,
};
use pp_partition::{Cut, LayerStack, Stage, chain, single};
use pp_train::{BoxError, Classes, Defaults, Job, SampleLength, Topology, Workload};

use crate::error::ModelError;
use crate::mlp::DROPOUT;
use crate::model::{Group, Kind, Model, ModelOption, Options};
use crate::text::Text;

/// The number of tokens: each byte is one.
const VOCABULARY: usize = 256;

pub(crate) const fn size(name: &'static str, help: &'static str) -> ModelOption {
    ModelOption { name, value_name: "N", help, kind: Kind::Count, group: Group::Model }
}

/// The options that all transformers have.
pub(crate) const DATA: ModelOption = ModelOption {
    name: "data",
    value_name: "FILE",
    help: "Text that gpt or llama learns [default: an embedded book]",
    kind: Kind::File,
    group: Group::First(2),
};
pub(crate) const LAYERS: ModelOption = size("layers", "Transformer blocks of gpt or llama");
pub(crate) const WIDTH: ModelOption = size("width", "Width of the hidden layers of gpt or llama");
pub(crate) const HEADS: ModelOption =
    size("heads", "Attention heads of gpt or llama; must divide the width");
pub(crate) const CONTEXT: ModelOption =
    size("context", "Context length of gpt in bytes, or of llama in tokens");

/// The transformer as a model with a name.
pub static GPT: Model = Model {
    name: "gpt",
    about: "A byte-level transformer on real text",
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
    options: &[DATA, LAYERS, WIDTH, HEADS, CONTEXT, DROPOUT],
    own_defaults: || {
        let GptConfig { layers, width, heads, context, dropout } = GptConfig::default();
        format!(
            "--layers {layers} --width {width} --heads {heads} --context {context} --dropout {dropout}"
        )
    },
    make: |options| Ok(Arc::new(Gpt::new(options)?)),
};

/// Sizes of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GptConfig {
    /// Transformer blocks; embedding and head come on top.
    pub layers: usize,
    /// Features of a token.
    pub width: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// The longest context, in bytes.
    pub context: usize,
    /// Dropout rate after embedding, attention and MLP.
    pub dropout: f64,
}

impl Default for GptConfig {
    fn default() -> Self {
        Self { layers: 6, width: 128, heads: 4, context: 64, dropout: 0.0 }
    }
}

impl GptConfig {
    /// The number of parameters, from the sizes alone. Building the layers would need memory of its
    /// own: a billion empty layers do not fit.
    pub fn parameters(&self) -> u128 {
        let vocabulary = VOCABULARY as u128;
        let [layers, width, context] = [self.layers, self.width, self.context].map(|n| n as u128);
        let embedding = (vocabulary + context) * width;
        // Attention 4w² + 4w, MLP 8w² + 5w, two norms 4w.
        let block = 12 * width * width + 13 * width;
        let head = 2 * width + vocabulary * width;
        embedding + layers * block + head
    }

    /// Bytes that training on one window needs beside the parameters: the attention weights of
    /// every block, and about thirty tensors of its width.
    fn activation_bytes(&self) -> u128 {
        let [layers, width, heads, context] =
            [self.layers, self.width, self.heads, self.context].map(|n| n as u128);
        4 * layers * (heads * context * context + 30 * context * width)
    }

    /// Floating-point operations that training on one window of `context` tokens needs: 6 for each
    /// weight that is multiplied with and each token, and 12 for each pair of tokens, feature and
    /// block, of which causality would need half (Chowdhery et al. 2022 count so).
    pub fn flops_per_sample(&self) -> u64 {
        let [layers, width, tokens] = [self.layers, self.width, self.context].map(|n| n as u64);
        let weights = layers
            .saturating_mul(12)
            .saturating_mul(width)
            .saturating_add(VOCABULARY as u64)
            .saturating_mul(width);
        let products = weights.saturating_mul(6);
        let attention = layers.saturating_mul(12).saturating_mul(width).saturating_mul(tokens);
        products.saturating_add(attention).saturating_mul(tokens)
    }
}

/// The model, and the text that it learns.
#[derive(Clone, Debug)]
pub struct Gpt {
    /// Its sizes.
    pub config: GptConfig,
    /// The text file; `None` for the embedded book.
    pub data: Option<PathBuf>,
}

impl Gpt {
    fn new(options: &Options) -> std::result::Result<Self, ModelError> {
        let default = GptConfig::default();
        let config = GptConfig {
            layers: options.count("layers").unwrap_or(default.layers),
            width: options.count("width").unwrap_or(default.width),
            heads: options.count("heads").unwrap_or(default.heads),
            context: options.count("context").unwrap_or(default.context),
            dropout: options.rate("dropout").unwrap_or(default.dropout),
        };
        let GptConfig { width, heads, .. } = config;
        if !width.is_multiple_of(heads) {
            return Err(ModelError::Heads { width, heads });
        }
        Ok(Self { config, data: options.file("data").map(Path::to_owned) })
    }
}

impl Workload for Gpt {
    fn name(&self) -> &str {
        GPT.name
    }

    fn defaults(&self) -> Defaults {
        GPT.defaults.clone()
    }

    fn layers(&self) -> Option<usize> {
        Some(self.config.layers + 2)
    }

    fn job(&self, seed: u64, _: &Topology) -> std::result::Result<Job, BoxError> {
        Ok(gpt(self.config, self.data.as_deref(), seed)?)
    }

    fn parameters(&self) -> Option<u128> {
        Some(self.config.parameters())
    }

    fn bytes_per_sample(&self) -> u64 {
        // Tokens and targets, four bytes each.
        8 * self.config.context as u64
    }

    fn activation_bytes_per_sample(&self) -> Option<u128> {
        Some(self.config.activation_bytes())
    }

    fn sample_length(&self) -> Option<SampleLength> {
        Some(SampleLength { length: self.config.context, unit: "bytes", option: "context" })
    }

    fn makes_samples(&self) -> bool {
        true
    }

    fn sample(
        &self,
        model: &Stage,
        bytes: usize,
        seed: u64,
        goes_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Vec<u8>> {
        sample_while(model, self.config.context, b"", bytes, seed, goes_on)
    }

    fn facts(&self) -> Vec<(String, String)> {
        vec![("heads".to_owned(), self.config.heads.to_string())]
    }
}

/// The model on `text` (a file, or the embedded book).
///
/// # Errors
/// If sizes do not fit each other, or the text cannot be read or is too short.
pub fn gpt(
    config: GptConfig,
    text: Option<&Path>,
    seed: u64,
) -> std::result::Result<Job, ModelError> {
    let GptConfig { layers, width, heads, context, dropout } = config;
    if layers == 0 || width == 0 || heads == 0 || context == 0 {
        let sizes = format!("layers {layers}, width {width}, heads {heads}, context {context}");
        return Err(ModelError::Size(format!("a gpt of {sizes}: each must be at least 1")));
    }
    if !width.is_multiple_of(heads) {
        return Err(ModelError::Heads { width, heads });
    }
    Dropout::new(dropout, 0)?;
    let data = Text::load(text, context, seed)?;
    let mut stack = LayerStack::default();
    stack.push("embedding", move |builder| {
        let embed = Tokens::new(config, &builder.pp("embedding"))?;
        Ok(single(move |x, c| embed.forward(x, c)))
    });
    for i in 0..layers {
        let name = format!("blocks.{i}");
        stack.push(name.clone(), move |builder| Ok(chain(block(config, &builder.pp(&name))?)));
    }
    stack.push("head", move |builder| {
        let norm = Norm::layer(width, builder.pp("head.ln"))?;
        let linear =
            Linear::with_init(width, VOCABULARY, false, normal(0.02), builder.pp("head.linear"))?;
        Ok(chain(Chain::new().then(norm).then(linear)))
    });
    let flops_per_sample = config.flops_per_sample();
    Ok(Job { stack, objective: Arc::new(Classes), data: Box::new(data), flops_per_sample })
}

fn normal(stdev: f64) -> Init {
    Init::Randn { mean: 0.0, stdev }
}

/// Token and position embeddings, (b, t) → (b, t, w).
struct Tokens {
    token: Embedding,
    position: Embedding,
    /// The number of each position, for every sample.
    places: Constant,
    dropout: Dropout,
}

impl Tokens {
    fn new(config: GptConfig, builder: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            token: Embedding::new(VOCABULARY, config.width, normal(0.02), builder.pp("token"))?,
            position: Embedding::new(
                config.context,
                config.width,
                normal(0.02),
                builder.pp("position"),
            )?,
            places: Constant::default(),
            dropout: Dropout::new(config.dropout, 0)?,
        })
    }

    fn forward(&self, ids_bt: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        let (b, t) = ids_bt.dims2()?;
        let places = || (0..b).flat_map(|_| 0..t as u32).collect();
        let places_bt = self.places.get((b, t), ids_bt.device(), places)?;
        let sum =
            (self.token.forward(ids_bt, context)? + self.position.forward(&places_bt, context)?)?;
        self.dropout.forward(&sum, context)
    }
}

/// Attention and an MLP, each behind a layer norm and beside a residual path.
fn block(config: GptConfig, builder: &VarBuilder<'_>) -> Result<Chain> {
    let w = config.width;
    // Each block adds to the residual path twice: scaled so that its variance stays (GPT-2).
    let residual = normal(0.02 / (2.0 * config.layers as f64).sqrt());
    let linear = |inputs, outputs, init, name: &str| {
        Linear::with_init(inputs, outputs, true, init, builder.pp(name))
    };
    let attention = Chain::new()
        .then(Norm::layer(w, builder.pp("ln1"))?)
        .then(linear(w, 3 * w, normal(0.02), "attention.qkv")?)
        .then(CausalSelfAttention::new(config.heads))
        .then(linear(w, w, residual, "attention.proj")?)
        .then(Dropout::new(config.dropout, 0)?);
    let mlp = Chain::new()
        .then(Norm::layer(w, builder.pp("ln2"))?)
        .then(linear(w, 4 * w, normal(0.02), "mlp.fc")?)
        .then(Activation::Gelu)
        .then(linear(4 * w, w, residual, "mlp.proj")?)
        .then(Dropout::new(config.dropout, 1)?);
    Ok(Chain::new().residual(attention).residual(mlp))
}

/// Continues `prompt` by `bytes` bytes, each drawn from the model's prediction.
///
/// `model` is the whole stack, built as one stage; `seed` decides the draws.
///
/// # Errors
/// Errors of candle.
pub fn sample(
    model: &Stage,
    context: usize,
    prompt: &[u8],
    bytes: usize,
    seed: u64,
) -> Result<Vec<u8>> {
    sample_while(model, context, prompt, bytes, seed, |_| true)
}

/// As [`sample`], byte by byte. `goes_on` gets the number of bytes so far, and returns whether to
/// continue.
///
/// # Errors
/// As [`sample`].
pub fn sample_while(
    model: &Stage,
    context: usize,
    prompt: &[u8],
    bytes: usize,
    seed: u64,
    mut goes_on: impl FnMut(usize) -> bool,
) -> Result<Vec<u8>> {
    let mut text = if prompt.is_empty() { vec![b'\n'] } else { prompt.to_vec() };
    let start = text.len();
    let key = hash(&[seed, 3]);
    for position in 0..bytes as u64 {
        if !goes_on(text.len() - start) {
            break;
        }
        let window = &text[text.len().saturating_sub(context)..];
        let ids: Vec<u32> = window.iter().map(|&b| u32::from(b)).collect();
        let ids = Tensor::from_vec(ids, (1, window.len()), &Device::Cpu)?;
        let logits = model.forward(&[ids], &ForwardContext::evaluation())?;
        let last = logits[0].narrow(1, window.len() - 1, 1)?.flatten_all()?.to_dtype(DType::F32)?;
        let max = last.max(D::Minus1)?;
        let weights: Vec<f32> = last.broadcast_sub(&max)?.exp()?.to_vec1()?;
        let mut rest = uniform(key, position) * weights.iter().map(|&w| f64::from(w)).sum::<f64>();
        let pick = weights.iter().position(|&w| {
            rest -= f64::from(w);
            rest < 0.0
        });
        text.push(pick.unwrap_or(VOCABULARY - 1) as u8);
    }
    Ok(text.split_off(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_counted_by_weights_tokens_and_pairs_of_tokens() {
        let config = GptConfig { layers: 2, width: 8, heads: 2, context: 4, dropout: 0.0 };
        // Queries, keys and values, the projection, and both halves of the MLP; then the head.
        let block = 8 * 24 + 8 * 8 + 8 * 32 + 32 * 8;
        let weights = 2 * block + 8 * VOCABULARY as u64;
        let of_products = 6 * weights * 4;
        // Two products of each pair of tokens in two blocks, forward once and backward twice.
        let of_attention = 2 * 2 * (4 * 4) * 8 * 2 * 3;
        assert_eq!(config.flops_per_sample(), of_products + of_attention);
    }

    #[test]
    fn the_formula_counts_the_parameters_that_the_model_really_has() {
        for (layers, width, heads, context) in [(1, 8, 1, 16), (6, 128, 4, 64), (3, 36, 3, 5)] {
            let config = GptConfig { layers, width, heads, context, dropout: 0.0 };
            let job = gpt(config, None, 0).unwrap();
            let counted: u64 = job.stack.parameter_counts().unwrap().iter().sum();
            assert_eq!(config.parameters(), u128::from(counted), "{config:?}");
            let model = Gpt { config, data: None };
            assert_eq!(model.layers(), Some(job.stack.len()));
        }
    }
}
