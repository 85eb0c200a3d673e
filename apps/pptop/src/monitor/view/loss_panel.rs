//! The panel of the loss: what it was in each step, its moving average, the validations.

use pp_telemetry::{LossHistory, Trend};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::chart::{Chart, Scale, Series};
use super::paint::{Pen, panel};
use super::theme::Theme;
use crate::monitor::state::State;
use crate::monitor::words::format;

/// Cells of the numbers beside the chart.
const LABEL_CELLS: u16 = 6;

/// Draws the panel.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let history = state.shown().loss();
    let alarm = state.shown().alarm();
    let seam = state.shown().seams().last().map(|before| format!("resumed after {}", before.step));
    let right = match alarm {
        Some(alarm) => alarm.short(),
        None => seam.as_deref().unwrap_or(""),
    };
    let room = area.width.saturating_sub(if right.is_empty() { 0 } else { right.len() as u16 + 3 });
    let inside = panel(buffer, area, theme, &title(history, theme, room), right);
    if alarm.is_some() {
        // The words on the frame stand out, and what is drawn below them.
        mark_right(buffer, area, right.len() as u16, theme.bad());
    }
    let mut pen = Pen::new(buffer, inside, theme);
    if history.last().is_none() {
        pen.put(" no step has finished yet", theme.dim());
        return;
    }
    let (n_columns, n_rows) =
        (pen.width().saturating_sub(LABEL_CELLS + 1), pen.height().saturating_sub(1));
    if n_columns == 0 || n_rows == 0 {
        return;
    }
    let series = Series { buckets: history.buckets(), marks: history.marks(), has_average: true };
    let scale = Scale::of(&series);
    draw_axes(&mut pen, history, &scale, n_columns, n_rows);
    let origin = (LABEL_CELLS + 1, 0);
    Chart::new(origin, n_columns as usize, n_rows as usize, theme).draw(&mut pen, &series, &scale);
}

/// Colours the last words of the upper frame.
fn mark_right(buffer: &mut Buffer, area: Rect, n_cells: u16, style: Style) {
    let from = area.right().saturating_sub(n_cells + 3).max(area.left());
    let width = (n_cells + 2).min(area.right().saturating_sub(from));
    buffer.set_style(Rect::new(from, area.y, width, 1), style);
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
