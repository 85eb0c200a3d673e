//! Texts as tokens of a model, and rows of them to train on.

use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use candle_core::{Device, Result as TensorResult, Tensor};
use pp_nn::{IGNORED, hash, uniform};
use pp_train::{DataSet, Samples, sha256_hex};
use tokenizers::Tokenizer;

use crate::entropy::entropy;
use crate::error::ModelError;

/// The most bytes of a tokenizer.
const TOKENIZER_BYTES_MAX: u64 = 64 << 20;
/// The most bytes of a line of JSON.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Of so many documents one is held out.
const HELD_OUT: u64 = 20;

/// The tokenizer of a model.
pub(crate) struct Words {
    tokenizer: Tokenizer,
    vocabulary: usize,
}

/// A text that is one document, and a number that tells it from others.
struct Document {
    ids: Vec<u32>,
    key: u64,
}

/// A panic of the library as an error: what it reads is somebody else's file.
fn unpanicking<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err("the tokenizer has failed".to_owned()))
}

/// What happens at a line that is no document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadLines {
    /// It is an error, which has its number.
    Stop,
    /// It is left out and counted.
    Skip,
}

impl BadLines {
    pub(crate) fn of(skips: bool) -> Self {
        if skips { Self::Skip } else { Self::Stop }
    }
}

/// The documents of a file.
#[derive(Default)]
struct Documents {
    all: Vec<Document>,
    /// Lines that were left out, and the first of them with its reason.
    n_skipped: usize,
    first_skipped: Option<String>,
}

impl Words {
    /// Reads `tokenizer.json` of a folder, for a model that knows so many tokens.
    pub(crate) fn open(folder: &Path, vocabulary: usize) -> Result<Self, ModelError> {
        let path = folder.join("tokenizer.json");
        let refused = |why: String| ModelError::Folder {
            path: folder.to_owned(),
            why: format!("tokenizer.json: {why}"),
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
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
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
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String, String> {
        unpanicking(|| self.tokenizer.decode(ids, false).map_err(|error| error.to_string()))
    }

    /// The documents of a file: each line of a `.jsonl` with its `text`, or the whole of any other
    /// text.
    fn documents(&self, path: &Path, bad: BadLines) -> Result<Documents, ModelError> {
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
fn key_of(text: &str) -> u64 {
    let digest = sha256_hex([text.as_bytes()]);
    u64::from_str_radix(&digest[..16], 16).unwrap_or_default()
}

/// The documents of a file in pieces of at most `context` tokens, each a sample of its own with its
/// targets: to be evaluated. Also how many lines were left out.
///
/// # Errors
/// If the file cannot be read, has a token that the model does not know, or has nothing to predict.
pub(crate) fn pieces(
    words: &Words,
    path: &Path,
    context: usize,
    bad: BadLines,
) -> Result<(Vec<Samples>, usize), ModelError> {
    let mut found = Vec::new();
    let Documents { all, n_skipped, .. } = words.documents(path, bad)?;
    for Document { ids, .. } in all {
        for first in (0..ids.len().saturating_sub(1)).step_by(context) {
            let last = (first + context).min(ids.len() - 1);
            let row = |ids: &[u32]| Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu);
            found.push((vec![row(&ids[first..last])?], row(&ids[first + 1..=last])?));
        }
    }
    if found.is_empty() {
        return Err(ModelError::Read {
            path: path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, "it has no two tokens in a row"),
        });
    }
    Ok((found, n_skipped))
}

/// What a model would see of a text.
#[derive(Clone, Debug)]
pub struct Look {
    /// Documents, and those of them that are held out.
    pub documents: usize,
    /// Documents that are held out; of a single document its end is.
    pub held_out: usize,
    /// Lines that are no documents, and were left out.
    pub skipped: usize,
    /// Tokens of all documents.
    pub tokens: usize,
    /// Tokens of the shortest, the middle and the longest document.
    pub lengths: [usize; 3],
    /// Rows to train on, of so many tokens.
    pub rows: usize,
    /// Tokens of a row.
    pub context: usize,
    /// The share of their tokens whose next token is predicted.
    pub packed: f64,
    /// The first documents, token by token: the number of each, its text, and whether the token
    /// after it is predicted.
    pub first: Vec<Vec<(u32, String, bool)>>,
    /// The text that the tokens of each of these documents give again.
    pub texts: Vec<String>,
}

/// Looks at the first `n` documents of a file, and counts them all.
pub(crate) fn look(
    words: &Words,
    path: &Path,
    context: usize,
    n: usize,
    bad: BadLines,
) -> Result<Look, ModelError> {
    let Documents { all: documents, n_skipped, .. } = words.documents(path, bad)?;
    let mut lengths: Vec<usize> = documents.iter().map(|document| document.ids.len()).collect();
    lengths.sort_unstable();
    let refused = |why| ModelError::Read {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, why),
    };
    let token = |ids: &[u32], at: usize| {
        let text = words.decode(&ids[at..=at]).map_err(refused)?;
        Ok::<_, ModelError>((ids[at], text, at + 1 < ids.len()))
    };
    let of = |Document { ids, .. }: &Document| (0..ids.len()).map(|at| token(ids, at)).collect();
    let first = documents.iter().take(n).map(of).collect::<Result<_, _>>()?;
    let text = |document: &Document| words.decode(&document.ids).map_err(refused);
    let texts = documents.iter().take(n).map(text).collect::<Result<_, _>>()?;
    let is_held = |document: &&Document| document.key.is_multiple_of(HELD_OUT);
    let held_out = if documents.len() > 1 { documents.iter().filter(is_held).count() } else { 0 };
    let (n_documents, tokens) = (documents.len(), lengths.iter().sum());
    let data = TokenText::of(documents, context, 0);
    let rows = data.train.len(context);
    let counted = data.train.targets.iter().filter(|target| **target != IGNORED).count();
    Ok(Look {
        documents: n_documents,
        held_out,
        skipped: n_skipped,
        tokens,
        lengths: [0, lengths.len() / 2, lengths.len().saturating_sub(1)]
            .map(|at| lengths.get(at).copied().unwrap_or(0)),
        rows,
        context,
        packed: counted as f64 / data.train.targets.len().max(1) as f64,
        first,
        texts,
    })
}

/// Rows of `context` tokens.
#[derive(Default)]
struct Rows {
    ids: Vec<u32>,
    targets: Vec<u32>,
    /// The place of each token in its document.
    positions: Vec<u32>,
}

impl Rows {
    /// Packs documents into rows, in their order. A document that does not fit into what is left of
    /// a row goes on in the next one, as a document of its own. What is left of the last row does
    /// not count.
    fn pack(documents: &[Document], context: usize) -> Self {
        let mut rows = Self::default();
        for Document { ids, .. } in documents {
            let mut first = 0;
            while first + 1 < ids.len() {
                let room = context - rows.ids.len() % context;
                let last = (first + room).min(ids.len() - 1);
                rows.ids.extend(&ids[first..last]);
                rows.targets.extend(&ids[first + 1..=last]);
                rows.positions.extend(0..(last - first) as u32);
                first = last;
            }
        }
        while !rows.ids.len().is_multiple_of(context) {
            rows.ids.push(0);
            rows.targets.push(IGNORED);
            rows.positions.push(0);
        }
        rows
    }

