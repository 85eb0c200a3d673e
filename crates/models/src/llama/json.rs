//! The `config.json` of a model of the Llama family.

use pp_nn::{RotaryFrequencies, RotaryScaling};
use serde_json::{Map, Value};

use super::config::{Family, LlamaConfig, SIZE_MAX, refused};
use crate::error::ModelError;

/// Keys that do not change the arithmetic of training: names, versions, generation, caches, and
/// ways to compute the same.
const HARMLESS: [&str; 19] = [
    "architectures",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "transformers.js_config",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "initializer_range",
    "is_llama_config",
    "max_window_layers",
    "sliding_window",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "attn_implementation",
];

/// Keys that are known with one value alone, which changes nothing.
fn has_neutral_value(key: &str, value: &Value) -> bool {
    match key {
        "attention_dropout" | "hidden_dropout" | "resid_pdrop" => value.as_f64() == Some(0.0),
        "pretraining_tp" => value.as_u64() == Some(1),
        "mlp_bias" | "use_sliding_window" | "rope_interleaved" => value.as_bool() == Some(false),
        "hidden_act" => value.as_str() == Some("silu"),
        "layer_types" => value
            .as_array()
            .is_some_and(|all| all.iter().all(|kind| kind.as_str() == Some("full_attention"))),
        _ => key.starts_with('_') || HARMLESS.contains(&key) || value.is_null(),
    }
}

impl LlamaConfig {
    /// From the text of a `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`] for another architecture, for sizes that are missing or do not fit
    /// each other, and for a key that is not known: it may change what the model computes.
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let keys: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| refused(format!("it is no JSON object: {error}")))?;
        let mut keys = Keys { keys, taken: Vec::new() };
        let family = family(&keys)?;
        let heads = keys.size("num_attention_heads", None)?;
        let width = keys.size("hidden_size", None)?;
        let head_width = match keys.size("head_dim", Some(0))? {
            0 if width.is_multiple_of(heads) => width / heads,
            0 => {
                return Err(refused(format!(
                    "hidden_size {width} does not divide into {heads} heads"
                )));
            }
            given => given,
        };
        let config = Self {
            family,
            vocabulary: keys.size("vocab_size", None)?,
            layers: keys.size("num_hidden_layers", None)?,
            width,
            ffn: keys.size("intermediate_size", None)?,
            heads,
            key_value_heads: keys.size("num_key_value_heads", Some(heads))?,
            head_width,
            context: keys.size("max_position_embeddings", None)?,
            epsilon: keys.number("rms_norm_eps", Some(1e-6))?,
            rotary: rotary(&mut keys)?,
            has_bias: match family {
                // It has no such key, or one that says what all of them have.
                Family::Qwen2 => keys.flag("attention_bias", true)?,
                Family::Llama | Family::Qwen3 => keys.flag("attention_bias", false)?,
            },
            is_tied: keys.flag("tie_word_embeddings", false)?,
        };
        keys.refuse_others()?;
        config.check()?;
        Ok(config)
    }

    /// The `config.json`, as far as it says what the model computes. The weights beside it have 32
    /// bits.
    pub fn to_json(&self) -> Value {
        let names = Family::NAMES.iter().find(|(family, ..)| *family == self.family);
        let (kind, class) = names.map_or(("", ""), |(_, kind, class)| (*kind, *class));
        let scaling = self.rotary.scaling.map(|scaling| {
            serde_json::json!({
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low,
                "high_freq_factor": scaling.high,
                "original_max_position_embeddings": scaling.original_context,
            })
        });
        serde_json::json!({
            "architectures": [class],
            "model_type": kind,
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_width,
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.epsilon,
            "rope_theta": self.rotary.theta,
            "rope_scaling": scaling,
            "attention_bias": self.has_bias,
            "tie_word_embeddings": self.is_tied,
            "hidden_act": "silu",
            "torch_dtype": "float32",
        })
    }
}

fn family(keys: &Keys) -> Result<Family, ModelError> {
    let said = keys.keys.get("model_type").and_then(Value::as_str);
    let class = keys.keys.get("architectures").and_then(|all| all.get(0)).and_then(Value::as_str);
    let known = |(_, kind, architecture): &&(Family, &str, &str)| {
        (said.is_some() || class.is_some())
            && said.is_none_or(|said| said == *kind)
            && class.is_none_or(|class| class == *architecture)
    };
    if let Some((family, ..)) = Family::NAMES.iter().find(known) {
        return Ok(*family);
    }
    let name = class.or(said).unwrap_or("no architecture");
    let all: Vec<&str> = Family::NAMES.iter().map(|(_, _, architecture)| *architecture).collect();
    Err(refused(format!("it says {:.80}; use a model of {}", name, all.join(", "))))
}

