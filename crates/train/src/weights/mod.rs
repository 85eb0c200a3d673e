//! Initial weights from a file. Its head is compared with the model before any weight is read.
//!
//! The head names each tensor with its type, its shape and its place. It is read one tensor at a
//! time, and reading ends at the first tensor that the model does not have. So no file costs more
//! than the model.
//!
//! The folder of a checkpoint is taken as well: only its weights are read, and all their bytes are
//! verified. From a folder of a model, with one file of weights or several ([`folder`]), each rank
//! reads the weights of its own stages.

mod folder;
mod head;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Shape};
use pp_hybrid::checkpoint::{Checkpoint, CheckpointError, MANIFEST};
use pp_hybrid::first_nonfinite;
use pp_nn::{Ties, Values};
use serde_json::error::Category;

pub use folder::WEIGHTS_FILE;
use folder::WeightFolder;

/// The most bytes of a head, by the format.
const HEAD_BYTES_MAX: u64 = 100_000_000;
/// The reason why a model cannot take its initial weights from a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The file ends before the length of its head.
    #[error("it has {bytes} bytes, and no safetensors file has fewer than 8")]
    TooShort {
        /// Its bytes.
        bytes: u64,
    },
    /// The head is longer than the file or the format allows.
    #[error(
        "it is no safetensors file: its head would have {head} bytes, of {rest} that follow and {} at most",
        HEAD_BYTES_MAX
    )]
    HeadTooLong {
        /// Bytes of the head, by the file.
        head: u64,
        /// Bytes that follow.
        rest: u64,
    },
    /// The head is not JSON.
    #[error("it is no safetensors file")]
    Syntax(#[source] serde_json::Error),
    /// The model has no such tensor, or another one of this name.
    #[error("{0}")]
    Mismatch(String),
    /// The file has more or fewer bytes than its head says.
    #[error("it has {found} bytes of weights, its head says {said}")]
    Length {
        /// Bytes behind the head.
        found: u64,
        /// Bytes of all tensors, by the head.
        said: u64,
    },
    /// A parameter of the model is not in the file.
    #[error("it has no {name}")]
    Absent {
        /// The parameter.
        name: String,
    },
    /// The tensors cannot be read.
    #[error("its tensors cannot be read")]
    Tensors(#[source] candle_core::Error),
    /// A file of a folder does not fit.
    #[error("{name}")]
    File {
        /// The file.
        name: String,
        /// What is wrong with it.
        source: Box<WeightsError>,
    },
    /// A folder without weights, or with an index that does not fit them.
    #[error("{0}")]
    Folder(String),
    /// The folder is no checkpoint, or is not whole.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A weight is not finite.
    #[error("{name} is not finite there")]
    NotFinite {
        /// The parameter.
        name: String,
    },
}

impl From<serde_json::Error> for WeightsError {
    /// A mismatch loses its place in the head, which the user does not see.
    fn from(refused: serde_json::Error) -> Self {
        match refused.classify() {
            Category::Data => {
                let text = refused.to_string();
                let end = text.rfind(" at line ").unwrap_or(text.len());
                Self::Mismatch(text[..end].to_owned())
            }
            Category::Io => Self::Read(refused.into()),
            Category::Syntax | Category::Eof => Self::Syntax(refused),
        }
    }
}

/// Checks that the file, or the checkpoint, holds each tensor of the model, with the model's shape,
/// and nothing else.
///
/// # Errors
/// The first mismatch, with both numbers.
pub(crate) fn check(
    path: &Path,
    known: &BTreeMap<String, Shape>,
    ties: &Ties,
) -> Result<(), WeightsError> {
    if path.join(MANIFEST).exists() {
        return check_checkpoint(&Checkpoint::open(path)?, known);
    }
    if path.is_dir() {
        return WeightFolder::open(path, known, ties, false).map(|_| ());
    }
    let mut left: BTreeSet<&str> = known.keys().map(String::as_str).collect();
    head::read(path, known, &Ties::new(), &mut left)?;
    left.first().map_or(Ok(()), |&name| Err(WeightsError::Absent { name: name.to_owned() }))
}

/// Checks the weights of a checkpoint. One with many more bytes than the model needs is not read.
fn check_checkpoint(
    checkpoint: &Checkpoint,
    known: &BTreeMap<String, Shape>,
) -> Result<(), WeightsError> {
    let there = checkpoint.manifest().parameters;
    let here: u64 = known.values().map(|shape| shape.elem_count() as u64).sum();
    if there != here {
        let message = format!("it has {there} parameters, the model {here}");
        return Err(WeightsError::Mismatch(message));
    }
    checkpoint.refuse_larger(known)?;
    let weights: BTreeMap<_, _> = checkpoint.weights()?.into_iter().collect();
    for (name, shape) in known {
        let Some(tensor) = weights.get(name) else {
            return Err(WeightsError::Absent { name: name.clone() });
        };
        if tensor.shape() != shape {
            let (there, here) = (tensor.dims(), shape.dims());
            let message = format!("{name} is {there:?} there, {here:?} in the model");
            return Err(WeightsError::Mismatch(message));
        }
    }
    match weights.keys().find(|name| !known.contains_key(*name)) {
        None => Ok(()),
        Some(name) => Err(WeightsError::Mismatch(format!("the model has no {name}"))),
    }
}

/// The weights of a model with parameters of these names and shapes: from a file, a checkpoint, or
/// the folder of a model. Those of a folder are read when they are asked for. A folder may have the
/// second place of a tied parameter as well, if both have the same bytes.
///
/// # Errors
/// What is there does not fit the model, or cannot be read.
pub fn open_weights(
    path: &Path,
    known: &BTreeMap<String, Shape>,
    ties: &Ties,
) -> Result<Arc<dyn Values>, WeightsError> {
    check(path, known, ties)?;
    load(path, known, ties, false)
}

/// The tensors of a file, a checkpoint or a folder that [`check`] has passed, by name. Those of a
/// folder are read when they are asked for.
///
/// # Errors
/// [`WeightsError::Tensors`]; [`WeightsError::Checkpoint`]; and [`WeightsError::NotFinite`], unless
/// `takes_nonfinite`.
pub(crate) fn load(
    path: &Path,
    known: &BTreeMap<String, Shape>,
    ties: &Ties,
    takes_nonfinite: bool,
) -> Result<Arc<dyn Values>, WeightsError> {
    let tensors: BTreeMap<_, _> = if path.join(MANIFEST).exists() {
        Checkpoint::open(path)?.weights()?.into_iter().collect()
    } else if path.is_dir() {
        return Ok(Arc::new(WeightFolder::open(path, known, ties, takes_nonfinite)?));
    } else {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu);
        tensors.map_err(WeightsError::Tensors)?.into_iter().collect()
    };
    if !takes_nonfinite
        && let Some(name) = first_nonfinite(&tensors).map_err(WeightsError::Tensors)?
    {
        return Err(WeightsError::NotFinite { name: name.to_owned() });
    }
    Ok(Arc::new(tensors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::causes;

    fn known() -> BTreeMap<String, Shape> {
        BTreeMap::from([("a".to_owned(), Shape::from((2, 3))), ("b".to_owned(), Shape::from(4))])
    }

    fn checked(head: &str, n_data: usize, head_len: Option<u64>) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let len = head_len.unwrap_or(head.len() as u64).to_le_bytes();
        std::fs::write(&file, [&len, head.as_bytes(), &vec![0; n_data]].concat()).unwrap();
        check(file.path(), &known(), &Ties::new()).map_err(|refused| causes(&refused))
    }

    const A: &str = r#""a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}"#;
    const B: &str = r#""b":{"dtype":"F16","shape":[4],"data_offsets":[24,32]}"#;

    #[test]
    fn a_file_of_the_model_passes() {
        checked(&format!("{{{A},{B}}}"), 32, None).unwrap();
        checked(&format!(r#"{{"__metadata__":{{"x":"y"}},{B},{A}}}  "#), 32, None).unwrap();
    }

    #[test]
    fn what_is_not_of_the_model_is_named_before_it_is_read() {
        let refused = |head: &str, n_data, len| checked(head, n_data, len).unwrap_err();
        let many = "1,".repeat(1_000_000);
        for (head, n_data, len, expected) in [
            (format!("{{{A}}}"), 25, None, "it has 25 bytes of weights, its head says 24"),
            (
                format!("{{{A}}}"),
                24,
                Some(1 << 60),
                "its head would have 1152921504606846976 bytes",
            ),
            (format!("{{{A},{A},{A}}}"), 24, None, "it names a more than once"),
            (format!("{{{A},{A}}}"), 24, None, "it names a more than once"),
            (format!("{{{A}}}"), 24, None, "it has no b"),
            (r#"{"c":1}"#.to_owned(), 0, None, "the model has no c"),
            (A.replace("[2,3]", "[3,2]"), 24, None, "a is [3, 2] there, [2, 3] in the model"),
            (A.replace("F32", "I64"), 24, None, "a holds i64 there, the model f32"),
            (A.replace("24", "25"), 25, None, "a has 25 bytes there, its shape needs 24"),
            (A.replace("[0,24]", "[24,0]"), 24, None, "a ends there before it begins"),
            (A.replace("2,3", &format!("{many}1")), 24, None, "more than 16 dimensions"),
            ("[".repeat(1_000_000), 0, None, "invalid type: sequence"),
            (
                format!(r#"{{"__metadata__":{}"#, "[".repeat(1_000_000)),
                0,
                None,
                "it is no safetensors file",
            ),
            ("no".to_owned(), 0, None, "it is no safetensors file"),
        ] {
            let head = if head.starts_with('"') { format!("{{{head}}}") } else { head };
            let why = refused(&head, n_data, len);
            assert!(why.contains(expected), "{expected}: {why}");
        }
        let refused = check(Path::new("/dev/zero"), &known(), &Ties::new()).unwrap_err();
        assert_eq!(refused.to_string(), "it is a device");
    }

    /// Bytes of a file changed at random.
    fn damaged(file: &[u8], case: u64) -> Vec<u8> {
        let mut bytes = file.to_vec();
        let draw = |at: u64, below: usize| (pp_nn::hash(&[case, at]) % below as u64) as usize;
        for change in 0..=draw(0, 3) as u64 {
            let at = draw(10 * change + 1, bytes.len());
            match draw(10 * change + 2, 4) {
                0 => bytes[at] = draw(10 * change + 3, 256) as u8,
                1 => bytes.truncate(at.max(1)),
                2 => drop(bytes.splice(at..at, *b"99")),
                _ => drop(bytes.splice(at..at, [0; 3])),
            }
        }
        bytes
    }

    #[test]
    fn whatever_a_folder_has_it_is_refused_or_its_tensors_are_the_models() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, index) =
            (dir.path().join("model.safetensors"), dir.path().join("model.safetensors.index.json"));
        let head = format!("{{{A},{B}}}");
        let file = [&(head.len() as u64).to_le_bytes(), head.as_bytes(), &[0; 32]].concat();
        let map = r#"{"weight_map":{"a":"model.safetensors","b":"model.safetensors"}}"#;
        let mut n_taken = 0;
        for case in 0..10_000 {
            let has_index = case % 3 == 0;
            let damages_index = case % 6 == 0;
            let weights = if damages_index { file.clone() } else { damaged(&file, case) };
            std::fs::write(&whole, weights).unwrap();
            let _ = std::fs::remove_file(&index);
            if has_index {
                let map = map.as_bytes();
                let map = if damages_index { damaged(map, case) } else { map.to_vec() };
                std::fs::write(&index, map).unwrap();
            }
            let Ok(values) = load(dir.path(), &known(), &Ties::new(), true) else { continue };
            for (name, shape) in known() {
                let value = values.value(&name).unwrap().unwrap();
                assert_eq!(value.shape(), &shape, "case {case}");
            }
            n_taken += 1;
        }
        assert!((100..8000).contains(&n_taken), "{n_taken} were taken");
    }
}
