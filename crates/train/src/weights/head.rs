//! The heads of safetensors files, compared with a model as they are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Shape};
use pp_nn::Ties;
use pp_telemetry::input::open_regular;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, de};

use super::{HEAD_BYTES_MAX, WeightsError};

/// The most dimensions of a tensor.
const DIMENSIONS_MAX: usize = 16;

/// Types that weights may have.
const FLOATS: [(&str, DType); 4] =
    [("F32", DType::F32), ("F64", DType::F64), ("F16", DType::F16), ("BF16", DType::BF16)];

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

/// Where a tensor stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Its type.
    pub(super) dtype: DType,
    /// Its bytes in the file.
    pub(super) bytes: Range<u64>,
}

/// Tensors by name.
pub(super) type Places = BTreeMap<String, Place>;

/// What a head says.
struct Head {
    places: Places,
    /// The end of the last tensor.
    data_len: u64,
}

/// Compares each tensor with the model's as it is read.
struct Compared<'a, 'b> {
    known: &'a BTreeMap<String, Shape>,
    /// From the name of the second place of a tied parameter to that of the first.
    ties: &'b Ties,
    /// Parameters that no head has named yet.
    left: &'b mut BTreeSet<&'a str>,
}

impl<'de> DeserializeSeed<'de> for Compared<'_, '_> {
    type Value = Head;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Head, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Compared<'_, '_> {
    type Value = Head;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the head of a safetensors file")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head, A::Error> {
        let (mut places, mut data_len) = (Places::new(), 0);
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if is_no_parameter(&name) {
                data_len = data_len.max(map.next_value::<Tensor>()?.data_offsets.1);
                continue;
            }
            if let Some(shape) = self.ties.get(&name).and_then(|first| self.known.get(first)) {
                let place = compare(&name, &map.next_value()?, shape).map_err(A::Error::custom)?;
                data_len = data_len.max(place.bytes.end);
                if places.insert(name.clone(), place).is_some() {
                    return Err(A::Error::custom(format!("it names {name} more than once")));
                }
                continue;
            }
            let Some(shape) = self.known.get(&name) else {
                return Err(A::Error::custom(format!("the model has no {name}")));
            };
            let tensor: Tensor = map.next_value()?;
            let place = compare(&name, &tensor, shape).map_err(A::Error::custom)?;
            if !self.left.remove(name.as_str()) {
                return Err(A::Error::custom(format!("it names {name} more than once")));
            }
            data_len = data_len.max(place.bytes.end);
            places.insert(name, place);
        }
        Ok(Head { places, data_len })
    }
}

/// Tables that older programs keep with the weights, and that follow from the configuration.
fn is_no_parameter(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

/// The place of the tensor behind the head, if it matches the model's.
fn compare(name: &str, tensor: &Tensor, shape: &Shape) -> Result<Place, String> {
    let is_same = tensor.shape.len() == shape.rank()
        && tensor.shape.iter().zip(shape.dims()).all(|(there, here)| *there == *here as u64);
    if !is_same {
        return Err(format!("{name} is {:?} there, {:?} in the model", tensor.shape, shape.dims()));
    }
    let float = FLOATS.iter().find(|(dtype, _)| *dtype == tensor.dtype);
    let Some(&(_, dtype)) = float else {
        let dtype = tensor.dtype.to_lowercase();
        return Err(format!("{name} holds {dtype} there, the model f32"));
    };
    let (start, end) = tensor.data_offsets;
    let expected = (dtype.size_in_bytes() * shape.elem_count()) as u64;
    match end.checked_sub(start) {
        Some(found) if found == expected => Ok(Place { dtype, bytes: start..end }),
        Some(found) => Err(format!("{name} has {found} bytes there, its shape needs {expected}")),
        None => Err(format!("{name} ends there before it begins")),
    }
}

/// Where the tensors of a file stand, counted from its beginning. All of them are the model's, or the
/// second places of tied ones; those of the model are taken from `left`.
///
/// # Errors
/// The first tensor that is not the model's, that overlaps another, or that lies outside of the file.
pub(super) fn read<'a>(
    path: &Path,
    known: &'a BTreeMap<String, Shape>,
    ties: &Ties,
    left: &mut BTreeSet<&'a str>,
) -> Result<Places, WeightsError> {
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
    let Head { mut places, data_len: said } =
        Compared { known, ties, left }.deserialize(&mut json)?;
    let mut in_order: Vec<(&String, &Place)> = places.iter().collect();
    in_order.sort_by_key(|(_, place)| place.bytes.start);
    let overlap = in_order.windows(2).find(|two| two[0].1.bytes.end > two[1].1.bytes.start);
    if let Some(two) = overlap {
        let message = format!("{} and {} overlap", two[0].0, two[1].0);
        return Err(WeightsError::Mismatch(message));
    }
    let found = rest - head;
    if found != said {
        return Err(WeightsError::Length { found, said });
    }
    for place in places.values_mut() {
        place.bytes = place.bytes.start + head + 8..place.bytes.end + head + 8;
    }
    Ok(places)
}
