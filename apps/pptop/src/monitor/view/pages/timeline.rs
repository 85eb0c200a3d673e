//! One step, operation by operation: measured, what was planned under it, or the last steps one over the other.

use pp_telemetry::{Model, RankState, RecordedStep, Span, SpanKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

use super::super::devices::rank_name;
use super::super::format;
use super::super::paint::{Pen, panel};
use super::super::theme::{STRONG, Theme, letter, name};
use super::super::timeline::{Naming, cells, draw_axis, draw_cells, label, legend, title};
use crate::monitor::input::Action;
use crate::monitor::state::{
    Dependency, Mode, Planned, State, bytes, critical_path, first_compute_ns, usual_ns,
};

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
    let model = state.shown();
    let is_framed = area.width >= 58 && area.height >= 12;
    let shown = state.timeline().step(model).zip(state.timeline().view_ns(model));
    let Some((step, range_ns)) = shown else {
        let inside = if is_framed { panel(buffer, area, theme, "timeline", "") } else { area };
        Pen::new(buffer, inside, theme).put(" begins with the first operation", theme.dim());
        return;
    };
    let inside = if is_framed {
        let title = title(state, model, step);
        let room = (area.width as usize).saturating_sub(title.chars().count() + 9);
        panel(buffer, area, theme, &title, &legend(step, theme, room))
    } else {
        area
    };
    let mut pen = Pen::new(buffer, inside, theme);
    Page::new(state, step, range_ns, pen.width(), is_framed).draw(&mut pen);
}

