//! A recorded run in the formats of other programs.
//!
//! ```text
//! events.jsonl ─▶ Follower ─▶ one writer a format ─▶ trace.json, steps.csv, metrics.txt,
//!                                                    steps.svg, events.out.tfevents…
//! ```
//!
//! A log of any length is streamed: what a writer keeps is one step at most, or what the picture
//! that it draws is made of.

mod chrome_trace;
mod csv;
mod prometheus;
mod range;
mod svg;
#[cfg(feature = "tensorboard")]
mod tensorboard;
mod untimed;

use std::io::{self, Write};
use std::path::Path;

use thiserror::Error;

use pp_trace::{Event, ReadError};

use crate::follower::Follower;

pub use prometheus::standing_metrics;
pub use range::{StepRange, StepRangeError};
pub use svg::STEPS_DRAWN_MAX;

use chrome_trace::ChromeTrace;
use csv::{SpanRows, StepRows};
use prometheus::Prometheus;
use svg::Svg;
#[cfg(feature = "tensorboard")]
use tensorboard::TensorBoard;

/// What a run can be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// A trace that Perfetto and Chrome open: a process a replica, a track a rank, a slice a span.
    ChromeTrace,
    /// A line of numbers a step.
    StepsCsv,
    /// A line of numbers a span.
    SpansCsv,
    /// An event file of scalars for TensorBoard.
    #[cfg(feature = "tensorboard")]
    TensorBoard,
    /// A picture of what the ranks did in a step.
    Svg,
    /// The last state as text for Prometheus.
    Prometheus,
}

impl ExportFormat {
    /// The log, opened where this format has to begin: the last state alone doesn't need all of it.
    pub fn follow(self, log: &Path) -> Follower {
        match self {
            Self::Prometheus => Follower::from_last_mark(log),
            Self::ChromeTrace | Self::StepsCsv | Self::SpansCsv | Self::Svg => Follower::new(log),
            #[cfg(feature = "tensorboard")]
            Self::TensorBoard => Follower::new(log),
        }
    }
}

/// A run that cannot be exported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The log cannot be read.
    #[error("{}", .0.with_remedy())]
    Read(#[from] ReadError),
    /// Nothing in it is an event.
    #[error("none of {n_lines} lines is an event; name the log of a run")]
    NotALog {
        /// Lines that were looked at.
        n_lines: u64,
    },
    /// The result cannot be written.
    #[error("{0}")]
    Write(#[from] io::Error),
    /// The log has none of the steps that were asked for.
    #[error("no step of {asked} is in the log; {}", in_log(*.found))]
    NoSuchSteps {
        /// What was asked for.
        asked: StepRange,
        /// The first and the last step in the log.
        found: Option<(u64, u64)>,
    },
    /// There is nothing to draw.
    #[error("no step was recorded in full, with its spans; {}", recorded(*.asked))]
    NothingToDraw {
        /// What was asked for.
        asked: Option<StepRange>,
    },
    /// There is too much to draw.
    #[error(
        "more than {STEPS_DRAWN_MAX} recorded steps to draw; choose at most {STEPS_DRAWN_MAX} with --steps A..B"
    )]
    TooManySteps,
    /// There is far too much to draw.
    #[error("more than {most} spans to draw; choose fewer steps, or another format")]
    TooManySpans {
        /// How many may be.
        most: usize,
    },
}

fn in_log(found: Option<(u64, u64)>) -> String {
    match found {
        Some((first, last)) => format!("it has steps {first}..{last}"),
        None => "it has no finished step yet".to_owned(),
    }
}

fn recorded(asked: Option<StepRange>) -> &'static str {
    match asked {
        Some(_) => "choose steps whose spans were recorded, or train with --spans all",
        None => "wait for such a step, or train with --spans all",
    }
}

/// One format: takes the events in their order, and writes as it goes.
///
/// Nothing may be written before the first event of a step, or the end: what is refused then leaves
/// no trace.
trait Writer {
    /// Takes one event.
    fn push(&mut self, event: &Event, out: &mut dyn Write) -> Result<(), ExportError>;

    /// There are no more.
    fn finish(&mut self, out: &mut dyn Write) -> Result<(), ExportError>;
}

