//! The operations of a recorded step: their order on a rank, the operation that each waited for,
//! and its usual time.

use std::collections::HashMap;

use pp_quantile::upper_median;
use pp_schedule::{Phase, Stage};
use pp_telemetry::{Recorded, RecordedStep, Span, SpanKind, op_of};

/// The number of recorded steps from which the usual time of an operation is taken.
const USUAL_STEPS: usize = 16;

/// The operations of a rank in a step, in order of time, without waits and without copies, which
/// belong to the operation that computes.
pub(crate) fn ops_of(step: &RecordedStep, replica: u32, rank: u32) -> Vec<&Span> {
    let is_op = |span: &&Span| {
        span.replica == replica && span.rank == rank && !(span.op.is_wait() || span.op.is_copy())
    };
    let mut ops: Vec<&Span> = step.spans.iter().filter(is_op).collect();
    ops.sort_by_key(|span| (span.start_ns, span.end_ns()));
    ops
}

/// When the first rank began to compute.
pub(crate) fn first_compute_ns(step: &RecordedStep) -> Option<u64> {
    step.spans.iter().filter(|span| span.op.is_compute()).map(|span| span.start_ns).min()
}

/// What an operation had to wait for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dependency<'a> {
    /// What made its input.
    pub(crate) needs: Option<&'a Span>,
    /// What its rank did before.
    pub(crate) before: Option<&'a Span>,
    /// How long its rank had nothing to do before it began.
    pub(crate) waited_ns: u64,
}

impl<'a> Dependency<'a> {
    /// What kept it from beginning earlier: whichever of the two ended last.
    pub(crate) fn cause(&self) -> Option<&'a Span> {
        match (self.needs, self.before) {
            (Some(needs), Some(before)) if needs.end_ns() < before.end_ns() => Some(before),
            (Some(needs), _) => Some(needs),
            (None, before) => before,
        }
    }
}

/// What `span` had to wait for.
pub(crate) fn dependency<'a>(step: &'a RecordedStep, span: &Span) -> Dependency<'a> {
    let made = |stage: u32, kinds: &[SpanKind]| {
        let is_it = |other: &&Span| {
            other.replica == span.replica
                && other.stage == stage
                && other.mb == span.mb
                && kinds.contains(&other.op)
        };
        step.spans.iter().find(is_it)
    };
    let needs = needed(span, n_stages(step), |stage, maker| match maker {
        Maker::Forward => made(stage, &[SpanKind::F]),
        Maker::InputGrad => made(stage, &[SpanKind::I]),
        Maker::Backward => made(stage, &[SpanKind::B, SpanKind::I]),
    });
    let before = |is_meant: &dyn Fn(SpanKind) -> bool| {
        step.spans
            .iter()
            .filter(|other| other.replica == span.replica && other.rank == span.rank)
            .filter(|other| is_meant(other.op) && holds_up(other.op, span))
            .filter(|other| other.start_ns < span.start_ns && other.end_ns() <= span.start_ns)
            .max_by_key(|other| other.end_ns())
    };
    // A copy before it is no waiting, but what is walked to is an operation.
    let free_ns = before(&|kind| !kind.is_wait()).map(Span::end_ns);
    let waited_ns = match free_ns {
        Some(free_ns) => span.start_ns.saturating_sub(free_ns),
        None => first_compute_ns(step).map_or(0, |first| span.start_ns.saturating_sub(first)),
    };
    let before = before(&|kind| !kind.is_wait() && !kind.is_copy());
    Dependency { needs, before, waited_ns }
}

/// Whether `span` could not begin before something of this kind had ended on its rank. A mean lies
/// beside ops, and holds none of them up.
fn holds_up(kind: SpanKind, span: &Span) -> bool {
    kind != SpanKind::AllReduce || !span.op.is_compute()
}

/// Operations of a critical path at most.
const PATH_MAX: usize = 400;
/// Spans of a step whose critical path is looked for at most.
const PATH_SPANS_MAX: usize = 50_000;

/// The operation that makes a stage's input for one micro-batch: a forward, an input gradient, or a
/// backward of any kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Maker {
    Forward,
    InputGrad,
    Backward,
}

/// The number of stages in a step's spans.
fn n_stages(step: &RecordedStep) -> u32 {
    step.spans.iter().map(|span| span.stage.saturating_add(1)).max().unwrap_or(0)
}

/// The span that made the input of an operation. `made` looks up the span by which a stage made a
/// result for the same micro-batch.
fn needed<'a>(
    span: &Span,
    n_stages: u32,
    made: impl Fn(u32, Maker) -> Option<&'a Span>,
) -> Option<&'a Span> {
    let op = op_of(span).filter(|_| span.op.is_compute())?;
    let of_input = |maker| op.input_stage(n_stages).and_then(|Stage(stage)| made(stage, maker));
    match op.phase {
        Phase::Forward => of_input(Maker::Forward),
        // The last stage starts its backward from its own forward.
        Phase::Backward | Phase::InputGrad => {
            of_input(Maker::Backward).or_else(|| made(span.stage, Maker::Forward))
        }
        Phase::WeightGrad => made(span.stage, Maker::InputGrad),
    }
}

