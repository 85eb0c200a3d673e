//! What a run does that lasts and is no step, told to its log.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pp_telemetry::{Event, PhaseEvent, Recorder};

/// How often the log is told how far a phase is, at most.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// What goes on now, for whoever has to say it when the run ends early.
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

/// Where phases are told.
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

    /// A phase begins; `total` is 0 where nobody knows how much there is to do.
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

/// A phase that goes on. Dropped, it ends without a word: the run does as well.
#[derive(Debug)]
pub(crate) struct Phase {
    phases: Phases,
    event: PhaseEvent,
    told: Instant,
}

impl Phase {
    /// So much is done.
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

    /// It is over; how many seconds it took.
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