    fn len(&self, context: usize) -> usize {
        self.ids.len() / context
    }
}

/// A text in rows of tokens, a part of which is held out.
pub(crate) struct TokenText {
    seed: u64,
    context: usize,
    train: Rows,
    held_out: Rows,
    /// Whether every row is of one document: then nobody needs positions.
    is_plain: bool,
    fingerprint: String,
    remarks: Vec<String>,
}

impl TokenText {
    /// Reads a file. Of several documents each twentieth is held out, by its text alone; of a single
    /// one the last twentieth.
    pub(crate) fn load(
        words: &Words,
        path: &Path,
        context: usize,
        seed: u64,
        bad: BadLines,
    ) -> Result<Self, ModelError> {
        let Documents { all: documents, n_skipped, first_skipped } = words.documents(path, bad)?;
        let n_tokens = documents.iter().map(|document| document.ids.len()).sum::<usize>();
        let mut data = Self::of(documents, context, seed);
        if let Some(first) = first_skipped {
            let path = path.display();
            data.remarks.push(format!(
                "{path}: lines that are no documents were left out: {n_skipped}, the first is {first}"
            ));
        }
        if data.train.ids.is_empty() {
            let why = format!("it has {n_tokens} tokens; use a longer text");
            let source = io::Error::new(io::ErrorKind::InvalidData, why);
            return Err(ModelError::Read { path: path.to_owned(), source });
        }
        Ok(data)
    }

