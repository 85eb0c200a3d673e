//! Texts as tokens of a model.

use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use pp_train::sha256_hex;
use tokenizers::Tokenizer;

use super::folder::TOKENIZER;
use crate::error::ModelError;

/// The most bytes of a tokenizer.
const TOKENIZER_BYTES_MAX: u64 = 64 << 20;
/// The most bytes of a line of JSON.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// The tokenizer of a model.
pub(super) struct Words {
    tokenizer: Tokenizer,
    vocabulary: usize,
}

/// A text that is one document, and a number that tells it from others.
pub(super) struct Document {
    pub(super) ids: Vec<u32>,
    pub(super) key: u64,
}

/// A panic of the library as an error: what it reads is somebody else's file.
fn unpanicking<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err("the tokenizer has failed".to_owned()))
}

/// What happens at a line that is no document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadLines {
    /// It is an error, which has its number.
    Stop,
    /// It is left out and counted.
    Skip,
}

impl BadLines {
    pub(super) fn of(skips: bool) -> Self {
        if skips { Self::Skip } else { Self::Stop }
    }
}

/// The documents of a file.
#[derive(Default)]
pub(super) struct Documents {
    pub(super) all: Vec<Document>,
    /// Lines that were left out, and the first of them with its reason.
    pub(super) n_skipped: usize,
    pub(super) first_skipped: Option<String>,
}

impl Words {
    /// Reads `tokenizer.json` of a folder, for a model that knows so many tokens.
    pub(super) fn open(folder: &Path, vocabulary: usize) -> Result<Self, ModelError> {
        let path = folder.join(TOKENIZER);
        let refused = |why: String| ModelError::Folder {
            path: folder.to_owned(),
            why: format!("{TOKENIZER}: {why}"),
        };
        let about = std::fs::metadata(&path).map_err(|error| refused(error.to_string()))?;
        if !about.is_file() || about.len() > TOKENIZER_BYTES_MAX {
            let most = TOKENIZER_BYTES_MAX >> 20;
            return Err(refused(format!("it is no file of at most {most} MiB")));
        }
        let bytes = std::fs::read(&path).map_err(|error| refused(error.to_string()))?;
        Self::of(&bytes, vocabulary).map_err(|why| refused(format!("it cannot be used: {why}")))
    }

    fn of(bytes: &[u8], vocabulary: usize) -> Result<Self, String> {
        // The library panics where it takes a part of the text for granted that is no JSON.
        serde_json::from_slice::<serde_json::Value>(bytes).map_err(|error| error.to_string())?;
        let read = || Tokenizer::from_bytes(bytes).map_err(|error| error.to_string());
        let tokenizer = unpanicking(read)?;
        Ok(Self { tokenizer, vocabulary })
    }

    /// The tokens of a text. No special tokens are added.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encode = || self.tokenizer.encode_fast(text, false).map_err(|error| error.to_string());
        let encoded = unpanicking(encode)?;
        let ids = encoded.get_ids().to_vec();
        match ids.iter().find(|id| **id as usize >= self.vocabulary) {
            None => Ok(ids),
            Some(id) => {
                Err(format!("its token {id} is not one of the model's {}", self.vocabulary))
            }
        }
    }

    /// The text of tokens.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String, String> {
        unpanicking(|| self.tokenizer.decode(ids, false).map_err(|error| error.to_string()))
    }

    /// The documents of a file: each line of a `.jsonl` with its `text`, or the whole of any other
    /// text.
    pub(super) fn documents(&self, path: &Path, bad: BadLines) -> Result<Documents, ModelError> {
        let unread = |source| ModelError::Read { path: path.to_owned(), source };
        let refused = |why: String| unread(io::Error::new(io::ErrorKind::InvalidData, why));
        let is_lines = path.extension().is_some_and(|extension| extension == "jsonl");
        if !is_lines {
            let text = crate::text::read(path).map_err(unread)?;
            let text = String::from_utf8(text).map_err(|error| {
                refused(format!("byte {} is no UTF-8", error.utf8_error().valid_up_to()))
            })?;
            let ids = self.encode(&text).map_err(refused)?;
            let all = vec![Document { ids, key: key_of(&text) }];
            return Ok(Documents { all, ..Documents::default() });
        }
        let file = std::fs::File::open(path).map_err(unread)?;
        if !file.metadata().map_err(unread)?.is_file() {
            return Err(refused("it is no file".to_owned()));
        }
        let mut reader = BufReader::new(file);
        let mut found = Documents::default();
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            let wrong = |why: &str| refused(format!("line {number}: {why}"));
            let mut limited = io::Read::take(&mut reader, LINE_BYTES_MAX);
            if limited.read_until(b'\n', &mut line).map_err(unread)? == 0 {
                break;
            }
            if line.len() as u64 == LINE_BYTES_MAX {
                return Err(wrong(&format!("it is longer than {} MiB", LINE_BYTES_MAX >> 20)));
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match (self.document(&line), bad) {
                (Ok(document), _) => found.all.push(document),
                (Err(why), BadLines::Stop) => return Err(wrong(&why)),
                (Err(why), BadLines::Skip) => {
                    found.n_skipped += 1;
                    found.first_skipped.get_or_insert_with(|| format!("line {number}: {why}"));
                }
            }
        }
        Ok(found)
    }

    /// The document of a line.
    fn document(&self, line: &[u8]) -> Result<Document, String> {
        let Line { text } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        Ok(Document { ids: self.encode(&text)?, key: key_of(&text) })
    }
}

/// A line of a `.jsonl`.
#[derive(serde::Deserialize)]
struct Line {
    text: String,
}

/// A number that depends on the text alone.
pub(super) fn key_of(text: &str) -> u64 {
    let digest = sha256_hex([text.as_bytes()]);
    u64::from_str_radix(&digest[..16], 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pp_nn::hash;

    use super::*;

    const BYTES: &str = include_str!("../../testdata/byte_tokenizer.json");

    #[test]
    fn whatever_a_tokenizer_says_it_is_refused_or_gives_tokens_of_the_model() {
        let mut n_taken = 0;
        for case in 0..2_000_u64 {
            let mut bytes = BYTES.as_bytes().to_vec();
            let draw = |at: u64, below: usize| (hash(&[case, at]) % below as u64) as usize;
            for change in 0..=draw(0, 3) as u64 {
                let at = draw(10 * change + 1, bytes.len());
                match draw(10 * change + 2, 4) {
                    0 => bytes[at] = draw(10 * change + 3, 256) as u8,
                    1 => drop(bytes.drain(at..(at + 4).min(bytes.len()))),
                    2 => drop(bytes.splice(at..at, *b"99999999999")),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            let Ok(words) = Words::of(&bytes, 256) else { continue };
            if let Ok(ids) = words.encode("Ein Schiff 😀 42\n") {
                assert!(ids.iter().all(|id| *id < 256), "case {case}");
                let _ = words.decode(&ids);
                n_taken += 1;
            }
        }
        assert!((20..1900).contains(&n_taken), "{n_taken} were taken");
    }
}
