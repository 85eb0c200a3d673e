//! The spans of one rank.

use candle_core::Device;
use pp_nn::memory;
use pp_schedule::{MicroBatch, Op, Rank, Replica, Stage};
use pp_trace::{Recorder, Span, SpanKind};

use crate::clock::{HostClock, SpanClock, ThreadTime};
use crate::config::RankConfig;
use crate::error::RankError;

type Result<T> = std::result::Result<T, RankError>;

/// Keeps the spans of a rank, and passes each one to the recorder at once.
pub(crate) struct Journal {
    recorder: Recorder,
    clock: HostClock,
    replica: Replica,
    rank: Rank,
    step: u64,
    /// Whether a pace decides how long ops last. A rank that waits for its pace needs no core.
    is_paced: bool,
    is_open: bool,
    spans: Vec<Span>,
}

/// The kind, stage and micro-batch of a span.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) kind: SpanKind,
    pub(crate) stage: Stage,
    pub(crate) micro_batch: MicroBatch,
}

/// The start of a span, and the thread's processor time at that moment.
pub(crate) struct Started {
    at_ns: u64,
    thread: ThreadTime,
}

impl Place {
    /// The place of a span that concerns a rank as a whole.
    pub(crate) fn rank(kind: SpanKind) -> Self {
        Self { kind, stage: Stage(0), micro_batch: MicroBatch(0) }
    }
}

impl From<Op> for Place {
    fn from(op: Op) -> Self {
        Self { kind: op.phase.into(), stage: op.stage, micro_batch: op.micro_batch }
    }
}

impl Journal {
    pub(crate) fn new(config: &RankConfig, replica: Replica, rank: Rank, device: Device) -> Self {
        Self {
            recorder: config.recorder.clone(),
            clock: HostClock::new(config.origin, device),
            replica,
            rank,
            step: 0,
            is_paced: config.pace.is_some(),
            is_open: true,
            spans: Vec::new(),
        }
    }

    /// The step that spans belong to from now on.
    pub(crate) fn begin(&mut self, step: u64) {
        self.step = step;
    }

    /// Whether anything is written down from now on. While nothing is, no clock is read.
    pub(crate) fn set_open(&mut self, is_open: bool) {
        self.is_open = is_open;
    }

    /// The time of the run; 0 while nothing is written down.
    pub(crate) fn now_ns(&self) -> Result<u64> {
        if self.is_open { Ok(self.clock.now_ns()?) } else { Ok(0) }
    }

    /// Begins a span of work, which [`Self::end`] writes down.
    pub(crate) fn start(&self) -> Result<Started> {
        if !self.is_open {
            return Ok(Started { at_ns: 0, thread: ThreadTime::default() });
        }
        let thread = self.clock.thread();
        Ok(Started { at_ns: self.clock.now_ns()?, thread })
    }

    /// Ends a span of work: how long it took, and what the thread got of the processor meanwhile.
    pub(crate) fn end(&mut self, place: Place, started: &Started) -> Result<()> {
        if !self.is_open {
            return Ok(());
        }
        let end_ns = self.clock.now_ns()?;
        let after = self.clock.thread();
        let dur_ns = end_ns - started.at_ns;
        let cpu_ns = after.cpu_ns - started.thread.cpu_ns;
        let starved_ns = match (started.thread.run_queue_ns, after.run_queue_ns) {
            _ if self.is_paced => 0,
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => dur_ns.saturating_sub(cpu_ns),
        };
        let span = self.span(place, started.at_ns);
        self.push(Span { dur_ns, cpu_ns, starved_ns: starved_ns.min(dur_ns), ..span });
        Ok(())
    }

    /// A span of waiting, or of moving `bytes`.
    pub(crate) fn moved(&mut self, place: Place, start_ns: u64, end_ns: u64, bytes: u64) {
        if self.is_open {
            let span = self.span(place, start_ns);
            self.push(Span { dur_ns: end_ns - start_ns, bytes, ..span });
        }
    }

    /// Takes the spans so far. Their memory is no longer this rank's.
    pub(crate) fn take(&mut self) -> Vec<Span> {
        let spans = std::mem::take(&mut self.spans);
        memory::moved_out(spans.capacity() * size_of::<Span>());
        spans
    }

    /// A span that has only begun.
    fn span(&self, place: Place, start_ns: u64) -> Span {
        Span {
            step: self.step,
            replica: self.replica.0,
            rank: self.rank.0,
            stage: place.stage.0,
            mb: place.micro_batch.0,
            op: place.kind,
            start_ns,
            dur_ns: 0,
            cpu_ns: 0,
            bytes: 0,
            starved_ns: 0,
        }
    }

    fn push(&mut self, span: Span) {
        self.recorder.span(span);
        self.spans.push(span);
    }
}