/// The causes of all operations of a replica, found in one pass. [`dependency`] scans the whole
/// step for each operation.
struct Causes<'a> {
    n_stages: u32,
    made: HashMap<(u32, u32, Maker), &'a Span>,
    /// The spans of each rank, in order of their ends.
    by_rank: HashMap<u32, Vec<&'a Span>>,
}

impl<'a> Causes<'a> {
    fn of(step: &'a RecordedStep, replica: u32) -> Self {
        let mut causes =
            Self { n_stages: n_stages(step), made: HashMap::new(), by_rank: HashMap::new() };
        for span in step.spans.iter().filter(|span| span.replica == replica) {
            let makers: &[Maker] = match span.op {
                SpanKind::F => &[Maker::Forward],
                SpanKind::B => &[Maker::Backward],
                SpanKind::I => &[Maker::Backward, Maker::InputGrad],
                _ => &[],
            };
            for maker in makers {
                causes.made.entry((span.stage, span.mb, *maker)).or_insert(span);
            }
            if !(span.op.is_wait() || span.op.is_copy()) {
                causes.by_rank.entry(span.rank).or_default().push(span);
            }
        }
        causes.by_rank.values_mut().for_each(|spans| spans.sort_by_key(|span| span.end_ns()));
        causes
    }

    /// The same as [`Dependency::cause`].
    fn cause(&self, span: &Span) -> Option<&'a Span> {
        let made = |stage, maker| self.made.get(&(stage, span.mb, maker)).copied();
        let needs = needed(span, self.n_stages, made);
        let before = self.by_rank.get(&span.rank).and_then(|spans| {
            let n_over = spans.partition_point(|other| other.end_ns() <= span.start_ns);
            let is_cause =
                |other: &&&Span| other.start_ns < span.start_ns && holds_up(other.op, span);
            spans[..n_over].iter().rev().find(is_cause).copied()
        });
        Dependency { needs, before, waited_ns: 0 }.cause()
    }
}

/// The critical path: from the last operation that computes back to the first, each the cause of
/// the next, in order of time. Empty for a step that is too large to search for every frame.
pub(crate) fn critical_path(step: &RecordedStep, replica: u32) -> Vec<&Span> {
    if step.spans.len() > PATH_SPANS_MAX {
        return Vec::new();
    }
    let computes = |span: &&Span| span.replica == replica && span.op.is_compute();
    let last = step.spans.iter().filter(computes).max_by_key(|span| span.end_ns());
    let causes = Causes::of(step, replica);
    let cause = |span: &&'_ Span| causes.cause(span).filter(computes);
    let mut path: Vec<&Span> = std::iter::successors(last, cause).take(PATH_MAX).collect();
    path.reverse();
    path
}

/// What an operation has moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    /// Taken over before it.
    pub(crate) taken: u64,
    /// Handed on behind it.
    pub(crate) sent: u64,
    /// By itself, such as in a reduction.
    pub(crate) own: u64,
}

/// The copies that belong to `span`: those of its stage and micro-batch, between it and its
/// neighbours on the rank.
pub(crate) fn bytes(step: &RecordedStep, span: &Span) -> Bytes {
    if span.op == SpanKind::AllReduce {
        return Bytes { own: span.bytes, ..Bytes::default() };
    }
    let mut ops = ops_of(step, span.replica, span.rank);
    ops.retain(|other| other.op != SpanKind::AllReduce);
    let at = ops.iter().position(|other| *other == span).unwrap_or(0);
    let from_ns = at.checked_sub(1).and_then(|at| ops.get(at)).map_or(0, |op| op.end_ns());
    let to_ns = ops.get(at + 1).map_or(u64::MAX, |op| op.start_ns);
    let mut bytes = Bytes { own: span.bytes, ..Bytes::default() };
    for copy in step.spans.iter().filter(|other| {
        other.op.is_copy()
            && (other.replica, other.rank, other.mb) == (span.replica, span.rank, span.mb)
    }) {
        if copy.op == SpanKind::Send && (span.end_ns()..=to_ns).contains(&copy.start_ns) {
            bytes.sent = bytes.sent.saturating_add(copy.bytes);
        } else if copy.op == SpanKind::Recv && (from_ns..=span.start_ns).contains(&copy.end_ns()) {
            bytes.taken = bytes.taken.saturating_add(copy.bytes);
        }
    }
    bytes
}

