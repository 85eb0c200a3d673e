//! Which steps have their spans recorded.
//!
//! Spans are nearly the whole log. A long run of a large plan would fill a disk with them, so by
//! default the first steps are recorded whole, which is what one looks at to understand a plan, and
//! then every k-th step whole: a step of which only some spans were kept could not be drawn.

/// Steps at the beginning that [`SpanPolicy::Auto`] always records.
pub const WHOLE_FIRST_STEPS: u64 = 20;

/// What [`SpanPolicy::Auto`] lets the log of a run grow to.
pub const LOG_BYTES_MAX: u64 = 256 * 1000 * 1000;

/// Bytes that one span takes in the log, rounded up.
const SPAN_BYTES: u64 = 200;
/// Bytes that all other events of a step take in the log, for one rank, rounded up.
const OTHER_BYTES_PER_RANK: u64 = 320;
const STEP_BYTES: u64 = 520;

/// Which steps have their spans recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpanPolicy {
    /// Every step.
    All,
    /// The steps that this number divides.
    Every(u64),
    /// The first steps, then as many as keep the log of the planned steps below [`LOG_BYTES_MAX`].
    #[default]
    Auto,
}

/// What decides how large a log becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogSize {
    /// Steps of the runs before this one; 0 for a run that was not resumed.
    pub n_steps_before: u64,
    /// Steps that are planned for this run.
    pub n_steps: u64,
    /// Spans that one step records, over all ranks and replicas.
    pub n_spans_per_step: u64,
    /// Ranks, over all replicas.
    pub n_ranks: u64,
}

impl SpanPolicy {
    /// The k of "every k-th step" for a run of this size; never 0.
    pub fn span_every(self, size: LogSize) -> u64 {
        match self {
            Self::All => 1,
            Self::Every(k) => k.max(1),
            Self::Auto => {
                let span_bytes = size.n_spans_per_step.saturating_mul(SPAN_BYTES).max(1);
                let other_bytes = STEP_BYTES
                    .saturating_add(size.n_ranks.saturating_mul(OTHER_BYTES_PER_RANK))
                    .saturating_mul(size.n_steps);
                let n_first = size.n_steps.min(WHOLE_FIRST_STEPS);
                let n_later = size.n_steps - n_first;
                let room = LOG_BYTES_MAX
                    .saturating_sub(other_bytes)
                    .saturating_sub(n_first.saturating_mul(span_bytes));
                let n_affordable = room / span_bytes;
                if n_later <= n_affordable { 1 } else { n_later.div_ceil(n_affordable.max(1)) }
            }
        }
    }

    /// The last of the steps at the beginning that are recorded whatever `span_every` says; 0 if
    /// there are none.
    pub fn last_whole(self, size: LogSize) -> u64 {
        match self {
            Self::All | Self::Every(_) => 0,
            Self::Auto => size.n_steps_before.saturating_add(WHOLE_FIRST_STEPS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(n_steps: u64, n_spans_per_step: u64) -> LogSize {
        LogSize { n_steps, n_spans_per_step, n_ranks: 4, n_steps_before: 0 }
    }

    #[test]
    fn a_short_run_is_recorded_whole() {
        assert_eq!(SpanPolicy::Auto.span_every(size(600, 200)), 1);
    }

    #[test]
    fn a_long_run_stays_below_the_limit() {
        for (n_steps, n_spans) in [(5_000, 500), (20_000, 1_000), (50_000, 20_000), (1_000, 5_000)]
        {
            let k = SpanPolicy::Auto.span_every(size(n_steps, n_spans));
            assert!(k > 1, "{n_steps} steps of {n_spans} spans");
            let n_recorded = WHOLE_FIRST_STEPS + (n_steps - WHOLE_FIRST_STEPS) / k;
            let bytes = n_recorded * n_spans * SPAN_BYTES;
            assert!(
                bytes <= LOG_BYTES_MAX + n_spans * SPAN_BYTES,
                "{bytes} bytes with every {k}th step"
            );
        }
    }

    #[test]
    fn the_first_steps_of_a_resumed_run_come_after_its_checkpoint() {
        let resumed = LogSize { n_steps_before: 40, ..size(600, 200) };
        assert_eq!(SpanPolicy::Auto.last_whole(resumed), 40 + WHOLE_FIRST_STEPS);
        assert_eq!(SpanPolicy::Every(7).last_whole(resumed), 0);
    }

    #[test]
    fn what_is_asked_for_is_kept() {
        assert_eq!(SpanPolicy::All.span_every(size(u64::MAX, u64::MAX)), 1);
        assert_eq!(SpanPolicy::Every(7).span_every(size(10, 10)), 7);
        assert_eq!(SpanPolicy::Every(0).span_every(size(10, 10)), 1);
        assert!(SpanPolicy::Auto.span_every(size(u64::MAX, u64::MAX)) >= 1);
    }
}
