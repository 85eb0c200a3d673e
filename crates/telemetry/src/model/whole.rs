//! Whether all of a step was recorded.
//!
//! A recorder that can't keep up loses events. What is lost looks like idleness to whoever adds up
//! spans, so such a step is told from a whole one: by the plan, which says how many operations each
//! rank has to do, or else by the count of lost events.

use std::collections::BTreeMap;

use super::activity::Progress;
use crate::mark_v1::IncompleteV1;
use pp_trace::{Event, Hello, Span};

/// Ranks over all replicas that are counted at most.
const PLACES_MAX: u64 = 65_536;
/// Steps whose operations are counted at once at most.
const RUNNING_MAX: usize = 16;

/// How many operations each rank has to do in a step.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    /// Empty where the plan is not known.
    of_rank: Vec<u64>,
    dp: u32,
}

impl Expected {
    pub(crate) fn of(hello: &Hello) -> Self {
        Self::by(&Progress::new(hello), hello.dp)
    }

    pub(super) fn by(progress: &Progress, dp: u32) -> Self {
        let of_rank: Vec<u64> =
            progress.n_ops_of_ranks().into_iter().flatten().map(|n| n as u64).collect();
        // A log may claim any number of replicas.
        let n_places = of_rank.len() as u64 * u64::from(dp);
        Self { of_rank: if n_places <= PLACES_MAX { of_rank } else { Vec::new() }, dp }
    }

    /// How many operations of a step that is over were lost. `n_lost` events were lost during the
    /// step: where there is no plan, all of them may have been operations.
    pub(crate) fn missing<'a>(
        &self,
        spans: impl IntoIterator<Item = &'a Span>,
        n_lost: u64,
    ) -> u64 {
        let mut done = Done::default();
        spans.into_iter().for_each(|span| done.add(span));
        self.missing_of(&done, n_lost)
    }

    fn missing_of(&self, Done(done): &Done, n_lost: u64) -> u64 {
        if self.of_rank.is_empty() {
            return n_lost;
        }
        let mut n_missing = 0_u64;
        for replica in 0..self.dp {
            for (rank, expected) in (0..).zip(&self.of_rank) {
                let n_done = done.get(&(replica, rank)).copied().unwrap_or(0);
                n_missing = n_missing.saturating_add(expected.saturating_sub(n_done));
            }
        }
        n_missing
    }

    /// How many operations a step has; 0 where the plan is not known.
    pub(crate) fn n_ops(&self) -> u64 {
        self.of_rank.iter().sum::<u64>().saturating_mul(u64::from(self.dp))
    }
}

/// Operations of a step by replica and rank.
#[derive(Debug, Clone, Default)]
struct Done(BTreeMap<(u32, u32), u64>);

impl Done {
    fn add(&mut self, span: &Span) {
        let is_new = !self.0.contains_key(&(span.replica, span.rank));
        if span.op.is_compute() && (!is_new || (self.0.len() as u64) < PLACES_MAX) {
            *self.0.entry((span.replica, span.rank)).or_default() += 1;
        }
    }
}

/// Counts operations as they come, for whoever keeps no spans.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    expected: Expected,
    running: BTreeMap<u64, Done>,
    n_dropped: u64,
    last_step: u64,
}

impl Tally {
    /// Takes an event; for a step that is over how many of its operations were lost, `None` where
    /// none was recorded.
    pub(crate) fn push(&mut self, event: &Event) -> Option<u64> {
        match event {
            Event::Hello(hello) => {
                let last_step = hello.first_step() - 1;
                *self = Self { expected: Expected::of(hello), last_step, ..Self::default() }
            }
            Event::Span(span)
                if self.running.len() < RUNNING_MAX || self.running.contains_key(&span.step) =>
            {
                self.running.entry(span.step).or_default().add(span);
            }
            Event::Step(step) => {
                // Of the steps before the first that is looked at nobody knows which of them lost
                // what.
                let is_next = step.step == self.last_step.saturating_add(1);
                let n_lost = if is_next { step.dropped.saturating_sub(self.n_dropped) } else { 0 };
                self.last_step = step.step;
                self.n_dropped = self.n_dropped.max(step.dropped);
                let done = self.running.remove(&step.step);
                // Of a step whose end was never told nothing more will come.
                self.running.retain(|&running, _| running > step.step);
                return match done {
                    Some(done) => Some(self.expected.missing_of(&done, n_lost)),
                    None => (n_lost > 0).then(|| self.expected.n_ops().max(1)),
                };
            }
            _ => {}
        }
        None
    }
}

/// The steps of which operations were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Incomplete {
    /// How many such steps there are.
    pub n_steps: u64,
    /// The last of them.
    pub last_step: u64,
    /// Operations of it that were lost.
    pub n_missing: u64,
    /// Operations that it should have had; 0 where that is not known.
    pub n_expected: u64,
}

impl From<Incomplete> for IncompleteV1 {
    fn from(incomplete: Incomplete) -> Self {
        let Incomplete { n_steps, last_step, n_missing, n_expected } = incomplete;
        Self { n_steps, last_step, n_missing, n_expected }
    }
}

impl From<IncompleteV1> for Incomplete {
    fn from(saved: IncompleteV1) -> Self {
        let IncompleteV1 { n_steps, last_step, n_missing, n_expected } = saved;
        Self { n_steps, last_step, n_missing, n_expected }
    }
}
