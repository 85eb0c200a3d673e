//! One step, operation by operation: measured, what was planned under it, or the last steps one over the other.

mod details;
mod overlaid;
mod times;

use std::cell::Cell;
use std::sync::Arc;

use pp_telemetry::{Model, RankState, RecordedStep, Span};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Modifier, Style};

use super::super::devices::rank_name;
use super::super::format;
use super::super::paint::{Pen, head, mark_more, panel};
use super::super::theme::{STRONG, Theme, letter};
use super::super::timeline::{Kinds, Naming, Tail, cells, draw_axis, draw_cells, heading, title};
use crate::monitor::state::{Dependency, Mode, Planned, State, Target, first_compute_ns, ops_of};
use details::signed;
use overlaid::shades;

/// Cells in front of a row: where there is room for the stages, and where there is not.
const LABEL_CELLS: (u16, u16) = (12, 6);
/// Cells of an operation, on the average, from which on its time is written into it.
const TIME_CELLS: f64 = 6.0;
/// The operation that is chosen.
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED).add_modifier(Modifier::BOLD);
/// What it has waited for.
const CAUSE: Style =
    Style::new().add_modifier(Modifier::REVERSED).add_modifier(Modifier::UNDERLINED);
/// The operations that one has come from.
const PATH: Style = Style::new().add_modifier(Modifier::UNDERLINED);

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
        Pen::new(buffer, inside, theme).put(" begins with the first operation", theme.dim());
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

/// How the lines are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lines {
    /// Ranks of each block.
    n_ranks: u16,
    /// Lines of each rank.
    per_rank: u16,
    /// Whether each block has a line above it.
    heads: u16,
    axis: u16,
    details: u16,
    with_plan: bool,
}

