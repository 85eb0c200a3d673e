//! The lines of a run's log.
//!
//! A log is a text file with one JSON object a line; the key `ev` says which kind of line it is. Kinds and keys that
//! are not known here are ignored, so that an older monitor can watch a newer run; only a newer major version of the
//! whole format, named by `hello`, is refused.

use pp_schedule::write_json;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bounds;
use crate::device::{Cpu, Gpu};
use crate::index::{self, Index};
use crate::phase::PhaseEvent;
use crate::span::Span;
use crate::step::{Eval, StepEvent};

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
    /// All before it in one line.
    Index(Box<Index>),
    /// How the run ended: the last line.
    End(End),
}

/// What is run, and where.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hello {
    /// The major version of the log, [`SCHEMA`].
    pub schema: u32,
    /// The id of the run.
    pub run: String,
    /// The process of the trainer.
    pub pid: u32,
    /// Its command line.
    #[serde(deserialize_with = "bounds::arguments")]
    pub argv: Vec<String>,
    /// The name of the model.
    pub model: String,
    /// The name of the schedule.
    pub schedule: String,
    /// Ranks along the pipeline.
    pub pp: u32,
    /// Replicas.
    pub dp: u32,
    /// Chunks that each rank owns.
    pub virtual_stages: u32,
    /// Micro-batches of each replica in a step.
    pub micro_batches: u32,
    /// Samples in a step, over all replicas.
    pub batch_size: u64,
    /// Steps that are planned.
    pub steps: u64,
    /// After every so many steps the held-out samples are looked at, and after the last one; 0
    /// where that is not known or not done.
    #[serde(skip_serializing_if = "is_none")]
    pub eval_every: u64,
    /// Cores that the process may use.
    pub cores: u32,
    /// The machine.
    pub host: String,
    /// Bytes of memory that the machine has, for ranks on its processor; 0 where that is not known.
    pub host_memory_bytes: u64,
    /// Where the run takes requests, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// The seed.
    pub seed: u64,
    /// Parameters of the whole model.
    pub parameters: u64,
    /// Where each stage of each replica lives.
    #[serde(deserialize_with = "bounds::places")]
    pub device_map: Vec<DeviceMapEntry>,
    /// What each stage is made of.
    #[serde(deserialize_with = "bounds::stages")]
    pub stages: Vec<StageInfo>,
    /// The plan: for each rank its operations in order, as in `0F0,0F1,0B0,0B1`.
    #[serde(deserialize_with = "bounds::rows")]
    pub plan: Vec<String>,
    /// What the recorder left out of this line, and why; absent where it is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub omitted: Option<String>,
    /// When the run began, in milliseconds of Unix time: the one link between the run's clock and the wall clock.
    pub started_unix_ms: u64,
    /// Which clock the spans come from: `host`.
    pub clock: String,
    /// Tokens that one sample is made of; 0 where samples are not made of tokens.
    pub tokens_per_sample: u64,
    /// The bubble ratio that the schedule promises: by its formula, or by simulation where it has none.
    pub theory: Option<f64>,
    /// After the first steps, spans are recorded for every so-manieth step only; 1 records all.
    pub span_every: u64,
    /// What each rank of a replica will hold at most, found before the run; empty where nobody knows.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "bounds::planned")]
    pub memory_plan: Vec<PlannedMem>,
    /// How the layers were cut into stages: `uniform`, `parameters`, `time`, or layers of each
    /// stage such as `3,5`; empty where nobody said so.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub partition: String,
    /// Matrix kernels, for each product and number of rows; empty if the log does not say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kernels: String,
    /// What each layer was measured to take for a micro-batch, forward and backward, in seconds;
    /// empty where nothing was measured.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "bounds::layers")]
    pub layer_seconds: Vec<f64>,
    /// Floating-point operations that one sample needs, forward and backward; 0 where that is not
    /// known.
    #[serde(skip_serializing_if = "is_zero")]
    pub flops_per_sample: u64,
    /// What all devices of the run together could do in a second at most, where somebody said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_flops: Option<f64>,
}

