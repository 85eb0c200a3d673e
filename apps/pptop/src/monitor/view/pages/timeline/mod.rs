//! One step, operation by operation: as measured, above its plan, or over other steps.

mod details;
mod lines;
mod overlaid;
mod planned;
mod row;
mod times;

use std::cell::Cell;
use std::sync::Arc;

use pp_telemetry::{Model, RankState, RecordedStep, Span, SpanKind};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};

use crate::monitor::screen::Target;
use crate::monitor::state::{Dependency, Mode, Planned, State, first_compute_ns, ops_of};
use crate::monitor::view::paint::{Pen, head, mark_more, panel};
use crate::monitor::view::theme::{STRONG, Theme};
use crate::monitor::view::timeline::{Kinds, Tail, draw_axis, heading, title};
use crate::monitor::words::format;
use lines::Lines;

/// Cells in front of a row: where there is room for the stages, and where there is not.
const LABEL_CELLS: (u16, u16) = (12, 6);
/// Cells of an operation, on the average, from which on its time is written into it.
const TIME_CELLS: f64 = 6.0;
/// Draws the view.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    draw_in(buffer, area, state, theme, false);
}

/// Draws the step and the plan alone, as a panel of the overview.
pub(crate) fn draw_embedded(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    draw_in(buffer, area, state, theme, true);
}

fn draw_in(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme, is_embedded: bool) {
    let model = state.shown();
    let is_framed = is_framed(area);
    let shown = state.timeline().step(model).zip(state.timeline().view_ns(model));
    let Some((step, range_ns)) = shown else {
        let inside = if is_framed { panel(buffer, area, theme, "timeline", "") } else { area };
        Pen::new(buffer, inside, theme).put(" no operation has been recorded yet", theme.dim());
        return;
    };
    let inside = if is_framed { panel(buffer, area, theme, "", "") } else { area };
    let mut pen = Pen::new(buffer, inside, theme);
    let page = Page { is_embedded, ..Page::new(state, step, range_ns, pen.width(), is_framed) };
    let (above, below) = page.draw(&mut pen);
    if is_framed {
        // What is drawn decides about the legend.
        let title = title(state, model, step);
        let (title, legend) = heading(&title, page.seen.get(), theme, area.width);
        head(buffer, area, theme, &title, &legend);
        mark_more(buffer, area, theme, (above, below), &state.keymap().scroll_keys());
    }
}

/// The operation that a click at a cell means: what is there, or where nothing is, what the rank
/// did next.
pub(crate) fn op_at(area: Rect, state: &State, at: Position, is_embedded: bool) -> Option<Target> {
    let model = state.shown();
    let is_framed = is_framed(area);
    let (step, range_ns) = state.timeline().step(model).zip(state.timeline().view_ns(model))?;
    let inside = if is_framed {
        Rect {
            x: area.x.saturating_add(1),
            y: area.y.saturating_add(1),
            width: area.width.saturating_sub(2),
            height: area.height.saturating_sub(2),
        }
    } else {
        area
    };
    if !inside.contains(at) {
        return None;
    }
    let page = Page { is_embedded, ..Page::new(state, step, range_ns, inside.width, is_framed) };
    page.op_at(inside.height, at.x - inside.x, at.y - inside.y)
}

/// What a rank did at a time, or next.
pub(crate) fn op_at_time(state: &State, rank: usize, time_ns: f64) -> Option<Target> {
    let model = state.shown();
    let step = state.timeline().step(model)?;
    let of_rank = model.ranks().get(rank)?;
    let at = at_time(&ops_of(step, of_rank.replica, of_rank.rank), time_ns)?;
    Some(Target::Op { rank, at })
}

