//! The steps whose spans are at hand: the last ones, as many as a bounded amount of memory holds.

use std::collections::VecDeque;
use std::sync::Arc;

use super::whole::Expected;
use pp_trace::Span;

/// Steps that are kept at most.
const STEPS_MAX: usize = 256;
/// Spans that are kept at most, over all steps but the newest two.
const SPANS_MAX: usize = 200_000;
/// Spans that are kept of a single step.
const SPANS_OF_STEP_MAX: usize = 1_000_000;

/// One step with its spans.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedStep {
    /// The step.
    pub step: u64,
    /// What the ranks did in it, in the order in which it was recorded.
    pub spans: Vec<Span>,
    /// The time of the whole step; `None` while it runs.
    pub step_ns: Option<u64>,
    /// Operations of a step that is over that were lost.
    pub n_missing: u64,
}

impl RecordedStep {
    /// Whether the step is over.
    pub fn is_complete(&self) -> bool {
        self.step_ns.is_some()
    }

    /// Whether the step is over and none of its operations was lost.
    pub fn is_whole(&self) -> bool {
        self.is_complete() && self.n_missing == 0
    }

    /// First start and last end of all its spans.
    pub fn range_ns(&self) -> Option<(u64, u64)> {
        let first = self.spans.iter().map(|span| span.start_ns).min()?;
        let last = self.spans.iter().map(Span::end_ns).max()?;
        Some((first, last))
    }
}

/// The last steps with their spans, in ascending order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recorded {
    /// Shared with whoever looks at them from another thread.
    steps: VecDeque<Arc<RecordedStep>>,
    n_spans: usize,
    /// Keeps the newest two steps alone.
    is_brief: bool,
}

impl Recorded {
    /// Keeps no more than what the sums of a step are made of.
    pub(crate) fn brief() -> Self {
        Self { is_brief: true, ..Self::default() }
    }

    pub(crate) fn is_brief(&self) -> bool {
        self.is_brief
    }

    pub(crate) fn push(&mut self, span: Span) {
        let at = self.steps.partition_point(|recorded| recorded.step < span.step);
        match self.steps.get_mut(at) {
            Some(recorded) if recorded.step == span.step => {
                if recorded.spans.len() < SPANS_OF_STEP_MAX {
                    Arc::make_mut(recorded).spans.push(span);
                    self.n_spans += 1;
                    self.shrink();
                }
            }
            // A straggler of a step that was already let go.
            Some(_) => {}
            None => {
                let (step, spans) = (span.step, vec![span]);
                self.steps.push_back(Arc::new(RecordedStep {
                    step,
                    spans,
                    step_ns: None,
                    n_missing: 0,
                }));
                self.n_spans += 1;
                self.shrink();
            }
        }
    }

    /// A step is over: its length, what its spans should be, and how many events were lost
    /// meanwhile.
    pub(crate) fn complete(
        &mut self,
        step: u64,
        step_ns: u64,
        expected: &Expected,
        n_lost: u64,
    ) -> Option<&RecordedStep> {
        let at = self.steps.partition_point(|recorded| recorded.step < step);
        // A step is over once: its spans are summed up once.
        let is_it =
            |recorded: &&mut Arc<RecordedStep>| recorded.step == step && !recorded.is_complete();
        let recorded = self.steps.get_mut(at).filter(is_it)?;
        let recorded = Arc::make_mut(recorded);
        recorded.step_ns = Some(step_ns);
        recorded.n_missing = expected.missing(&recorded.spans, n_lost);
        Some(recorded)
    }

    /// The complete steps, without a copy of their spans.
    pub(crate) fn complete_alone(&self) -> Self {
        let is_complete = |recorded: &&Arc<RecordedStep>| recorded.is_complete();
        let steps: VecDeque<_> = self.steps.iter().filter(is_complete).cloned().collect();
        let n_spans = steps.iter().map(|recorded| recorded.spans.len()).sum();
        Self { steps, n_spans, is_brief: false }
    }

