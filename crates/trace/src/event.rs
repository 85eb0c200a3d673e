//! The lines of a run's log.
//!
//! A log is a text file with one JSON object a line; the key `ev` says which kind of line it is.
//! Kinds and keys that are not known here are ignored, so that an older monitor can watch a newer
//! run; only a newer major version of the whole format, named by `hello`, is refused.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::device::{Cpu, Gpu};
use crate::hello::Hello;
use crate::index::Index;
use crate::phase::PhaseEvent;
use crate::span::Span;
use crate::step::{Eval, StepEvent};
use crate::text::write_json;

/// The major version of the log that this crate writes and reads.
pub const SCHEMA: u32 = 1;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
pub enum Event {
    /// What is run, and where: the first line.
    Hello(Box<Hello>),
    /// A finished training step.
    Step(StepEvent),
    /// What one rank did for a while.
    Span(Span),
    /// The memory of one rank.
    Mem(Mem),
    /// A look at a GPU.
    Gpu(Box<Gpu>),
    /// A look at the thread of a rank.
    Cpu(Cpu),
    /// A validation.
    Eval(Eval),
    /// Something that lasts and is no step.
    Phase(PhaseEvent),
    /// Something worth knowing.
    Log(Log),
    /// Something that may be wrong.
    Warn(Warn),
    /// The recorder could not keep up.
    Dropped(Dropped),
    /// A mark: the state that all lines before it lead to. [`Index`] keeps its line as it is.
    #[serde(skip)]
    Index(Index),
    /// How the run ended: the last line.
    End(End),
}

/// The memory of one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mem {
    /// The training step during which it was read.
    pub step: u64,
    /// The replica.
    pub replica: u32,
    /// The rank.
    pub rank: u32,
    /// Bytes in tensors now.
    pub live_bytes: u64,
    /// Most bytes in tensors so far.
    pub peak_bytes: u64,
    /// Bytes of parameters.
    pub parameter_bytes: u64,
    /// Bytes of gradients.
    pub gradient_bytes: u64,
    /// Bytes of the optimizer's state.
    pub optimizer_bytes: u64,
    /// Bytes of packed copies of weights.
    pub packed_bytes: u64,
    /// Most bytes that wait between ops: activations, residues of weight gradients, messages.
    pub stash_bytes: u64,
    /// What ops needed beyond that while they ran.
    pub temporary_bytes: u64,
}

/// Something worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// Time since the run began.
    pub elapsed_ns: u64,
    /// The step that it belongs to, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// One line of text.
    pub message: String,
}

/// Something that may be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Warn {
    /// Time since the run began.
    pub elapsed_ns: u64,
    /// The step that it belongs to, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// The rank that it belongs to, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// One line of text.
    pub message: String,
}

/// The recorder could not keep up with the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dropped {
    /// Time since the recorder was made.
    pub elapsed_ns: u64,
    /// Events lost so far.
    pub count: u64,
}

/// How the run ended.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    /// The exit code of the trainer.
    pub code: i32,
    /// `finished`, or why the run ended early.
    pub reason: String,
    /// Steps that were finished.
    pub steps: u64,
    /// The rank that failed.
    pub rank: Option<u32>,
    /// What it was doing, such as `1F3`.
    pub op: Option<String>,
    /// A fingerprint of the final weights.
    pub weights_hash: Option<String>,
    /// What is saved of the run, and where, in a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved: Option<String>,
    /// How long the run took.
    pub wall_seconds: f64,
}

/// What a line of a log turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// An event of a kind that is known here.
    Event(Event),
    /// A well-formed line of another kind, to be ignored.
    Unknown,
}

/// A line that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LineError {
    /// The whole log is of a newer format.
    #[error(
        "the log has schema {found}, but this program reads schema {supported} and older; use a newer version"
    )]
    NewerSchema {
        /// The version in the log.
        found: u64,
        /// The newest version that can be read.
        supported: u32,
    },
    /// The line is not an object with a text under `ev`, or lacks what its kind needs.
    #[error("not an event: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The line is a damaged mark. [`Event::parse`] does not check marks; a
    /// [`Follower`](crate::Follower) with a [`MarkReader`](crate::MarkReader) does.
    #[error("a damaged index record")]
    Damaged,
}

