//! Spans as ops, so that what feeds what is asked in one place: [`Op::input_stage`] and
//! [`Op::output_stage`].

use pp_schedule::{MicroBatch, Op, Phase, Stage};

use crate::{Span, SpanKind};

/// The op that a span was, or that its rank waited to begin: for activations a forward, for
/// gradients a backward. `None` for copies, reductions and whatever else is no op of a plan.
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
