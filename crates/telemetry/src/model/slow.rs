//! Operations that take longer than they usually do, and why that may be.
//!
//! Each operation is compared with others of its kind, on its rank and its stage. One that leaves
//! their median by more than their spread (six times the median of the distances, which for a
//! normal distribution is some four standard deviations, and at least a fifth of the median) is
//! named; and so is a kind whose median over a step leaves the medians of the steps before.

use std::collections::{BTreeMap, VecDeque};

use pp_quantile::upper_median;
use pp_trace::{Span, SpanKind};

use super::gpus::GpuState;

/// Operations of a kind that are compared with at most.
const WINDOW: usize = 256;
/// Operations of a kind before any is called slow.
const ENOUGH: usize = 12;
/// Steps whose medians are compared with.
const STEPS: usize = 50;
const STEPS_ENOUGH: usize = 8;
/// Slow operations that are kept.
const KEPT: usize = 64;
/// Recorded steps without a slow operation of a rank and cause, after which the next one is told
/// anew.
const PAUSE: u64 = 30;
/// Kinds that are followed at most.
const KINDS_MAX: usize = 65_536;

/// Something that took longer than it usually does.
#[derive(Debug, Clone, PartialEq)]
pub struct Slow {
    /// The step.
    pub step: u64,
    /// When that was over, since the run began.
    pub elapsed_ns: u64,
    /// The replica.
    pub replica: u32,
    /// The rank.
    pub rank: u32,
    /// The stage.
    pub stage: u32,
    /// What was done.
    pub op: SpanKind,
    /// The micro-batch; `None` where all of the step are meant.
    pub mb: Option<u32>,
    /// How long it took; of all of a step the median.
    pub seconds: f64,
    /// How long it usually takes.
    pub usual_seconds: f64,
    /// Why, as far as can be told.
    pub reason: Reason,
}

/// Slow operations of one rank that have the same cause, over some steps.
#[derive(Debug, Clone, PartialEq)]
pub struct SlowGroup {
    /// How many.
    pub count: u64,
    /// The step of the first.
    pub first_step: u64,
    /// What was slow, in the order in which it was first seen.
    pub ops: Vec<SpanKind>,
    /// The highest ratio of what one took to what it usually takes.
    pub worst: f64,
    /// The last of them.
    pub last: Slow,
    /// The look at which that was.
    last_look: u64,
}

impl SlowGroup {
    fn new(slow: Slow, look: u64) -> Self {
        Self {
            count: 1,
            first_step: slow.step,
            ops: vec![slow.op],
            worst: slow.ratio(),
            last: slow,
            last_look: look,
        }
    }

    /// Whether that is one more of them.
    fn takes(&self, slow: &Slow, look: u64) -> bool {
        (self.last.replica, self.last.rank) == (slow.replica, slow.rank)
            && self.last.reason.is_like(&slow.reason)
            && look.saturating_sub(self.last_look) <= PAUSE
    }

    fn add(&mut self, slow: Slow, look: u64) {
        self.count += 1;
        if !self.ops.contains(&slow.op) {
            self.ops.push(slow.op);
        }
        self.worst = self.worst.max(slow.ratio());
        (self.last, self.last_look) = (slow, look);
    }
}

impl Slow {
    /// How many times as long as usual it took.
    pub fn ratio(&self) -> f64 {
        self.seconds / self.usual_seconds.max(1e-12)
    }
}

impl Reason {
    /// Whether it is the same cause: how much there was of it does not matter.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Throttled(these), Self::Throttled(others)) => these == others,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// Why something may have taken long.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// It was ready but had no core, for so much of the time beyond the usual.
    Starved(f64),
    /// Its GPU had lowered its clocks.
    Throttled(Vec<String>),
    /// Nothing that is known explains it.
    Unknown,
}

/// A kind of operation: replica, rank, stage and what is done.
type Kind = (u32, u32, u32, SpanKind);

#[derive(Debug, Clone, Default, PartialEq)]
struct Usual {
    single: VecDeque<u64>,
    by_step: VecDeque<u64>,
}

/// Finds slow operations, step by step.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SlowOps {
    usual: BTreeMap<Kind, Usual>,
    found: VecDeque<Slow>,
    groups: VecDeque<SlowGroup>,
    n_found: u64,
    n_looks: u64,
}

