//! The file of one rank, where each process of a job writes its own.
//!
//! `rank-R.jsonl` has the lines of a log, with three kinds of its own: `rank`, its first line,
//! says which rank of which job writes it; `rank_step` says that a step is over on this rank; and
//! `rank_end` is its last line. Times count from the start of the writer's machine. A reader merges
//! the files of all ranks into one log.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::event::{Event, Line, LineError, SCHEMA};
use crate::poll::{Poll, ReadError};
use crate::source::Source;
use crate::tail::Tail;
use crate::text::write_json;

/// What the first line of a rank's file says. What is `None`, empty or 0 is not told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RankHead {
    /// The place of the rank in its pipeline.
    pub rank: u32,
    /// Ranks of the pipeline.
    pub pp: u32,
    /// The global ranks of the pipeline, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "bounds::pipeline")]
    pub pipeline: Vec<u32>,
    /// The rank in the whole job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_rank: Option<u32>,
    /// Ranks of the whole job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world_size: Option<u32>,
    /// The framework and its version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program: String,
    /// The name that the framework has for the schedule.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub schedule: String,
    /// The name of the model.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Stages of the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_stages: Option<u32>,
    /// Micro-batches of a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batches: Option<u32>,
    /// Planned steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// The stages of this rank.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "bounds::stages")]
    pub stages: Vec<RankStage>,
    /// The device, such as `cuda:0`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// What the driver calls the device for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its address on the bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
    /// Which clock the spans come from: `host` or `device`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub clock: String,
    /// The process.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pid: u32,
    /// When it began, in clock ticks since the boot.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pid_began: u64,
    /// The number of its PID namespace.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pid_namespace: u64,
    /// The id of the machine's boot: processes with the same one share a clock.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot: String,
    /// The machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The command line.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "bounds::arguments"
    )]
    pub argv: Vec<String>,
    /// What all ranks of a job have in common and no other job has, as far as it is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub job: String,
    /// This moment on the clock of the file.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub elapsed_ns: u64,
    /// The same moment in nanoseconds of Unix time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unix_ns: u64,
}

/// A stage of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RankStage {
    /// Its number in the pipeline.
    pub stage: u32,
    /// Its parameters.
    pub parameters: u64,
    /// Their bytes.
    pub parameter_bytes: u64,
}

/// A step that is over on one rank.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RankStep {
    /// The step, from 1.
    pub step: u64,
    /// When it began on this rank.
    pub start_ns: u64,
    /// When it was over.
    pub end_ns: u64,
    /// The loss, as far as this rank knows it; not finite where a note says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The learning rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// The norm of the gradients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Samples of the step in this pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// Tokens of the step in this pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
}

/// The last line of a rank's file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RankEnd {
    /// When it was written.
    pub elapsed_ns: u64,
    /// The exit code, as far as the process could know it.
    pub code: i32,
    /// `finished`, or why the process ended.
    pub reason: String,
}

/// A line of a rank's file.
#[derive(Debug, Clone, PartialEq)]
pub enum RankLine {
    /// Its first line.
    Head(Box<RankHead>),
    /// A step is over.
    Step(RankStep),
    /// Its last line.
    End(RankEnd),
    /// A line that stands in every log.
    Event(Event),
}

/// [`RankStep`] with the notes about numbers that JSON cannot hold.
#[derive(Serialize, Deserialize)]
struct StepLine {
    #[serde(flatten)]
    step: RankStep,
    #[serde(flatten)]
    notes: crate::number::Notes,
}

#[derive(Deserialize)]
struct Kind<'a> {
    ev: std::borrow::Cow<'a, str>,
    #[serde(default)]
    schema: Option<u64>,
}

impl RankStep {
    fn numbers(&mut self) -> [(&'static str, &mut Option<f64>); 3] {
        [("loss", &mut self.loss), ("lr", &mut self.lr), ("grad_norm", &mut self.grad_norm)]
    }
}

/// A number that is left out where it is not told.
fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl RankLine {
    /// Appends the line, with its line feed.
    ///
    /// # Errors
    /// Never for lines of this crate; the signature is that of the serializer.
    pub fn write_line(&self, into: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        #[derive(Serialize)]
        struct Kind<'a, T> {
            ev: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            schema: Option<u32>,
            #[serde(flatten)]
            line: &'a T,
        }
        match self {
            Self::Event(event) => return event.write_line(into),
            Self::Head(line) => {
                write_json(&mut *into, &Kind { ev: "rank", schema: Some(SCHEMA), line })?;
            }
            Self::Step(step) => {
                let (mut step, mut notes) = (*step, crate::number::Notes::default());
                for (key, value) in step.numbers() {
                    *value = value.and_then(|value| notes.put(key, value));
                }
                let line = &StepLine { step, notes };
                write_json(&mut *into, &Kind { ev: "rank_step", schema: None, line })?;
            }
            Self::End(line) => {
                write_json(&mut *into, &Kind { ev: "rank_end", schema: None, line })?;
            }
        }
        into.push(b'\n');
        Ok(())
    }

    /// Reads one line; `None` for a kind that is not known here.
    ///
    /// # Errors
    /// As [`Event::parse`].
    pub fn parse(line: &[u8]) -> Result<Option<Self>, LineError> {
        if !line.starts_with(br#"{"ev":"rank"#) {
            return match Event::parse(line)? {
                Line::Event(event) => Ok(Some(Self::Event(event))),
                Line::Unknown => Self::parse_own(line),
            };
        }
        Self::parse_own(line)
    }