/// The usual time of this kind of operation on this rank and stage: the upper median over the last
/// recorded steps.
pub(crate) fn usual_ns(recorded: &Recorded, span: &Span) -> Option<u64> {
    let is_alike = |other: &&Span| {
        (other.replica, other.rank, other.stage, other.op)
            == (span.replica, span.rank, span.stage, span.op)
    };
    let mut durations: Vec<u64> = recorded
        .complete_steps()
        .rev()
        .take(USUAL_STEPS)
        .flat_map(|step| step.spans.iter().filter(is_alike).map(|span| span.dur_ns))
        .collect();
    upper_median(&mut durations)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(rank: u32, op: SpanKind, mb: u32, start_ns: u64, dur_ns: u64) -> Span {
        Span {
            step: 1,
            replica: 0,
            rank,
            stage: rank,
            mb,
            op,
            start_ns,
            dur_ns,
            cpu_ns: 0,
            bytes: if op.is_copy() { 100 } else { 0 },
            starved_ns: 0,
        }
    }

    /// Two ranks, one micro-batch; rank 1 waits for the forward, rank 0 for the gradient.
    fn step() -> RecordedStep {
        let spans = vec![
            span(0, SpanKind::F, 0, 10, 10),
            span(0, SpanKind::Send, 0, 20, 1),
            span(0, SpanKind::F, 1, 21, 10),
            span(0, SpanKind::Send, 1, 31, 1),
            span(1, SpanKind::WaitAct, 0, 10, 11),
            span(1, SpanKind::Recv, 0, 21, 1),
            span(1, SpanKind::F, 0, 22, 12),
            span(1, SpanKind::B, 0, 34, 20),
            span(1, SpanKind::Send, 0, 54, 2),
            span(1, SpanKind::F, 1, 56, 12),
            span(0, SpanKind::B, 0, 60, 20),
        ];
        RecordedStep { step: 1, spans, step_ns: Some(100), n_missing: 0 }
    }

    fn op(step: &RecordedStep, rank: u32, op: SpanKind, mb: u32) -> Span {
        *step.spans.iter().find(|s| s.rank == rank && s.op == op && s.mb == mb).unwrap()
    }

    #[test]
    fn a_forward_waits_for_the_stage_before() {
        let step = step();
        let found = dependency(&step, &op(&step, 1, SpanKind::F, 0));
        assert_eq!(found.needs, Some(&op(&step, 0, SpanKind::F, 0)));
        assert_eq!((found.before, found.waited_ns), (None, 0));
        assert_eq!(found.cause(), found.needs);
    }

    #[test]
    fn a_backward_waits_for_the_stage_behind_or_for_its_own_forward() {
        let step = step();
        let found = dependency(&step, &op(&step, 0, SpanKind::B, 0));
        assert_eq!(found.needs, Some(&op(&step, 1, SpanKind::B, 0)));
        assert_eq!(found.before, Some(&op(&step, 0, SpanKind::F, 1)));
        // The rank was free from the end of its copy on.
        assert_eq!((found.waited_ns, found.cause()), (60 - 32, found.needs));
        let last = dependency(&step, &op(&step, 1, SpanKind::B, 0));
        assert_eq!(last.needs, Some(&op(&step, 1, SpanKind::F, 0)));
    }

    #[test]
    fn what_was_ready_long_before_waited_for_its_rank() {
        let step = step();
        let found = dependency(&step, &op(&step, 1, SpanKind::F, 1));
        assert_eq!(found.needs, Some(&op(&step, 0, SpanKind::F, 1)));
        assert_eq!(found.cause(), Some(&op(&step, 1, SpanKind::B, 0)));
        let first = dependency(&step, &op(&step, 0, SpanKind::F, 0));
        assert_eq!((first.cause(), first.waited_ns), (None, 0));
    }

    #[test]
    fn the_critical_path_leads_from_the_first_to_the_last() {
        let step = step();
        let path: Vec<_> =
            critical_path(&step, 0).iter().map(|span| (span.rank, span.op, span.mb)).collect();
        let wanted =
            [(0, SpanKind::F, 0), (1, SpanKind::F, 0), (1, SpanKind::B, 0), (0, SpanKind::B, 0)];
        assert_eq!(path, wanted);
        assert_eq!(critical_path(&step, 1), [] as [&Span; 0]);
    }

    #[test]
    fn copies_belong_to_what_computes() {
        let step = step();
        let moved = bytes(&step, &op(&step, 1, SpanKind::F, 0));
        assert_eq!(moved, Bytes { taken: 100, sent: 0, own: 0 });
        let moved = bytes(&step, &op(&step, 1, SpanKind::B, 0));
        assert_eq!(moved, Bytes { taken: 0, sent: 100, own: 0 });
        let names: Vec<_> = ops_of(&step, 0, 0).iter().map(|span| (span.op, span.mb)).collect();
        assert_eq!(names, [(SpanKind::F, 0), (SpanKind::F, 1), (SpanKind::B, 0)]);
    }

    proptest! {
        /// For any spans, one pass finds the same causes as a scan of the step for each span.
        #[test]
        fn causes_are_those_of_each_operation(
            parts in prop::collection::vec((0..3_u32, 0..3_u32, 0..12_usize, 0..3_u32, 0..40_u64, 0..9_u64), 0..40),
        ) {
            let of = |(rank, stage, kind, mb, start_ns, dur_ns)| {
                let kind: usize = kind;
                Span { stage, ..span(rank, SpanKind::ALL[kind], mb, start_ns, dur_ns) }
            };
            let spans = parts.into_iter().map(of).collect();
            let step = RecordedStep { step: 1, spans, step_ns: Some(100), n_missing: 0 };
            let causes = Causes::of(&step, 0);
            for span in &step.spans {
                prop_assert_eq!(causes.cause(span), dependency(&step, span).cause());
            }
        }
    }
}
