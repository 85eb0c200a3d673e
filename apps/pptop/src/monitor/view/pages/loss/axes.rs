//! The chart with its two axes.

use super::Plot;
use crate::monitor::view::chart::{Chart, Scale, round_up};
use crate::monitor::view::paint::Pen;
use crate::monitor::words::format;

/// The least number of cells between two numbers of the step axis.
const TICK_CELLS: f64 = 12.0;
/// The least number of rows between two numbers of the value axis.
const TICK_ROWS: u16 = 3;

impl Plot<'_> {
    pub(super) fn draw_chart(&self, pen: &mut Pen<'_>, y: u16) {
        let theme = pen.theme;
        let height = pen.height().saturating_sub(y);
        // The numbers of the steps have a line of their own where there is room for it.
        let n_axis_rows = match height {
            0..=3 => 0,
            4..=9 => 1,
            _ => 2,
        };
        let n_rows = height - n_axis_rows;
        let (scale, ticks) = self.scale(match n_rows {
            0..=5 => 0,
            _ => usize::from(n_rows / TICK_ROWS).clamp(4, 9),
        });
        let labels = match n_rows {
            0..=5 => ticks.iter().map(|tick| format::number(*tick)).collect(),
            _ => labels(&ticks),
        };
        let label_cells = labels.iter().map(String::len).max().unwrap_or(0).clamp(3, 9) as u16;
        let n_columns = pen.width().saturating_sub(label_cells + 2);
        if n_rows == 0 || n_columns == 0 {
            return;
        }
        let (bar, tick_bar, dash) =
            if theme.ascii { ('|', '+', '-') } else { ('│', '┤', '╌') };
        let x0 = label_cells + 2;
        for row in 0..n_rows {
            pen.cell(x0 - 1, y + row, bar, theme.dim());
        }
        for (value, label) in ticks.iter().zip(&labels) {
            let row = y + scale.y(value / self.factor, n_rows as usize) as u16;
            pen.cell(x0 - 1, row, tick_bar, theme.dim());
            pen.line(row).put(format!("{label:>width$}", width = x0 as usize - 1), theme.dim());
        }
        if let Some(theory) = self.reference() {
            let row = y + scale.y(theory, n_rows as usize) as u16;
            (x0..x0.saturating_add(n_columns)).for_each(|x| pen.cell(x, row, dash, theme.dim()));
        }
        let chart = Chart::new((x0, y), n_columns as usize, n_rows as usize, theme);
        if let Some(step) = self.cursor {
            chart.draw_cursor(pen, step, &scale);
        }
        if let Some((_, buckets)) = &self.other {
            chart.draw_points(pen, buckets, &scale);
        }
        chart.draw(pen, &self.series(), &scale);
        if n_axis_rows > 0 {
            self.draw_steps(pen, &scale, (x0, y + n_rows), n_columns, n_axis_rows == 2);
        }
    }

    fn draw_steps(
        &self,
        pen: &mut Pen<'_>,
        scale: &Scale,
        (x0, y): (u16, u16),
        n_columns: u16,
        has_own_line: bool,
    ) {
        let theme = pen.theme;
        let (corner, line, tick_sign) =
            if theme.ascii { ('+', '-', '+') } else { ('└', '─', '┬') };
        pen.cell(x0 - 1, y, corner, theme.dim());
        (x0..x0.saturating_add(n_columns)).for_each(|x| pen.cell(x, y, line, theme.dim()));
        let n = n_columns as usize;
        let whole = (scale.last_step - scale.first_step) as f64;
        let every = round_up((whole / f64::from(n_columns) * TICK_CELLS).max(1.0));
        #[expect(clippy::cast_sign_loss, reason = "one and more")]
        let every = every as u64;
        let mut ticks: Vec<u64> = std::iter::successors(
            Some(scale.first_step.div_ceil(every).saturating_mul(every)),
            |tick| tick.checked_add(every),
        )
        .take_while(|tick| *tick <= scale.last_step)
        .take(n)
        .collect();
        // The newest step is written if it does not overlap another number.
        let is_free = |tick: &u64| {
            let text = (scale.last_step.to_string().len() + 1 + tick.to_string().len()) as u64;
            scale.x(scale.last_step, n) as u64 > scale.x(*tick, n) as u64 + text
        };
        if ticks.last().is_none_or(is_free) {
            ticks.push(scale.last_step);
        }
        let row = if has_own_line { y + 1 } else { y };
        let mut end = 0;
        for tick in ticks {
            let text = tick.to_string();
            let at = scale.x(tick, n);
            if has_own_line {
                pen.cell(x0 + at as u16, y, tick_sign, theme.dim());
            }
            // A number that would cross the edge is moved to it.
            let from = at.min(n.saturating_sub(text.len()));
            if from >= end && from + text.len() <= n {
                pen.line(row).column(x0 + from as u16).put(&text, theme.dim());
                end = from + text.len() + 1;
            }
        }
        for step in &self.checkpoints {
            pen.cell(x0 + scale.x(*step, n) as u16, y, 'K', theme.notice());
        }
        for step in &self.seams {
            pen.cell(x0 + scale.x(*step, n) as u16, y, 'R', theme.notice());
        }
    }
}

/// The numbers of an axis, all with the digits that their distance needs.
fn labels(ticks: &[f64]) -> Vec<String> {
    let closest =
        ticks.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(f64::INFINITY, f64::min);
    let largest = ticks.iter().fold(0.0_f64, |largest, tick| largest.max(tick.abs()));
    let n_digits = -(closest.log10() + 1e-9).floor();
    if largest >= 1e6 || n_digits > 6.0 || !n_digits.is_finite() {
        return ticks.iter().map(|tick| format::number(*tick)).collect();
    }
    #[expect(clippy::cast_sign_loss, reason = "clamped to 0 and more")]
    let n_digits = n_digits.max(0.0) as usize;
    // Adding 0 removes the sign of a negative zero.
    ticks.iter().map(|tick| format!("{:.n_digits$}", tick + 0.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_an_axis_have_equally_many_digits() {
        assert_eq!(labels(&[2.0, 2.5, 3.0]), ["2.0", "2.5", "3.0"]);
        assert_eq!(labels(&[0.0, 200.0]), ["0", "200"]);
        assert_eq!(labels(&[-0.0, 0.0002]), ["0.0000", "0.0002"]);
        assert_eq!(labels(&[1.0]), ["1.000"]);
        assert_eq!(labels(&[1e-9, 2e-9]), ["1.0e-9", "2.0e-9"]);
    }
}
