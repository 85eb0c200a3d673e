//! The names of operations: a letter for the timeline, and words for the legend.

use pp_telemetry::SpanKind;

/// The letter of an operation in the timeline.
pub(crate) fn letter(kind: SpanKind) -> char {
    match kind {
        SpanKind::F => 'f',
        SpanKind::B => 'B',
        SpanKind::I => 'I',
        SpanKind::W => 'W',
        SpanKind::Send | SpanKind::Recv => '>',
        SpanKind::AllReduce => 'R',
        SpanKind::Optim => 'O',
        SpanKind::Checkpoint => 'K',
        SpanKind::Data => 'D',
        SpanKind::WaitAct | SpanKind::WaitGrad => '·',
    }
}

/// The name of an operation in the legend.
pub(crate) fn name(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::F => "fwd",
        SpanKind::B => "bwd",
        SpanKind::I => "input grad",
        SpanKind::W => "weight grad",
        SpanKind::Send | SpanKind::Recv => "copy",
        SpanKind::AllReduce => "reduce",
        SpanKind::Optim => "optim",
        SpanKind::Checkpoint => "checkpoint",
        SpanKind::Data => "data",
        SpanKind::WaitAct | SpanKind::WaitGrad => "wait",
    }
}

/// The short name, for little room.
pub(crate) fn short_name(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::I => "dgrad",
        SpanKind::W => "wgrad",
        SpanKind::Optim => "opt",
        SpanKind::Checkpoint => "ckpt",
        kind => name(kind),
    }
}