impl Lines {
    /// For so many rows; `framed_details` are those at the bottom, where there is a frame.
    fn of(
        height: u16,
        n_ranks: u16,
        lines_max: u16,
        framed_details: Option<u16>,
        wants_plan: bool,
    ) -> Self {
        let is_framed = framed_details.is_some();
        let details = match (height, framed_details) {
            (_, Some(details)) => details,
            (0..=2, None) => 0,
            (3..=7, None) => 1,
            _ => 2,
        };
        let axis = u16::from(height - details >= 4);
        let left = height - details - axis;
        let heads = u16::from(is_framed);
        // Half of the ranks with the plan say less than all without it; and a small screen has no place for two heads.
        let with_plan = wants_plan && is_framed && left >= 2 * (heads + n_ranks.clamp(1, 4));
        let n_blocks = 1 + u16::from(with_plan);
        let for_ranks = left.saturating_sub(n_blocks * heads);
        let n_ranks = n_ranks.min(for_ranks / n_blocks);
        let per_rank = (for_ranks / (n_blocks * n_ranks).max(1)).clamp(1, lines_max.max(1));
        let per_rank = if is_framed { per_rank } else { 1 };
        // What is left of a small screen is for words.
        let details = if is_framed { details } else { height - axis - n_ranks };
        Self { n_ranks, per_rank, heads, axis, details, with_plan }
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

    /// Lines of a rank at most: more than one say how long an operation took, where that fits, or how many are busy.
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

    /// The rows of the plan, and a line above them.
    fn draw_plan<'r>(
        &self,
        pen: &mut Pen<'_>,
        mut y: u16,
        lines: Lines,
        plan: &Planned,
        shown: impl Iterator<Item = (usize, &'r RankState)>,
    ) -> u16 {
        if lines.heads > 0 {
            let text = format!(
                " planned: mean times on a core, without delays or waiting for one   {}",
                time(plan.makespan_ns)
            );
            let style = pen.theme.dim();
            pen.line(y).put(text, style);
            y += 1;
        }
        // The plan begins where the step begins to compute.
        let begin = first_compute_ns(self.step).unwrap_or(0) as f64;
        let range_ns = (self.range_ns.0 - begin, self.range_ns.1 - begin);
        for (row, rank) in shown {
            self.draw_label(pen, y, row, rank);
            let of_rank = plan.rows.get(rank.rank as usize).into_iter().flatten();
            self.draw_row(pen, y, lines.per_rank, of_rank, range_ns);
            let same = self.chosen.filter(|span| is_of(span, rank));
            let same = same.and_then(|span| in_plan(plan, span));
            if let Some(span) = same {
                self.draw_mark(pen, y, lines.per_rank, span, range_ns, CHOSEN);
            }
            y += lines.per_rank;
        }
        y
    }

    fn draw_head(
        &self,
        pen: &mut Pen<'_>,
        mode: Mode,
        plan: Option<&Planned>,
        refusal: Option<&str>,
    ) {
        let theme = pen.theme;
        match mode {
            Mode::Measured => {
                pen.put(" measured alone", theme.dim());
            }
            Mode::WithPlan => {
                pen.put(" measured by the wall clock", theme.dim());
                if let Some(why) = refusal {
                    pen.put(format!("   no plan: {why}"), theme.notice());
                }
                let measured_ns = self.window_ns();
                if let Some((plan, measured_ns)) = plan.zip(measured_ns) {
                    let behind = measured_ns as f64 - plan.makespan_ns as f64;
                    let share = behind / (plan.makespan_ns.max(1)) as f64;
                    pen.put(format!("   {}", time(measured_ns)), theme.dim());
                    let behind = signed(behind);
                    let fast = if share < 0.0 { ": this step beat its mean" } else { "" };
                    let text = format!("measured - plan {behind} ({:+.1}%){fast} ", share * 100.0);
                    pen.put_right(&text, STRONG);
                }
            }
            Mode::Overlaid => {
                let seconds = || self.overlaid.iter().filter_map(|(step, _)| step.step_ns);
                let text = format!(
                    " {} steps, each from its first operation on   {} to {}",
                    self.overlaid.len(),
                    time(seconds().min().unwrap_or(0)),
                    time(seconds().max().unwrap_or(0)),
                );
                pen.put(text, theme.dim());
                let shades: String = shades(theme).iter().collect();
                pen.put_right(&format!("{shades} few to all "), theme.dim());
            }
        }
    }

    /// From the first to the last operation that computes, of the replica of the chosen rank.
    fn window_ns(&self) -> Option<u64> {
        let row = self.state.timeline().row(self.model);
        let replica = self.model.ranks().get(row)?.replica;
        let computes =
            || self.step.spans.iter().filter(|s| s.replica == replica && s.op.is_compute());
        let first = computes().map(|span| span.start_ns).min()?;
        let last = computes().map(Span::end_ns).max()?;
        Some(last.saturating_sub(first))
    }

    fn draw_label(&self, pen: &mut Pen<'_>, y: u16, row: usize, rank: &RankState) {
        if self.label_cells == 0 {
            return;
        }
        let is_chosen = !self.is_embedded && row == self.state.timeline().row(self.model);
        let mark = if is_chosen { '>' } else { ' ' };
        let name = rank_name(self.model, rank.replica, rank.rank);
        let name = if self.is_framed { format!("{mark}r{name}") } else { format!("{mark}{name}") };
        pen.line(y).put(format::cut(&name, self.label_cells as usize - 1), STRONG);
        if self.label_cells == LABEL_CELLS.0 {
            let stages: Vec<String> = rank.stages.iter().map(u32::to_string).collect();
            let stages = format!(" s{}", stages.join(","));
            let room = (self.label_cells as usize).saturating_sub(name.chars().count() + 1);
            pen.put(format::cut(&stages, room), pen.theme.dim());
        }
    }

    /// The operations of a rank; below them, where there is room, how long they took.
    fn draw_row<'s>(
        &self,
        pen: &mut Pen<'_>,
        y: u16,
        n_lines: u16,
        spans: impl Iterator<Item = &'s Span>,
        range_ns: (f64, f64),
    ) {
        let chunks = self.model.hello().is_some_and(|hello| hello.virtual_stages > 1);
        let naming = if self.is_framed { Naming::Full } else { Naming::Short };
        let cells = cells(spans, range_ns, self.n_cells as usize);
        self.see(&cells);
        draw_cells(pen, self.label_cells, y, &cells, naming, chunks);
        let theme = pen.theme;
        let mut at = 0;
        while n_lines > 1 && at < cells.len() {
            let Some(span) = cells.get(at).copied().flatten() else {
                at += 1;
                continue;
            };
            let same = cells.iter().skip(at).take_while(|cell| **cell == Some(span));
            let n_cells = same.count();
            for line in 1..n_lines {
                let x = self.label_cells.saturating_add(at as u16);
                (x..x.saturating_add(n_cells as u16))
                    .for_each(|x| pen.cell(x, y + line, ' ', theme.block(span.op)));
                let text = time(span.dur_ns);
                if line == 1 && text.chars().count() < n_cells {
                    let style = theme.block(span.op);
                    (x..).zip(text.chars()).for_each(|(x, c)| pen.cell(x, y + line, c, style));
                }
            }
            at += n_cells;
        }
    }

