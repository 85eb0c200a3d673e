//! Which step the timeline shows, and which part of it.

use pp_telemetry::{Model, Recorded, RecordedStep};

use super::super::input::Action;

/// Doublings of the scale at most.
const ZOOM_MAX: u32 = 12;

/// Which step the timeline shows, and which part of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TimelineState {
    /// The step that is held; `None` follows the newest.
    held_step: Option<u64>,
    /// How often the scale was doubled.
    zoom: u32,
    /// The middle of what is shown, as a share of the step.
    centre: f64,
}

impl Default for TimelineState {
    fn default() -> Self {
        Self { held_step: None, zoom: 0, centre: 0.5 }
    }
}

impl TimelineState {
    /// The step to show: the newest that is over, or the first while it runs; for one that is held and has been let go,
    /// the nearest that is left.
    pub(crate) fn step<'a>(&self, model: &'a Model) -> Option<&'a RecordedStep> {
        let recorded = model.recorded();
        match self.held_step {
            None => recorded.last_complete().or_else(|| recorded.running()),
            Some(step) => recorded.get(step).or_else(|| recorded.get(recorded.neighbour(step, 0)?)),
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held_step.is_some()
    }

    /// Goes `by` recorded steps on; the newest step is followed again.
    pub(crate) fn step_by(&mut self, recorded: &Recorded, by: i64) {
        let newest = recorded.last_complete().map(|step| step.step);
        let Some(from) = self.held_step.or(newest) else { return };
        let to = recorded.neighbour(from, by);
        self.held_step = if to == newest && by > 0 { None } else { to };
    }

    /// Goes to a step, or to the nearest that is at hand; tells which it is.
    pub(crate) fn go_to(&mut self, recorded: &Recorded, step: u64) -> Option<u64> {
        let found = match recorded.get(step) {
            Some(_) => step,
            None => recorded.neighbour(step, 0)?,
        };
        self.held_step = Some(found);
        Some(found)
    }

    /// Does what a key asks for in the view of the timeline.
    pub(crate) fn act(&mut self, action: Action, _model: &Model) {
        if let Action::Pan(by) = action {
            self.pan(by);
        }
    }

    /// Closes the last thing that was opened, if any.
    pub(crate) fn back(&mut self) -> bool {
        let is_changed = *self != Self::default();
        self.reset();
        is_changed
    }

    /// Follows the newest step.
    pub(crate) fn follow(&mut self) {
        self.held_step = None;
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn zoom_in(&mut self) {
        self.zoom = (self.zoom + 1).min(ZOOM_MAX);
        self.clamp();
    }

    pub(crate) fn zoom_out(&mut self) {
        self.zoom = self.zoom.saturating_sub(1);
        self.clamp();
    }

    pub(crate) fn fit(&mut self) {
        self.zoom = 0;
        self.clamp();
    }

    /// Moves by quarters of what is shown.
    pub(crate) fn pan(&mut self, by: f64) {
        self.centre += by * self.share() / 4.0;
        self.clamp();
    }

    /// The factor of the scale.
    pub(crate) fn scale(&self) -> u64 {
        1 << self.zoom
    }

    /// What is shown, as a share of the step.
    fn share(&self) -> f64 {
        1.0 / self.scale() as f64
    }

    fn clamp(&mut self) {
        let half = self.share() / 2.0;
        self.centre = self.centre.clamp(half, 1.0 - half);
    }

    /// The part of a step that is shown, in nanoseconds of the run's clock.
    pub(crate) fn range_ns(&self, step: &RecordedStep) -> Option<(f64, f64)> {
        let (first, last) = step.range_ns()?;
        let whole = last.saturating_sub(first).max(1) as f64;
        let half = whole * self.share() / 2.0;
        let middle = first as f64 + whole * self.centre;
        Some((middle - half, middle + half))
    }
}
