//! The phases of a run before its first step.

use std::path::PathBuf;
use std::time::Instant;

use pp_hybrid::Trainer;
use pp_telemetry::{PhaseEvent, PlannedMem, Recorder};

use crate::error::TrainError;
use crate::phases::Phases;
use crate::profiles::Profiles;
use crate::session::{Prepared, Preparing, Session};

/// A run that is ready for its first step.
pub(crate) struct Ready {
    pub(crate) session: Session,
    pub(crate) trainer: Trainer,
    pub(crate) memory_plan: Vec<PlannedMem>,
    /// The phases so far, with their seconds.
    pub(crate) took: Vec<(&'static str, f64)>,
}

/// Measures, cuts, rehearses and builds. Each of these is a phase in the log.
pub(crate) fn make_ready(
    prepared: Prepared,
    recorder: &Recorder,
    origin: Instant,
    phases: &Phases,
    sheets: Option<PathBuf>,
) -> Result<Ready, TrainError> {
    let mut took = Vec::new();
    let mut phase = None;
    let mut session = prepared.cut(&mut Profiles::default(), |now| match now {
        Preparing::Profiling(done, total) => phase
            .get_or_insert_with(|| phases.begin(PhaseEvent::PROFILING, None, total))
            .at(done, total),
        Preparing::Cutting => {
            took.extend(phase.take().map(|phase| (PhaseEvent::PROFILING, phase.end())));
            phase = Some(phases.begin(PhaseEvent::CUTTING, None, 0));
        }
    })?;
    took.extend(phase.map(|phase| (PhaseEvent::CUTTING, phase.end())));
    let phase = phases.begin(PhaseEvent::REHEARSING, None, 0);
    let memory_plan = session.memory_plan()?;
    took.push((PhaseEvent::REHEARSING, phase.end()));
    let phase = phases.begin(PhaseEvent::BUILDING, None, 0);
    let trainer = session.trainer_of(recorder.clone(), origin, sheets)?;
    took.push((PhaseEvent::BUILDING, phase.end()));
    Ok(Ready { session, trainer, memory_plan, took })
}