    /// Remembers what was drawn, for the legend.
    fn see(&self, cells: &[Option<&Span>]) {
        let mut kinds = self.seen.get();
        kinds.see(cells);
        self.seen.set(kinds);
    }

    /// The chosen operation, what it has waited for, and where one has come from.
    fn draw_marks(&self, pen: &mut Pen<'_>, y: u16, n_lines: u16, rank: &RankState) {
        let mut mark = |span: &Span, style: Style| {
            if is_of(span, rank) {
                self.draw_mark(pen, y, n_lines, span, self.range_ns, style);
            }
        };
        self.path.iter().for_each(|span| mark(span, PATH));
        if let Some(cause) = self.cause.and_then(|cause| cause.cause()) {
            mark(cause, CAUSE);
        }
        if let Some(chosen) = self.chosen {
            mark(chosen, CHOSEN);
        }
    }

    fn draw_mark(
        &self,
        pen: &mut Pen<'_>,
        y: u16,
        n_lines: u16,
        span: &Span,
        (from_ns, to_ns): (f64, f64),
        style: Style,
    ) {
        let cell_ns = (to_ns - from_ns) / f64::from(self.n_cells.max(1));
        let (start, end) = (span.start_ns as f64 - from_ns, span.end_ns() as f64 - from_ns);
        if end < 0.0 || start >= to_ns - from_ns {
            return;
        }
        // The cells in which it may win: those whose middle it covers.
        #[expect(clippy::cast_sign_loss, reason = "clamped to 0 and more")]
        let cell_of = |ns: f64| (ns / cell_ns + 0.5).clamp(0.0, f64::from(self.n_cells)) as u16;
        let first = cell_of(start).min(self.n_cells.saturating_sub(1));
        let n_cells = cell_of(end).saturating_sub(first).max(1);
        let x = self.label_cells.saturating_add(first);
        if n_cells == 1 {
            // It may be too short for a cell of its own.
            pen.cell(x, y, letter(span.op), Style::new());
        }
        (0..n_lines).for_each(|line| pen.restyle(x, y + line, n_cells, style));
    }
}

fn is_of(span: &Span, rank: &RankState) -> bool {
    span.rank == rank.rank && span.replica == rank.replica
}

/// Of operations in the order of time the one at a time, or what comes next; behind the last one,
/// that.
fn at_time(ops: &[&Span], time_ns: f64) -> Option<usize> {
    let next = ops.iter().position(|span| span.end_ns() as f64 > time_ns);
    next.or(ops.len().checked_sub(1))
}

/// The same operation in the plan.
fn in_plan<'p>(plan: &'p Planned, span: &Span) -> Option<&'p Span> {
    let row = plan.rows.get(span.rank as usize)?;
    row.iter().find(|other| (other.op, other.stage, other.mb) == (span.op, span.stage, span.mb))
}

/// A time as one reads it.
fn time(ns: u64) -> String {
    format::duration(ns as f64 * 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_divided_and_never_more_than_there_are() {
        for (height, n_ranks) in (0..80).flat_map(|height| (0..20).map(move |n| (height, n))) {
            for (is_framed, wants_plan) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                let height = if is_framed { height.max(10) } else { height };
                let details = is_framed.then_some(3);
                let lines = Lines::of(height, n_ranks, 2, details, wants_plan);
                let n_blocks = 1 + u16::from(lines.with_plan);
                let n = n_blocks * (lines.heads + lines.n_ranks * lines.per_rank);
                assert!(n + lines.axis + lines.details <= height, "{height} {lines:?}");
                assert!(lines.n_ranks > 0 || n_ranks == 0 || height == 0, "{height} {lines:?}");
            }
        }
    }
}