/// `rope_theta` and `rope_scaling`, or `rope_parameters` with both.
fn rotary(keys: &mut Keys) -> Result<RotaryFrequencies, ModelError> {
    let together = keys.object("rope_parameters")?;
    let apart = keys.object("rope_scaling")?;
    let theta = keys.number("rope_theta", Some(10_000.0))?;
    let (theta, scaling) = match (together, apart) {
        (Some(mut both), None) => (both.number("rope_theta", Some(theta))?, Some(both)),
        (None, apart) => (theta, apart),
        (Some(_), Some(_)) => {
            return Err(refused("it has rope_parameters and rope_scaling; keep one of them"));
        }
    };
    let Some(mut keys) = scaling else { return Ok(RotaryFrequencies { theta, scaling: None }) };
    let kind = keys.text("rope_type")?.or(keys.text("type")?);
    let scaling = match kind.as_deref() {
        None | Some("default") => None,
        Some("llama3") => Some(RotaryScaling {
            factor: keys.number("factor", None)?,
            low: keys.number("low_freq_factor", None)?,
            high: keys.number("high_freq_factor", None)?,
            original_context: keys.size("original_max_position_embeddings", None)?,
        }),
        Some(other) => {
            return Err(refused(format!(
                "rotary embedding of type {other:.40}; use a model whose type is default or llama3"
            )));
        }
    };
    keys.refuse_others()?;
    Ok(RotaryFrequencies { theta, scaling })
}

/// The keys of an object, and which of them were looked at.
struct Keys {
    keys: Map<String, Value>,
    taken: Vec<&'static str>,
}

