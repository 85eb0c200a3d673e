//! From a GGUF file to the folder of a model: what other programs share in one file, in the files
//! that trainers read.

mod head;
mod tokenizer;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value as Entry};
use candle_core::{Device, Tensor};
use pp_train::WEIGHTS_FILE;
use pp_train::checkpoint::INDEX;
use serde_json::{Value, json};

use self::head::Head;
use self::tokenizer::{tokenizer, tokenizer_config};
use super::config::{Family, LlamaConfig};
use super::folder::{CONFIG, TOKENIZER};
use crate::error::ModelError;

/// The most bytes of numbers in one file of weights.
const SHARD_BYTES: usize = 1 << 30;

/// The most characters of an error that are shown.
const EXCERPT: usize = 160;

/// Writes the folder of the model in a GGUF file: `config.json`, weights as numbers of 32 bits, and
/// the tokenizer with its template. Returns the sizes of the model.
///
/// # Errors
/// [`ModelError::Convert`] if the file cannot be read, has another architecture or tokenizer, or the
/// folder cannot be written; it must not exist, or be empty.
pub fn convert(file: &Path, folder: &Path) -> Result<LlamaConfig, ModelError> {
    let refused = |why: String| ModelError::Convert { path: file.to_owned(), why };
    let mut reader = BufReader::new(File::open(file).map_err(|error| refused(error.to_string()))?);
    let content = Content::read(&mut Head::of(&mut reader))
        .map_err(|error| refused(format!("it is no GGUF file: {}", first_line(&error))))?;
    let facts = Facts(&content.metadata);
    let text = config(&facts, &content).map_err(refused)?;
    let config = LlamaConfig::from_json(&text.to_string())?;
    let tokenizer = tokenizer(&facts).map_err(refused)?;
    let names = names(&config, &content).map_err(refused)?;
    let shapes =
        super::layers::stack(config)?.shapes().map_err(|error| refused(error.to_string()))?;
    for (there, here) in &names {
        let (found, wanted) = (&content.tensor_infos[there].shape, &shapes[here]);
        if found != wanted {
            let (found, wanted) = (found.dims(), wanted.dims());
            return Err(refused(format!("{there} is {found:?}, and the model has {wanted:?}")));
        }
    }
    let unwritten = |error: std::io::Error| ModelError::Convert {
        path: folder.to_owned(),
        why: format!("it cannot be written: {error}"),
    };
    std::fs::create_dir_all(folder).map_err(unwritten)?;
    if std::fs::read_dir(folder).map_err(unwritten)?.next().is_some() {
        let why = "it has files already; use a new folder".to_owned();
        return Err(ModelError::Convert { path: folder.to_owned(), why });
    }
    let write = |name: &str, value: &Value| {
        std::fs::write(folder.join(name), value.to_string()).map_err(unwritten)
    };
    let mut weight_map = BTreeMap::new();
    let shards = shards(&names, &content);
    for (nth, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => WEIGHTS_FILE.to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", nth + 1),
        };
        let mut tensors = HashMap::new();
        for (there, here) in shard {
            let tensor = weight(&content, &mut reader, &config, there).map_err(|error| {
                refused(format!("{there} cannot be read: {}", first_line(&error)))
            })?;
            weight_map.insert(here.clone(), name.clone());
            tensors.insert(here.clone(), tensor);
        }
        candle_core::safetensors::save(&tensors, folder.join(&name))?;
    }
    if shards.len() > 1 {
        write(INDEX, &json!({"metadata": {}, "weight_map": weight_map}))?;
    }
    write(TOKENIZER, &tokenizer)?;
    write("tokenizer_config.json", &tokenizer_config(&facts))?;
    // The file without which the folder is no model comes last.
    write(CONFIG, &text)?;
    Ok(config)
}

/// An error of candle without the stack of its calls, and without all of a name that the file gives.
fn first_line(error: &candle_core::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let mut short: String = line.chars().take(EXCERPT).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

/// What a GGUF file says about its model.
struct Facts<'a>(&'a HashMap<String, Entry>);

impl Facts<'_> {
    fn get(&self, key: &str) -> Result<&Entry, String> {
        self.0.get(key).ok_or_else(|| format!("it has no {key}"))
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        let text = self.get(key)?.to_string().map_err(|_| format!("{key} is no text"))?;
        Ok(text)
    }

    fn count(&self, key: &str) -> Result<u64, String> {
        match *self.get(key)? {
            Entry::U8(n) => Ok(n.into()),
            Entry::U16(n) => Ok(n.into()),
            Entry::U32(n) => Ok(n.into()),
            Entry::U64(n) => Ok(n),
            Entry::I32(n) if n >= 0 => Ok(n as u64),
            _ => Err(format!("{key} is no whole number")),
        }
    }

    /// A number, as short as it can be written.
    fn number(&self, key: &str) -> Result<f64, String> {
        match *self.get(key)? {
            Entry::F32(x) => x.to_string().parse().map_err(|_| format!("{key} is no number")),
            Entry::F64(x) => Ok(x),
            _ => Err(format!("{key} is no number")),
        }
    }

    fn list(&self, key: &str) -> Result<&[Entry], String> {
        Ok(self.get(key)?.to_vec().map_err(|_| format!("{key} is no list"))?)
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>, String> {
        let mut texts = Vec::new();
        for entry in self.list(key)? {
            let text = entry.to_string().map_err(|_| format!("{key} has what is no text"))?;
            texts.push(text.as_str());
        }
        Ok(texts)
    }
}

