//! The folder of a model, as other programs have it.

use std::path::{Path, PathBuf};

use super::config::LlamaConfig;
use crate::error::ModelError;

/// The configuration of a model.
pub(super) const CONFIG: &str = "config.json";
/// The tokenizer of a model.
pub(super) const TOKENIZER: &str = "tokenizer.json";
/// What a folder has beside the weights, as far as there is such a file.
const COMPANIONS: [&str; 9] = [
    CONFIG,
    "generation_config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];
/// The most bytes of a `config.json`.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The folder with the files of a model: the folder itself, or, in the hub's cache, the snapshot that
/// its branch `main` has.
pub fn model_folder(folder: &Path) -> PathBuf {
    let main = || std::fs::read_to_string(folder.join("refs/main")).ok();
    if folder.join(CONFIG).exists() {
        return folder.to_owned();
    }
    let is_hash = |hash: &String| hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    let hash = main().map(|hash| hash.trim().to_owned()).filter(is_hash);
    hash.map_or_else(|| folder.to_owned(), |hash| folder.join("snapshots").join(hash))
}

/// What the folder of a model has beside its weights. Its configuration says that the weights that
/// are written have 32 bits.
pub(super) fn folder_companions(folder: &Path) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in COMPANIONS {
        let path = folder.join(name);
        if path.is_file() {
            found.push((name.to_owned(), std::fs::read(&path)?));
        }
    }
    for (name, bytes) in &mut found {
        if name == CONFIG
            && let Ok(serde_json::Value::Object(mut keys)) = serde_json::from_slice(bytes)
        {
            for dtype in ["torch_dtype", "dtype"] {
                if let Some(said) = keys.get_mut(dtype) {
                    *said = "float32".into();
                }
            }
            *bytes = serde_json::to_vec_pretty(&keys)?;
        }
    }
    Ok(found)
}

/// The sizes of the model in a folder.
pub(super) fn read_config(folder: &Path) -> Result<LlamaConfig, ModelError> {
    let refused = |why: String| ModelError::Folder { path: folder.to_owned(), why };
    let path = folder.join(CONFIG);
    let unread = |error: std::io::Error| refused(format!("{CONFIG}: {error}"));
    let about = std::fs::metadata(&path).map_err(unread)?;
    if !about.is_file() || about.len() > CONFIG_BYTES_MAX {
        return Err(refused(format!("{CONFIG} is no file of at most {CONFIG_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(&path).map_err(unread)?;
    LlamaConfig::from_json(&text).map_err(|error| refused(error.to_string()))
}

/// The tokens of a row: as many as the model takes, or as were asked for.
pub(super) fn context_of(
    folder: &Path,
    config: &LlamaConfig,
    asked: Option<usize>,
) -> Result<usize, ModelError> {
    let most = config.context;
    match asked {
        Some(context) if context > most => {
            let why = format!("--context {context} is beyond its {most} positions");
            Err(ModelError::Folder { path: folder.to_owned(), why })
        }
        asked => Ok(asked.unwrap_or(most)),
    }
}