    fn parse_own(line: &[u8]) -> Result<Option<Self>, LineError> {
        let kind: Kind<'_> = serde_json::from_slice(line)?;
        Ok(Some(match &*kind.ev {
            "rank" => {
                if let Some(found) = kind.schema.filter(|&found| found > u64::from(SCHEMA)) {
                    return Err(LineError::NewerSchema { found, supported: SCHEMA });
                }
                Self::Head(serde_json::from_slice(line)?)
            }
            "rank_step" => {
                let StepLine { mut step, notes } = serde_json::from_slice(line)?;
                for (key, value) in step.numbers() {
                    *value = value.or_else(|| notes.noted(key));
                }
                Self::Step(step)
            }
            "rank_end" => Self::End(serde_json::from_slice(line)?),
            _ => return Ok(None),
        }))
    }
}

/// A file of a rank, by its name `rank-R.jsonl` or `rank-R.N.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RankFile {
    /// The global rank.
    pub number: u32,
    /// How many files the rank had in this folder before.
    pub count: u32,
    /// The file.
    pub path: PathBuf,
}

impl RankFile {
    /// What the name of a file says; `None` if it is another's.
    pub fn of(path: &Path) -> Option<Self> {
        let (number, count) = numbers_of(path.file_name()?)?;
        Some(Self { number, count, path: path.to_owned() })
    }

    /// The files of ranks in a folder, in their order; none where there is no folder.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn all_in(dir: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for entry in entries {
            files.extend(Self::of(&entry?.path()));
        }
        files.sort();
        Ok(files)
    }

    /// Whether this is such a name.
    pub fn is_name(name: &OsStr) -> bool {
        numbers_of(name).is_some()
    }
}

fn numbers_of(name: &OsStr) -> Option<(u32, u32)> {
    let middle = name.to_str()?.strip_prefix("rank-")?.strip_suffix(".jsonl")?;
    let number = |text: &str| {
        let is_plain = text == "0" || !text.starts_with(['0', '+']);
        text.parse().ok().filter(|_| is_plain)
    };
    match middle.split_once('.') {
        None => Some((number(middle)?, 0)),
        Some((rank, count)) => Some((number(rank)?, number(count).filter(|&count| count > 0)?)),
    }
}

/// Reads the file of a rank while it grows.
pub struct RankFollower {
    tail: Tail,
}

impl RankFollower {
    /// A reader of the file from its beginning.
    pub fn new(path: &Path) -> Self {
        Self { tail: Tail::new(path) }
    }

    /// Reads what is there, as far as the buffer goes, and hands over each line.
    ///
    /// # Errors
    /// The file cannot be read, has shrunk, or is of a newer format.
    pub fn poll(
        &mut self,
        buffer: &mut [u8],
        on_line: impl FnMut(RankLine),
    ) -> Result<Poll, ReadError> {
        let open = |path: &Path| Ok((Source::open_at(path, 0)?, 0));
        self.tail.poll(buffer, open, RankLine::parse, on_line)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.tail.path()
    }

    /// The byte up to which it was read.
    pub fn n_bytes(&self) -> u64 {
        self.tail.n_bytes()
    }

    /// Lines that could not be used.
    pub fn n_bad_lines(&self) -> u64 {
        self.tail.n_bad_lines()
    }

    /// What is wrong with the first of them.
    pub fn first_refusal(&self) -> Option<String> {
        self.tail.first_refusal()
    }
}

impl std::fmt::Debug for RankFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RankFollower").field("path", &self.path()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::SpanKind;

    #[test]
    fn names_say_which_rank_and_which_of_its_files() {
        let of = |name: &str| numbers_of(OsStr::new(name));
        assert_eq!(of("rank-0.jsonl"), Some((0, 0)));
        assert_eq!(of("rank-12.3.jsonl"), Some((12, 3)));
        for other in [
            "rank-.jsonl",
            "rank-01.jsonl",
            "rank-+1.jsonl",
            "rank-1.0.jsonl",
            "rank-1.jsonl.zst",
            "rank-1.state",
            "rank-1.2.3.jsonl",
            "rank-99999999999.jsonl",
            "events.jsonl",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn its_own_lines_are_read_beside_those_of_every_log() {
        let head = br#"{"ev":"rank","schema":1,"rank":1,"pp":2,"pipeline":[4,5],"later":true}"#;
        let Ok(Some(RankLine::Head(head))) = RankLine::parse(head) else { panic!() };
        assert_eq!((head.rank, head.pp, &head.pipeline[..]), (1, 2, &[4, 5][..]));
        let step = br#"{"ev":"rank_step","step":3,"start_ns":1,"end_ns":9,"loss":null,"nonfinite":"inf","nonfinite_fields":{"loss":"inf"}}"#;
        let Ok(Some(RankLine::Step(step))) = RankLine::parse(step) else { panic!() };
        assert_eq!((step.loss, step.lr), (Some(f64::INFINITY), None));
        let span = br#"{"ev":"span","step":1,"rank":0,"op":"F","start_ns":5,"dur_ns":6}"#;
        let Ok(Some(RankLine::Event(Event::Span(span)))) = RankLine::parse(span) else { panic!() };
        assert_eq!(span.op, SpanKind::F);
        let end = RankLine::parse(br#"{ "ev":"rank_end","code":1,"reason":"x"}"#);
        assert!(matches!(end, Ok(Some(RankLine::End(RankEnd { code: 1, .. })))));
        assert_eq!(RankLine::parse(br#"{"ev":"news"}"#).unwrap(), None);
        assert!(RankLine::parse(br#"{"ev":"rank","rank":-1}"#).is_err());
        let newer = RankLine::parse(br#"{"ev":"rank","schema":2}"#);
        assert!(matches!(newer, Err(LineError::NewerSchema { found: 2, .. })));
    }
}