/// Rows that the panel of the overview fills, of so many at most: with the plan below the step
/// where there is room for it, and with times in the operations where they fit. `None` where that
/// is not more than a line for each rank.
pub(crate) fn rows_within(state: &State, width: u16, most: u16) -> Option<u16> {
    let model = state.shown();
    let (step, range_ns) = state.timeline().step(model).zip(state.timeline().view_ns(model))?;
    let page = Page::new(state, step, range_ns, width.saturating_sub(2), true);
    let mode = state.timeline().mode();
    let n_ranks = u16::try_from(model.ranks().len()).unwrap_or(u16::MAX);
    let has_plan = mode == Mode::WithPlan && state.timeline().planned(model).is_ok();
    let n_blocks = 1 + u16::from(has_plan);
    let rows = |per_rank: u16, n_blocks: u16| {
        n_ranks
            .saturating_mul(per_rank)
            .saturating_add(1)
            .saturating_mul(n_blocks)
            .saturating_add(3)
    };
    let per_rank = page.lines_max(mode);
    let wanted = [rows(per_rank, n_blocks), rows(1, n_blocks), rows(per_rank, 1)];
    wanted.into_iter().find(|rows| *rows <= most).filter(|found| *found > rows(1, 1))
}

/// Whether there is a frame, and more than the rows of the ranks inside of it.
fn is_framed(area: Rect) -> bool {
    area.width >= 58 && area.height >= 12
}

/// What is drawn.
struct Page<'a> {
    state: &'a State,
    model: &'a Model,
    step: &'a RecordedStep,
    range_ns: (f64, f64),
    is_framed: bool,
    /// Whether it is a panel of the overview, in which nothing is chosen.
    is_embedded: bool,
    label_cells: u16,
    n_cells: u16,
    /// What the run did after the step.
    tail: Option<Tail>,
    chosen: Option<&'a Span>,
    cause: Option<Dependency<'a>>,
    path: Vec<&'a Span>,
    /// The steps that lie over each other, with when they began to compute.
    overlaid: Vec<(&'a RecordedStep, u64)>,
    /// What was drawn.
    seen: Cell<Kinds>,
}

/// What stands where.
struct Rows {
    lines: Lines,
    /// The first rank.
    first: usize,
    plan: Arc<Result<Planned, String>>,
}

impl Rows {
    fn plan(&self) -> Option<&Planned> {
        self.plan.as_ref().as_ref().ok()
    }
}

impl<'a> Page<'a> {
    fn new(
        state: &'a State,
        step: &'a RecordedStep,
        range_ns: (f64, f64),
        width: u16,
        is_framed: bool,
    ) -> Self {
        let (model, timeline) = (state.shown(), state.timeline());
        let label_cells = match width {
            100.. => LABEL_CELLS.0,
            _ if is_framed => LABEL_CELLS.1,
            _ => u16::from(width > 10) * 4,
        };
        let n_cells = width.saturating_sub(label_cells + u16::from(is_framed));
        let is_single = timeline.mode() != Mode::Overlaid;
        let tail = Tail::of(state, step, n_cells).filter(|_| is_single);
        let n_cells = n_cells - tail.as_ref().map_or(0, |tail| tail.n_cells);
        let (chosen, cause) = (timeline.chosen(model), timeline.cause(model));
        let path = timeline.path(model);
        let overlaid = match timeline.mode() {
            Mode::Overlaid => timeline.overlaid(model),
            Mode::WithPlan | Mode::Measured => Vec::new(),
        };
        let begins = |step: &'a RecordedStep| (step, first_compute_ns(step).unwrap_or(0));
        let overlaid = overlaid.into_iter().map(begins).collect();
        Self {
            state,
            model,
            step,
            range_ns,
            is_framed,
            is_embedded: false,
            label_cells,
            n_cells,
            tail,
            chosen,
            cause,
            path,
            overlaid,
            seen: Cell::default(),
        }
    }

