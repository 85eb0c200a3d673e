//! The tokenizer of a GGUF file, as the files that trainers read.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Facts;

/// How Llama 3 and Qwen split a text, after the endings of English words.
const TAIL: &str =
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The `tokenizer.json` of a byte-level BPE.
pub(super) fn tokenizer(facts: &Facts<'_>) -> Result<Value, String> {
    let kind = facts.text("tokenizer.ggml.model")?;
    if kind != "gpt2" {
        return Err(format!(
            "its tokenizer is of type {kind:.40}; use a file with a byte-level BPE (gpt2)"
        ));
    }
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let modern = |digits: &str| {
        let pattern = format!("(?i:'s|'t|'re|'ve|'m|'ll|'d){}", TAIL.replace("DIGITS", digits));
        vec![split(&pattern), bytes(false)]
    };
    let split_as = facts.text("tokenizer.ggml.pre").unwrap_or("gpt-2");
    let before = match split_as {
        "smollm" => vec![json!({"type": "Digits", "individual_digits": true}), bytes(true)],
        "gpt-2" | "gpt2" => vec![bytes(true)],
        "qwen2" => modern(""),
        "llama-bpe" | "llama3" => modern("{1,3}"),
        other => {
            return Err(format!(
                "its text is split in the manner of {other:.40}; use one of smollm, gpt-2, qwen2 or llama-bpe"
            ));
        }
    };
    let tokens = facts.texts("tokenizer.ggml.tokens")?;
    let kinds = facts.list("tokenizer.ggml.token_type").unwrap_or_default();
    let vocabulary: BTreeMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    // 3: control, 4: defined by the user.
    let kind_of = |id: usize| kinds.get(id).and_then(|kind| kind.to_i32().ok()).unwrap_or(1);
    let added: Vec<Value> = (0..tokens.len())
        .filter(|&id| matches!(kind_of(id), 3 | 4))
        .map(|id| {
            json!({
                "id": id, "content": tokens[id], "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": kind_of(id) == 3,
            })
        })
        .collect();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": (split_as == "qwen2").then(|| json!({"type": "NFC"})),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": before},
        "post_processor": null,
        "decoder": bytes(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": matches!(split_as, "llama-bpe" | "llama3"), "vocab": vocabulary,
            "merges": facts.texts("tokenizer.ggml.merges")?,
        },
    }))
}

pub(super) fn tokenizer_config(facts: &Facts<'_>) -> Value {
    let token = |name: &str| {
        let id = facts.count(&format!("tokenizer.ggml.{name}_token_id")).ok()?;
        let tokens = facts.list("tokenizer.ggml.tokens").ok()?;
        tokens.get(usize::try_from(id).ok()?)?.to_string().ok().cloned()
    };
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding"),
        "chat_template": facts.text("tokenizer.chat_template").ok(),
    })
}
