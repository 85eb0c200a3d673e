//! A step summed up: what the chosen rank did in it, and what its length hangs on.

use pp_quantile::upper_median;
use pp_telemetry::{RankState, RecordedStep, Reduced, Span, SpanKind};
use ratatui::style::Style;

use super::details::wrapped;
use super::{Page, is_of, time};
use crate::monitor::state::critical_path;
use crate::monitor::view::paint::Pen;
use crate::monitor::words::{format, letter, name, rank_name};

/// Lines of the critical path at most.
const PATH_LINES_MAX: usize = 6;

impl Page<'_> {
    /// What a rank did in the step, summed up: as much of it as fits. The line behind it is told.
    fn draw_times(&self, pen: &mut Pen<'_>, row: usize, y: u16, n_lines: u16) -> u16 {
        let theme = pen.theme;
        let Some(rank) = self.model.ranks().get(row) else { return y };
        let step_ns = self
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
            let share = sum.whole_ns as f64 / step_ns.unwrap_or(0).max(1) as f64;
            let name = name(sum.kind);
            let sign = if sum.kind.is_wait() { theme.idle() } else { letter(sum.kind) };
            pen.line(y).put(format!(" {sign} "), theme.op(sum.kind));
            pen.text(format!(
                "{name:<17}{:>5}{:>10}{:>9}{:>10}{:>10}",
                sum.n,
                time(sum.whole_ns),
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

    /// The times of the chosen rank, then the critical path, then as many of the other ranks as
    /// fit.
    pub(super) fn draw_sums(&self, pen: &mut Pen<'_>, y: u16, end_y: u16) {
        let chosen = self.state.timeline().row(self.model);
        let y = self.draw_times(pen, chosen, y, end_y.saturating_sub(y));
        let mut y = self.draw_critical_path(pen, y, end_y.saturating_sub(y));
        let n_kinds =
            |row: usize| self.model.ranks().get(row).map_or(0, |rank| sums(self.step, rank).len());
        for row in (0..self.model.ranks().len()).filter(|row| *row != chosen) {
            let n_left = end_y.saturating_sub(y);
            // All of it or nothing, with a line above it and one below.
            if usize::from(n_left) < n_kinds(row) + 3 {
                return;
            }
            y = self.draw_times(pen, row, y, n_left);
        }
    }

    /// The critical path, if there is room: its operations, with their times and the gaps between
    /// them.
    fn draw_critical_path(&self, pen: &mut Pen<'_>, y: u16, n_lines: u16) -> u16 {
        let theme = pen.theme;
        let row = self.state.timeline().row(self.model);
        let replica = self.model.ranks().get(row).map_or(0, |rank| rank.replica);
        if n_lines < 4 || pen.width() < 58 {
            return y;
        }
        let path = critical_path(self.step, replica);
        let (Some(first), Some(last)) = (path.first(), path.last()) else { return y };
        let whole_ns = last.end_ns().saturating_sub(first.start_ns);
        let busy_ns = path.iter().fold(0_u64, |sum, span| sum.saturating_add(span.dur_ns));
        let head = format!(
            " critical path: {} operations take {}, plus {} between them",
            path.len(),
            time(busy_ns),
            time(whole_ns.saturating_sub(busy_ns))
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
        let room = usize::from(n_lines - 3).min(PATH_LINES_MAX);
        let is_cut = lines.len() > room;
        for (at, (line, y)) in lines.iter().take(room).zip(y + 2..).enumerate() {
            let end = if is_cut && at + 1 == room { " .." } else { "" };
            let room = width.saturating_sub(end.len());
            pen.line(y).put(format!(" {}{end}", format::cut(line, room)), Style::new());
        }
        y + 2 + lines.len().min(room) as u16
    }
}

/// What a rank did of one kind.
struct Sum<'a> {
    kind: SpanKind,
    n: usize,
    whole_ns: u64,
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
    let sum = |(kind, spans): (SpanKind, Vec<&'a Span>)| {
        let mut durations: Vec<u64> = spans.iter().map(|span| span.dur_ns).collect();
        Some(Sum {
            kind,
            n: spans.len(),
            whole_ns: if kind == SpanKind::AllReduce {
                // Several buckets may be under way at once.
                Reduced::of(spans.iter().copied()).whole_ns
            } else {
                spans.iter().fold(0, |sum: u64, span| sum.saturating_add(span.dur_ns))
            },
            median_ns: upper_median(&mut durations)?,
            longest: spans.iter().max_by_key(|span| span.dur_ns)?,
        })
    };
    kinds.into_iter().filter_map(sum).collect()
}