    /// How the lines are divided at this height.
    fn rows(&self, height: u16) -> Rows {
        let mode = self.state.timeline().mode();
        let n_ranks = u16::try_from(self.model.ranks().len()).unwrap_or(u16::MAX);
        let plan = match mode {
            Mode::WithPlan => self.state.timeline().planned(self.model),
            Mode::Measured | Mode::Overlaid => Arc::new(Err(String::new())),
        };
        let lines_max = self.lines_max(mode);
        let details = self.is_framed.then_some(if self.is_embedded { 0 } else { 3 });
        let lines = Lines::of(height, n_ranks, lines_max, details, plan.is_ok());
        let first = self.state.timeline().first_row(self.model, lines.n_ranks as usize);
        Rows { lines, first, plan }
    }

    /// The operation at a cell.
    fn op_at(&self, height: u16, x: u16, y: u16) -> Option<Target> {
        let rows = self.rows(height);
        let Lines { n_ranks, per_rank, heads, axis, with_plan, .. } = rows.lines;
        let n_block = n_ranks * per_rank;
        let line_of = |top: u16| y.checked_sub(top).filter(|&line| line < n_block);
        let plan_top = heads + n_block + axis + heads;
        let (line, planned) = match (line_of(heads), line_of(plan_top)) {
            (Some(line), _) => (line, None),
            (None, Some(line)) if with_plan => (line, rows.plan()),
            _ => return None,
        };
        let row = rows.first + (line / per_rank.max(1)) as usize;
        let rank = self.model.ranks().get(row)?;
        // Its name means the rank.
        let Some(x) = x.checked_sub(self.label_cells) else { return Some(Target::Rank(row)) };
        let cell_ns = (self.range_ns.1 - self.range_ns.0) / f64::from(self.n_cells.max(1));
        let time_ns = self.range_ns.0 + (f64::from(x) + 0.5) * cell_ns;
        let ops = ops_of(self.step, rank.replica, rank.rank);
        let at = match planned {
            None => at_time(&ops, time_ns)?,
            // In the plan stands the same operation at another time.
            Some(plan) => {
                let begin = first_compute_ns(self.step).unwrap_or(0) as f64;
                let planned: Vec<&Span> =
                    plan.rows.get(rank.rank as usize).into_iter().flatten().collect();
                let found = planned.get(at_time(&planned, time_ns - begin)?)?;
                let is_same = |span: &&Span| {
                    (span.op, span.stage, span.mb) == (found.op, found.stage, found.mb)
                };
                ops.iter().position(is_same)?
            }
        };
        Some(Target::Op { rank: row, at })
    }

    /// Draws all of it; how many ranks are above and below of what is seen is told.
    fn draw(&self, pen: &mut Pen<'_>) -> (usize, usize) {
        let mode = self.state.timeline().mode();
        let rows = self.rows(pen.height());
        let (lines, first, plan) = (rows.lines, rows.first, rows.plan());
        let refusal = match rows.plan.as_ref() {
            Err(why) if !why.is_empty() => Some(why.as_str()),
            _ => None,
        };
        let n_all = self.model.ranks().len();
        let n_ranks = u16::try_from(n_all).unwrap_or(u16::MAX);
        let shown = || self.model.ranks().iter().enumerate().skip(first);
        let shown = || shown().take(lines.n_ranks as usize);
        let mut y = 0;
        if lines.heads > 0 {
            pen.line(y);
            let n_shown = lines.n_ranks;
            if n_shown < n_ranks {
                let last = first + n_shown as usize;
                pen.put(format!(" ranks {} to {last} of {n_ranks}  ", first + 1), STRONG);
            }
            self.draw_head(pen, mode, plan, refusal);
            y += 1;
        }
        let y_first = y;
        for (row, rank) in shown() {
            self.draw_label(pen, y, row, rank);
            if mode == Mode::Overlaid {
                self.draw_overlaid(pen, y, lines.per_rank, rank);
            } else {
                let of_rank = self.step.spans.iter().filter(|span| is_of(span, rank));
                self.draw_row(pen, y, lines.per_rank, of_rank, self.range_ns);
            }
            if let Some(tail) = &self.tail {
                for line in y..y.saturating_add(lines.per_rank) {
                    tail.draw(pen, self.label_cells + self.n_cells, line, line == y_first);
                }
            }
            self.draw_marks(pen, y, lines.per_rank, rank);
            y += lines.per_rank;
        }
        if lines.axis > 0 {
            pen.line(y);
            draw_axis(pen, self.step, self.range_ns, self.label_cells, self.n_cells);
            y += 1;
        }
        if let Some(plan) = plan.filter(|_| lines.with_plan) {
            y = self.draw_plan(pen, y, lines, plan, shown());
        }
        let details_y = pen.height() - lines.details.min(pen.height());
        if self.is_framed && !self.is_embedded {
            self.draw_sums(pen, y, details_y);
        }
        self.draw_details(pen, details_y, lines.details, plan);
        (first.min(n_all), n_all.saturating_sub(first + lines.n_ranks as usize))
    }