impl SlowOps {
    /// Looks at a step that is over at `elapsed_ns`. `gpu_of` gives the GPU of a rank.
    pub(crate) fn step<'a>(
        &mut self,
        step: u64,
        elapsed_ns: u64,
        spans: &[Span],
        gpu_of: impl Fn(u32, u32) -> Option<&'a GpuState>,
    ) {
        self.n_looks += 1;
        let mut kinds: BTreeMap<Kind, Vec<&Span>> = BTreeMap::new();
        for span in spans.iter().filter(|span| span.op.is_compute()) {
            kinds.entry((span.replica, span.rank, span.stage, span.op)).or_default().push(span);
        }
        for (kind, spans) in kinds {
            if self.usual.len() >= KINDS_MAX && !self.usual.contains_key(&kind) {
                continue;
            }
            let usual = self.usual.entry(kind).or_default();
            let throttle = || {
                gpu_of(kind.0, kind.1).map(|gpu| gpu.latest.throttle.clone()).unwrap_or_default()
            };
            let slow = |mb, dur_ns: u64, usual_ns: u64, starved_ns: u64| {
                let beyond = dur_ns.saturating_sub(usual_ns).max(1) as f64;
                let throttle = throttle();
                let reason = if starved_ns as f64 >= 0.5 * beyond {
                    Reason::Starved((starved_ns as f64 / beyond).min(1.0))
                } else if throttle.is_empty() {
                    Reason::Unknown
                } else {
                    Reason::Throttled(throttle)
                };
                let (replica, rank, stage, op) = kind;
                let (seconds, usual_seconds) = (dur_ns as f64 * 1e-9, usual_ns as f64 * 1e-9);
                Slow {
                    step,
                    elapsed_ns,
                    replica,
                    rank,
                    stage,
                    op,
                    mb,
                    seconds,
                    usual_seconds,
                    reason,
                }
            };
            let mut durations: Vec<u64> = spans.iter().map(|span| span.dur_ns).collect();
            // What the whole step was, then what stands out in it.
            let median_ns = upper_median(&mut durations).unwrap_or(0);
            let mut found = None;
            if let Some(usual_ns) =
                exceeded(&usual.by_step, STEPS_ENOUGH, median_ns, 0.1).filter(|_| spans.len() > 1)
            {
                let mut starved: Vec<u64> = spans.iter().map(|span| span.starved_ns).collect();
                let starved_ns = upper_median(&mut starved).unwrap_or(0);
                found = Some(slow(None, median_ns, usual_ns, starved_ns));
            } else if let Some(span) = spans.iter().max_by_key(|span| span.dur_ns)
                && let Some(usual_ns) = exceeded(&usual.single, ENOUGH, span.dur_ns, 0.2)
            {
                found = Some(slow(Some(span.mb), span.dur_ns, usual_ns, span.starved_ns));
            }
            for span in &spans {
                keep(&mut usual.single, span.dur_ns, WINDOW);
            }
            keep(&mut usual.by_step, median_ns, STEPS);
            if let Some(found) = found {
                self.n_found += 1;
                if self.found.len() >= KEPT {
                    self.found.pop_front();
                }
                self.found.push_back(found.clone());
                self.join(found);
            }
        }
    }

    /// Adds to the group of its rank and cause, which becomes the newest.
    fn join(&mut self, slow: Slow) {
        let look = self.n_looks;
        let at = self.groups.iter().rposition(|group| group.takes(&slow, look));
        let group = match at.and_then(|at| self.groups.remove(at)) {
            Some(mut group) => {
                group.add(slow, look);
                group
            }
            None => SlowGroup::new(slow, look),
        };
        if self.groups.len() >= KEPT {
            self.groups.pop_front();
        }
        self.groups.push_back(group);
    }

    pub(crate) fn groups(&self) -> impl DoubleEndedIterator<Item = &SlowGroup> {
        self.groups.iter()
    }

    pub(crate) fn found(&self) -> impl DoubleEndedIterator<Item = &Slow> {
        self.found.iter()
    }

    pub(crate) fn n_found(&self) -> u64 {
        self.n_found
    }
}

