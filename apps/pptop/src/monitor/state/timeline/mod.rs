//! The state of the timeline: the shown step, the shown part of it, and the chosen operation.

mod cursor;
mod window;

use std::sync::Arc;

use pp_telemetry::{Model, Recorded, RecordedStep, Span, SpanKind};

use super::ops::{Dependency, dependency, first_compute_ns, ops_of};
use super::plan::{Memo, Planned};
use crate::monitor::input::Action;
use cursor::{Cursor, find};
use window::Window;

/// The most steps that are laid over each other.
const OVERLAID_STEPS: usize = 10;
/// The most operations of the path that the user can walk back.
const PATH_MAX: usize = 200;
/// Rows of a page.
const PAGE_ROWS: isize = 8;

/// How the timeline shows its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mode {
    /// Measured, and under it what was planned.
    #[default]
    WithPlan,
    /// Measured alone.
    Measured,
    /// The last recorded steps, one over the other.
    Overlaid,
}

impl Mode {
    fn next(self) -> Self {
        match self {
            Self::WithPlan => Self::Measured,
            Self::Measured => Self::Overlaid,
            Self::Overlaid => Self::WithPlan,
        }
    }
}

/// The state of the timeline: the shown step, the shown part of it, and the chosen operation.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct TimelineState {
    /// The pinned step; `None` follows the newest.
    held_step: Option<u64>,
    window: Window,
    mode: Mode,
    /// The rank that is chosen.
    row: usize,
    cursor: Option<Cursor>,
    /// Whether the cause of the operation's wait is shown.
    shows_cause: bool,
    /// The operations that one has come from.
    path: Vec<Cursor>,
    memo: Memo,
}

impl TimelineState {
    /// The step to show: the newest that has ended, or the first while it runs. If a pinned step is
    /// no longer kept, the nearest kept step is shown.
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

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// The rank that is chosen, by its place in the model.
    pub(crate) fn row(&self, model: &Model) -> usize {
        self.row.min(model.ranks().len().saturating_sub(1))
    }

    /// The first of the ranks to show when only `n_rows` fit: the chosen one stands in the middle.
    pub(crate) fn first_row(&self, model: &Model, n_rows: usize) -> usize {
        let most = model.ranks().len().saturating_sub(n_rows);
        self.row(model).saturating_sub(n_rows / 2).min(most)
    }

