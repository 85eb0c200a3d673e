//! The row of a rank: its name, its operations, and marks on the chosen ones.

use pp_telemetry::{RankState, Span};
use ratatui::style::{Modifier, Style};

use super::{LABEL_CELLS, Page, is_of, time};
use crate::monitor::view::paint::Pen;
use crate::monitor::view::theme::STRONG;
use crate::monitor::view::timeline::{Cell, Naming, cells, draw_cells};
use crate::monitor::words::{format, letter, rank_name, stages_text};

/// The operation that is chosen.
pub(super) const CHOSEN: Style =
    Style::new().add_modifier(Modifier::REVERSED).add_modifier(Modifier::BOLD);
/// The operation for which it waited.
const CAUSE: Style =
    Style::new().add_modifier(Modifier::REVERSED).add_modifier(Modifier::UNDERLINED);
/// The operations from which the user has come.
const PATH: Style = Style::new().add_modifier(Modifier::UNDERLINED);

impl Page<'_> {
    pub(super) fn draw_label(&self, pen: &mut Pen<'_>, y: u16, row: usize, rank: &RankState) {
        if self.label_cells == 0 {
            return;
        }
        let is_chosen = !self.is_embedded && row == self.state.timeline().row(self.model);
        let mark = if is_chosen { '>' } else { ' ' };
        let name = rank_name(self.model, rank.replica, rank.rank);
        let name = if self.is_framed { format!("{mark}r{name}") } else { format!("{mark}{name}") };
        pen.line(y).put(format::cut(&name, self.label_cells as usize - 1), STRONG);
        if self.label_cells == LABEL_CELLS.0 {
            let stages = format!(" {}", stages_text(rank));
            let room = (self.label_cells as usize).saturating_sub(name.chars().count() + 1);
            pen.put(format::cut(&stages, room), pen.theme.dim());
        }
    }

    /// The operations of a rank and, if there is room, their times below them.
    pub(super) fn draw_row<'s>(
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
            let Some(span) = cells.get(at).and_then(|cell| cell.span) else {
                at += 1;
                continue;
            };
            let same = cells.iter().skip(at).take_while(|cell| cell.span == Some(span));
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

    /// Remembers the drawn kinds for the legend.
    pub(super) fn see(&self, cells: &[Cell<'_>]) {
        let mut kinds = self.seen.get();
        kinds.see(cells);
        self.seen.set(kinds);
    }

    /// The chosen operation, the one for which it waited, and those from which the user has come.
    pub(super) fn draw_marks(&self, pen: &mut Pen<'_>, y: u16, n_lines: u16, rank: &RankState) {
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

    pub(super) fn draw_mark(
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
        // The cells whose middle it covers.
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
