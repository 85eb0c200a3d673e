//! Steps that lie one over the other: the denser a cell, the more of them are busy there.

use pp_telemetry::{RankState, Span, SpanKind};
use ratatui::style::Modifier;

use super::{Page, is_of};
use crate::monitor::state::first_compute_ns;
use crate::monitor::view::paint::Pen;
use crate::monitor::view::theme::Theme;
use crate::monitor::view::timeline::{Naming, cells, label};

impl Page<'_> {
    /// The last steps, one over the other: the denser, the more of them are busy.
    pub(super) fn draw_overlaid(&self, pen: &mut Pen<'_>, y: u16, n_lines: u16, rank: &RankState) {
        let theme = pen.theme;
        let here = first_compute_ns(self.step).unwrap_or(0) as f64;
        let mut rows = Vec::new();
        for (step, begin_ns) in &self.overlaid {
            let by = *begin_ns as f64 - here;
            let range_ns = (self.range_ns.0 + by, self.range_ns.1 + by);
            let of_rank = step.spans.iter().filter(|span| is_of(span, rank));
            let cells = cells(of_rank, range_ns, self.n_cells as usize);
            self.see(&cells);
            rows.push(cells);
        }
        let chunks = self.model.hello().is_some_and(|hello| hello.virtual_stages > 1);
        let cells: Vec<Overlaid> = (0..self.n_cells as usize)
            .map(|at| {
                Overlaid::of(rows.iter().filter_map(|row| row.get(at).and_then(|cell| cell.span)))
            })
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
                    Some(span) => (shade(theme, cell.n_busy, rows.len()), theme.shade(span.op)),
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
}

/// How dense a cell is, from few to all.
pub(super) fn shades(theme: Theme) -> [char; 4] {
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
    /// The operation of most of them.
    what: Option<(SpanKind, u32, u32)>,
    /// One of these spans.
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
        let theme = Theme::plain(false, false);
        let shades = [1, 2, 4, 7, 8].map(|n_busy| shade(theme, n_busy, 8));
        assert_eq!(shades, ['░', '░', '▒', '▓', '█']);
    }
}
