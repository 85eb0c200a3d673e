//! What a model would see of a text.

use std::io;
use std::path::Path;

use pp_nn::IGNORED;

use super::folder::{context_of, read_config};
use super::rows::{HELD_OUT, TokenText};
use super::words::{BadLines, Document, Documents, Words};
use crate::error::ModelError;

/// What a model would see of a text.
#[derive(Clone, Debug)]
pub struct Look {
    /// Documents of the text.
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

/// What the model in a folder would see of a text, in rows of `context` tokens (by default as many as
/// it takes): of the first `n` documents each token.
///
/// # Errors
/// If the folder or the text cannot be used.
pub fn look(
    folder: &Path,
    text: &Path,
    context: Option<usize>,
    n: usize,
    skips_bad_lines: bool,
) -> Result<Look, ModelError> {
    let config = read_config(folder)?;
    let context = context_of(folder, &config, context)?;
    let words = Words::open(folder, config.vocabulary)?;
    look_at(&words, text, context, n, BadLines::of(skips_bad_lines))
}

/// Looks at the first `n` documents of a file, and counts them all.
fn look_at(
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
