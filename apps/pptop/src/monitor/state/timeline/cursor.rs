//! The chosen operation, and the search for it in another step.

use pp_telemetry::{Model, RecordedStep, Span, SpanKind};

use crate::monitor::state::ops::ops_of;

/// The chosen operation, by its kind, stage and micro-batch, so that it is found again in another
/// step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cursor {
    /// The rank, by its place in the model.
    pub(super) row: usize,
    /// Its place among the operations of the rank.
    at: usize,
    op: SpanKind,
    stage: u32,
    mb: u32,
}

impl Cursor {
    pub(super) fn new(row: usize, at: usize, span: &Span) -> Self {
        Self { row, at, op: span.op, stage: span.stage, mb: span.mb }
    }

    fn is(&self, span: &Span) -> bool {
        (span.op, span.stage, span.mb) == (self.op, self.stage, self.mb)
    }
}

/// Finds the operation of a cursor in a step, with its place on its rank. If the step lacks it, the
/// operation at the same place is taken.
pub(super) fn find<'a>(
    model: &Model,
    step: &'a RecordedStep,
    cursor: Cursor,
) -> Option<(usize, &'a Span)> {
    let rank = model.ranks().get(cursor.row)?;
    let ops = ops_of(step, rank.replica, rank.rank);
    let at = match ops.get(cursor.at) {
        Some(span) if cursor.is(span) => cursor.at,
        _ => ops
            .iter()
            .position(|span| cursor.is(span))
            .unwrap_or(cursor.at.min(ops.len().saturating_sub(1))),
    };
    ops.get(at).map(|span| (at, *span))
}
