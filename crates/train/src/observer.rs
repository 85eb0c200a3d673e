//! The notices of a run to its observer, beside its log.

use std::path::Path;

use pp_hybrid::{Evaluation, StepOutcome};
use pp_telemetry::{Event, Hello};

use crate::session::Session;

/// A notice of a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice<'a> {
    /// An event that goes into the log now: the hello, a step, an evaluation, a warning, the end.
    /// Spans, phases, memory and lines of text are in the log alone.
    Event(&'a Event),
    /// The first step can begin.
    Ready(&'a Ready<'a>),
    /// A step is complete.
    Stepped(&'a StepOutcome),
    /// The text of a warning about the training: its loss, or its gradient norm.
    Alarm(&'a str),
    /// The text of a warning about anything else, such as a full disk. The run goes on.
    Warning(&'a str),
    /// The progress of an evaluation.
    Evaluating {
        /// Pieces that are done.
        done: usize,
        /// Pieces in all.
        total: usize,
    },
    /// An evaluation is complete.
    Evaluated {
        /// The step before the evaluation.
        step: u64,
        /// Its result.
        found: Evaluation,
    },
    /// What is saved of the run at its end, and where.
    Saved(&'a str),
    /// Text that the trained model generated. Control characters have been replaced.
    Sample(&'a str),
}

/// A run before its first step.
#[derive(Debug)]
pub struct Ready<'a> {
    /// The session of the run.
    pub session: &'a Session,
    /// The first event of the log.
    pub hello: &'a Hello,
    /// The run in a few lines.
    pub opening: &'a str,
    /// The time of each phase so far, in one line.
    pub took: &'a str,
    /// The folder of the run.
    pub dir: &'a Path,
}

/// Receives the notices of a run. A closure is an observer.
pub trait Observer {
    /// Receives a notice. The run waits until this returns.
    fn notice(&mut self, notice: &Notice<'_>);
}

impl<F: FnMut(&Notice<'_>)> Observer for F {
    fn notice(&mut self, notice: &Notice<'_>) {
        self(notice);
    }
}
