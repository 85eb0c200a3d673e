//! Numbers that JSON cannot hold.
//!
//! JSON has no NaN and no infinity. A value that is not finite is written as `null`; beside it
//! stand `nonfinite`, which says what the first such value of the line was, and `nonfinite_fields`,
//! which says it for each key, so that a reader gets back exactly what was written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a `null` stands for where a number was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nonfinite {
    /// Not a number.
    #[serde(rename = "nan")]
    Nan,
    /// Positive infinity.
    #[serde(rename = "inf")]
    Inf,
    /// Negative infinity.
    #[serde(rename = "-inf")]
    NegInf,
}

impl Nonfinite {
    /// The kind of `value`, or `None` if it is finite.
    pub fn of(value: f64) -> Option<Self> {
        if value.is_nan() {
            Some(Self::Nan)
        } else if value == f64::INFINITY {
            Some(Self::Inf)
        } else if value == f64::NEG_INFINITY {
            Some(Self::NegInf)
        } else {
            None
        }
    }

    /// The value that this kind stands for.
    pub fn value(self) -> f64 {
        match self {
            Self::Nan => f64::NAN,
            Self::Inf => f64::INFINITY,
            Self::NegInf => f64::NEG_INFINITY,
        }
    }
}

/// The notes about values that are not finite, as they stand in a line of the log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Notes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nonfinite: Option<Nonfinite>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    nonfinite_fields: BTreeMap<String, Nonfinite>,
}

impl Notes {
    /// `value` as JSON can hold it; what is lost is noted under `key`.
    pub(crate) fn put(&mut self, key: &str, value: f64) -> Option<f64> {
        let Some(kind) = Nonfinite::of(value) else { return Some(value) };
        self.nonfinite.get_or_insert(kind);
        self.nonfinite_fields.insert(key.to_owned(), kind);
        None
    }

    /// The value that is noted under `key`, if one is.
    pub(crate) fn noted(&self, key: &str) -> Option<f64> {
        self.nonfinite_fields.get(key).map(|kind| kind.value())
    }

    /// The value that was written under `key`.
    pub(crate) fn get(&self, key: &str, value: Option<f64>) -> f64 {
        value.unwrap_or_else(|| {
            self.nonfinite_fields
                .get(key)
                .copied()
                .or(self.nonfinite)
                .unwrap_or(Nonfinite::Nan)
                .value()
        })
    }
}

/// Fields that may hold any float, for `serde(with)`: a number where JSON has one, else its name.
pub mod any_float {
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer};

    use super::Nonfinite;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Named(Nonfinite),
    }

    /// Writes a value.
    ///
    /// # Errors
    /// As the serializer.
    pub fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        match Nonfinite::of(*value) {
            None => to.serialize_f64(*value),
            Some(kind) => kind.serialize(to),
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// It is neither a number nor the name of one.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(match Written::deserialize(from)? {
            Written::Number(value) => value,
            Written::Named(kind) => kind.value(),
        })
    }
}

/// The same for fields that may have no value at all.
pub mod any_float_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Any(#[serde(with = "super::any_float")] f64);

    /// Writes a value.
    ///
    /// # Errors
    /// As the serializer.
    pub fn serialize<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
        value.map(Any).serialize(to)
    }

    /// Reads a value.
    ///
    /// # Errors
    /// It is neither absent, nor a number, nor the name of one.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Any>::deserialize(from)?.map(|any| any.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_comes_back() {
        let mut notes = Notes::default();
        assert_eq!(notes.put("a", 1.5), Some(1.5));
        assert_eq!(notes.put("b", f64::NEG_INFINITY), None);
        assert_eq!(notes.put("c", f64::NAN), None);
        assert!((notes.get("a", Some(1.5)) - 1.5).abs() < f64::EPSILON);
        assert_eq!(notes.get("b", None).to_bits(), f64::NEG_INFINITY.to_bits());
        assert!(notes.get("c", None).is_nan());
        assert_eq!(
            serde_json::to_string(&notes).unwrap(),
            r#"{"nonfinite":"-inf","nonfinite_fields":{"b":"-inf","c":"nan"}}"#
        );
    }

    #[test]
    fn a_null_without_a_note_is_not_a_number() {
        assert!(Notes::default().get("loss", None).is_nan());
    }
}
