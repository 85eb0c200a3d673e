//! The loss over all steps: what it was in each, its moving average, the validations.
//!
//! A column of dots stands for some steps and reaches from their lowest loss to their highest, so that no spike is lost
//! however many steps there are. Braille characters give eight dots a cell; with plain characters a cell is one dot.

use pp_telemetry::{LossHistory, Trend};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::format;
use super::paint::{Pen, panel};
use super::theme::Theme;
use crate::monitor::state::State;

/// Cells of the numbers beside the chart.
const LABEL_CELLS: u16 = 6;

/// Draws the panel.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let history = state.shown().loss();
    let inside = panel(buffer, area, theme, &title(history, theme, area.width), "");
    let mut pen = Pen::new(buffer, inside, theme);
    if history.last().is_none() {
        pen.put(" no step is over yet", theme.dim());
        return;
    }
    let (n_columns, n_rows) =
        (pen.width().saturating_sub(LABEL_CELLS + 1), pen.height().saturating_sub(1));
    if n_columns == 0 || n_rows == 0 {
        return;
    }
    let scale = Scale::of(history);
    draw_axes(&mut pen, history, &scale, n_columns, n_rows);
    Chart::new(n_columns as usize, n_rows as usize, theme).draw(&mut pen, history, &scale);
}

/// The way the loss goes, in one character or word.
pub(crate) fn trend_text(trend: Option<Trend>, theme: Theme) -> &'static str {
    match (trend, theme.ascii) {
        (None, _) => "",
        (Some(Trend::Falling), false) => "▼",
        (Some(Trend::Rising), false) => "▲",
        (Some(Trend::Flat), false) => "▬",
        (Some(Trend::Falling), true) => "falling",
        (Some(Trend::Rising), true) => "rising",
        (Some(Trend::Flat), true) => "flat",
    }
}

fn title(history: &LossHistory, theme: Theme, width: u16) -> String {
    let mut parts = vec![match history.last() {
        Some(loss) => format!("loss {}", format::number(loss)),
        None => "loss".to_owned(),
    }];
    parts.push(trend_text(history.trend(), theme).to_owned());
    if history.n_nonfinite() > 0 {
        parts.push(format!("{} not finite", history.n_nonfinite()));
    }
    if let Some(ema) = history.ema() {
        parts.push(format!("ema {}", format::number(ema)));
    }
    if let Some(mark) = history.marks().last() {
        let sign = if theme.ascii { "o" } else { "◆" };
        parts.push(format!("{sign} val {}", format::number(mark.loss)));
    }
    parts.retain(|part| !part.is_empty());
    while parts.len() > 1 && parts.join("  ").chars().count() + 5 > width as usize {
        parts.pop();
    }
    parts.join("  ")
}

/// Which loss and which step stand where.
#[derive(Debug, Clone, Copy)]
struct Scale {
    low: f64,
    high: f64,
    first_step: u64,
    last_step: u64,
}

impl Scale {
    fn of(history: &LossHistory) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for bucket in history.buckets().iter().filter(|bucket| bucket.has_values()) {
            (low, high) = (low.min(bucket.min), high.max(bucket.max));
        }
        for mark in history.marks().iter().filter(|mark| mark.loss.is_finite()) {
            (low, high) = (low.min(mark.loss), high.max(mark.loss));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low <= high.abs() * 1e-6 {
            // A loss that does not change is a line in the middle.
            let margin = (high.abs() * 0.05).max(1e-6);
            (low, high) = (low - margin, high + margin);
        }
        let first_step = history.buckets().first().map_or(0, |bucket| bucket.first_step);
        let last_step = history.buckets().last().map_or(0, |bucket| bucket.last_step);
        Self { low, high, first_step, last_step: last_step.max(first_step) }
    }

    /// The dot that a step stands for, of `n` from left to right.
    fn x(&self, step: u64, n: usize) -> usize {
        let whole = (self.last_step - self.first_step).max(1) as f64;
        let share = step.clamp(self.first_step, self.last_step).saturating_sub(self.first_step)
            as f64
            / whole;
        dot(share, n)
    }

    /// The dot that a loss stands for, of `n` from top to bottom.
    fn y(&self, loss: f64, n: usize) -> usize {
        dot((self.high - loss) / (self.high - self.low), n)
    }
}

fn dot(share: f64, n: usize) -> usize {
    let last = n.saturating_sub(1);
    #[expect(clippy::cast_sign_loss, reason = "clamped to 0 and more")]
    let at = (share.clamp(0.0, 1.0) * last as f64).round() as usize;
    at.min(last)
}

fn draw_axes(pen: &mut Pen<'_>, history: &LossHistory, scale: &Scale, n_columns: u16, n_rows: u16) {
    let theme = pen.theme;
    let (bar, corner, line) = if theme.ascii { ("|", '+', '-') } else { ("│", '└', '─') };
    let label =
        |loss: f64| format!("{:>width$}", format::number(loss), width = LABEL_CELLS as usize);
    for y in 0..n_rows {
        pen.line(y);
        if y == 0 {
            pen.put(label(scale.high), theme.dim());
        } else if y + 1 == n_rows {
            pen.put(label(scale.low), theme.dim());
        } else if n_rows >= 9 && y == n_rows / 2 {
            let share = f64::from(y) / f64::from(n_rows - 1);
            pen.put(label(scale.high - share * (scale.high - scale.low)), theme.dim());
        }
        pen.column(LABEL_CELLS).put(bar, theme.dim());
    }
    let axis: String =
        std::iter::once(corner).chain(std::iter::repeat_n(line, n_columns as usize)).collect();
    pen.line(n_rows).column(LABEL_CELLS).put(axis, theme.dim());
    let (first, last) = (scale.first_step.to_string(), scale.last_step.to_string());
    pen.column(LABEL_CELLS + 1).put(&first, theme.dim());
    if history.buckets().len() > 1 && first.len() + last.len() + 2 <= n_columns as usize {
        pen.put_right(&last, theme.dim());
    }
}