    fn shrink(&mut self) {
        let steps_max = if self.is_brief { 2 } else { STEPS_MAX };
        while self.steps.len() > steps_max || (self.n_spans > SPANS_MAX && self.steps.len() > 2) {
            let Some(oldest) = self.steps.pop_front() else { return };
            self.n_spans -= oldest.spans.len();
        }
    }

    /// The complete steps, in ascending order.
    pub fn complete_steps(&self) -> impl DoubleEndedIterator<Item = &RecordedStep> {
        self.steps.iter().map(Arc::as_ref).filter(|recorded| recorded.is_complete())
    }

    /// The newest complete step.
    pub fn last_complete(&self) -> Option<&RecordedStep> {
        self.complete_steps().next_back()
    }

    /// A complete step.
    pub fn get(&self, step: u64) -> Option<&RecordedStep> {
        let at = self.steps.partition_point(|recorded| recorded.step < step);
        let is_it = |recorded: &&RecordedStep| recorded.step == step && recorded.is_complete();
        self.steps.get(at).map(Arc::as_ref).filter(is_it)
    }

    /// The step that runs now, if spans of it have come.
    pub fn running(&self) -> Option<&RecordedStep> {
        self.steps.back().map(Arc::as_ref).filter(|recorded| !recorded.is_complete())
    }

    /// The complete step that stands `by` places behind `from` (or before it, when negative),
    /// stopping at the ends; `None` if there is no complete step.
    pub fn neighbour(&self, from: u64, by: i64) -> Option<u64> {
        let steps: Vec<u64> = self.complete_steps().map(|recorded| recorded.step).collect();
        let last = i64::try_from(steps.len()).ok()? - 1;
        let at = i64::try_from(steps.partition_point(|&step| step < from)).ok()?;
        let to = at.saturating_add(by).clamp(0, last.max(0));
        steps.get(usize::try_from(to).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pp_trace::SpanKind;

    fn span(step: u64) -> Span {
        Span {
            step,
            replica: 0,
            rank: 0,
            stage: 0,
            mb: 0,
            op: SpanKind::F,
            start_ns: step * 100,
            dur_ns: 10,
            cpu_ns: 0,
            bytes: 0,
            starved_ns: 0,
        }
    }

    #[test]
    fn memory_stays_bounded() {
        let mut recorded = Recorded::default();
        for step in 1..=1000 {
            for _ in 0..1000 {
                recorded.push(span(step));
            }
            recorded.complete(step, 100, &Expected::default(), 0);
        }
        assert!(recorded.n_spans <= SPANS_MAX + 1000);
        assert_eq!(
            recorded.n_spans,
            recorded.steps.iter().map(|step| step.spans.len()).sum::<usize>()
        );
        assert_eq!(recorded.last_complete().map(|step| step.step), Some(1000));
        recorded.push(span(3));
        assert_eq!(
            recorded.get(3),
            None,
            "a straggler of a step that is gone does not bring it back"
        );
    }

    #[test]
    fn memory_stays_bounded_whatever_the_order_of_the_spans() {
        let mut recorded = Recorded::default();
        (1..=200).for_each(|step| recorded.push(span(step)));
        for step in 1..=200 {
            (0..10_000).for_each(|_| recorded.push(span(step)));
            assert!(recorded.n_spans <= SPANS_MAX + 20_002, "{}", recorded.n_spans);
        }
    }

    #[test]
    fn one_walks_from_complete_step_to_complete_step() {
        let mut recorded = Recorded::default();
        for step in [1, 2, 10, 20] {
            recorded.push(span(step));
        }
        for step in [1, 2, 10] {
            recorded.complete(step, 100, &Expected::default(), 0);
        }
        assert_eq!(recorded.running().map(|step| step.step), Some(20));
        assert_eq!(recorded.neighbour(10, -1), Some(2));
        assert_eq!(recorded.neighbour(2, 1), Some(10));
        assert_eq!(recorded.neighbour(2, -10), Some(1));
        assert_eq!(recorded.neighbour(2, 10), Some(10));
        assert_eq!(Recorded::default().neighbour(2, 10), None);
    }
}