/// What is drawn.
struct Page<'a> {
    state: &'a State,
    model: &'a Model,
    step: &'a RecordedStep,
    range_ns: (f64, f64),
    is_framed: bool,
    label_cells: u16,
    n_cells: u16,
    chosen: Option<&'a Span>,
    cause: Option<Dependency<'a>>,
    path: Vec<&'a Span>,
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
    fn of(height: u16, n_ranks: u16, lines_max: u16, is_framed: bool, wants_plan: bool) -> Self {
        let details = match height {
            _ if is_framed => 3,
            0..=2 => 0,
            3..=7 => 1,
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
        let (chosen, cause) = (timeline.chosen(model), timeline.cause(model));
        let path = timeline.path(model);
        Self { state, model, step, range_ns, is_framed, label_cells, n_cells, chosen, cause, path }
    }

    fn draw(&self, pen: &mut Pen<'_>) {
        let mode = self.state.timeline().mode();
        let n_ranks = u16::try_from(self.model.ranks().len()).unwrap_or(u16::MAX);
        let planned = (mode == Mode::WithPlan).then(|| self.state.timeline().planned(self.model));
        let (plan, refusal) = match planned.as_deref() {
            Some(Ok(plan)) => (Some(plan), None),
            Some(Err(why)) => (None, Some(why.as_str())),
            None => (None, None),
        };
        let lines_max = self.lines_max(mode);
        let lines = Lines::of(pen.height(), n_ranks, lines_max, self.is_framed, plan.is_some());
        let first = self.state.timeline().first_row(self.model, lines.n_ranks as usize);
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
        for (row, rank) in shown() {
            self.draw_label(pen, y, row, rank);
            if mode == Mode::Overlaid {
                self.draw_overlaid(pen, y, lines.per_rank, rank);
            } else {
                let of_rank = self.step.spans.iter().filter(|span| is_of(span, rank));
                self.draw_row(pen, y, lines.per_rank, of_rank, self.range_ns);
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
        if self.is_framed {
            let y = self.draw_times(pen, y, details_y.saturating_sub(y));
            self.draw_critical_path(pen, y, details_y.saturating_sub(y));
        }
        self.draw_details(pen, details_y, lines.details, plan);
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
                " planned, with this run's mean times and without delays   {}",
                time(plan.makespan_ns, pen.theme)
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
                pen.put(" measured", theme.dim());
                if let Some(why) = refusal {
                    pen.put(format!("   no plan: {why}"), theme.notice());
                }
                let measured_ns = self.window_ns();
                if let Some((plan, measured_ns)) = plan.zip(measured_ns) {
                    let more = measured_ns as f64 - plan.makespan_ns as f64;
                    let share = more / (plan.makespan_ns.max(1)) as f64;
                    pen.put(format!("   {}", time(measured_ns, theme)), theme.dim());
                    let more = signed(more, theme);
                    let text = format!("measured - plan {more} ({:+.1}%) ", share * 100.0);
                    pen.put_right(&text, STRONG);
                }
            }
            Mode::Overlaid => {
                let steps = self.state.timeline().overlaid(self.model);
                let seconds = || steps.iter().filter_map(|step| step.step_ns);
                let text = format!(
                    " {} steps, each from its first operation on   {} to {}",
                    steps.len(),
                    time(seconds().min().unwrap_or(0), theme),
                    time(seconds().max().unwrap_or(0), theme),
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
        let is_chosen = row == self.state.timeline().row(self.model);
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
        draw_cells(pen, self.label_cells, y, &cells, naming, chunks);
        let theme = pen.theme;
        let mut at = 0;
        while n_lines > 1 && at < cells.len() {
            let Some(span) = cells.get(at).copied().flatten() else {
                at += 1;
                continue;
            };
            let is_it = |cell: &&Option<&Span>| cell.is_some_and(|other| other == span);
            let n_cells = cells.iter().skip(at).take_while(is_it).count();
            for line in 1..n_lines {
                let x = self.label_cells.saturating_add(at as u16);
                (x..x.saturating_add(n_cells as u16))
                    .for_each(|x| pen.cell(x, y + line, ' ', theme.block(span.op)));
                let text = time(span.dur_ns, theme);
                if line == 1 && text.chars().count() < n_cells {
                    let style = theme.block(span.op);
                    (x..).zip(text.chars()).for_each(|(x, c)| pen.cell(x, y + line, c, style));
                }
            }
            at += n_cells;
        }
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

    /// The last steps, one over the other: the denser, the more of them are busy.
    fn draw_overlaid(&self, pen: &mut Pen<'_>, y: u16, n_lines: u16, rank: &RankState) {
        let theme = pen.theme;
        let steps = self.state.timeline().overlaid(self.model);
        let here = first_compute_ns(self.step).unwrap_or(0) as f64;
        let rows: Vec<_> = steps
            .iter()
            .map(|step| {
                let by = first_compute_ns(step).unwrap_or(0) as f64 - here;
                let range_ns = (self.range_ns.0 + by, self.range_ns.1 + by);
                let of_rank = step.spans.iter().filter(|span| is_of(span, rank));
                cells(of_rank, range_ns, self.n_cells as usize)
            })
            .collect();
        let chunks = self.model.hello().is_some_and(|hello| hello.virtual_stages > 1);
        let cells: Vec<Overlaid> = (0..self.n_cells as usize)
            .map(|at| Overlaid::of(rows.iter().filter_map(|row| row.get(at).copied().flatten())))
            .collect();
        let mut at = 0;
        while let Some(cell) = cells.get(at) {
            let n_cells = cells.iter().skip(at).take_while(|other| other.what == cell.what).count();
            let name = match cell.span {
                Some(span) => label(&span, n_cells, Naming::Full, chunks),
                None => String::new(),
            };
            for (offset, cell) in cells.iter().skip(at).take(n_cells).enumerate() {
                let x = self.label_cells.saturating_add((at + offset) as u16);
                let (symbol, style) = match cell.span {
                    None => (theme.idle(), theme.dim()),
                    Some(span) => (shade(theme, cell.n_busy, rows.len()), theme.op(span.op)),
                };
                (0..n_lines).for_each(|line| pen.cell(x, y + line, symbol, style));
                if let Some(letter) = name.chars().nth(offset) {
                    let is_sure = cell.n_busy * 2 > rows.len();
                    let style = if is_sure { style.add_modifier(Modifier::BOLD) } else { style };
                    pen.cell(x, y, letter, style);
                }
            }
            at += n_cells.max(1);
        }
    }

    /// What the chosen rank did in the step, summed up: as much of it as fits. The line behind it is told.
    fn draw_times(&self, pen: &mut Pen<'_>, y: u16, n_lines: u16) -> u16 {
        let theme = pen.theme;
        let row = self.state.timeline().row(self.model);
        let Some(rank) = self.model.ranks().get(row) else { return y };
        let whole_ns = self
            .step
            .step_ns
            .or_else(|| self.step.range_ns().map(|(first, last)| last.saturating_sub(first)));
        let sums = sums(self.step, rank);
        if n_lines < 3 || sums.is_empty() || pen.width() < 58 {
            return y;
        }
        // A line is free above it where that costs nothing.
        let y = y + u16::from(usize::from(n_lines) > sums.len() + 1);
        let rank = rank_name(self.model, rank.replica, rank.rank);
        let title = format!(" r{rank} in this step");
        pen.line(y).put(
            format!(
                "{title:<20}{:>5}{:>10}{:>9}{:>10}{:>10}",
                "n", "sum", "of step", "median", "longest"
            ),
            theme.dim(),
        );
        let last_y = y + n_lines - u16::from(usize::from(n_lines) > sums.len() + 1);
        for (sum, y) in sums.iter().zip(y + 1..last_y) {
            let share = sum.sum_ns as f64 / whole_ns.unwrap_or(0).max(1) as f64;
            let time = |ns: u64| time(ns, theme);
            let name = name(sum.kind);
            let sign = if sum.kind.is_wait() { theme.idle() } else { letter(sum.kind) };
            pen.line(y).put(format!(" {sign} "), theme.op(sum.kind));
            pen.text(format!(
                "{name:<17}{:>5}{:>10}{:>9}{:>10}{:>10}",
                sum.n,
                time(sum.sum_ns),
                format::percent(share),
                time(sum.median_ns),
                time(sum.longest.dur_ns)
            ));
            if sum.kind.is_compute() {
                let longest = format!(" {}{}", letter(sum.kind), sum.longest.mb);
                pen.put(longest, theme.dim());
            }
        }
        (y + 1).saturating_add(sums.len() as u16).min(last_y)
    }

    /// What the length of the step hangs on, where there is room for it: the operations, and how long they and the gaps between take.
    fn draw_critical_path(&self, pen: &mut Pen<'_>, y: u16, n_lines: u16) {
        let theme = pen.theme;
        let row = self.state.timeline().row(self.model);
        let replica = self.model.ranks().get(row).map_or(0, |rank| rank.replica);
        if n_lines < 4 || pen.width() < 58 {
            return;
        }
        let path = critical_path(self.step, replica);
        let (Some(first), Some(last)) = (path.first(), path.last()) else { return };
        let whole_ns = last.end_ns().saturating_sub(first.start_ns);
        let busy_ns = path.iter().fold(0_u64, |sum, span| sum.saturating_add(span.dur_ns));
        let head = format!(
            " critical path: {} operations take {}, and {} lie between them",
            path.len(),
            time(busy_ns, theme),
            time(whole_ns.saturating_sub(busy_ns), theme)
        );
        pen.line(y + 1).put(head, theme.dim());
        // The rank is told where it changes.
        let mut rank = None;
        let words = path.iter().map(|span| {
            let name = self.name_with_rank(span);
            let is_same = rank.replace(span.rank) == Some(span.rank);
            match name.split_once(' ') {
                Some((_, op)) if is_same => op.to_owned(),
                _ => name,
            }
        });
        let arrow = if theme.ascii { " > " } else { " → " };
        let words: Vec<String> = words.collect();
        let width = (pen.width() as usize).saturating_sub(2);
        let lines = wrapped(&words.join(arrow), width);
        let room = (n_lines - 3) as usize;
        let is_cut = lines.len() > room;
        for (at, (line, y)) in lines.iter().take(room).zip(y + 2..).enumerate() {
            let end = if is_cut && at + 1 == room { " .." } else { "" };
            let room = width.saturating_sub(end.len());
            pen.line(y).put(format!(" {}{end}", format::cut(line, room)), Style::new());
        }
    }

    /// The lines about the chosen operation.
    fn draw_details(&self, pen: &mut Pen<'_>, y: u16, n_lines: u16, plan: Option<&Planned>) {
        let theme = pen.theme;
        if n_lines == 0 {
            return;
        }
        if !self.is_framed {
            self.draw_words(pen, y, n_lines, plan);
            return;
        }
        let Some(chosen) = self.chosen else {
            pen.line(y + 1);
            self.put_keys(
                pen,
                &[
                    (Action::Pan(1.0), "choose an operation"),
                    (Action::Scroll(1), "a rank"),
                    (Action::Mode, "another mode"),
                ],
            );
            pen.line(y + 2);
            self.draw_steps(pen);
            return;
        };
        pen.line(y).put(format!(" {} ", self.name_with_rank(chosen)), STRONG);
        for (text, style) in self.facts(chosen, plan, theme) {
            if text.chars().count() + 2 > pen.left() as usize {
                break;
            }
            pen.text(" ").put(text, style).text(" ");
        }
        pen.line(y + 1);
        let Some(found) = self.cause else {
            self.put_keys(pen, &[(Action::Enter, "what it waited for"), (Action::Back, "back")]);
            pen.line(y + 2);
            self.draw_steps(pen);
            return;
        };
        let (text, style) = self.cause_text(chosen, &found, theme);
        pen.text(" ").put(text, style);
        pen.line(y + 2);
        let mut keys = vec![(Action::Back, "back")];
        if found.cause().is_some() {
            keys.insert(0, (Action::Enter, "goes there"));
        }
        self.put_keys(pen, &keys);
        if let Some(from) = self.path.first() {
            let n = self.path.len();
            let operations = if n == 1 { "operation" } else { "operations" };
            let from = self.name_with_rank(from);
            pen.put(format!("  {n} {operations} behind is {from}"), theme.dim());
        }
    }

    /// The same in words, as many as a small screen has room for.
    fn draw_words(&self, pen: &mut Pen<'_>, y: u16, n_lines: u16, plan: Option<&Planned>) {
        let theme = pen.theme;
        let width = pen.width() as usize;
        let mut lines: Vec<(String, Style)> = Vec::new();
        let mut add = |text: &str, style: Style| {
            lines.extend(wrapped(text, width).into_iter().map(|line| (line, style)));
        };
        if let Some(chosen) = self.chosen {
            let facts = self.facts(chosen, plan, theme).into_iter().map(|(text, _)| text);
            let facts: Vec<String> = facts.collect();
            add(&format!("{} {}", self.name_with_rank(chosen), facts.join(" ")), STRONG);
            if let Some(found) = self.cause {
                let (text, style) = self.cause_text(chosen, &found, theme);
                if n_lines == 1 {
                    let cause = found.cause().map(|cause| self.name_with_rank(cause));
                    let waited = time(found.waited_ns, theme);
                    let text = format!("{waited} for {}", cause.unwrap_or_default());
                    lines = vec![(text, style)];
                } else if n_lines < 4 {
                    // There what it waited for matters more than where it stands.
                    lines.truncate(1);
                }
                lines.extend(wrapped(&text, width).into_iter().map(|line| (line, style)));
            }
        } else {
            let step_ns = self.step.step_ns.unwrap_or(0);
            add(&format!("step {}  {}", self.step.step, time(step_ns, theme)), STRONG);
        }
        for ((text, style), y) in lines.iter().zip(y..y.saturating_add(n_lines)) {
            pen.line(y).put(text, *style);
        }
        if lines.len() < n_lines as usize {
            pen.line(y + n_lines - 1);
            let keys: &[(Action, &str)] = match (self.chosen, self.cause) {
                (None, _) => &[(Action::Pan(1.0), "operation"), (Action::Scroll(1), "rank")],
                (_, None) => &[(Action::Enter, "what it waited for")],
                _ => &[(Action::Enter, "goes there"), (Action::Back, "back")],
            };
            self.put_keys(pen, keys);
        }
    }

    fn put_keys(&self, pen: &mut Pen<'_>, keys: &[(Action, &str)]) {
        let theme = pen.theme;
        for (action, what) in keys {
            let of = |action| self.state.keymap().key_of(action);
            let keys = match action {
                Action::Pan(_) => [of(Action::Pan(-1.0)), of(Action::Pan(1.0))],
                Action::Scroll(_) => [of(Action::Scroll(1)), of(Action::Scroll(-1))],
                other => [of(*other), None],
            };
            let keys: Vec<String> = keys.into_iter().flatten().collect();
            if keys.is_empty() {
                continue;
            }
            let keys = keys.join(" ");
            if keys.chars().count() + what.len() + 3 <= pen.left() as usize {
                pen.text(" ").put(keys, STRONG).put(format!(" {what} "), theme.dim());
            }
        }
    }

    /// `r2 B3`.
    fn name_with_rank(&self, span: &Span) -> String {
        let rank = rank_name(self.model, span.replica, span.rank);
        let kind = letter(span.op);
        if span.op.is_compute() {
            let chunks = self.model.hello().is_some_and(|hello| hello.virtual_stages > 1);
            let stage = if chunks { format!("s{}", span.stage) } else { String::new() };
            format!("r{rank} {kind}{}{stage}", span.mb)
        } else {
            format!("r{rank} {}", name(span.op))
        }
    }

    /// What is known of an operation, what matters most first.
    fn facts(&self, span: &Span, plan: Option<&Planned>, theme: Theme) -> Vec<(String, Style)> {
        let plain = Style::new();
        let mut facts = vec![(format!("took {}", time(span.dur_ns, theme)), STRONG)];
        if let Some(usual_ns) = usual_ns(self.model.recorded(), span) {
            let more = span.dur_ns as f64 - usual_ns as f64;
            facts.push((format!("({} to its median)", signed(more, theme)), plain));
        }
        let (first, _) = self.step.range_ns().unwrap_or_default();
        facts.push((format!("at {}", time(span.start_ns.saturating_sub(first), theme)), plain));
        if span.op.is_compute() {
            facts.push((format!("stage {}  micro-batch {}", span.stage, span.mb), plain));
        }
        if let Some(planned) = plan.and_then(|plan| in_plan(plan, span)) {
            let begin = first_compute_ns(self.step).unwrap_or(first);
            let at = begin.saturating_add(planned.start_ns);
            facts.push((format!("planned at {}", time(at.saturating_sub(first), theme)), plain));
        }
        let moved = bytes(self.step, span);
        for (what, n_bytes) in
            [("took over", moved.taken), ("sent", moved.sent), ("moved", moved.own)]
        {
            if n_bytes > 0 {
                facts.push((format!("{what} {}", format::bytes(n_bytes)), plain));
            }
        }
        facts.push((format!("starved {}", time(span.starved_ns, theme)), plain));
        facts
    }

    fn cause_text(&self, span: &Span, found: &Dependency<'_>, theme: Theme) -> (String, Style) {
        let (first, _) = self.step.range_ns().unwrap_or_default();
        let ended = |span: &Span| time(span.end_ns().saturating_sub(first), theme);
        let waited = time(found.waited_ns, theme);
        match (found.needs, found.cause()) {
            (Some(needs), Some(cause)) if needs == cause => {
                let later = span.start_ns.saturating_sub(needs.end_ns());
                let later = time(later, theme);
                let text = format!(
                    "waited {waited} for {}, which ended at {}; began {later} later",
                    self.name_with_rank(needs),
                    ended(needs)
                );
                (text, if found.waited_ns > 0 { theme.notice() } else { Style::new() })
            }
            (Some(needs), Some(cause)) => {
                let text = format!(
                    "{} was there at {}, but its rank was busy with {} until {}",
                    self.name_with_rank(needs),
                    ended(needs),
                    self.name_with_rank(cause),
                    ended(cause)
                );
                (text, Style::new())
            }
            (None, Some(cause)) => {
                let text = format!(
                    "needs nothing of another rank; came behind {}, which ended at {}",
                    self.name_with_rank(cause),
                    ended(cause)
                );
                (text, Style::new())
            }
            (_, None) => ("nothing is before it: here the step begins".to_owned(), Style::new()),
        }
    }

    /// Of which steps the operations are known.
    fn draw_steps(&self, pen: &mut Pen<'_>) {
        let theme = pen.theme;
        let every = self.model.hello().map_or(1, |hello| hello.span_every);
        let steps: Vec<u64> =
            self.model.recorded().complete_steps().map(|step| step.step).collect();
        if every <= 1 || steps.is_empty() {
            return;
        }
        let head = format!(" every {every}th step is recorded; at hand: ");
        let room = (pen.left() as usize).saturating_sub(head.len() + 1);
        pen.put(head, theme.dim());
        let mut ranges = ranges(&steps);
        let mut is_cut = false;
        while ranges.join(", ").len() + 5 > room && ranges.len() > 1 {
            ranges.remove(0);
            is_cut = true;
        }
        pen.text(if is_cut { "..., " } else { "" }).text(ranges.join(", "));
    }
}

/// Steps as text, with those that follow each other as one: `1-3`, `20`.
fn ranges(steps: &[u64]) -> Vec<String> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &step in steps {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(step) => *last = step,
            _ => ranges.push((step, step)),
        }
    }
    let text = |(first, last): (u64, u64)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.into_iter().map(text).collect()
}

fn is_of(span: &Span, rank: &RankState) -> bool {
    span.rank == rank.rank && span.replica == rank.replica
}

/// The same operation in the plan.
fn in_plan<'p>(plan: &'p Planned, span: &Span) -> Option<&'p Span> {
    let row = plan.rows.get(span.rank as usize)?;
    row.iter().find(|other| (other.op, other.stage, other.mb) == (span.op, span.stage, span.mb))
}

