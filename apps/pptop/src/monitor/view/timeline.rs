//! One step, drawn to scale: a row for each rank, a cell for each slice of time.

use pp_telemetry::{Model, PhaseEvent, RankState, RecordedStep, Span, SpanKind};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};

use super::chart::round_up;
use super::paint::{Pen, mark_more, panel};
use super::theme::{STRONG, Theme};
use crate::monitor::state::State;
use crate::monitor::words::{format, letter, name, rank_name, short_name};

/// Cells in front of a row.
const LABEL_CELLS: u16 = 6;
/// Cells from one mark of the axis to the next, at least.
const TICK_CELLS: f64 = 10.0;

/// How the cells of an operation are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// Letter and micro-batch: `f3`, `B3`.
    Full,
    /// As short as can be: forwards are digits.
    Short,
}

/// What the run did after a step and before the next: drawn behind the step, and not to its scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tail {
    /// What it was and how long it took: `evaluating 410 ms`.
    text: String,
    letter: char,
    pub(crate) n_cells: u16,
}

impl Tail {
    /// The narrowest row that has room for it.
    const ROW_MIN: u16 = 36;

    /// What followed a step of which rows are `n_cells` wide.
    pub(crate) fn of(state: &State, step: &RecordedStep, n_cells: u16) -> Option<Self> {
        if state.timeline().scale() > 1 || n_cells < Self::ROW_MIN {
            return None;
        }
        let model = state.shown();
        let is_its = |phase: &&PhaseEvent| phase.step == Some(step.step);
        let mut told = Vec::new();
        for phase in model.phases().filter(is_its) {
            let seconds = phase.dur_ns.unwrap_or(0) as f64 * 1e-9;
            told.push(format!("{} {}", format::plain(&phase.phase), format::duration(seconds)));
        }
        told.extend(model.phase().filter(is_its).map(|phase| format::plain(&phase.text())));
        let letter = told.last()?.chars().next()?.to_ascii_uppercase();
        let text = told.join(", ");
        let most = n_cells / 3;
        let n_cells = u16::try_from(text.chars().count() + 3).unwrap_or(most).min(most);
        Some(Self { text, letter, n_cells })
    }

    /// Draws its part of a row; the first one says what it is.
    pub(crate) fn draw(&self, pen: &mut Pen<'_>, x: u16, y: u16, is_first: bool) {
        let theme = pen.theme;
        let edge = if theme.ascii { '|' } else { '┊' };
        pen.cell(x, y, edge, theme.dim());
        let style = theme.op(SpanKind::Checkpoint);
        let n_cells = self.n_cells.saturating_sub(1) as usize;
        let filled = || std::iter::repeat(self.letter);
        let text: String = if is_first {
            let text = format!("{} ", format::cut(&self.text, n_cells.saturating_sub(1)));
            text.chars().chain(filled()).take(n_cells).collect()
        } else {
            filled().take(n_cells).collect()
        };
        for (symbol, at) in text.chars().zip(1_u16..) {
            let symbol = if theme.ascii && !symbol.is_ascii() { '?' } else { symbol };
            pen.cell(x.saturating_add(at), y, symbol, style);
        }
    }
}

/// Draws the panel.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let model = state.shown();
    let Some(step) = state.timeline().step(model) else {
        let inside = panel(buffer, area, theme, "timeline", "");
        Pen::new(buffer, inside, theme).put(" no operation has been recorded yet", theme.dim());
        return;
    };
    let Some(range_ns) = state.timeline().range_ns(step) else { return };
    let n_cells = area.width.saturating_sub(2 + LABEL_CELLS + 1);
    let tail = Tail::of(state, step, n_cells);
    let n_cells = n_cells - tail.as_ref().map_or(0, |tail| tail.n_cells);
    let n_rows = area.height.saturating_sub(3);
    let first = state.first_rank(n_rows as usize);
    let chunks = model.hello().is_some_and(|hello| hello.virtual_stages > 1);
    let rows: Vec<_> = model
        .ranks()
        .iter()
        .skip(first)
        .take(n_rows as usize)
        .map(|rank| (rank, cells(spans_of(step, rank), range_ns, n_cells as usize)))
        .collect();
    let mut kinds = Kinds::default();
    for (_, cells) in &rows {
        kinds.see(cells);
    }
    let (title, legend) = heading(&title(state, model, step), kinds, theme, area.width);
    let inside = panel(buffer, area, theme, &title, &legend);
    let below = model.ranks().len().saturating_sub(first + rows.len());
    mark_more(buffer, area, theme, (first, below), "");
    let mut pen = Pen::new(buffer, inside, theme);
    for (y, (rank, cells)) in (0..).zip(&rows) {
        pen.line(y).put(format!(" r{}", rank_name(model, rank.replica, rank.rank)), STRONG);
        draw_cells(&mut pen, LABEL_CELLS, y, cells, Naming::Full, chunks);
        if let Some(tail) = &tail {
            tail.draw(&mut pen, LABEL_CELLS + n_cells, y, y == 0);
        }
    }
    pen.line(n_rows);
    draw_axis(&mut pen, step, range_ns, LABEL_CELLS, n_cells);
}