/// Just enough of a line to know its kind.
#[derive(Deserialize)]
struct Head {
    ev: String,
    #[serde(default)]
    schema: Option<u64>,
}

const SPAN_HEAD: &[u8] = br#"{"ev":"span","#;

impl Event {
    /// When it was known, in nanoseconds since the run began: for a span its end. `None` for what
    /// has no time of its own.
    pub fn time_ns(&self) -> Option<u64> {
        match self {
            Self::Hello(_) => Some(0),
            // A float beyond the range of the integer becomes its largest value.
            Self::Step(step) => {
                step.elapsed_seconds.is_finite().then_some((step.elapsed_seconds * 1e9) as u64)
            }
            Self::Span(span) => Some(span.end_ns()),
            Self::Gpu(gpu) => Some(gpu.elapsed_ns),
            Self::Cpu(cpu) => Some(cpu.elapsed_ns),
            Self::Phase(phase) => Some(phase.elapsed_ns),
            Self::Log(log) => Some(log.elapsed_ns),
            Self::Warn(warn) => Some(warn.elapsed_ns),
            Self::End(end) => {
                end.wall_seconds.is_finite().then_some((end.wall_seconds * 1e9) as u64)
            }
            // The clock of the recorder is not that of the run.
            Self::Dropped(_) | Self::Mem(_) | Self::Eval(_) | Self::Index(_) => None,
        }
    }

    /// Appends the event as one line, with the line feed.
    ///
    /// # Errors
    /// Never for events of this crate; the signature is that of the serializer.
    pub fn write_line(&self, into: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let start = into.len();
        if let Self::Index(index) = self {
            into.extend_from_slice(index.line());
            into.push(b'\n');
            return Ok(());
        }
        let written = write_json(&mut *into, self);
        if written.is_err() {
            into.truncate(start);
        } else {
            into.push(b'\n');
        }
        written
    }

    /// The event as one line, without the line feed.
    ///
    /// # Errors
    /// Never for events of this crate; the signature is that of the serializer.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let mut line = Vec::new();
        self.write_line(&mut line)?;
        line.pop();
        // A serializer writes text.
        String::from_utf8(line).map_err(serde::ser::Error::custom)
    }

    /// Reads one line.
    ///
    /// # Errors
    /// [`LineError::NewerSchema`] for a `hello` of a newer format, [`LineError::Malformed`] for
    /// anything that is not an event.
    pub fn parse(line: &[u8]) -> Result<Line, LineError> {
        // Nearly every line of a log is a span, as the recorder writes it.
        if let Some(span) = Span::parse_written(line) {
            return Ok(Line::Event(Self::Span(span)));
        }
        // Some editors begin a file with a mark of its encoding.
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        if line.starts_with(SPAN_HEAD) {
            return Ok(Line::Event(Self::Span(serde_json::from_slice(line)?)));
        }
        let head: Head = serde_json::from_slice(line)?;
        let event = match head.ev.as_str() {
            "hello" => {
                if let Some(found) = head.schema.filter(|&found| found > u64::from(SCHEMA)) {
                    return Err(LineError::NewerSchema { found, supported: SCHEMA });
                }
                Self::Hello(serde_json::from_slice(line)?)
            }
            "step" => Self::Step(serde_json::from_slice(line)?),
            "span" => Self::Span(serde_json::from_slice(line)?),
            "mem" => Self::Mem(serde_json::from_slice(line)?),
            "eval" => Self::Eval(serde_json::from_slice(line)?),
            "phase" => Self::Phase(serde_json::from_slice(line)?),
            "log" => Self::Log(serde_json::from_slice(line)?),
            "warn" => Self::Warn(serde_json::from_slice(line)?),
            "dropped" => Self::Dropped(serde_json::from_slice(line)?),
            "gpu" => Self::Gpu(serde_json::from_slice(line)?),
            "cpu" => Self::Cpu(serde_json::from_slice(line)?),
            "index" => Self::Index(Index::new(line)),
            "end" => Self::End(serde_json::from_slice(line)?),
            _ => return Ok(Line::Unknown),
        };
        Ok(Line::Event(event))
    }
}