/// A time in the characters of the theme.
fn time(ns: u64, theme: Theme) -> String {
    let text = format::duration(ns as f64 * 1e-9);
    if theme.ascii { text.replace('µ', "u") } else { text }
}

/// A difference with its sign: `+3.1 ms`.
fn signed(ns: f64, theme: Theme) -> String {
    let sign = if ns < 0.0 { '-' } else { '+' };
    #[expect(clippy::cast_sign_loss, reason = "what is absolute has no sign")]
    let text = time(ns.abs() as u64, theme);
    format!("{sign}{text}")
}

/// `text` in lines of `width` characters, cut between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// How dense a cell is, from few to all.
fn shades(theme: Theme) -> [char; 4] {
    if theme.ascii { ['.', ':', '+', '#'] } else { ['░', '▒', '▓', '█'] }
}

fn shade(theme: Theme, n_busy: usize, n_steps: usize) -> char {
    let [few, some, most, all] = shades(theme);
    match (n_busy * 4).div_ceil(n_steps.max(1)) {
        _ if n_busy == n_steps => all,
        0 | 1 => few,
        2 => some,
        _ => most,
    }
}

/// A cell of steps that lie one over the other.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Overlaid {
    n_busy: usize,
    /// What most of them do.
    what: Option<(SpanKind, u32, u32)>,
    /// One of those that do so.
    span: Option<Span>,
}

