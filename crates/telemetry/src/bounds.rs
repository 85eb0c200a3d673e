//! How much one line of a log may name: what a line of some bytes can ask for is bounded, and what
//! the recorder writes keeps to the same bounds.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

use crate::event::{DeviceMapEntry, Hello, PlannedMem, StageInfo};
use crate::lines::LINE_BYTES_MAX;

/// Ranks, over all replicas, that are shown at most.
pub(crate) const RANKS_MAX: u64 = 65_536;
/// Stages of a hello, and places of its device map, at most.
pub(crate) const STAGES_MAX: usize = 262_144;
/// Rows of its plan, ranks of its memory plan and words of its command line, at most.
const ROWS_MAX: usize = 65_536;
/// Bytes of a text in a line that had to be shortened.
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

pub(crate) fn stages<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<StageInfo>, D::Error> {
    bounded(from, "stages", STAGES_MAX)
}

pub(crate) fn layers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
    bounded(from, "layers", STAGES_MAX)
}

pub(crate) fn places<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<DeviceMapEntry>, D::Error> {
    bounded(from, "places in the device map", STAGES_MAX)
}

pub(crate) fn rows<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    bounded(from, "rows of the plan", ROWS_MAX)
}

pub(crate) fn planned<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PlannedMem>, D::Error> {
    bounded(from, "ranks in the memory plan", ROWS_MAX)
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

impl Hello {
    /// The parts that its reader would refuse: lists that are too long. They are left out, and it
    /// is said.
    pub(crate) fn without_what_is_refused(&self) -> Option<Self> {
        let mut kept = self.clone();
        let mut left_out = Vec::new();
        let mut bound = |what: &'static str, n: usize, most: usize| {
            let is_over = n > most;
            if is_over {
                left_out.push(format!("{n} {what}, of which a log holds {most} at most"));
            }
            is_over
        };
        if bound("stages", kept.stages.len(), STAGES_MAX) {
            kept.stages.clear();
        }
        if bound("places of the device map", kept.device_map.len(), STAGES_MAX) {
            kept.device_map.clear();
        }
        if bound("rows of the plan", kept.plan.len(), ROWS_MAX) {
            kept.plan.clear();
        }
        if bound("ranks of the memory plan", kept.memory_plan.len(), ROWS_MAX) {
            kept.memory_plan.clear();
        }
        if bound("layers", kept.layer_seconds.len(), STAGES_MAX) {
            kept.layer_seconds.clear();
        }
        if bound("arguments", kept.argv.len(), ROWS_MAX) {
            kept.argv.truncate(1);
        }
        if left_out.is_empty() {
            return None;
        }
        kept.say_omitted(&left_out.join(", "));
        Some(kept)
    }

    /// Without its plan, whose line would have so many bytes.
    pub(crate) fn without_plan(&self, n_bytes: usize) -> Self {
        let mut kept = Self { plan: Vec::new(), ..self.clone() };
        kept.say_omitted(&format!("the plan: with it this line has {}", mib(n_bytes)));
        kept
    }

    /// With its numbers alone, for what nobody expects: names of megabytes.
    pub(crate) fn brief(&self, n_bytes: usize) -> Self {
        let mut kept = Self {
            run: shortened(&self.run),
            model: shortened(&self.model),
            schedule: shortened(&self.schedule),
            host: shortened(&self.host),
            clock: shortened(&self.clock),
            argv: Vec::new(),
            device_map: Vec::new(),
            stages: Vec::new(),
            plan: Vec::new(),
            memory_plan: Vec::new(),
            partition: shortened(&self.partition),
            layer_seconds: Vec::new(),
            socket: None,
            omitted: None,
            ..self.clone()
        };
        kept.say_omitted(&format!("all lists: with them this line has {}", mib(n_bytes)));
        kept
    }

    fn say_omitted(&mut self, what: &str) {
        let what = match self.omitted.take() {
            Some(before) => format!("{before}; {what}"),
            None => what.to_owned(),
        };
        self.omitted = Some(what);
    }
}

/// How long a line is, and how long it may be.
pub(crate) fn mib(n_bytes: usize) -> String {
    format!(
        "{:.1} MiB, a line of a log at most {} MiB",
        n_bytes as f64 / f64::from(1 << 20),
        LINE_BYTES_MAX >> 20
    )
}
