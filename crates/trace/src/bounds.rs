//! The limits of the lists and texts in one line of a log. The reader refuses a longer list, so
//! that a short line cannot claim much memory; the recorder keeps to the same limits.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

use crate::lines::LINE_BYTES_MAX;

/// The most stages of a hello, and the most places in its device map.
pub(crate) const STAGES_MAX: usize = 262_144;
/// The most rows of its plan, ranks of its memory plan and words of its command line.
pub(crate) const ROWS_MAX: usize = 65_536;
/// The most bytes of each text in a line that had to be shortened.
const TEXT_BYTES_MAX: usize = 4096;

/// Reads a list of at most `most` entries.
struct Bounded<T> {
    what: &'static str,
    most: usize,
    entries: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {} {}", self.most, self.what)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            if entries.len() == self.most {
                let (what, most) = (self.what, self.most);
                return Err(A::Error::custom(format_args!("more than {most} {what}")));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
    what: &'static str,
    most: usize,
) -> Result<Vec<T>, D::Error> {
    from.deserialize_seq(Bounded { what, most, entries: PhantomData })
}

pub(crate) fn stages<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    bounded(from, "stages", STAGES_MAX)
}

pub(crate) fn layers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
    bounded(from, "layers", STAGES_MAX)
}

pub(crate) fn places<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    bounded(from, "places in the device map", STAGES_MAX)
}

pub(crate) fn hosts<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    bounded(from, "hosts", ROWS_MAX)
}

pub(crate) fn rows<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    bounded(from, "rows of the plan", ROWS_MAX)
}

pub(crate) fn planned<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    bounded(from, "ranks in the memory plan", ROWS_MAX)
}

pub(crate) fn pipeline<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
    bounded(from, "ranks of a pipeline", ROWS_MAX)
}

pub(crate) fn arguments<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    bounded(from, "arguments", ROWS_MAX)
}

/// A text of at most [`TEXT_BYTES_MAX`] bytes, or its beginning.
pub(crate) fn shortened(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let end = (0..=TEXT_BYTES_MAX).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// The length of a line and its limit, as the end of a sentence.
pub(crate) fn mib(n_bytes: usize) -> String {
    format!(
        "{:.1} MiB; a line of a log has at most {} MiB",
        n_bytes as f64 / f64::from(1 << 20),
        LINE_BYTES_MAX >> 20
    )
}