impl Overlaid {
    fn of<'s>(busy: impl Iterator<Item = &'s Span>) -> Self {
        let mut counts: Vec<((SpanKind, u32, u32), usize, &Span)> = Vec::new();
        let mut n_busy = 0;
        for span in busy {
            n_busy += 1;
            let key = (span.op, span.stage, span.mb);
            match counts.iter_mut().find(|(other, ..)| *other == key) {
                Some((_, n, _)) => *n += 1,
                None => counts.push((key, 1, span)),
            }
        }
        // Of two that are equally many, the first is of the newer step.
        let most = counts.iter().rev().max_by_key(|(_, n, _)| *n);
        let (what, span) = (most.map(|most| most.0), most.map(|most| *most.2));
        Self { n_busy, what, span }
    }
}

/// What a rank did of one kind.
struct Sum<'a> {
    kind: SpanKind,
    n: usize,
    sum_ns: u64,
    median_ns: u64,
    longest: &'a Span,
}

/// What a rank did, by what it is called.
fn sums<'a>(step: &'a RecordedStep, rank: &RankState) -> Vec<Sum<'a>> {
    let mut kinds: Vec<(SpanKind, Vec<&Span>)> = Vec::new();
    for kind in SpanKind::ALL {
        let of_kind = step.spans.iter().filter(|span| is_of(span, rank) && span.op == kind);
        match kinds.iter_mut().find(|(other, _)| name(*other) == name(kind)) {
            Some((_, spans)) => spans.extend(of_kind),
            None => kinds.push((kind, of_kind.collect())),
        }
    }
    let sum = |(kind, mut spans): (SpanKind, Vec<&'a Span>)| {
        spans.sort_by_key(|span| span.dur_ns);
        Some(Sum {
            kind,
            n: spans.len(),
            sum_ns: spans.iter().fold(0, |sum: u64, span| sum.saturating_add(span.dur_ns)),
            median_ns: spans.get(spans.len() / 2)?.dur_ns,
            longest: spans.last()?,
        })
    };
    kinds.into_iter().filter_map(sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(op: SpanKind, mb: u32) -> Span {
        Span {
            step: 1,
            replica: 0,
            rank: 0,
            stage: 0,
            mb,
            op,
            start_ns: 0,
            dur_ns: 1,
            cpu_ns: 0,
            bytes: 0,
            starved_ns: 0,
        }
    }

    #[test]
    fn a_cell_over_many_steps_shows_what_most_of_them_do() {
        let (forward, backward) = (span(SpanKind::F, 3), span(SpanKind::B, 1));
        let cell = Overlaid::of([&forward, &backward, &backward].into_iter());
        assert_eq!((cell.n_busy, cell.what), (3, Some((SpanKind::B, 0, 1))));
        let tie = Overlaid::of([&forward, &backward].into_iter());
        assert_eq!(tie.what, Some((SpanKind::F, 0, 3)));
        assert_eq!(Overlaid::of([].into_iter()).span, None);
        let theme = Theme { colour: false, ascii: false };
        let shades = [1, 2, 4, 7, 8].map(|n_busy| shade(theme, n_busy, 8));
        assert_eq!(shades, ['░', '░', '▒', '▓', '█']);
    }

    #[test]
    fn steps_that_follow_each_other_are_one() {
        assert_eq!(ranges(&[1, 2, 3, 20, 40]), ["1-3", "20", "40"]);
        assert_eq!(ranges(&[]), [""; 0]);
    }

    #[test]
    fn lines_are_divided_and_never_more_than_there_are() {
        for (height, n_ranks) in (0..80).flat_map(|height| (0..20).map(move |n| (height, n))) {
            for (is_framed, wants_plan) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                let height = if is_framed { height.max(10) } else { height };
                let lines = Lines::of(height, n_ranks, 2, is_framed, wants_plan);
                let n_blocks = 1 + u16::from(lines.with_plan);
                let n = n_blocks * (lines.heads + lines.n_ranks * lines.per_rank);
                assert!(n + lines.axis + lines.details <= height, "{height} {lines:?}");
                assert!(lines.n_ranks > 0 || n_ranks == 0 || height == 0, "{height} {lines:?}");
            }
        }
    }
}