/// What a rank will hold at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedMem {
    /// The rank.
    pub rank: u32,
    /// All of it, at the worst moment.
    pub peak_bytes: u64,
    /// Bytes of parameters.
    pub parameter_bytes: u64,
    /// Bytes of gradients.
    pub gradient_bytes: u64,
    /// Bytes of the optimizer's state.
    pub optimizer_bytes: u64,
    /// Bytes of packed copies of weights.
    pub packed_bytes: u64,
    /// Bytes that wait between ops: activations, residues of weight gradients, messages.
    pub stash_bytes: u64,
    /// What an op needs beyond that while it runs.
    pub temporary_bytes: u64,
}

impl Hello {
    /// Ranks over all replicas, as far as they are shown: none of more than a screen has names for.
    pub(crate) fn n_ranks_shown(&self) -> u64 {
        let n_ranks = u64::from(self.pp) * u64::from(self.dp);
        if n_ranks <= bounds::RANKS_MAX { n_ranks } else { 0 }
    }

    /// How the layers were cut: what the log says, or for a log of before what follows from the
    /// command line; `None` where neither tells.
    pub fn cut(&self) -> Option<&str> {
        if !self.partition.is_empty() {
            return Some(&self.partition);
        }
        let flag = "--partition";
        let mut args = self.argv.iter().skip_while(|arg| !arg.starts_with(flag));
        if let Some(given) = args.next() {
            let given = given.strip_prefix(flag)?;
            return given.strip_prefix('=').or_else(|| args.next().map(String::as_str));
        }
        match self.model.as_str() {
            _ if self.argv.is_empty() => None,
            "sleep" => Some("uniform"),
            "gpt" | "seed-mlp" | "wine-mlp" => Some("time"),
            _ => None,
        }
    }

    /// Ranks over all replicas, and cores, when there are more ranks than cores; `None` too where the cores are not known.
    pub fn ranks_over_cores(&self) -> Option<(u64, u32)> {
        let n_ranks = u64::from(self.pp) * u64::from(self.dp);
        (self.cores > 0 && n_ranks > u64::from(self.cores)).then_some((n_ranks, self.cores))
    }
}

/// Where one stage of one replica lives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceMapEntry {
    /// The stage.
    pub stage: u32,
    /// The rank that computes it.
    pub rank: u32,
    /// The replica.
    pub replica: u32,
    /// The device, such as `cpu:0`.
    pub device: String,
    /// What the driver calls the device for ever; absent for a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its address on the bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
}

/// What one stage is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StageInfo {
    /// The stage.
    pub stage: u32,
    /// The copy of the model that it belongs to: Chimera has two, 0 and 1.
    #[serde(skip_serializing_if = "is_first")]
    pub copy: u32,
    /// The rank that computes it.
    pub rank: u32,
    /// Its first and its last layer.
    pub layers: [u32; 2],
    /// Its parameters.
    pub parameters: u64,
    /// The bytes of its parameters.
    pub parameter_bytes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Nearly every schedule has one copy of the model, whose number goes without saying.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_first(copy: &u32) -> bool {
    *copy == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_none(number: &u64) -> bool {
    *number == 0
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
        "the log has schema {found}, this program reads schema {supported} and older; use a newer one"
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
    /// The line is a mark whose checksum does not fit.
    #[error("a damaged mark")]
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
    /// When it was known, in nanoseconds since the run began: for a span its end. `None` for what has no time of its own.
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
            return index.write_line(into);
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
    /// [`LineError::NewerSchema`] for a `hello` of a newer format, [`LineError::Malformed`] for anything that is not
    /// an event.
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
            "index" if !index::is_undamaged(line) => return Err(LineError::Damaged),
            "index" => Self::Index(serde_json::from_slice(line)?),
            "end" => Self::End(serde_json::from_slice(line)?),
            _ => return Ok(Line::Unknown),
        };
        Ok(Line::Event(event))
    }
}