fn keep(window: &mut VecDeque<u64>, value: u64, most: usize) {
    if window.len() == most {
        window.pop_front();
    }
    window.push_back(value);
}

/// The median of what came before, if `value` leaves them by more than both the spread and a part
/// of the median.
fn exceeded(before: &VecDeque<u64>, enough: usize, value: u64, part: f64) -> Option<u64> {
    if before.len() < enough {
        return None;
    }
    let mut values: Vec<u64> = before.iter().copied().collect();
    let median_ns = upper_median(&mut values)?;
    if value as f64 <= median_ns as f64 * (1.0 + part) {
        return None;
    }
    let mut distances: Vec<u64> = values.iter().map(|value| value.abs_diff(median_ns)).collect();
    let spread = upper_median(&mut distances)?;
    (value > median_ns.saturating_add(spread.saturating_mul(6))).then_some(median_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(step: u64, mb: u32, dur_ns: u64, starved_ns: u64) -> Span {
        Span {
            step,
            replica: 0,
            rank: 2,
            stage: 2,
            mb,
            op: SpanKind::B,
            start_ns: 0,
            dur_ns,
            cpu_ns: 0,
            bytes: 0,
            starved_ns,
        }
    }

    /// Steps of four operations that take 1 ms and vary by one per cent.
    fn settled() -> SlowOps {
        let mut slow = SlowOps::default();
        for step in 1..=20 {
            let spans: Vec<Span> = (0..4)
                .map(|mb| span(step, mb, 1_000_000 + 5_000 * ((step + u64::from(mb)) % 3), 0))
                .collect();
            slow.step(step, 0, &spans, |_, _| None);
        }
        assert_eq!(slow.n_found(), 0);
        slow
    }

    #[test]
    fn one_that_stands_out_is_named() {
        let mut slow = settled();
        let mut spans: Vec<Span> = (0..4).map(|mb| span(21, mb, 1_000_000, 0)).collect();
        spans[3] = span(21, 3, 1_500_000, 400_000);
        slow.step(21, 0, &spans, |_, _| None);
        let found: Vec<_> = slow.found().collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].rank, found[0].op, found[0].mb), (2, SpanKind::B, Some(3)));
        assert!(matches!(found[0].reason, Reason::Starved(part) if part > 0.7));
    }

    #[test]
    fn one_that_is_slow_again_and_again_is_one_line_with_a_count() {
        let mut slow = settled();
        let mut look = |step: u64, dur_ns: u64, starved_ns: u64| {
            let mut spans: Vec<Span> = (0..4).map(|mb| span(step, mb, 1_000_000, 0)).collect();
            spans[1] = span(step, 1, dur_ns, starved_ns);
            slow.step(step, 0, &spans, |_, _| None);
        };
        (100..=180)
            .for_each(|step| look(step, if step % 6 == 4 { 3_100_000 } else { 1_000_000 }, 0));
        look(181, 2_000_000, 1_000_000);
        (182..=220).for_each(|step| look(step, 1_000_000, 0));
        look(221, 2_000_000, 0);
        let groups: Vec<_> = slow.groups().collect();
        let told = |group: &SlowGroup| (group.count, group.first_step, group.last.step);
        assert_eq!(
            groups.iter().map(|g| told(g)).collect::<Vec<_>>(),
            [(14, 100, 178), (1, 181, 181), (1, 221, 221)]
        );
        assert!((groups[0].worst - 3.1).abs() < 0.05, "{}", groups[0].worst);
        assert!(
            matches!(groups[1].last.reason, Reason::Starved(_)),
            "another cause is another line"
        );
        assert_eq!(slow.n_found(), 16);
    }

    #[test]
    fn a_step_in_which_all_are_slower_is_named_once() {
        let mut slow = settled();
        let spans: Vec<Span> = (0..4).map(|mb| span(21, mb, 1_200_000, 0)).collect();
        slow.step(21, 0, &spans, |_, _| None);
        let found: Vec<_> = slow.found().collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].mb, found[0].reason.clone()), (None, Reason::Unknown));
        assert!((found[0].seconds / found[0].usual_seconds - 1.2).abs() < 0.02);
    }
}
