//! Initial weights from a file. Its head is compared with the model before any weight is read.
//!
//! The head names each tensor with its type, its shape and its place. It is read one tensor at a
//! time, and reading ends at the first tensor that the model does not have. So no file costs more
//! than the model.
//!
//! The folder of a checkpoint is taken as well: only its weights are read, and all their bytes are
//! verified.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufReader, Read};
use std::path::Path;

use candle_core::{Device, Shape};
use pp_hybrid::checkpoint::{Checkpoint, CheckpointError, MANIFEST};
use pp_hybrid::first_nonfinite;
use pp_telemetry::input::open_regular;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::error::Category;

/// The most bytes of a head, by the format.
const HEAD_BYTES_MAX: u64 = 100_000_000;
/// The most dimensions of a tensor.
const DIMENSIONS_MAX: usize = 16;

/// Types that weights may have, and the bytes of a number.
const FLOATS: [(&str, u64); 4] = [("F32", 4), ("F64", 8), ("F16", 2), ("BF16", 2)];

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

/// The entry of a tensor in the head.
#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    #[serde(deserialize_with = "dimensions")]
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

fn dimensions<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
    struct Few;

    impl<'de> Visitor<'de> for Few {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {DIMENSIONS_MAX} dimensions")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u64>, A::Error> {
            let mut shape = Vec::new();
            while let Some(n) = list.next_element()? {
                if shape.len() == DIMENSIONS_MAX {
                    let message = format!("a tensor has more than {DIMENSIONS_MAX} dimensions");
                    return Err(A::Error::custom(message));
                }
                shape.push(n);
            }
            Ok(shape)
        }
    }

    from.deserialize_seq(Few)
}

/// A head whose tensors are all the model's.
struct Head {
    /// The end of the last tensor.
    data_len: u64,
    /// A parameter of the model that the head does not name.
    absent: Option<String>,
}

/// Compares each tensor with the model's as it is read.
struct Compared<'a> {
    known: &'a BTreeMap<String, Shape>,
}

impl<'de> DeserializeSeed<'de> for Compared<'_> {
    type Value = Head;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Head, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Compared<'_> {
    type Value = Head;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the head of a safetensors file")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head, A::Error> {
        let mut left: BTreeSet<&str> = self.known.keys().map(String::as_str).collect();
        let mut data_len = 0;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let Some(shape) = self.known.get(&name) else {
                return Err(A::Error::custom(format!("the model has no {name}")));
            };
            let tensor: Tensor = map.next_value()?;
            data_len = data_len.max(compare(&name, &tensor, shape).map_err(A::Error::custom)?);
            if !left.remove(name.as_str()) {
                return Err(A::Error::custom(format!("it names {name} more than once")));
            }
        }
        Ok(Head { data_len, absent: left.first().map(|&name| name.to_owned()) })
    }
}

/// The end of the tensor in the file, if it matches the model's.
fn compare(name: &str, tensor: &Tensor, shape: &Shape) -> Result<u64, String> {
    let is_same = tensor.shape.len() == shape.rank()
        && tensor.shape.iter().zip(shape.dims()).all(|(there, here)| *there == *here as u64);
    if !is_same {
        return Err(format!("{name} is {:?} there, {:?} in the model", tensor.shape, shape.dims()));
    }
    let float = FLOATS.iter().find(|(dtype, _)| *dtype == tensor.dtype);
    let Some((_, n_bytes)) = float else {
        let dtype = tensor.dtype.to_lowercase();
        return Err(format!("{name} holds {dtype} there, the model f32"));
    };
    let (start, end) = tensor.data_offsets;
    let expected = n_bytes * shape.elem_count() as u64;
    match end.checked_sub(start) {
        Some(found) if found == expected => Ok(end),
        Some(found) => Err(format!("{name} has {found} bytes there, its shape needs {expected}")),
        None => Err(format!("{name} ends there before it begins")),
    }
}

/// Checks that the file, or the checkpoint, holds each tensor of the model, with the model's shape,
/// and nothing else.
///
/// # Errors
/// The first mismatch, with both numbers.
pub(crate) fn check(path: &Path, known: &BTreeMap<String, Shape>) -> Result<(), WeightsError> {
    if path.join(MANIFEST).exists() {
        return check_checkpoint(&Checkpoint::open(path)?, known);
    }
    let (mut file, bytes) = open_regular(path)?;
    let mut head = [0; 8];
    file.read_exact(&mut head).map_err(|failed| match failed.kind() {
        io::ErrorKind::UnexpectedEof => WeightsError::TooShort { bytes },
        _ => WeightsError::Read(failed),
    })?;
    let head = u64::from_le_bytes(head);
    let rest = bytes.saturating_sub(8);
    if head > rest.min(HEAD_BYTES_MAX) {
        return Err(WeightsError::HeadTooLong { head, rest });
    }
    let text = BufReader::with_capacity(1 << 16, file.take(head));
    let mut json = serde_json::Deserializer::from_reader(text);
    let Head { data_len: said, absent } = Compared { known }.deserialize(&mut json)?;
    let found = rest - head;
    if found != said {
        return Err(WeightsError::Length { found, said });
    }
    absent.map_or(Ok(()), |name| Err(WeightsError::Absent { name }))
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

/// The tensors of a file or a checkpoint that [`check`] has passed, by name.
///
/// # Errors
/// [`WeightsError::Tensors`]; [`WeightsError::Checkpoint`]; and [`WeightsError::NotFinite`], unless
/// `takes_nonfinite`.
pub(crate) fn load(
    path: &Path,
    takes_nonfinite: bool,
) -> Result<BTreeMap<String, candle_core::Tensor>, WeightsError> {
    let tensors: BTreeMap<_, _> = if path.join(MANIFEST).exists() {
        Checkpoint::open(path)?.weights()?.into_iter().collect()
    } else {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu);
        tensors.map_err(WeightsError::Tensors)?.into_iter().collect()
    };
    if !takes_nonfinite
        && let Some(name) = first_nonfinite(&tensors).map_err(WeightsError::Tensors)?
    {
        return Err(WeightsError::NotFinite { name: name.to_owned() });
    }
    Ok(tensors)
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
        check(file.path(), &known()).map_err(|refused| causes(&refused))
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
        let refused = check(Path::new("/dev/zero"), &known()).unwrap_err();
        assert_eq!(refused.to_string(), "it is a device");
    }
}
