//! Spans as ops, so that [`Op::input_stage`] and [`Op::output_stage`] are the only place that knows
//! which op feeds which.

use pp_schedule::{MicroBatch, Op, Phase, Stage};

use crate::{Span, SpanKind};

/// The op of a span. A wait has the op that its rank waited to begin: a forward for an activation,
/// a backward for a gradient. `None` for every span that is not an op of a plan, such as a copy or
/// a reduction.
pub fn op_of(span: &Span) -> Option<Op> {
    let phase = match span.op {
        SpanKind::F | SpanKind::WaitAct => Phase::Forward,
        SpanKind::B | SpanKind::WaitGrad => Phase::Backward,
        SpanKind::I => Phase::InputGrad,
        SpanKind::W => Phase::WeightGrad,
        SpanKind::Send
        | SpanKind::Recv
        | SpanKind::AllReduce
        | SpanKind::Optim
        | SpanKind::Checkpoint
        | SpanKind::Data => return None,
    };
    Some(Op::new(Stage(span.stage), phase, MicroBatch(span.mb)))
}
