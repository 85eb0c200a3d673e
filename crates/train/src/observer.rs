//! Who is told what a run does, beside its log.

use std::path::Path;

use pp_hybrid::{Evaluation, StepOutcome};
use pp_telemetry::{Event, Hello};

use crate::session::Session;

/// What a run tells.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice<'a> {
    /// An event that goes into the log now: the hello, a step, an evaluation, a warning, the end.
    /// Spans, phases, memory and lines of text are in the log alone.
    Event(&'a Event),
    /// The first step can begin.
    Ready(&'a Ready<'a>),
    /// A step was made.
    Stepped(&'a StepOutcome),
    /// The training goes wrong: the text of the warning.
    Alarm(&'a str),
    /// Something around the run goes wrong, which goes on: a full disk, a name that is taken.
    Warning(&'a str),
    /// An evaluation goes on.
    Evaluating {
        /// Pieces that are done.
        done: usize,
        /// Pieces in all.
        total: usize,
    },
    /// What was held out has been looked at.
    Evaluated {
        /// After this step.
        step: u64,
        /// What was found.
        found: Evaluation,
    },
    /// Text by the trained model. Control characters have been replaced.
    Sample(&'a str),
}

/// A run before its first step.
#[derive(Debug)]
pub struct Ready<'a> {
    /// What is trained.
    pub session: &'a Session,
    /// What the log begins with.
    pub hello: &'a Hello,
    /// The run in a few lines.
    pub opening: &'a str,
    /// What took how long, in a line.
    pub took: &'a str,
    /// The folder of the run.
    pub dir: &'a Path,
}

/// Who is told what a run does. A closure will do.
pub trait Observer {
    /// The run does this. It waits until this returns.
    fn notice(&mut self, notice: &Notice<'_>);
}

impl<F: FnMut(&Notice<'_>)> Observer for F {
    fn notice(&mut self, notice: &Notice<'_>) {
        self(notice);
    }
}
