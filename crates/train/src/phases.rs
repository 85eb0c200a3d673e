//! The phases of a run beside its steps, such as profiling and evaluation, in its log.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pp_telemetry::{Event, PhaseEvent, Recorder};

/// The shortest time between two progress events of a phase.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// The current phase as text, for the reason of a run that ends early.
#[derive(Debug, Clone, Default)]
pub(crate) struct Now(Arc<Mutex<Option<String>>>);

impl Now {
    pub(crate) fn text(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, text: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

/// The recorder of phases.
#[derive(Debug, Clone)]
pub(crate) struct Phases {
    recorder: Recorder,
    origin: Instant,
    pub(crate) now: Now,
}

impl Phases {
    pub(crate) fn new(recorder: Recorder, origin: Instant) -> Self {
        Self { recorder, origin, now: Now::default() }
    }

    /// Begins a phase. A `total` of 0 means that the amount of work is unknown.
    pub(crate) fn begin(&self, name: &str, step: Option<u64>, total: usize) -> Phase {
        let start_ns = self.elapsed_ns();
        let event = PhaseEvent {
            phase: name.to_owned(),
            step,
            start_ns,
            elapsed_ns: start_ns,
            dur_ns: None,
            done: 0,
            total: total as u64,
        };
        let phase = Phase { phases: self.clone(), event, told: Instant::now() };
        phase.tell();
        phase
    }

    fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A phase in progress. Dropping it records nothing, because the run ends as well.
#[derive(Debug)]
pub(crate) struct Phase {
    phases: Phases,
    event: PhaseEvent,
    told: Instant,
}

impl Phase {
    /// Reports progress.
    pub(crate) fn at(&mut self, done: usize, total: usize) {
        (self.event.done, self.event.total) = (done as u64, total as u64);
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            self.event.elapsed_ns = self.phases.elapsed_ns();
            self.tell();
        } else {
            self.phases.now.set(Some(self.event.text()));
        }
    }

    /// Ends the phase, and returns its seconds.
    pub(crate) fn end(mut self) -> f64 {
        let now_ns = self.phases.elapsed_ns();
        let dur_ns = now_ns.saturating_sub(self.event.start_ns);
        (self.event.elapsed_ns, self.event.dur_ns) = (now_ns, Some(dur_ns));
        self.event.done = self.event.total;
        self.phases.recorder.record(Event::Phase(self.event.clone()));
        self.phases.now.set(None);
        dur_ns as f64 * 1e-9
    }

    fn tell(&self) {
        self.phases.now.set(Some(self.event.text()));
        self.phases.recorder.record(Event::Phase(self.event.clone()));
    }
}