impl Keys {
    fn take(&mut self, key: &'static str) -> Option<&Value> {
        self.taken.push(key);
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn wrong(key: &str, value: &Value, wanted: &str) -> ModelError {
        refused(format!("{key} is {:.60}, and {wanted} is wanted", value.to_string()))
    }

    fn size(&mut self, key: &'static str, default: Option<usize>) -> Result<usize, ModelError> {
        match self.take(key) {
            Some(value) => match value.as_u64().filter(|size| *size <= SIZE_MAX) {
                Some(size) => Ok(size as usize),
                None => Err(Self::wrong(key, value, &format!("a whole number up to {SIZE_MAX}"))),
            },
            None => default.ok_or_else(|| refused(format!("it has no {key}; add it"))),
        }
    }

    fn number(&mut self, key: &'static str, default: Option<f64>) -> Result<f64, ModelError> {
        match self.take(key) {
            Some(value) => value.as_f64().ok_or_else(|| Self::wrong(key, value, "a number")),
            None => default.ok_or_else(|| refused(format!("it has no {key}; add it"))),
        }
    }

    fn flag(&mut self, key: &'static str, default: bool) -> Result<bool, ModelError> {
        match self.take(key) {
            Some(value) => value.as_bool().ok_or_else(|| Self::wrong(key, value, "true or false")),
            None => Ok(default),
        }
    }

    fn text(&mut self, key: &'static str) -> Result<Option<String>, ModelError> {
        match self.take(key) {
            Some(value) => match value.as_str() {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(Self::wrong(key, value, "a text")),
            },
            None => Ok(None),
        }
    }

    fn object(&mut self, key: &'static str) -> Result<Option<Self>, ModelError> {
        match self.take(key) {
            Some(value) => match value.as_object() {
                Some(keys) => Ok(Some(Self { keys: keys.clone(), taken: Vec::new() })),
                None => Err(Self::wrong(key, value, "an object")),
            },
            None => Ok(None),
        }
    }

    /// Refuses what nobody has looked at and may matter.
    fn refuse_others(&self) -> Result<(), ModelError> {
        let is_odd = |(key, value): &(&String, &Value)| {
            !self.taken.contains(&key.as_str()) && !has_neutral_value(key, value)
        };
        match self.keys.iter().find(is_odd) {
            None => Ok(()),
            Some((key, value)) => Err(refused(format!(
                "{key:.60} is {:.60}, which may change what the model computes and is not known \
                 here; remove the key if it does not",
                value.to_string()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMOL: &str = r#"{
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576,
        "initializer_range": 0.041, "intermediate_size": 1536, "is_llama_config": true,
        "max_position_embeddings": 8192, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false,
        "rope_scaling": null, "rope_theta": 100000, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "transformers.js_config": {"kv_cache_dtype": {"q4f16": "x"}},
        "transformers_version": "4.42.3", "use_cache": true, "vocab_size": 49152}"#;

    #[test]
    fn smollm_has_its_sizes() {
        let config = LlamaConfig::from_json(SMOL).unwrap();
        assert_eq!(config.parameters(), 134_515_008);
        assert_eq!((config.heads, config.key_value_heads, config.head_width), (9, 3, 64));
        assert!(config.is_tied && !config.has_bias);
        assert_eq!(config.rotary, RotaryFrequencies { theta: 1e5, scaling: None });
    }

    #[test]
    fn what_is_written_is_read_again() {
        let scaling = RotaryScaling { factor: 8.0, low: 1.0, high: 4.0, original_context: 64 };
        for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
            let config = LlamaConfig {
                family,
                head_width: 48,
                has_bias: family == Family::Qwen2,
                is_tied: family == Family::Llama,
                rotary: RotaryFrequencies { theta: 1e6, scaling: Some(scaling) },
                ..LlamaConfig::default()
            };
            assert_eq!(LlamaConfig::from_json(&config.to_json().to_string()).unwrap(), config);
        }
    }

    /// A `config.json` with some keys replaced, and others added.
    fn with(changes: &[(&str, Value)]) -> String {
        let mut keys: Map<String, Value> = serde_json::from_str(SMOL).unwrap();
        for (key, value) in changes {
            keys.insert((*key).to_owned(), value.clone());
        }
        Value::Object(keys).to_string()
    }

    #[test]
    fn llama_3_and_qwen_are_known() {
        let scaling = serde_json::json!({
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"
        });
        let llama = LlamaConfig::from_json(&with(&[("rope_scaling", scaling)])).unwrap();
        assert_eq!(llama.rotary.scaling.unwrap().original_context, 8192);
        let name = |kind: &str, class: &str| {
            [("model_type", kind.into()), ("architectures", serde_json::json!([class]))]
        };
        let mut qwen = name("qwen2", "Qwen2ForCausalLM").to_vec();
        qwen.push(("attention_bias", Value::Null));
        qwen.push(("use_sliding_window", false.into()));
        assert!(LlamaConfig::from_json(&with(&qwen)).unwrap().has_bias);
        let mut qwen = name("qwen3", "Qwen3ForCausalLM").to_vec();
        qwen.push(("head_dim", 128.into()));
        qwen.push((
            "rope_parameters",
            serde_json::json!({"rope_theta": 1e6, "rope_type": "default"}),
        ));
        let qwen = LlamaConfig::from_json(&with(&qwen)).unwrap();
        assert_eq!((qwen.head_width, qwen.rotary.theta), (128, 1e6));
    }

    #[test]
    fn what_is_not_known_or_does_not_fit_is_refused_by_name() {
        let large = u64::MAX;
        let cases: [(&[(&str, Value)], &str); 14] = [
            (&[("model_type", "bert".into()), ("architectures", Value::Null)], "it says bert"),
            (&[("architectures", serde_json::json!(["GemmaForCausalLM"]))], "it says GemmaFor"),
            (&[("attn_logit_softcapping", 30.0.into())], "attn_logit_softcapping is 30.0"),
            (&[("mlp_bias", true.into())], "mlp_bias is true"),
            (&[("hidden_act", "gelu".into())], r#"hidden_act is "gelu""#),
            (&[("attention_dropout", 0.1.into())], "attention_dropout is 0.1"),
            (&[("num_hidden_layers", large.into())], "num_hidden_layers is 18446744073709551615"),
            (&[("num_hidden_layers", 0.into())], "layers: 0 is not between"),
            (&[("hidden_size", (-5).into())], "hidden_size is -5"),
            (&[("num_key_value_heads", 2.into())], "9 heads of queries do not divide over 2"),
            (&[("head_dim", 63.into())], "63 features"),
            (&[("rms_norm_eps", 0.0.into())], "rms_norm_eps is 0"),
            (
                &[("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 4.0}))],
                "type yarn",
            ),
            (&[("quantization_config", serde_json::json!({"bits": 4}))], "quantization_config is"),
        ];
        for (changes, why) in cases {
            let error = LlamaConfig::from_json(&with(changes)).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
        for (changes, why) in [
            (&[("num_hidden_layers", Value::from(5000))][..], "5000 layers"),
            (
                &[("max_position_embeddings", (1 << 20).into()), ("head_dim", 4096.into())],
                "would take 16384 MiB",
            ),
        ] {
            let error = LlamaConfig::from_json(&with(changes)).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
        for (text, why) in [("", "no JSON object"), ("[]", "no JSON object"), ("{}", "no archit")] {
            let error = LlamaConfig::from_json(text).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
        let deep = "[".repeat(1_000_000);
        assert!(LlamaConfig::from_json(&deep).is_err());
    }

    /// Bytes of a text changed at random: replaced, removed, doubled, or made into large numbers.
    fn damaged(text: &str, case: u64) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let draw = |at: u64, below: usize| (pp_nn::hash(&[case, at]) % below as u64) as usize;
        for change in 0..=draw(0, 4) as u64 {
            let at = draw(10 * change + 1, bytes.len());
            match draw(10 * change + 2, 5) {
                0 => bytes[at] = draw(10 * change + 3, 256) as u8,
                1 => drop(bytes.drain(at..(at + 3).min(bytes.len()))),
                2 => {
                    let part = bytes[at..(at + 20).min(bytes.len())].to_vec();
                    drop(bytes.splice(at..at, part));
                }
                3 => drop(bytes.splice(at..at, *b"99999999")),
                _ => drop(bytes.splice(at..at, *b"-1e300")),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn whatever_a_configuration_says_it_is_refused_or_it_fits() {
        let mut n_taken = 0;
        for case in 0..10_000 {
            if let Ok(config) = LlamaConfig::from_json(&damaged(SMOL, case)) {
                config.check().unwrap();
                assert!(config.parameters() > 0 && config.flops_per_sample(config.context) > 0);
                n_taken += 1;
            }
        }
        assert!((100..8000).contains(&n_taken), "{n_taken} were taken");
    }
}