/// What a rank did in a step.
pub(crate) fn spans_of<'a>(
    step: &'a RecordedStep,
    rank: &RankState,
) -> impl Iterator<Item = &'a Span> {
    let (of_rank, replica) = (rank.rank, rank.replica);
    step.spans.iter().filter(move |span| span.rank == of_rank && span.replica == replica)
}

/// The rank and the time at a cell of the panel.
pub(crate) fn at_cell(state: &State, area: Rect, at: Position) -> Option<(usize, f64)> {
    let model = state.shown();
    let step = state.timeline().step(model)?;
    let (from_ns, to_ns) = state.timeline().range_ns(step)?;
    let n_cells = area.width.saturating_sub(2 + LABEL_CELLS + 1);
    let n_rows = area.height.saturating_sub(3);
    let column = at.x.checked_sub(area.x + 1 + LABEL_CELLS).filter(|&x| x < n_cells)?;
    let row = at.y.checked_sub(area.y + 1).filter(|&y| y < n_rows)?;
    let index = state.first_rank(n_rows as usize) + row as usize;
    let cell_ns = (to_ns - from_ns) / f64::from(n_cells.max(1));
    (index < model.ranks().len()).then_some((index, from_ns + (f64::from(column) + 0.5) * cell_ns))
}

/// The parts of a title, from the one that gives way last.
pub(crate) struct Title {
    /// Which step, how long it took, how it is looked at.
    step: Vec<String>,
    /// What is trained.
    schedule: Option<String>,
}

impl Title {
    /// As it is, without the name of the panel, and without the schedule as well.
    fn texts(&self) -> [String; 3] {
        let (first, rest) = self.step.split_at(self.step.len().min(2));
        let all: Vec<&str> =
            first.iter().chain(&self.schedule).chain(rest).map(String::as_str).collect();
        let all = all.join("  ");
        [format!("timeline  {all}"), all, self.step.join("  ")]
    }
}

pub(crate) fn title(state: &State, model: &Model, step: &RecordedStep) -> Title {
    let mut parts = vec![format!("step {}", step.step)];
    parts.push(
        step.step_ns.map_or_else(|| "runs".to_owned(), |ns| format::duration(ns as f64 * 1e-9)),
    );
    if step.n_missing > 0 {
        let ops = if step.n_missing == 1 { "op" } else { "ops" };
        parts.push(format!("{} {ops} LOST", step.n_missing));
    }
    let schedule = model
        .hello()
        .map(|hello| format!("{} m={}", format::plain(&hello.schedule), hello.micro_batches));
    if state.timeline().is_held() {
        parts.push("pinned".to_owned());
    }
    if state.timeline().scale() > 1 {
        parts.push(format!("x{}", state.timeline().scale()));
    }
    Title { step: parts, schedule }
}

/// What a cell of a row shows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cell<'a> {
    /// The operation that takes most of its time, or nothing when that is idleness.
    pub(crate) span: Option<&'a Span>,
    /// Whether gradients are under way for most of it, beside the operation.
    pub(crate) reduces: bool,
}

/// The kinds of spans that are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kinds {
    /// A bit for each of [`SpanKind::ALL`].
    seen: u32,
    /// Whether a mean lies beside an operation.
    reduces: bool,
}

