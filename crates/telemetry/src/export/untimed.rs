//! When something was that has no time of its own.
//!
//! A look at the memory and a validation name their step alone. They get the time at which that
//! step was over; what comes before its step waits for it.

use pp_trace::Event;

/// Events that wait at most; a log with more before a step is over is broken.
const WAITING_MAX: usize = 65_536;

/// Gives a time to events that have none.
#[derive(Debug, Default)]
pub(super) struct Untimed {
    waiting: Vec<Event>,
    /// The last step that is over, and when it was.
    last: Option<(u64, u64)>,
    /// The latest time that any event has named.
    now_ns: u64,
}

impl Untimed {
    /// Takes note of how late it is.
    pub(super) fn see(&mut self, event: &Event) {
        if let Some(ns) = event.time_ns() {
            self.now_ns = self.now_ns.max(ns);
        }
    }

    /// When this was, if its step is over; else it waits.
    pub(super) fn time_of(&mut self, event: &Event, step: u64) -> Option<u64> {
        let is_over = self.last.filter(|(last, _)| step <= *last).map(|(_, ns)| ns);
        if is_over.is_none() {
            if self.waiting.len() >= WAITING_MAX {
                return Some(self.now_ns);
            }
            self.waiting.push(event.clone());
        }
        is_over
    }

    /// A step is over: its time, and what has waited for it.
    pub(super) fn step_over(&mut self, event: &Event, step: u64) -> (u64, Vec<Event>) {
        let ns = event.time_ns().unwrap_or(self.now_ns);
        self.last = Some((step, ns));
        (ns, std::mem::take(&mut self.waiting))
    }

    /// There are no more steps: how late it is, and what still waits.
    pub(super) fn rest(&mut self) -> (u64, Vec<Event>) {
        (self.now_ns, std::mem::take(&mut self.waiting))
    }
}