/// The export of one run, event by event.
///
/// ```
/// use pp_telemetry::{Eval, Event, Export, ExportFormat};
///
/// let mut export = Export::new(ExportFormat::StepsCsv, None);
/// let mut text = Vec::new();
/// export.push(&Event::Eval(Eval { step: 20, loss: 0.5, accuracy: None }), &mut text)?;
/// export.finish(&mut text)?;
/// assert!(text.starts_with(b"step,loss,lr,"));
/// # Ok::<(), pp_telemetry::ExportError>(())
/// ```
pub struct Export {
    writer: Box<dyn Writer>,
    steps: Option<StepRange>,
    found: Option<(u64, u64)>,
    n_in_range: u64,
}

impl Export {
    /// An export of the whole run, or of some of its steps.
    pub fn new(format: ExportFormat, steps: Option<StepRange>) -> Self {
        let writer: Box<dyn Writer> = match format {
            ExportFormat::ChromeTrace => Box::new(ChromeTrace::default()),
            ExportFormat::StepsCsv => Box::new(StepRows::default()),
            ExportFormat::SpansCsv => Box::new(SpanRows::default()),
            #[cfg(feature = "tensorboard")]
            ExportFormat::TensorBoard => Box::new(TensorBoard::default()),
            ExportFormat::Svg => Box::new(Svg::new(steps)),
            ExportFormat::Prometheus => Box::new(Prometheus::default()),
        };
        Self { writer, steps, found: None, n_in_range: 0 }
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// It cannot be written, or there is more than the format holds.
    pub fn push(&mut self, event: &Event, out: &mut dyn Write) -> Result<(), ExportError> {
        // What lies between steps belongs to the one before it, and makes none known.
        if let Event::Phase(phase) = event
            && self.steps.is_some_and(|steps| !phase.step.is_some_and(|step| steps.contains(step)))
        {
            return Ok(());
        }
        if let Some(step) = step_of(event) {
            let (first, last) = self.found.unwrap_or((step, step));
            self.found = Some((first.min(step), last.max(step)));
            if self.steps.is_some_and(|steps| !steps.contains(step)) {
                return Ok(());
            }
            self.n_in_range += 1;
        }
        self.writer.push(event, out)
    }

    /// There are no more events.
    ///
    /// # Errors
    /// The rest cannot be written; or there was nothing of what was asked for, and nothing was
    /// written either.
    pub fn finish(&mut self, out: &mut dyn Write) -> Result<(), ExportError> {
        if let Some(asked) = self.steps.filter(|_| self.n_in_range == 0) {
            return Err(ExportError::NoSuchSteps { asked, found: self.found });
        }
        self.writer.finish(out)?;
        Ok(out.flush()?)
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("steps", &self.steps).finish_non_exhaustive()
    }
}

/// The step that an event belongs to, for the kinds that are taken or left by it.
fn step_of(event: &Event) -> Option<u64> {
    match event {
        Event::Step(step) => Some(step.step),
        Event::Span(span) => Some(span.step),
        Event::Mem(memory) => Some(memory.step),
        Event::Eval(eval) => Some(eval.step),
        Event::Hello(_)
        | Event::Phase(_)
        | Event::Gpu(_)
        | Event::Cpu(_)
        | Event::Log(_)
        | Event::Warn(_)
        | Event::Dropped(_)
        | Event::Index(_)
        | Event::End(_) => None,
    }
}

/// Exports what is in a log now; how many of its lines were no events and were left out.
///
/// # Errors
/// [`ExportError`] says what is wrong with the log, with what was asked for, or with where it is
/// written.
pub fn export(
    log: &mut Follower,
    format: ExportFormat,
    steps: Option<StepRange>,
    out: &mut dyn Write,
) -> Result<u64, ExportError> {
    let mut export = Export::new(format, steps);
    let mut n_events = 0;
    loop {
        let mut pushed = Ok(());
        let poll = log.poll(|event| {
            if pushed.is_ok() {
                pushed = export.push(&event, out);
            }
        })?;
        pushed?;
        n_events += poll.n_events;
        if poll.at_end {
            break;
        }
    }
    let n_bad = log.n_bad_lines();
    if n_events == 0 && n_bad > 0 {
        return Err(ExportError::NotALog { n_lines: n_bad + log.n_unknown_lines() });
    }
    export.finish(out)?;
    Ok(n_bad)
}