    /// The most lines of a rank. The second line has the times of the operations if they fit or,
    /// over other steps, how many of the steps are busy.
    fn lines_max(&self, mode: Mode) -> u16 {
        if mode == Mode::Overlaid {
            return 2;
        }
        let computes = || self.step.spans.iter().filter(|span| span.op.is_compute());
        let sum_ns: f64 = computes().map(|span| span.dur_ns as f64).sum();
        let cell_ns = (self.range_ns.1 - self.range_ns.0) / f64::from(self.n_cells.max(1));
        let n_cells = sum_ns / computes().count().max(1) as f64 / cell_ns;
        if n_cells >= TIME_CELLS { 2 } else { 1 }
    }
}

fn is_of(span: &Span, rank: &RankState) -> bool {
    span.rank == rank.rank && span.replica == rank.replica
}

/// Of operations in the order of time the one at a time, or what comes next; behind the last one,
/// that. A mean beside an operation is found only where nothing else is.
fn at_time(ops: &[&Span], time_ns: f64) -> Option<usize> {
    let is_at = |span: &Span| span.start_ns as f64 <= time_ns && time_ns < span.end_ns() as f64;
    let is_mean = |span: &Span| span.op == SpanKind::AllReduce;
    let at =
        |wants_mean: bool| ops.iter().position(|span| is_at(span) && is_mean(span) == wants_mean);
    let next = || ops.iter().position(|span| span.start_ns as f64 > time_ns);
    at(false).or_else(|| at(true)).or_else(next).or(ops.len().checked_sub(1))
}

/// The same operation in the plan.
fn in_plan<'p>(plan: &'p Planned, span: &Span) -> Option<&'p Span> {
    let row = plan.rows.get(span.rank as usize)?;
    row.iter().find(|other| (other.op, other.stage, other.mb) == (span.op, span.stage, span.mb))
}

/// A time as text.
fn time(ns: u64) -> String {
    format::duration(ns as f64 * 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_found_where_nothing_else_is() {
        let span = |op, start_ns, end_ns: u64| Span {
            step: 1,
            replica: 0,
            rank: 0,
            stage: 0,
            mb: 0,
            op,
            start_ns,
            dur_ns: end_ns - start_ns,
            cpu_ns: 0,
            bytes: 0,
            starved_ns: 0,
        };
        let spans = [
            span(SpanKind::W, 40, 60),
            span(SpanKind::AllReduce, 50, 130),
            span(SpanKind::F, 62, 100),
            span(SpanKind::Optim, 140, 150),
        ];
        let ops: Vec<&Span> = spans.iter().collect();
        let found = |at| at_time(&ops, at);
        assert_eq!([30.0, 50.0, 61.0, 80.0, 110.0].map(found), [0, 0, 1, 2, 1].map(Some));
        assert_eq!([135.0, 145.0, 200.0].map(found), [Some(3); 3]);
        assert_eq!(at_time(&[], 1.0), None);
    }
}