/// A raster of dots, with what they belong to.
struct Chart {
    n_columns: usize,
    n_rows: usize,
    /// Dots in one cell: across and down.
    per_cell: (usize, usize),
    theme: Theme,
    train: Vec<bool>,
    average: Vec<bool>,
}

/// The bits of a Braille character: across, then down.
const BRAILLE: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

impl Chart {
    fn new(n_columns: usize, n_rows: usize, theme: Theme) -> Self {
        let per_cell = if theme.ascii { (1, 1) } else { (2, 4) };
        let n_dots = n_columns * per_cell.0 * n_rows * per_cell.1;
        Self {
            n_columns,
            n_rows,
            per_cell,
            theme,
            train: vec![false; n_dots],
            average: vec![false; n_dots],
        }
    }

    fn n_dots(&self) -> (usize, usize) {
        (self.n_columns * self.per_cell.0, self.n_rows * self.per_cell.1)
    }

    fn draw(mut self, pen: &mut Pen<'_>, history: &LossHistory, scale: &Scale) {
        let (n_x, n_y) = self.n_dots();
        let mut before: Option<(usize, usize)> = None;
        let mut train_before: Option<(usize, usize)> = None;
        for bucket in history.buckets() {
            let x = scale.x(bucket.last_step, n_x);
            if bucket.has_values() {
                let (top, bottom) = (scale.y(bucket.max, n_y), scale.y(bucket.min, n_y));
                draw_line((x, top), (x, bottom), |x, y| self.train[y * n_x + x] = true);
                // Few steps stand far apart: a line leads from one to the next.
                let middle = (x, usize::midpoint(top, bottom));
                draw_line(train_before.unwrap_or(middle), middle, |x, y| {
                    self.train[y * n_x + x] = true;
                });
                train_before = Some(middle);
            } else {
                train_before = None;
            }
            if bucket.ema.is_finite() {
                let y = scale.y(bucket.ema, n_y);
                let (from_x, from_y) = before.unwrap_or((x, y));
                draw_line((from_x, from_y), (x, y), |x, y| self.average[y * n_x + x] = true);
                before = Some((x, y));
            }
        }
        for y in 0..self.n_rows {
            for x in 0..self.n_columns {
                self.draw_cell(pen, x, y);
            }
        }
        let offset = LABEL_CELLS + 1;
        for bucket in history.buckets().iter().filter(|bucket| bucket.n_nonfinite > 0) {
            let x = scale.x(bucket.last_step, self.n_columns) as u16;
            for y in 0..self.n_rows as u16 {
                pen.cell(offset + x, y, '!', self.theme.bad());
            }
        }
        for mark in history.marks().iter().filter(|mark| mark.loss.is_finite()) {
            let (x, y) =
                (scale.x(mark.step, self.n_columns) as u16, scale.y(mark.loss, self.n_rows) as u16);
            pen.cell(
                offset + x,
                y,
                if self.theme.ascii { 'o' } else { '◆' },
                self.theme.validation(),
            );
        }
    }

    fn draw_cell(&self, pen: &mut Pen<'_>, x: usize, y: usize) {
        let (n_x, _) = self.n_dots();
        let (mut bits, mut has_train, mut has_average) = (0, false, false);
        for (dx, column) in BRAILLE.iter().enumerate().take(self.per_cell.0) {
            for (dy, bit) in column.iter().enumerate().take(self.per_cell.1) {
                let at = (y * self.per_cell.1 + dy) * n_x + x * self.per_cell.0 + dx;
                has_train |= self.train[at];
                has_average |= self.average[at];
                if self.train[at] || self.average[at] {
                    bits |= bit;
                }
            }
        }
        let style = if has_average { self.theme.average() } else { self.theme.loss() };
        let symbol = match (self.theme.ascii, has_average, has_train) {
            (_, false, false) => return,
            (true, true, _) => '*',
            (true, false, true) => ':',
            (false, _, _) => char::from_u32(0x2800 + bits).unwrap_or(' '),
        };
        pen.cell(LABEL_CELLS + 1 + x as u16, y as u16, symbol, style);
    }
}

/// All dots of a line, its ends included.
fn draw_line(
    (x0, y0): (usize, usize),
    (x1, y1): (usize, usize),
    mut set: impl FnMut(usize, usize),
) {
    let n_steps = x0.abs_diff(x1).max(y0.abs_diff(y1)).max(1);
    for at in 0..=n_steps {
        let between = |from: usize, to: usize| {
            if to >= from {
                from + (to - from) * at / n_steps
            } else {
                from - (from - to) * at / n_steps
            }
        };
        set(between(x0, x1), between(y0, y1));
    }
}