    /// Parts and rows.
    fn of(mut documents: Vec<Document>, context: usize, seed: u64) -> Self {
        let is_plain = documents.len() == 1;
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        if is_plain {
            if let Some(Document { mut ids, key }) = documents.pop() {
                let rest = ids.split_off(ids.len() - ids.len() / HELD_OUT as usize);
                held_out.push(Document { ids: rest, key });
                train.push(Document { ids, key });
            }
        } else {
            // The order of the file may have a meaning.
            documents.sort_by_key(|document| hash(&[seed, document.key]));
            (held_out, train) = documents.into_iter().partition(|d| d.key.is_multiple_of(HELD_OUT));
        }
        let (train, held_out) = (Rows::pack(&train, context), Rows::pack(&held_out, context));
        let bytes =
            |rows: &Rows| rows.ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
        let fingerprint = sha256_hex([&bytes(&train)[..], &bytes(&held_out)]);
        let remarks = Vec::new();
        Self { seed, context, train, held_out, is_plain, fingerprint, remarks }
    }

    fn samples(&self, of: &Rows, rows: &[usize]) -> TensorResult<Samples> {
        let t = self.context;
        let take = |values: &[u32]| {
            let values = rows.iter().flat_map(|row| &values[row * t..(row + 1) * t]).copied();
            Tensor::from_vec(values.collect::<Vec<_>>(), (rows.len(), t), &Device::Cpu)
        };
        let mut inputs = vec![take(&of.ids)?];
        if !self.is_plain {
            inputs.push(take(&of.positions)?);
        }
        Ok((inputs, take(&of.targets)?))
    }
}

impl DataSet for TokenText {
    fn batch(&self, step: u64, size: usize) -> TensorResult<Samples> {
        let key = hash(&[self.seed, step, 2]);
        let n = self.train.len(self.context) as f64;
        let rows: Vec<usize> = (0..size as u64).map(|i| (uniform(key, i) * n) as usize).collect();
        self.samples(&self.train, &rows)
    }

    fn validation(&self, rows: usize) -> TensorResult<Vec<Samples>> {
        let all: Vec<usize> = (0..self.held_out.len(self.context)).collect();
        all.chunks(rows.max(1)).map(|rows| self.samples(&self.held_out, rows)).collect()
    }

    fn remarks(&self) -> Vec<String> {
        self.remarks.clone()
    }

    fn tokens_per_sample(&self) -> u64 {
        self.context as u64
    }

    fn fingerprint(&self) -> Option<String> {
        Some(self.fingerprint.clone())
    }

    fn blind_loss(&self) -> Option<f64> {
        let mut counts = std::collections::BTreeMap::new();
        let counted = self.train.targets.iter().filter(|target| **target != IGNORED);
        counted.for_each(|target| *counts.entry(*target).or_insert(0_usize) += 1);
        entropy(counts.values().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &str = include_str!("../../testdata/byte_tokenizer.json");

    fn document(ids: std::ops::Range<u32>) -> Document {
        Document { ids: ids.collect(), key: 1 }
    }

    #[test]
    fn rows_are_filled_and_no_token_is_predicted_across_documents() {
        // Three tokens, ten, one that predicts nothing, and two; in rows of four.
        let documents = [document(0..3), document(10..20), document(30..31), document(40..42)];
        let rows = Rows::pack(&documents, 4);
        assert_eq!(rows.ids, [0, 1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 40]);
        assert_eq!(rows.targets, [1, 2, 11, 12, 13, 14, 15, 16, 17, 18, 19, 41]);
        assert_eq!(rows.positions, [0, 1, 0, 1, 0, 1, 2, 3, 0, 1, 2, 0]);
        let rows = Rows::pack(&documents[..1], 4);
        assert_eq!(rows.targets, [1, 2, IGNORED, IGNORED]);
        assert_eq!(rows.len(4), 1);
    }

    #[test]
    fn what_is_held_out_depends_on_the_text_alone() {
        let texts: Vec<String> = (0..200).map(|i| format!("text {i}")).collect();
        let documents = |texts: &[String]| -> Vec<Document> {
            let of = |text: &String| Document { ids: (0..9).collect(), key: key_of(text) };
            texts.iter().map(of).collect()
        };
        let held = |texts: &[String], seed| {
            TokenText::of(documents(texts), 8, seed).validation(1).unwrap().len()
        };
        let all = held(&texts, 1);
        assert!((3..20).contains(&all), "{all}");
        assert_eq!(held(&texts, 2), all, "whatever the seed");
        assert_eq!(held(&texts[..100], 1) + held(&texts[100..], 1), all);
    }

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
