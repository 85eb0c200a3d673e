//! Compares the head of a file of weights with the model before any weight is read.
//!
//! The head names each tensor with its type, its shape and its place. It is read one tensor at a
//! time, and reading ends at the first tensor that the model does not have. So no file costs more
//! than the model.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufReader, Read};
use std::path::Path;

use candle_core::Shape;
use pp_telemetry::input::open_regular;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, de};

/// The most bytes of a head, by the format.
const HEAD_BYTES_MAX: u64 = 100_000_000;
/// The most dimensions of a tensor.
const DIMENSIONS_MAX: usize = 16;

/// Types that weights may have, and the bytes of a number.
const FLOATS: [(&str, u64); 4] = [("F32", 4), ("F64", 8), ("F16", 2), ("BF16", 2)];

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

/// Compares each tensor with the model's as it is read. The result is the end of the last one.
struct Compared<'a> {
    known: &'a BTreeMap<String, Shape>,
}

impl<'de> DeserializeSeed<'de> for Compared<'_> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<u64, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Compared<'_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the head of a safetensors file")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
        let (mut n_found, mut end) = (0, 0);
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let Some(shape) = self.known.get(&name) else {
                return Err(A::Error::custom(format!("the model has no {name}")));
            };
            let tensor: Tensor = map.next_value()?;
            end = end.max(compare(&name, &tensor, shape).map_err(A::Error::custom)?);
            n_found += 1;
            if n_found > self.known.len() {
                return Err(A::Error::custom(format!("it names {name} more than once")));
            }
        }
        Ok(end)
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

/// Checks that the file holds only tensors of the model, each with the model's shape, and nothing
/// behind them.
///
/// # Errors
/// The first mismatch, with both numbers.
pub(crate) fn check(path: &Path, known: &BTreeMap<String, Shape>) -> Result<(), String> {
    let (mut file, len) = open_regular(path).map_err(|failed| failed.to_string())?;
    let mut head_len = [0; 8];
    file.read_exact(&mut head_len)
        .map_err(|_| format!("it has {len} bytes, and no safetensors file has fewer than 8"))?;
    let head_len = u64::from_le_bytes(head_len);
    let rest = len.saturating_sub(8);
    if head_len > rest.min(HEAD_BYTES_MAX) {
        return Err(format!(
            "it is no safetensors file: its head would have {head_len} bytes, of {rest} that follow and {HEAD_BYTES_MAX} at most"
        ));
    }
    let head = BufReader::with_capacity(1 << 16, file.take(head_len));
    let mut json = serde_json::Deserializer::from_reader(head);
    let data_len = Compared { known }.deserialize(&mut json).map_err(|refused| said(&refused))?;
    if rest - head_len != data_len {
        let found = rest - head_len;
        return Err(format!("it has {found} bytes of weights, its head says {data_len}"));
    }
    Ok(())
}

/// The text of a refusal, without its place in the head, which the user does not see.
fn said(refused: &serde_json::Error) -> String {
    let text = refused.to_string();
    match refused.classify() {
        serde_json::error::Category::Data => match text.rfind(" at line ") {
            Some(place) => text[..place].to_owned(),
            None => text,
        },
        _ => format!("it is no safetensors file: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> BTreeMap<String, Shape> {
        BTreeMap::from([("a".to_owned(), Shape::from((2, 3))), ("b".to_owned(), Shape::from(4))])
    }

    fn checked(head: &str, n_data: usize, head_len: Option<u64>) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let len = head_len.unwrap_or(head.len() as u64).to_le_bytes();
        std::fs::write(&file, [&len, head.as_bytes(), &vec![0; n_data]].concat()).unwrap();
        check(file.path(), &known())
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
        assert_eq!(check(Path::new("/dev/zero"), &known()).unwrap_err(), "it is a device");
    }
}
