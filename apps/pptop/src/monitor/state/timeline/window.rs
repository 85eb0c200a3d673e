//! The visible part of a step: its scale and its middle.

use pp_telemetry::Span;

/// The most doublings of the scale.
const ZOOM_MAX: u32 = 12;

/// The visible part of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    /// The number of doublings of the scale.
    zoom: u32,
    /// The middle of the visible part, as a share of the step.
    centre: f64,
}

impl Default for Window {
    fn default() -> Self {
        Self { zoom: 0, centre: 0.5 }
    }
}

impl Window {
    pub(super) fn is_zoomed(self) -> bool {
        self.zoom > 0
    }

    pub(super) fn zoom_in(&mut self) {
        self.zoom = (self.zoom + 1).min(ZOOM_MAX);
        self.clamp();
    }

    pub(super) fn zoom_out(&mut self) {
        self.zoom = self.zoom.saturating_sub(1);
        self.clamp();
    }

    /// Shows all of the step.
    pub(super) fn fit(&mut self) {
        self.zoom = 0;
        self.clamp();
    }

    /// Moves by quarters of the visible part.
    pub(super) fn pan(&mut self, by: f64) {
        self.centre += by * self.share() / 4.0;
        self.clamp();
    }

    /// The factor of the scale.
    pub(super) fn scale(self) -> u64 {
        1 << self.zoom
    }

    /// The visible share of the step.
    fn share(self) -> f64 {
        1.0 / self.scale() as f64
    }

    fn clamp(&mut self) {
        let half = self.share() / 2.0;
        self.centre = self.centre.clamp(half, 1.0 - half);
    }

    /// The visible part of these bounds.
    pub(super) fn of(self, (first, last): (u64, u64)) -> (f64, f64) {
        let whole = last.saturating_sub(first).max(1) as f64;
        let half = whole * self.share() / 2.0;
        let middle = first as f64 + whole * self.centre;
        (middle - half, middle + half)
    }

    /// The window with an operation in its middle; `None` if the operation is completely visible
    /// already.
    pub(super) fn around(self, span: &Span, bounds: (u64, u64)) -> Option<Self> {
        if !self.is_zoomed() {
            return None;
        }
        let (from, to) = self.of(bounds);
        if span.start_ns as f64 >= from && span.end_ns() as f64 <= to {
            return None;
        }
        let whole = bounds.1.saturating_sub(bounds.0).max(1) as f64;
        let middle = span.start_ns.saturating_sub(bounds.0) as f64 + span.dur_ns as f64 / 2.0;
        let half = self.share() / 2.0;
        Some(Self { centre: (middle / whole).clamp(half, 1.0 - half), ..self })
    }
}
