//! The events of a trace, one after another.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::ImportError;
use crate::input::open_regular;

const BUFFER_BYTES: usize = 1 << 18;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Bytes of one string in a trace beyond which it is no trace of a pipeline.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// One event, as far as it is looked at.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct TraceEvent {
    pub(super) ph: Short,
    pub(super) cat: Short,
    pub(super) name: Short,
    pub(super) pid: Loose,
    pub(super) tid: Loose,
    /// Microseconds.
    pub(super) ts: f64,
    pub(super) dur: f64,
    pub(super) args: Args,
}

impl TraceEvent {
    /// When it began, in nanoseconds; `None` if that is no time.
    pub(super) fn start_ns(&self) -> Option<i64> {
        nanoseconds(self.ts)
    }

    /// How long it took, in nanoseconds.
    pub(super) fn dur_ns(&self) -> Option<u64> {
        nanoseconds(self.dur).and_then(|ns| u64::try_from(ns).ok())
    }
}

/// Microseconds as nanoseconds; `None` outside some centuries.
fn nanoseconds(micros: f64) -> Option<i64> {
    let ns = (micros * 1e3).round();
    (ns.abs() < 9e18).then_some(ns as i64)
}

/// What `pptop` writes beside its own events; other programs write other things there.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Args {
    pub(super) step: Option<u64>,
    pub(super) micro_batch: Option<u64>,
    pub(super) stage: Option<u64>,
    pub(super) bytes: Option<u64>,
    pub(super) loss: Option<f64>,
}

impl<'de> Deserialize<'de> for Args {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Known;
        impl<'de> Visitor<'de> for Known {
            type Value = Args;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Args, A::Error> {
                let mut args = Args::default();
                while let Some(Short(key)) = map.next_key()? {
                    let whole = match key.as_str() {
                        "step" => &mut args.step,
                        "micro_batch" => &mut args.micro_batch,
                        "stage" => &mut args.stage,
                        "bytes" => &mut args.bytes,
                        "loss" => {
                            args.loss = map.next_value::<Loose>()?.number();
                            continue;
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *whole = map.next_value::<Loose>()?.whole();
                }
                Ok(args)
            }

            fn visit_unit<E>(self) -> Result<Args, E> {
                Ok(Args::default())
            }
        }
        from.deserialize_any(Known)
    }
}

/// A value that may be a number, a text or anything else.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Loose {
    #[default]
    Other,
    Number(f64),
    Text(String),
}

impl Loose {
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// A whole number that is not negative.
    pub(super) fn whole(&self) -> Option<u64> {
        let number = self.number()?;
        #[expect(clippy::cast_sign_loss, reason = "it is not negative")]
        ((0.0..=9e15).contains(&number) && number.fract() == 0.0).then_some(number as u64)
    }

    /// What tells two threads apart.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Other => String::new(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// A text; of anything else nothing is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Short(pub(super) String);

macro_rules! loose {
    ($name:ident, $text:expr, $number:expr, $other:expr) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Any;
                impl<'de> Visitor<'de> for Any {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("any value")
                    }

                    fn visit_str<E>(self, text: &str) -> Result<$name, E> {
                        Ok($text(text))
                    }

                    fn visit_u64<E>(self, number: u64) -> Result<$name, E> {
                        Ok($number(number as f64))
                    }

                    fn visit_i64<E>(self, number: i64) -> Result<$name, E> {
                        Ok($number(number as f64))
                    }

                    fn visit_f64<E>(self, number: f64) -> Result<$name, E> {
                        Ok($number(number))
                    }

                    fn visit_bool<E>(self, _: bool) -> Result<$name, E> {
                        Ok($other)
                    }

                    fn visit_unit<E>(self) -> Result<$name, E> {
                        Ok($other)
                    }

                    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<$name, A::Error> {
                        while list.next_element::<IgnoredAny>()?.is_some() {}
                        Ok($other)
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                        Ok($other)
                    }
                }
                from.deserialize_any(Any)
            }
        }
    };
}

loose!(Loose, |text: &str| Loose::Text(text.to_owned()), Loose::Number, Loose::Other);
loose!(Short, |text: &str| Short(text.to_owned()), |_: f64| Short::default(), Short::default());