    /// The operation that is chosen, in the step that is shown.
    pub(crate) fn chosen<'a>(&self, model: &'a Model) -> Option<&'a Span> {
        find(model, self.step(model)?, self.cursor?).map(|(_, span)| span)
    }

    /// The operation for which the chosen one waited, if the cause is shown.
    pub(crate) fn cause<'a>(&self, model: &'a Model) -> Option<Dependency<'a>> {
        if !self.shows_cause {
            return None;
        }
        Some(dependency(self.step(model)?, self.chosen(model)?))
    }

    /// The operations that one has come from.
    pub(crate) fn path<'a>(&self, model: &'a Model) -> Vec<&'a Span> {
        let Some(step) = self.step(model) else { return Vec::new() };
        self.path.iter().filter_map(|cursor| find(model, step, *cursor)).map(|(_, s)| s).collect()
    }

    /// The plan of the run with its measured times, or why there is none.
    pub(crate) fn planned(&self, model: &Model) -> Arc<Result<Planned, String>> {
        self.memo.planned(model)
    }

    /// The last recorded steps up to the one that is shown, newest first.
    pub(crate) fn overlaid<'a>(&self, model: &'a Model) -> Vec<&'a RecordedStep> {
        let Some(shown) = self.step(model) else { return Vec::new() };
        let steps = model.recorded().complete_steps().rev();
        // What was lost of a step would look idle.
        let is_fit = |step: &&RecordedStep| step.step == shown.step || step.is_whole();
        steps.filter(|step| step.step <= shown.step).filter(is_fit).take(OVERLAID_STEPS).collect()
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
    pub(crate) fn act(&mut self, action: Action, model: &Model) {
        match action {
            Action::Mode => self.mode = self.mode.next(),
            Action::Pan(by) => self.move_by(if by < 0.0 { -1 } else { 1 }, model),
            Action::Scroll(by) => self.choose_row(by, model),
            Action::Page(by) => self.choose_row(by.saturating_mul(PAGE_ROWS), model),
            Action::Edge { last } => {
                self.choose_row(if last { isize::MAX } else { isize::MIN }, model);
            }
            Action::Enter => self.enter(model),
            _ => {}
        }
    }

    /// Chooses another operation of the rank.
    fn move_by(&mut self, by: isize, model: &Model) {
        let row = self.row(model);
        let (Some(step), Some(rank)) = (self.step(model), model.ranks().get(row)) else { return };
        let ops = ops_of(step, rank.replica, rank.rank);
        let last = ops.len().saturating_sub(1);
        let before = self.cursor.and_then(|cursor| find(model, step, cursor));
        let at = match before {
            Some((at, _)) => at.saturating_add_signed(by).min(last),
            None => match self.range_ns(step).filter(|_| self.window.is_zoomed()) {
                // The first that is visible.
                Some((from, _)) => {
                    ops.iter().position(|op| op.end_ns() as f64 > from).unwrap_or(last)
                }
                None if by < 0 => last,
                None => 0,
            },
        };
        if let Some(span) = ops.get(at) {
            self.choose(Cursor::new(row, at, span));
            self.follow_chosen(model);
        }
    }

    /// Chooses another rank, and of it what it did at that time.
    fn choose_row(&mut self, by: isize, model: &Model) {
        let last = model.ranks().len().saturating_sub(1);
        let middle_ns =
            self.chosen(model).map(|span| span.start_ns.saturating_add(span.dur_ns / 2));
        self.row = self.row(model).saturating_add_signed(by).min(last);
        let (Some(middle_ns), Some(step), Some(rank)) =
            (middle_ns, self.step(model), model.ranks().get(self.row))
        else {
            return;
        };
        // Of two at the same time, a mean is the one that lies beside the other.
        let away = |span: &Span| {
            let ns = span.start_ns.saturating_sub(middle_ns);
            let ns = ns.max(middle_ns.saturating_sub(span.end_ns()));
            (ns, span.op == SpanKind::AllReduce)
        };
        let ops = ops_of(step, rank.replica, rank.rank);
        let nearest = ops.iter().enumerate().min_by_key(|(_, span)| away(span));
        match nearest {
            Some((at, span)) => self.choose(Cursor::new(self.row, at, span)),
            None => self.cursor = None,
        }
        self.follow_chosen(model);
    }

    /// Chooses an operation, by its place among those of a rank.
    pub(crate) fn choose_at(&mut self, row: usize, at: usize, model: &Model) {
        let (Some(step), Some(rank)) = (self.step(model), model.ranks().get(row)) else { return };
        if let Some(span) = ops_of(step, rank.replica, rank.rank).get(at) {
            self.row = row;
            self.choose(Cursor::new(row, at, span));
        }
    }

    /// Whether this operation is the one that is chosen.
    pub(crate) fn is_chosen_at(&self, row: usize, at: usize, model: &Model) -> bool {
        let found = self.cursor.zip(self.step(model)).filter(|(cursor, _)| cursor.row == row);
        found.is_some_and(|(cursor, step)| {
            find(model, step, cursor).is_some_and(|(place, _)| place == at)
        })
    }

    /// Chooses a rank, and of it what it did at the time of what was chosen.
    pub(crate) fn choose_rank(&mut self, row: usize, model: &Model) {
        let at = isize::try_from(self.row(model)).unwrap_or(0);
        self.choose_row(isize::try_from(row).unwrap_or(0) - at, model);
    }

    fn choose(&mut self, cursor: Cursor) {
        self.cursor = Some(cursor);
        self.shows_cause = false;
        self.path.clear();
    }

    /// Shows what the operation has waited for; once more goes there.
    fn enter(&mut self, model: &Model) {
        let Some(cursor) = self.cursor else {
            self.move_by(1, model);
            return;
        };
        if !self.shows_cause {
            self.shows_cause = true;
            return;
        }
        let Some(cause) = self.cause(model).and_then(|found| found.cause()) else { return };
        let is_its = |rank: &pp_telemetry::RankState| {
            rank.rank == cause.rank && rank.replica == cause.replica
        };
        let (Some(step), Some(row)) = (self.step(model), model.ranks().iter().position(is_its))
        else {
            return;
        };
        let ops = ops_of(step, cause.replica, cause.rank);
        let Some(at) = ops.iter().position(|span| *span == cause) else { return };
        if self.path.len() == PATH_MAX {
            self.path.remove(0);
        }
        self.path.push(cursor);
        (self.row, self.cursor) = (row, Some(Cursor::new(row, at, cause)));
        self.follow_chosen(model);
    }

    /// Closes the last thing that was opened, if any: a walk goes back by one operation.
    pub(crate) fn back(&mut self) -> bool {
        if let Some(cursor) = self.path.pop() {
            (self.row, self.cursor) = (cursor.row, Some(cursor));
            return true;
        }
        if std::mem::take(&mut self.shows_cause) {
            return true;
        }
        if self.cursor.take().is_some() {
            return true;
        }
        let is_changed = self.held_step.is_some() || self.window.is_zoomed();
        (self.held_step, self.window) = (None, Window::default());
        is_changed
    }

    /// Follows the newest step.
    pub(crate) fn follow(&mut self) {
        self.held_step = None;
    }

    pub(crate) fn reset(&mut self) {
        *self = Self { mode: self.mode, memo: std::mem::take(&mut self.memo), ..Self::default() };
    }

    pub(crate) fn zoom_in(&mut self) {
        self.window.zoom_in();
    }

    pub(crate) fn zoom_out(&mut self) {
        self.window.zoom_out();
    }

    pub(crate) fn fit(&mut self) {
        self.window.fit();
    }

    /// Moves by quarters of what is shown.
    pub(crate) fn pan(&mut self, by: f64) {
        self.window.pan(by);
    }

    /// The factor of the scale.
    pub(crate) fn scale(&self) -> u64 {
        self.window.scale()
    }

    /// The part of a step that is shown, in nanoseconds of the run's clock.
    pub(crate) fn range_ns(&self, step: &RecordedStep) -> Option<(f64, f64)> {
        Some(self.window.of(step.range_ns()?))
    }

    /// The bounds of everything that can be shown: the step, and what is drawn beside it.
    fn bounds_ns(&self, model: &Model, step: &RecordedStep) -> Option<(u64, u64)> {
        let (first, last) = step.range_ns()?;
        let begin = first_compute_ns(step).unwrap_or(first);
        let longest = match self.mode {
            Mode::Measured => 0,
            Mode::WithPlan => self.planned(model).as_ref().as_ref().map_or(0, |p| p.makespan_ns),
            Mode::Overlaid => {
                let after_begin = |step: &&RecordedStep| {
                    let (first, last) = step.range_ns()?;
                    last.checked_sub(first_compute_ns(step).unwrap_or(first))
                };
                self.overlaid(model).iter().filter_map(after_begin).max().unwrap_or(0)
            }
        };
        Some((first, last.max(begin.saturating_add(longest))))
    }

    /// The part of the step that the timeline view shows. It contains the chosen operation.
    pub(crate) fn view_ns(&self, model: &Model) -> Option<(f64, f64)> {
        let bounds = self.bounds_ns(model, self.step(model)?)?;
        Some(self.with_chosen(model, bounds).unwrap_or(self.window).of(bounds))
    }

    /// The window with the chosen operation, if the window must move to show it.
    fn with_chosen(&self, model: &Model, bounds: (u64, u64)) -> Option<Window> {
        self.window.around(self.chosen(model)?, bounds)
    }

    fn follow_chosen(&mut self, model: &Model) {
        let bounds = self.step(model).and_then(|step| self.bounds_ns(model, step));
        if let Some(window) = bounds.and_then(|bounds| self.with_chosen(model, bounds)) {
            self.window = window;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pp_telemetry::{Event, Hello, SpanKind, StepEvent};

    /// Two ranks, two micro-batches, two steps that are alike.
    fn model() -> Model {
        let hello = Hello { pp: 2, dp: 1, micro_batches: 2, ..Hello::default() };
        let mut model = Model::new();
        model.apply(&Event::Hello(Box::new(hello)));
        for step in 1..=2 {
            for (rank, op, mb, start_ns) in [
                (0, SpanKind::F, 0, 0),
                (0, SpanKind::F, 1, 10),
                (1, SpanKind::WaitAct, 0, 0),
                (1, SpanKind::F, 0, 10),
                (1, SpanKind::B, 0, 20),
                (1, SpanKind::F, 1, 30),
                (1, SpanKind::B, 1, 40),
                (0, SpanKind::B, 0, 30),
                (0, SpanKind::B, 1, 50),
            ] {
                model.apply(&Event::Span(Span {
                    step,
                    replica: 0,
                    rank,
                    stage: rank,
                    mb,
                    op,
                    start_ns: step * 1000 + start_ns,
                    dur_ns: 10,
                    cpu_ns: 0,
                    bytes: 0,
                    starved_ns: 0,
                }));
            }
            let line = format!(r#"{{"step":{step},"loss":1.0,"seconds":0.001}}"#);
            let step: StepEvent = serde_json::from_str(&line).unwrap();
            model.apply(&Event::Step(step));
        }
        model
    }

    fn chosen(state: &TimelineState, model: &Model) -> String {
        state
            .chosen(model)
            .map_or("-".to_owned(), |span| format!("{}{}{}", span.stage, span.op.name(), span.mb))
    }

    fn after(actions: &[Action], model: &Model) -> TimelineState {
        let mut state = TimelineState::default();
        for action in actions {
            state.act(*action, model);
        }
        state
    }

    const LEFT: Action = Action::Pan(-1.0);
    const RIGHT: Action = Action::Pan(1.0);

    #[test]
    fn the_cursor_goes_from_operation_to_operation() {
        let model = model();
        let at = |actions: &[Action]| chosen(&after(actions, &model), &model);
        assert_eq!(at(&[]), "-");
        assert_eq!(at(&[RIGHT]), "0F0");
        assert_eq!(at(&[LEFT]), "0B1");
        assert_eq!(at(&[RIGHT, RIGHT, RIGHT]), "0B0");
        assert_eq!(at(&[RIGHT, LEFT, LEFT]), "0F0");
        assert_eq!(at(&[RIGHT; 20]), "0B1");
        // Another rank: what it did at that time.
        assert_eq!(at(&[RIGHT, RIGHT, RIGHT, Action::Scroll(1)]), "1F1");
        assert_eq!(at(&[RIGHT, Action::Scroll(1)]), "1F0");
        assert_eq!(at(&[Action::Scroll(5), RIGHT]), "1F0");
        assert_eq!(at(&[Action::Edge { last: true }, RIGHT, Action::Edge { last: false }]), "0F1");
    }

    #[test]
    fn the_same_operation_is_found_in_another_step() {
        let model = model();
        let mut state = after(&[RIGHT, RIGHT, RIGHT], &model);
        let newest = state.chosen(&model).map(|span| span.start_ns);
        state.step_by(model.recorded(), -1);
        let before = state.chosen(&model).map(|span| span.start_ns);
        assert_eq!((newest, before), (Some(2030), Some(1030)));
    }

    #[test]
    fn one_walks_along_what_was_waited_for_and_back() {
        let model = model();
        let mut state = after(&[LEFT], &model);
        let mut seen = vec![chosen(&state, &model)];
        for _ in 0..8 {
            state.act(Action::Enter, &model);
            seen.push(chosen(&state, &model));
        }
        assert_eq!(seen, ["0B1", "0B1", "1B1", "1F1", "1B0", "1F0", "0F0", "0F0", "0F0"]);
        assert_eq!(state.path(&model).len(), 5);
        let mut n_back = 0;
        while state.back() {
            n_back += 1;
        }
        // Five operations, what it waited for, and the choice itself.
        assert_eq!((n_back, chosen(&state, &model)), (7, "-".to_owned()));
    }

    #[test]
    fn what_is_chosen_is_seen() {
        let model = model();
        let mut state = after(&[RIGHT], &model);
        for _ in 0..4 {
            state.zoom_in();
        }
        for _ in 0..4 {
            let (from, to) = state.view_ns(&model).unwrap();
            let span = state.chosen(&model).unwrap();
            let middle = span.start_ns as f64 + 5.0;
            assert!(from <= middle && middle <= to, "{from} {middle} {to}");
            state.act(RIGHT, &model);
        }
    }
}
