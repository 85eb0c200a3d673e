//! The layers of a model of the Llama family, with the names that its files have.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use pp_nn::{
    CausalSelfAttention, Chain, Documents, Embedding, ForwardContext, HeadNorm, Linear, Norm,
    Rotary, SideBySide, SwiGlu,
};
use pp_partition::{Layer, LayerStack};

use super::config::{Family, LlamaConfig};

/// The name of the embedding's weight.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The name of the head's weight, where it is a parameter of its own.
pub(crate) const HEAD: &str = "lm_head.weight";

fn normal(stdev: f64) -> Init {
    Init::Randn { mean: 0.0, stdev }
}

/// Embedding, blocks and head. Layers take token numbers `(b, t)`, and also positions `(b, t)` that
/// restart with each document where samples are packed. The last layer returns what goes into the
/// head, and the head's weight, as [`pp_train::Tokens`] wants them.
pub(crate) fn stack(config: LlamaConfig) -> Result<LayerStack> {
    let LlamaConfig { heads, key_value_heads, head_width, context, .. } = config;
    // Its table is shared by all blocks.
    let turning = heads + key_value_heads;
    let rotary = Arc::new(Rotary::new(turning, head_width, context, config.rotary)?);
    let mut stack = LayerStack::default();
    stack.push("embedding", move |builder| {
        let builder = builder.pp("model.embed_tokens");
        let embedding = Embedding::new(config.vocabulary, config.width, normal(0.02), builder)?;
        Ok(Box::new(Tokens(embedding)))
    });
    for i in 0..config.layers {
        let rotary = Arc::clone(&rotary);
        stack.push(format!("blocks.{i}"), move |builder| {
            let builder = builder.pp(format!("model.layers.{i}"));
            Ok(Box::new(Block(block(&config, &rotary, &builder)?)))
        });
    }
    stack.push("head", move |builder| {
        let norm = Norm::rms(config.width, config.epsilon, builder.pp("model.norm"))?;
        let shape = (config.vocabulary, config.width);
        let weight = builder.get_with_hints(shape, HEAD, normal(0.02))?;
        Ok(Box::new(Head { norm, weight }))
    });
    if config.is_tied {
        stack.tie(EMBEDDING, HEAD);
    }
    Ok(stack)
}

/// The rows of the embedding; positions pass.
struct Tokens(Embedding);

impl Layer for Tokens {
    fn forward(&self, inputs: &[Tensor], context: &ForwardContext) -> Result<Vec<Tensor>> {
        let (ids, positions) = parts(inputs)?;
        let x = self.0.forward(ids, context)?;
        Ok(std::iter::once(x).chain(positions.cloned()).collect())
    }
}

/// The first tensor, and the positions if samples are packed.
fn parts(inputs: &[Tensor]) -> Result<(&Tensor, Option<&Tensor>)> {
    match inputs {
        [x] => Ok((x, None)),
        [x, positions] => Ok((x, Some(positions))),
        _ => candle_core::bail!("a layer of llama got {} tensors", inputs.len()),
    }
}

/// Attention and a gated MLP, each behind a norm and beside a residual path.
struct Block(Chain);

impl Layer for Block {
    fn forward(&self, inputs: &[Tensor], context: &ForwardContext) -> Result<Vec<Tensor>> {
        let (x, positions) = parts(inputs)?;
        let Some(positions) = positions else { return Ok(vec![self.0.forward(x, context)?]) };
        let context = context.clone().with_documents(Documents::from_positions(positions)?);
        Ok(vec![self.0.forward(x, &context)?, positions.clone()])
    }

    fn as_chain(&self) -> Option<&Chain> {
        Some(&self.0)
    }
}

fn block(config: &LlamaConfig, rotary: &Rotary, builder: &VarBuilder<'_>) -> Result<Chain> {
    let LlamaConfig { width, ffn, heads, key_value_heads, head_width, .. } = *config;
    // Each block adds to the residual path twice: scaled so that its variance stays (GPT-2).
    let residual = normal(0.02 / (2.0 * config.layers as f64).sqrt());
    let attention = builder.pp("self_attn");
    let projection = |heads: usize, name: &str| {
        let outputs = heads * head_width;
        Linear::with_init(width, outputs, config.has_bias, normal(0.02), attention.pp(name))
    };
    let plain =
        |inputs, outputs, init, builder| Linear::with_init(inputs, outputs, false, init, builder);
    let after = |builder| {
        let has_bias = config.has_output_bias();
        Linear::with_init(heads * head_width, width, has_bias, residual, builder)
    };
    let norm = |name: &str| Norm::rms(width, config.epsilon, builder.pp(name));
    let qkv = vec![
        projection(heads, "q_proj")?,
        projection(key_value_heads, "k_proj")?,
        projection(key_value_heads, "v_proj")?,
    ];
    let mut path = Chain::new().then(norm("input_layernorm")?).then(SideBySide::new(qkv)?);
    if config.family == Family::Qwen3 {
        let of_head = |name: &str| Norm::rms(head_width, config.epsilon, attention.pp(name));
        let sizes = (heads, key_value_heads, head_width);
        path = path.then(HeadNorm::new(of_head("q_norm")?, of_head("k_norm")?, sizes));
    }
    let path = path
        .then(rotary.clone())
        .then(CausalSelfAttention::grouped(heads, key_value_heads)?)
        .then(after(attention.pp("o_proj"))?);
    let mlp = builder.pp("mlp");
    let gate = vec![
        plain(width, ffn, normal(0.02), mlp.pp("gate_proj"))?,
        plain(width, ffn, normal(0.02), mlp.pp("up_proj"))?,
    ];
    let gated = Chain::new()
        .then(norm("post_attention_layernorm")?)
        .then(SideBySide::new(gate)?)
        .then(SwiGlu)
        .then(plain(ffn, width, residual, mlp.pp("down_proj"))?);
    Ok(Chain::new().residual(path).residual(gated))
}

/// The last norm, beside the weight of the head.
struct Head {
    norm: Norm,
    weight: Tensor,
}

impl Layer for Head {
    fn forward(&self, inputs: &[Tensor], context: &ForwardContext) -> Result<Vec<Tensor>> {
        let (x, _) = parts(inputs)?;
        Ok(vec![self.norm.forward(x, context)?, self.weight.clone()])
    }
}