/// What a trace says about itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct About {
    /// The rank in the whole job.
    pub(super) rank: Option<u64>,
    /// What is added to its times, in nanoseconds.
    pub(super) base_ns: i64,
}

/// Reads a trace, gzip's included, and hands over each event.
///
/// # Errors
/// It cannot be read, or is no trace.
pub(super) fn read(
    path: &Path,
    mut on_event: impl FnMut(TraceEvent) -> Result<(), ImportError>,
) -> Result<About, ImportError> {
    let unread = |source| ImportError::Read { path: path.to_owned(), source };
    let (file, _) = open_regular(path).map_err(unread)?;
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
    let is_gzip = file.fill_buf().map_err(unread)?.starts_with(&GZIP_MAGIC);
    let mut failed = None;
    let mut about = About::default();
    let read = {
        let mut each = |event: TraceEvent| match on_event(event) {
            Ok(()) => true,
            Err(error) => {
                failed = Some(error);
                false
            }
        };
        if is_gzip {
            let opened = BufReader::with_capacity(BUFFER_BYTES, Unzipped::new(file));
            whole(ShortTexts::new(opened), &mut about, &mut each)
        } else {
            whole(ShortTexts::new(file), &mut about, &mut each)
        }
    };
    match (failed, read) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(about),
        (None, Err(error)) if error.is_io() => Err(unread(error.into())),
        (None, Err(source)) => Err(ImportError::Broken { path: path.to_owned(), source }),
    }
}

type Unzipped = flate2::read::MultiGzDecoder<BufReader<File>>;

/// Passes JSON on as long as no text in it is too long: a parser holds a whole text.
struct ShortTexts<R> {
    from: R,
    /// Bytes of the text so far, if one is open.
    n_in_text: Option<usize>,
    is_escaped: bool,
}

impl<R> ShortTexts<R> {
    fn new(from: R) -> Self {
        Self { from, n_in_text: None, is_escaped: false }
    }
}

impl<R: Read> Read for ShortTexts<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_read = self.from.read(buffer)?;
        for &byte in &buffer[..n_read] {
            match &mut self.n_in_text {
                None if byte == b'"' => self.n_in_text = Some(0),
                None => {}
                Some(_) if self.is_escaped => self.is_escaped = false,
                Some(_) if byte == b'\\' => self.is_escaped = true,
                Some(_) if byte == b'"' => self.n_in_text = None,
                Some(n) => {
                    *n += 1;
                    if *n > TEXT_BYTES_MAX {
                        return Err(io::Error::other("a text in it has more than 1 MiB"));
                    }
                }
            }
        }
        Ok(n_read)
    }
}

/// Reads one JSON value that is a trace.
fn whole(
    from: impl Read,
    about: &mut About,
    each: &mut dyn FnMut(TraceEvent) -> bool,
) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_reader(from);
    Trace { about, each }.deserialize(&mut json)?;
    json.end()
}

struct Trace<'a> {
    about: &'a mut About,
    each: &'a mut dyn FnMut(TraceEvent) -> bool,
}

impl<'de> DeserializeSeed<'de> for Trace<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Trace<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a trace: an object with traceEvents, or a list of events")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_events = false;
        while let Some(Short(key)) = map.next_key()? {
            match key.as_str() {
                "traceEvents" => {
                    has_events = true;
                    map.next_value_seed(Events(&mut *self.each))?;
                }
                "distributedInfo" => {
                    self.about.rank = map.next_value::<Distributed>()?.rank.whole();
                }
                "baseTimeNanoseconds" => {
                    // As an integer: a float would lose the last digits.
                    self.about.base_ns = map.next_value::<Option<i64>>()?.unwrap_or(0);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if has_events { Ok(()) } else { Err(A::Error::missing_field("traceEvents")) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        Events(self.each).visit_seq(list)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Distributed {
    rank: Loose,
}

struct Events<'a>(&'a mut dyn FnMut(TraceEvent) -> bool);

impl<'de> DeserializeSeed<'de> for Events<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Events<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(event) = list.next_element()? {
            if !(self.0)(event) {
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}