impl Kinds {
    /// Takes those of some cells.
    pub(crate) fn see(&mut self, cells: &[Cell<'_>]) {
        let kind_at = |kind| SpanKind::ALL.iter().position(|other| *other == kind);
        for Cell { span, reduces } in cells {
            let Some(span) = span else { continue };
            self.seen |= kind_at(span.op).map_or(0, |at| 1 << at);
            self.reduces |= *reduces && span.op.is_compute();
        }
    }

    fn iter(self) -> impl Iterator<Item = SpanKind> {
        let is_seen = move |at: usize| self.seen >> at & 1 == 1;
        let kinds = SpanKind::ALL.into_iter().enumerate();
        kinds.filter(move |(at, kind)| is_seen(*at) && !kind.is_wait()).map(|(_, kind)| kind)
    }

    /// What their letters stand for, in full, in short, and not at all.
    fn legends(self, theme: Theme) -> [String; 3] {
        let mut items: [Vec<String>; 3] = Default::default();
        let mut letters = Vec::new();
        for kind in self.iter().filter(|kind| !kind.is_wait()) {
            if letters.contains(&letter(kind)) {
                continue;
            }
            letters.push(letter(kind));
            items[0].push(format!("{} {}", letter(kind), name(kind)));
            items[1].push(format!("{} {}", letter(kind), short_name(kind)));
            items[2].push(letter(kind).to_string());
        }
        if self.reduces {
            let reducing = theme.reducing();
            items[0].push(format!("{reducing} reduces meanwhile"));
            items[1].push(format!("{reducing} reduces"));
            items[2].push(reducing.to_string());
        }
        let idle = theme.idle();
        items[0].push(format!("{idle} idle"));
        items[1].push(format!("{idle} idle"));
        items[2].push(idle.to_string());
        [items[0].join("  "), items[1].join("  "), items[2].join(" ")]
    }
}

/// A title and a legend with room for both. The legend names everything that is drawn: its names
/// become short first, then the title, and only where that is not enough the letters stand alone.
pub(crate) fn heading(title: &Title, kinds: Kinds, theme: Theme, width: u16) -> (String, String) {
    let titles = title.texts();
    let legends = kinds.legends(theme);
    let cells = |text: &String| text.chars().count();
    // Both have blanks around them, and a line between them and at each end.
    let fits = |(title, legend): &(usize, usize)| {
        cells(&titles[*title]) + cells(&legends[*legend]) + 8 <= width as usize
    };
    let pairs = [(0, 0), (0, 1), (1, 1), (2, 1), (2, 2)];
    let (title, legend) = pairs.into_iter().find(fits).unwrap_or((2, 2));
    (titles[title].clone(), legends[legend].clone())
}

/// What each cell stands for. A mean of gradients has what the other operations leave of a cell.
pub(crate) fn cells<'a>(
    spans: impl Iterator<Item = &'a Span>,
    (from_ns, to_ns): (f64, f64),
    n_cells: usize,
) -> Vec<Cell<'a>> {
    let cell_ns = (to_ns - from_ns) / n_cells.max(1) as f64;
    let mut tallies = vec![Tally::default(); n_cells];
    for span in spans.filter(|span| !span.op.is_wait()) {
        let (start, end) = (span.start_ns as f64 - from_ns, span.end_ns() as f64 - from_ns);
        if end <= 0.0 || start >= to_ns - from_ns {
            continue;
        }
        #[expect(clippy::cast_sign_loss, reason = "a negative position becomes the first cell")]
        let (first, last) = ((start / cell_ns) as usize, (end / cell_ns).ceil() as usize);
        for (at, tally) in tallies.iter_mut().enumerate().take(last).skip(first) {
            let (cell_start, cell_end) = (at as f64 * cell_ns, (at + 1) as f64 * cell_ns);
            tally.add(span, end.min(cell_end) - start.max(cell_start));
        }
    }
    tallies.into_iter().map(|tally| tally.winner(cell_ns)).collect()
}

