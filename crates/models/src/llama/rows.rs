//! Rows of tokens: to train on, and to evaluate.

use std::io;
use std::path::Path;

use candle_core::{Device, Result as TensorResult, Tensor};
use pp_nn::{IGNORED, hash, uniform};
use pp_train::{DataSet, Samples, sha256_hex};

use super::words::{BadLines, Document, Documents, Words};
use crate::entropy::entropy;
use crate::error::ModelError;

/// Of so many documents one is held out.
pub(super) const HELD_OUT: u64 = 20;

/// The documents of a file in pieces of at most `context` tokens, each a sample of its own with its
/// targets: to be evaluated. Also how many lines were left out.
///
/// # Errors
/// If the file cannot be read, has a token that the model does not know, or has nothing to predict.
pub(super) fn pieces(
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

/// Rows of `context` tokens.
#[derive(Default)]
pub(super) struct Rows {
    ids: Vec<u32>,
    pub(super) targets: Vec<u32>,
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

    pub(super) fn len(&self, context: usize) -> usize {
        self.ids.len() / context
    }
}

/// A text in rows of tokens, a part of which is held out.
pub(super) struct TokenText {
    seed: u64,
    context: usize,
    pub(super) train: Rows,
    held_out: Rows,
    /// Whether every row is of one document: then nobody needs positions.
    is_plain: bool,
    fingerprint: String,
    remarks: Vec<String>,
}

impl TokenText {
    /// Reads a file. Of several documents each twentieth is held out, by its text alone; of a single
    /// one the last twentieth.
    pub(super) fn load(
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
    pub(super) fn of(mut documents: Vec<Document>, context: usize, seed: u64) -> Self {
        let is_plain = documents.len() == 1;
        // Of the texts alone, whatever their order is and whatever rows they make.
        documents.sort_by_key(|document| document.key);
        let keys: Vec<u8> = documents.iter().flat_map(|d| d.key.to_le_bytes()).collect();
        let fingerprint = sha256_hex([&keys[..]]);
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
    use super::super::words::key_of;
    use super::*;

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
        let fingerprint =
            |context, seed| TokenText::of(documents(&texts), context, seed).fingerprint().unwrap();
        assert_eq!(fingerprint(8, 1), fingerprint(5, 2), "the texts alone tell data from others");
        assert_eq!(held(&texts[..100], 1) + held(&texts[100..], 1), all);
    }
}
