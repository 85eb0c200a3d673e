//! What the run does that is no training step: what goes on now, and what it has cost so far.

use std::collections::{BTreeMap, VecDeque};

use pp_quantile::upper_median;
use pp_trace::PhaseEvent;

use crate::mark_v1::{PhaseCostV1, PhasesV1};

/// Phases that are kept one by one.
const KEPT: usize = 64;
/// Names that are summed up; phases with other names count as none of them.
const NAMES_MAX: usize = 32;
/// Durations of a name of which the median is taken.
const RECENT: usize = 32;
/// Letters that a name has at most.
const LETTERS_MAX: usize = 32;

/// What all phases of one name have cost.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PhaseCost {
    /// How many are over.
    pub count: u64,
    /// Of all of them.
    pub total_ns: u64,
    /// The last ones.
    recent_ns: VecDeque<u64>,
}

impl PhaseCost {
    fn push(&mut self, dur_ns: u64) {
        self.count = self.count.saturating_add(1);
        self.total_ns = self.total_ns.saturating_add(dur_ns);
        if self.recent_ns.len() >= RECENT {
            self.recent_ns.pop_front();
        }
        self.recent_ns.push_back(dur_ns);
    }

    /// How long one of them takes: the median of the last ones.
    pub fn median_seconds(&self) -> Option<f64> {
        let mut recent_ns: Vec<u64> = self.recent_ns.iter().copied().collect();
        upper_median(&mut recent_ns).map(|ns| ns as f64 * 1e-9)
    }

    /// How long all of them took together.
    pub fn seconds(&self) -> f64 {
        self.total_ns as f64 * 1e-9
    }
}

/// All phases of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Phases {
    running: Option<PhaseEvent>,
    over: VecDeque<PhaseEvent>,
    costs: BTreeMap<String, PhaseCost>,
}

impl Phases {
    /// Whether it keeps its bounds: one that was read from a log might not.
    pub(crate) fn is_bounded(&self) -> bool {
        self.over.len() <= KEPT
            && self.costs.len() <= NAMES_MAX
            && self.costs.values().all(|cost| cost.recent_ns.len() <= RECENT)
    }

    pub(crate) fn push(&mut self, event: &PhaseEvent) {
        let mut event = event.clone();
        if let Some((at, _)) = event.phase.char_indices().nth(LETTERS_MAX) {
            event.phase.truncate(at);
        }
        let Some(dur_ns) = event.dur_ns else {
            self.running = Some(event);
            return;
        };
        if self.running.as_ref().is_some_and(|running| running.phase == event.phase) {
            self.running = None;
        }
        if self.costs.len() < NAMES_MAX || self.costs.contains_key(&event.phase) {
            self.costs.entry(event.phase.clone()).or_default().push(dur_ns);
        }
        if self.over.len() >= KEPT {
            self.over.pop_front();
        }
        self.over.push_back(event);
    }

    /// A step is over, or the run is: what was said to go on before it has ended without a word, as
    /// an event that was lost.
    pub(crate) fn step_is_over(&mut self) {
        self.running = None;
    }

    pub(crate) fn running(&self) -> Option<&PhaseEvent> {
        self.running.as_ref()
    }

    pub(crate) fn over(&self) -> impl DoubleEndedIterator<Item = &PhaseEvent> {
        self.over.iter()
    }

    pub(crate) fn costs(&self) -> impl Iterator<Item = (&str, &PhaseCost)> {
        self.costs.iter().map(|(name, cost)| (name.as_str(), cost))
    }

    pub(crate) fn cost(&self, name: &str) -> Option<&PhaseCost> {
        self.costs.get(name)
    }
}

impl From<&Phases> for PhasesV1 {
    fn from(phases: &Phases) -> Self {
        let saved = |cost: &PhaseCost| PhaseCostV1 {
            count: cost.count,
            total_ns: cost.total_ns,
            recent_ns: cost.recent_ns.clone(),
        };
        Self {
            running: phases.running.clone(),
            over: phases.over.clone(),
            costs: phases.costs.iter().map(|(name, cost)| (name.clone(), saved(cost))).collect(),
        }
    }
}

impl From<PhasesV1> for Phases {
    fn from(saved: PhasesV1) -> Self {
        let cost = |saved: PhaseCostV1| PhaseCost {
            count: saved.count,
            total_ns: saved.total_ns,
            recent_ns: saved.recent_ns,
        };
        Self {
            running: saved.running,
            over: saved.over,
            costs: saved.costs.into_iter().map(|(name, saved)| (name, cost(saved))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(name: &str, start_ns: u64, dur_ns: Option<u64>, done: u64) -> PhaseEvent {
        PhaseEvent {
            phase: name.to_owned(),
            start_ns,
            elapsed_ns: start_ns.saturating_add(dur_ns.unwrap_or(0)),
            dur_ns,
            done,
            total: 12,
            ..PhaseEvent::default()
        }
    }

    #[test]
    fn what_goes_on_is_known_until_it_is_over() {
        let mut phases = Phases::default();
        phases.push(&phase("evaluating", 5, None, 0));
        phases.push(&phase("evaluating", 5, None, 3));
        assert_eq!(phases.running().map(PhaseEvent::text).as_deref(), Some("evaluating 3/12"));
        phases.push(&phase("evaluating", 5, Some(2_000_000_000), 12));
        assert_eq!(phases.running(), None);
        phases.push(&phase("evaluating", 9, Some(4_000_000_000), 12));
        phases.push(&phase("evaluating", 9, Some(3_000_000_000), 12));
        let cost = phases.cost("evaluating").unwrap();
        assert_eq!((cost.count, cost.median_seconds()), (3, Some(3.0)));
        assert!((cost.seconds() - 9.0).abs() < 1e-9);
        // An end that was lost holds nothing up.
        phases.push(&phase("checkpoint", 20, None, 0));
        phases.step_is_over();
        assert_eq!(phases.running(), None);
    }

    #[test]
    fn memory_stays_bounded_whatever_a_log_says() {
        let mut phases = Phases::default();
        for at in 0..10_000 {
            phases.push(&phase(&format!("{at} {}", "x".repeat(500)), at, Some(u64::MAX), 0));
            phases.push(&phase("evaluating", at, Some(u64::MAX), 0));
        }
        assert!(phases.is_bounded());
        assert!(phases.costs().all(|(name, _)| name.chars().count() <= LETTERS_MAX));
    }
}