/// The time that each kind takes of a cell.
#[derive(Debug, Clone, Default)]
struct Tally<'a> {
    kinds: Vec<(SpanKind, f64, &'a Span, f64)>,
    /// The longest mean, its time, and that of all.
    mean: Option<(&'a Span, f64, f64)>,
}

impl<'a> Tally<'a> {
    fn add(&mut self, span: &'a Span, ns: f64) {
        if span.op == SpanKind::AllReduce {
            let (longest, longest_ns, sum_ns) = self.mean.get_or_insert((span, 0.0, 0.0));
            *sum_ns += ns;
            if ns > *longest_ns {
                (*longest, *longest_ns) = (span, ns);
            }
            return;
        }
        match self.kinds.iter_mut().find(|(kind, ..)| *kind == span.op) {
            Some((_, sum_ns, longest, longest_ns)) => {
                *sum_ns += ns;
                if ns > *longest_ns {
                    (*longest, *longest_ns) = (span, ns);
                }
            }
            None => self.kinds.push((span.op, ns, span, ns)),
        }
    }

    fn winner(&self, cell_ns: f64) -> Cell<'a> {
        let left_ns = cell_ns - self.kinds.iter().map(|(_, ns, ..)| ns).sum::<f64>();
        let most = self.kinds.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let most = most.map(|(_, ns, span, _)| (*span, *ns));
        // Buckets overlap, so all together may be longer than the cell.
        let alone = self.mean.map(|(span, _, sum_ns)| (span, sum_ns.min(left_ns)));
        let reduced_ns = alone.map_or(0.0, |(_, ns)| ns);
        let reduces = self.mean.is_some_and(|(_, _, sum_ns)| 2.0 * sum_ns >= cell_ns);
        let winner = most.into_iter().chain(alone).max_by(|a, b| a.1.total_cmp(&b.1));
        let span = winner.filter(|(_, ns)| *ns >= left_ns - reduced_ns).map(|(span, _)| span);
        Cell { span, reduces }
    }
}

