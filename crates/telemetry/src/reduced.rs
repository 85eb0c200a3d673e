//! The time of the gradient mean, which may lie beside other work of its rank.

use pp_trace::{Span, SpanKind};

/// How long a rank took the mean of its gradients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reduced {
    /// The time in which at least one bucket was under way, in nanoseconds.
    pub whole_ns: u64,
    /// What of it the rank spent on nothing else, waiting for messages included.
    pub alone_ns: u64,
}

impl Reduced {
    /// Of the spans of one rank in one step, in any order.
    pub fn of<'a>(spans: impl IntoIterator<Item = &'a Span>) -> Self {
        let (mut means, mut others) = (Vec::new(), Vec::new());
        for span in spans {
            let list = if span.op == SpanKind::AllReduce { &mut means } else { &mut others };
            list.push((span.start_ns, span.end_ns()));
        }
        if means.is_empty() {
            return Self::default();
        }
        let (means, others) = (merged(means), merged(others));
        let length = |ranges: &[(u64, u64)]| {
            ranges.iter().fold(0_u64, |sum, (start, end)| sum.saturating_add(end - start))
        };
        let whole_ns = length(&means);
        Self { whole_ns, alone_ns: whole_ns - overlap(&means, &others) }
    }
}

/// Ranges in ascending order that do not touch.
fn merged(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// How much of merged ranges lies in others.
fn overlap(ranges: &[(u64, u64)], others: &[(u64, u64)]) -> u64 {
    let (mut at, mut sum) = (0, 0_u64);
    for &(start, end) in ranges {
        // The others that end before this one matter for no later one either.
        at += others[at..].iter().take_while(|other| other.1 <= start).count();
        for other in others[at..].iter().take_while(|other| other.0 < end) {
            sum = sum.saturating_add(other.1.min(end).saturating_sub(other.0.max(start)));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(op: SpanKind, start_ns: u64, dur_ns: u64) -> Span {
        let (step, replica, rank, stage, mb) = (1, 0, 0, 0, 0);
        let (cpu_ns, bytes, starved_ns) = (0, 0, 0);
        Span { step, replica, rank, stage, mb, op, start_ns, dur_ns, cpu_ns, bytes, starved_ns }
    }

    #[test]
    fn a_mean_beside_an_op_is_no_time_of_its_own() {
        let spans = [
            span(SpanKind::B, 0, 100),
            span(SpanKind::AllReduce, 20, 30),
            span(SpanKind::AllReduce, 40, 90),
            span(SpanKind::WaitGrad, 100, 10),
            span(SpanKind::Optim, 150, 10),
        ];
        assert_eq!(Reduced::of(&spans), Reduced { whole_ns: 110, alone_ns: 20 });
        assert_eq!(Reduced::of(&spans[..1]), Reduced::default());
        let behind = [span(SpanKind::B, 0, 100), span(SpanKind::AllReduce, 100, 7)];
        assert_eq!(Reduced::of(&behind), Reduced { whole_ns: 7, alone_ns: 7 });
    }

    proptest! {
        #[test]
        fn it_is_what_one_counts(spans in prop::collection::vec((0..60_u64, 0..12_u64, any::<bool>()), 0..20)) {
            let spans: Vec<Span> = spans
                .into_iter()
                .map(|(start, dur, is_mean)| {
                    span(if is_mean { SpanKind::AllReduce } else { SpanKind::F }, start, dur)
                })
                .collect();
            let is_in = |at: u64, means: bool| {
                spans.iter().any(|span| {
                    (span.op == SpanKind::AllReduce) == means
                        && (span.start_ns..span.end_ns()).contains(&at)
                })
            };
            let whole = (0..80).filter(|&at| is_in(at, true)).count() as u64;
            let alone = (0..80).filter(|&at| is_in(at, true) && !is_in(at, false)).count() as u64;
            prop_assert_eq!(Reduced::of(&spans), Reduced { whole_ns: whole, alone_ns: alone });
        }
    }
}