/// The `config.json`.
fn config(facts: &Facts<'_>, content: &Content) -> Result<Value, String> {
    let kind = facts.text("general.architecture")?;
    let class = match kind {
        "llama" => "LlamaForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        other => {
            return Err(format!(
                "its architecture is {other:.40}; use a file of llama, qwen2 or qwen3"
            ));
        }
    };
    let key = |name: &str| format!("{kind}.{name}");
    let heads = facts.count(&key("attention.head_count"))?;
    let width = facts.count(&key("embedding_length"))?;
    let head_width = match facts.0.get(&key("attention.key_length")) {
        Some(_) => facts.count(&key("attention.key_length"))?,
        None => width.checked_div(heads).ok_or("it has no heads")?,
    };
    if facts.0.contains_key(&key("rope.scaling.type")) {
        let scaling = facts.text(&key("rope.scaling.type"))?;
        if scaling != "none" {
            return Err(format!("it scales rotary embedding by {scaling:.40}; use its own folder"));
        }
    }
    if content.tensor_infos.contains_key("rope_freqs.weight") {
        return Err("it has rotary frequencies of its own; use the model's own folder".to_owned());
    }
    let theta = match facts.0.get(&key("rope.freq_base")) {
        Some(_) => facts.number(&key("rope.freq_base"))?,
        None => 10_000.0,
    };
    let vocabulary = facts.list("tokenizer.ggml.tokens")?.len();
    let token = |name: &str| facts.count(&format!("tokenizer.ggml.{name}_token_id")).ok();
    Ok(json!({
        "architectures": [class],
        "model_type": kind,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": facts.count(&key("feed_forward_length"))?,
        "num_hidden_layers": facts.count(&key("block_count"))?,
        "num_attention_heads": heads,
        "num_key_value_heads": facts.count(&key("attention.head_count_kv")).unwrap_or(heads),
        "head_dim": head_width,
        "max_position_embeddings": facts.count(&key("context_length"))?,
        "rms_norm_eps": facts.number(&key("attention.layer_norm_rms_epsilon"))?,
        "rope_theta": theta,
        "attention_bias": content.tensor_infos.contains_key("blk.0.attn_q.bias"),
        "hidden_act": "silu",
        "tie_word_embeddings": !content.tensor_infos.contains_key("output.weight"),
        "bos_token_id": token("bos"),
        "eos_token_id": token("eos"),
        "torch_dtype": "float32",
    }))
}

/// The parts of a block, there and here.
const PARTS: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The name of each tensor there and here.
fn names(config: &LlamaConfig, content: &Content) -> Result<Vec<(String, String)>, String> {
    let mut names = vec![
        ("token_embd.weight".to_owned(), "model.embed_tokens.weight".to_owned()),
        ("output_norm.weight".to_owned(), "model.norm.weight".to_owned()),
    ];
    if !config.is_tied {
        names.push(("output.weight".to_owned(), "lm_head.weight".to_owned()));
    }
    for layer in 0..config.layers {
        let mut push = |there: &str, here: &str, kind: &str| {
            let there = format!("blk.{layer}.{there}.{kind}");
            names.push((there, format!("model.layers.{layer}.{here}.{kind}")));
        };
        for (there, here) in PARTS {
            push(there, here, "weight");
            let is_projection = matches!(there, "attn_q" | "attn_k" | "attn_v");
            let is_after = there == "attn_output" && config.has_output_bias();
            if (is_projection && config.has_bias) || is_after {
                push(there, here, "bias");
            }
        }
        if config.family == Family::Qwen3 {
            push("attn_q_norm", "self_attn.q_norm", "weight");
            push("attn_k_norm", "self_attn.k_norm", "weight");
        }
    }
    let known: std::collections::BTreeSet<&str> = names.iter().map(|(there, _)| &**there).collect();
    if let Some(name) = known.iter().find(|name| !content.tensor_infos.contains_key(**name)) {
        return Err(format!("it has no tensor {name}"));
    }
    match content.tensor_infos.keys().find(|name| !known.contains(name.as_str())) {
        Some(name) => Err(format!("it has a tensor {name:.80}, which the model has not")),
        None => Ok(names),
    }
}

/// Which tensors go into one file.
fn shards(names: &[(String, String)], content: &Content) -> Vec<Vec<(String, String)>> {
    let mut shards: Vec<Vec<(String, String)>> = Vec::new();
    let mut bytes = usize::MAX;
    for name in names {
        let size = content.tensor_infos[&name.0].shape.elem_count().saturating_mul(4);
        if bytes.saturating_add(size) > SHARD_BYTES {
            shards.push(Vec::new());
            bytes = 0;
        }
        bytes = bytes.saturating_add(size);
        if let Some(last) = shards.last_mut() {
            last.push(name.clone());
        }
    }
    shards
}

/// A tensor in numbers of 32 bits. llama.cpp keeps the rows of queries and keys in another order,
/// in which features that turn together are neighbours.
fn weight(
    content: &Content,
    reader: &mut BufReader<File>,
    config: &LlamaConfig,
    name: &str,
) -> candle_core::Result<Tensor> {
    let weight = content.tensor(reader, name, &Device::Cpu)?.dequantize(&Device::Cpu)?;
    let heads = match name.rsplit('.').nth(1) {
        Some("attn_q") => config.heads,
        Some("attn_k") => config.key_value_heads,
        _ => return Ok(weight),
    };
    if config.family != Family::Llama {
        return Ok(weight);
    }
    let dims = weight.dims().to_vec();
    let columns = weight.elem_count() / dims[0];
    let half = config.head_width / 2;
    weight.reshape((heads, half, 2, columns))?.transpose(1, 2)?.contiguous()?.reshape(dims)
}

#[cfg(test)]
mod tests;