/// Draws the cells of one rank.
pub(crate) fn draw_cells(
    pen: &mut Pen<'_>,
    x: u16,
    y: u16,
    cells: &[Cell<'_>],
    naming: Naming,
    chunks: bool,
) {
    let theme = pen.theme;
    let mut at = 0;
    while at < cells.len() {
        let Some(span) = cells[at].span else {
            pen.cell(x.saturating_add(at as u16), y, theme.idle(), theme.dim());
            at += 1;
            continue;
        };
        let is_same = |cell: &&Cell<'_>| cell.span.is_some_and(|other| other == span);
        let n_cells = cells[at..].iter().take_while(is_same).count();
        let label = label(span, n_cells, naming, chunks);
        let style = theme.block(span.op);
        let fills = cells[at..].iter().skip(label.chars().count()).map(|cell| {
            let reduces = cell.reduces && span.op.is_compute();
            if reduces { theme.reducing() } else { theme.fill(span.op) }
        });
        let symbols = label.chars().chain(fills).take(n_cells);
        for (symbol, at) in symbols.zip(at..) {
            pen.cell(x.saturating_add(at as u16), y, symbol, style);
        }
        at += n_cells;
    }
}

/// The name of an operation that is `n_cells` wide.
pub(crate) fn label(span: &Span, n_cells: usize, naming: Naming, chunks: bool) -> String {
    let letter = letter(span.op);
    if !span.op.is_compute() {
        return letter.to_string();
    }
    if naming == Naming::Short && span.op == SpanKind::F {
        return (span.mb % 10).to_string();
    }
    let full = format!("{letter}{}", span.mb);
    let with_stage = format!("{full}s{}", span.stage);
    if chunks && with_stage.len() <= n_cells {
        with_stage
    } else if full.len() <= n_cells {
        full
    } else if naming == Naming::Short && n_cells == 2 {
        format!("{letter}{}", span.mb % 10)
    } else {
        letter.to_string()
    }
}

/// Times since the step began, at round numbers.
pub(crate) fn draw_axis(
    pen: &mut Pen<'_>,
    step: &RecordedStep,
    (from_ns, to_ns): (f64, f64),
    x0: u16,
    n_cells: u16,
) {
    let theme = pen.theme;
    let begin_ns = step.range_ns().map_or(0.0, |(first, _)| first as f64);
    let (from, whole) = (from_ns - begin_ns, to_ns - from_ns);
    let (unit, unit_ns) = match whole {
        ns if ns >= 10e9 => ("s", 1e9),
        ns if ns >= 2e6 => ("ms", 1e6),
        ns if ns >= 2e3 => ("us", 1e3),
        _ => ("ns", 1.0),
    };
    pen.put(format!(" {unit}"), theme.dim());
    let cell_ns = whole / f64::from(n_cells.max(1));
    let tick_ns = round_up(cell_ns * TICK_CELLS);
    let n_digits = (-(tick_ns / unit_ns).log10().floor()).clamp(0.0, 9.0);
    #[expect(clippy::cast_sign_loss, reason = "clamped to 0 and more")]
    let n_digits = n_digits as usize;
    let mut tick = (from / tick_ns - 1e-9).ceil().max(0.0) + 0.0;
    loop {
        let x = (tick * tick_ns - from) / cell_ns;
        if x.is_nan() || x >= f64::from(n_cells) {
            return;
        }
        // No zero with a sign: 0 is added.
        let text = format!("{:.n_digits$}", tick * tick_ns / unit_ns + 0.0);
        #[expect(clippy::cast_sign_loss, reason = "a negative position is looked for first")]
        let at = x.max(0.0) as u16;
        if x >= 0.0 && at as usize + text.len() <= n_cells as usize {
            pen.column(x0.saturating_add(at)).put(text, theme.dim());
        }
        tick += 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(op: SpanKind, start_ns: u64, dur_ns: u64) -> Span {
        Span {
            step: 1,
            replica: 0,
            rank: 0,
            stage: 0,
            mb: 3,
            op,
            start_ns,
            dur_ns,
            cpu_ns: 0,
            bytes: 0,
            starved_ns: 0,
        }
    }

    fn letters(spans: &[Span], range_ns: (f64, f64), n_cells: usize) -> String {
        cells(spans.iter(), range_ns, n_cells)
            .into_iter()
            .map(|cell| cell.span.map_or('.', |span| letter(span.op)))
            .collect()
    }

    #[test]
    fn a_cell_shows_what_takes_most_of_it() {
        let spans =
            [span(SpanKind::F, 0, 20), span(SpanKind::WaitGrad, 20, 30), span(SpanKind::B, 54, 16)];
        assert_eq!(letters(&spans, (0.0, 100.0), 10), "ff...BB...");
        assert_eq!(letters(&spans, (0.0, 100.0), 1), ".");
        assert_eq!(letters(&spans, (10.0, 30.0), 4), "ff..");
        assert_eq!(letters(&spans, (0.0, 100.0), 0), "");
    }

    #[test]
    fn many_small_operations_of_one_kind_win_over_a_larger_of_another() {
        let mut spans: Vec<_> = (0..6).map(|at| span(SpanKind::F, at * 10, 10)).collect();
        spans.push(span(SpanKind::B, 60, 40));
        assert_eq!(letters(&spans, (0.0, 100.0), 1), "f");
    }

    #[test]
    fn a_mean_has_what_the_ops_leave() {
        let spans = [
            span(SpanKind::B, 0, 50),
            span(SpanKind::AllReduce, 20, 40),
            span(SpanKind::AllReduce, 30, 40),
            span(SpanKind::Optim, 70, 10),
        ];
        assert_eq!(letters(&spans, (0.0, 100.0), 10), "BBBBBRRO..");
        let cells = cells(spans.iter(), (0.0, 100.0), 10);
        let marks: String = cells.iter().map(|c| if c.reduces { 'x' } else { '.' }).collect();
        assert_eq!(marks, "..xxxxx...");
    }

    #[test]
    fn names_fit_their_cells() {
        let forward = Span { mb: 12, stage: 5, ..span(SpanKind::F, 0, 1) };
        let names = |n_cells| label(&forward, n_cells, Naming::Full, true);
        assert_eq!([1, 2, 3, 5, 9].map(names), ["f", "f", "f12", "f12s5", "f12s5"]);
        assert_eq!(label(&forward, 1, Naming::Short, false), "2");
        assert_eq!(label(&Span { op: SpanKind::B, ..forward }, 2, Naming::Short, false), "B2");
    }
}
