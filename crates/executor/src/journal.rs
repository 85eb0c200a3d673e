//! The spans of one rank.

use pp_nn::memory;
use pp_schedule::{MicroBatch, Op, Rank, Replica, Stage};
use pp_trace::{Recorder, Span, SpanKind};

use crate::clock::{Clock, Moment, ThreadTime};
use crate::config::RankConfig;
use crate::error::RankError;
use crate::lane::{Lane, Mark};

type Result<T> = std::result::Result<T, RankError>;

/// A device that waited for less than this found its message there.
const WAITED_NS: u64 = 2_000;

/// Keeps the spans of a rank, and passes each one to the recorder as soon as its times are known:
/// at once if the rank's own thread computes, else when the device is done.
pub(crate) struct Journal {
    recorder: Recorder,
    clock: Clock,
    replica: Replica,
    rank: Rank,
    step: u64,
    /// Whether a pace decides how long ops last. A rank that waits for its pace needs no core.
    is_paced: bool,
    is_open: bool,
    spans: Vec<Span>,
    /// Spans between two marks of a queue, in the order of their ends.
    unsettled: Vec<Unsettled>,
}

/// A span without times.
struct Unsettled {
    span: Span,
    start: Moment,
    end: Moment,
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
    at: Option<Moment>,
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
    pub(crate) fn new(config: &RankConfig, replica: Replica, rank: Rank) -> Self {
        Self {
            recorder: config.recorder.clone(),
            clock: Clock::new(config.origin),
            replica,
            rank,
            step: 0,
            is_paced: config.pace.is_some(),
            is_open: true,
            spans: Vec::new(),
            unsettled: Vec::new(),
        }
    }

    /// The step that spans belong to from now on. The lane has nothing left to do.
    pub(crate) fn begin(&mut self, step: u64, lane: &Lane) -> Result<()> {
        self.step = step;
        Ok(self.clock.begin(lane)?)
    }

    /// See [`Clock::set_offset`].
    pub(crate) fn set_offset(&mut self, offset_ns: i64) {
        self.clock.set_offset(offset_ns);
    }

    /// Whether anything is written down from now on. While nothing is, no clock is read.
    pub(crate) fn set_open(&mut self, is_open: bool) {
        self.is_open = is_open;
    }

    /// The moment at which the lane is done with everything so far; the run's begin while nothing
    /// is written down.
    pub(crate) fn now(&self, lane: &Lane) -> Result<Moment> {
        if self.is_open { Ok(self.clock.now(lane)?) } else { Ok(Moment::At(0)) }
    }

    /// The moment of a mark that is there already.
    pub(crate) fn at(&self, mark: &Mark) -> Moment {
        if self.is_open { Moment::Passing(mark.clone()) } else { Moment::At(0) }
    }

    /// Begins a span of work, which [`Self::end`] writes down.
    pub(crate) fn start(&self, lane: &Lane) -> Result<Started> {
        if !self.is_open {
            return Ok(Started { at: None, thread: ThreadTime::default() });
        }
        let thread = self.clock.thread();
        Ok(Started { at: Some(self.clock.now(lane)?), thread })
    }

    /// Ends a span of work: how long it took, and what the thread got of the processor meanwhile.
    /// A device needs no processor for its work.
    pub(crate) fn end(&mut self, place: Place, started: Started, lane: &Lane) -> Result<()> {
        let Some(start) = started.at else { return Ok(()) };
        let end = self.clock.now(lane)?;
        let (Moment::At(start_ns), Moment::At(end_ns)) = (&start, &end) else {
            self.unsettled.push(Unsettled { span: self.span(place, 0), start, end });
            return Ok(());
        };
        let (start_ns, dur_ns) = (*start_ns, end_ns - start_ns);
        let after = self.clock.thread();
        let cpu_ns = after.cpu_ns - started.thread.cpu_ns;
        let starved_ns = match (started.thread.run_queue_ns, after.run_queue_ns) {
            _ if self.is_paced => 0,
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => dur_ns.saturating_sub(cpu_ns),
        };
        let span = self.span(place, start_ns);
        self.push(Span { dur_ns, cpu_ns, starved_ns: starved_ns.min(dur_ns), ..span });
        Ok(())
    }

    /// A span of waiting, or of moving `bytes`.
    pub(crate) fn moved(&mut self, place: Place, start: Moment, end: Moment, bytes: u64) {
        if !self.is_open {
            return;
        }
        if let (Moment::At(start_ns), Moment::At(end_ns)) = (&start, &end) {
            let span = self.span(place, *start_ns);
            self.push(Span { dur_ns: end_ns - start_ns, bytes, ..span });
        } else {
            let span = Span { bytes, ..self.span(place, 0) };
            self.unsettled.push(Unsettled { span, start, end });
        }
    }

    /// Finds the times of all spans so far. The device has to be done with them.
    pub(crate) fn settle(&mut self) -> Result<()> {
        for Unsettled { span, start, end } in std::mem::take(&mut self.unsettled) {
            let (start_ns, end_ns) = (self.clock.ns(&start)?, self.clock.ns(&end)?);
            let dur_ns = end_ns.saturating_sub(start_ns);
            let waits = matches!(span.op, SpanKind::WaitAct | SpanKind::WaitGrad);
            if !waits || dur_ns >= WAITED_NS {
                self.push(Span { start_ns, dur_ns, ..span });
            }
        }
        Ok(())
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
