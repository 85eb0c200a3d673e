//! The bubble of a step as it was measured.
//!
//! ```text
//! rank 0  F0 F1 F2 ·· ·· ·· B0 ·· B1 ·· B2   window: first start to last end of compute, all ranks
//! rank 1  ·· F0 F1 F2 ·· B0 ·· B1 ·· B2 ··   bubble ratio: share of ranks × window without compute
//! rank 2  ·· ·· F0 B0 F1 B1 F2 B2 ·· ·· ··
//! ```
//!
//! Compute counts with its wall time, also when the thread had no core meanwhile; how much of it
//! that was stands beside it as the starved share. Copies, waiting, the optimizer, reductions and
//! reading data are never busy.

use std::collections::BTreeMap;

use crate::span::Span;

/// What the spans of one step say about its bubble. Each number is the mean over the replicas, and
/// not a number where nothing was computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeasuredBubble {
    /// Idle share of ranks × window.
    pub bubble_ratio: f64,
    /// Idle share of ranks × whole step.
    pub idle_of_step: f64,
    /// Share of ranks × window in which a computing rank was ready but had no core.
    pub starved_ratio: f64,
    /// First start to last end of compute.
    pub window_seconds: f64,
    /// Idle time over the time that an ideal pipeline would take.
    pub bubble_overhead: f64,
    /// Idle share of the longest span of a single rank, from its first start to its last end.
    pub span_bubble: f64,
}

/// Sums over one rank of one replica.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "the unit stands last in every name")]
struct RankSums {
    first_ns: u64,
    last_ns: u64,
    busy_ns: u64,
    starved_ns: u64,
}

impl RankSums {
    const EMPTY: Self = Self { first_ns: u64::MAX, last_ns: 0, busy_ns: 0, starved_ns: 0 };

    fn add(&mut self, span: &Span) {
        self.first_ns = self.first_ns.min(span.start_ns);
        self.last_ns = self.last_ns.max(span.end_ns());
        self.busy_ns = self.busy_ns.saturating_add(span.dur_ns);
        self.starved_ns = self.starved_ns.saturating_add(span.starved_ns.min(span.dur_ns));
    }
}

/// Measures one step from its spans; `spans` may hold other kinds than compute and may be in any
/// order, and `step_ns` is the time of the whole step.
///
/// ```
/// use pp_trace::{Span, SpanKind, measure};
///
/// let span = |rank, op, start_ns| Span {
///     step: 1, replica: 0, rank, stage: rank, mb: 0, op, start_ns, dur_ns: 10, cpu_ns: 10,
///     bytes: 0, starved_ns: 0,
/// };
/// // One micro-batch on two ranks: each works for half of the time.
/// let spans = [
///     span(0, SpanKind::F, 0), span(1, SpanKind::F, 10),
///     span(1, SpanKind::B, 20), span(0, SpanKind::B, 30),
/// ];
/// assert_eq!(measure(&spans, 2, 40).bubble_ratio, 0.5);
/// ```
pub fn measure(spans: &[Span], n_ranks: u32, step_ns: u64) -> MeasuredBubble {
    let mut replicas: BTreeMap<u32, BTreeMap<u32, RankSums>> = BTreeMap::new();
    for span in spans.iter().filter(|span| span.op.is_compute()) {
        let ranks = replicas.entry(span.replica).or_default();
        ranks.entry(span.rank).or_insert(RankSums::EMPTY).add(span);
    }
    let each: Vec<_> = replicas.values().map(|ranks| of_replica(ranks, n_ranks, step_ns)).collect();
    let mean = |number: fn(&MeasuredBubble) -> f64| {
        each.iter().map(number).sum::<f64>() / each.len() as f64
    };
    MeasuredBubble {
        bubble_ratio: mean(|bubble| bubble.bubble_ratio),
        idle_of_step: mean(|bubble| bubble.idle_of_step),
        starved_ratio: mean(|bubble| bubble.starved_ratio),
        window_seconds: mean(|bubble| bubble.window_seconds),
        bubble_overhead: mean(|bubble| bubble.bubble_overhead),
        span_bubble: mean(|bubble| bubble.span_bubble),
    }
}

fn of_replica(ranks: &BTreeMap<u32, RankSums>, n_ranks: u32, step_ns: u64) -> MeasuredBubble {
    let first_ns = ranks.values().map(|sums| sums.first_ns).min().unwrap_or(0);
    let last_ns = ranks.values().map(|sums| sums.last_ns).max().unwrap_or(0);
    let window_ns = last_ns.saturating_sub(first_ns) as f64;
    let busy_ns: f64 = ranks.values().map(|sums| sums.busy_ns as f64).sum();
    let starved_ns: f64 = ranks.values().map(|sums| sums.starved_ns as f64).sum();
    let longest_ns =
        ranks.values().map(|sums| sums.last_ns.saturating_sub(sums.first_ns)).max().unwrap_or(0)
            as f64;
    let n_ranks = f64::from(n_ranks);
    let bubble_ratio = 1.0 - busy_ns / (n_ranks * window_ns);
    MeasuredBubble {
        bubble_ratio,
        idle_of_step: 1.0 - busy_ns / (n_ranks * step_ns as f64),
        starved_ratio: starved_ns / (n_ranks * window_ns),
        window_seconds: window_ns * 1e-9,
        bubble_overhead: bubble_ratio / (1.0 - bubble_ratio),
        span_bubble: (longest_ns - busy_ns / n_ranks) / longest_ns,
    }
}
