//! The messages of the run: beside the other panels on a wide screen, and alone while there is
//! nothing else to show.

use pp_telemetry::{Level, Message};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::paint::{Pen, mark_more, panel};
use super::theme::{STRONG, Theme};
use crate::monitor::input::Action;
use crate::monitor::screen::View;
use crate::monitor::state::State;
use crate::monitor::words::format;

/// Cells of the bar of a phase.
const PHASE_CELLS: usize = 20;

fn draw_message(pen: &mut Pen<'_>, message: &Message) {
    let theme = pen.theme;
    let (word, style) = match message.level {
        Level::Info => ("    ", theme.dim()),
        Level::Warn => ("WARN", theme.notice()),
    };
    pen.put(format!(" {} ", format::clock(message.elapsed_ns as f64 * 1e-9)), theme.dim());
    pen.put(word, style).text(" ").text(message.line());
    pen.next_line();
}

/// Draws the panel: the newest message first.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let model = state.shown();
    let right = match model.n_warnings() {
        0 => String::new(),
        1 => "1 warning".to_owned(),
        n => format!("{n} warnings"),
    };
    let inside = panel(buffer, area, theme, "messages", &right);
    let mut pen = Pen::new(buffer, inside, theme);
    let n_rows = inside.height as usize;
    for message in model.messages().rev().take(n_rows) {
        draw_message(&mut pen, message);
    }
    let below = model.messages().count().saturating_sub(n_rows);
    let key = state.keymap().key_of(Action::Show(View::Log)).unwrap_or_default();
    mark_more(buffer, area, theme, (0, below), &key);
}

/// Fills the screen while the run has not said yet what it trains.
pub(crate) fn draw_waiting(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let inside = panel(buffer, area, theme, "run", "");
    let mut pen = Pen::new(buffer, inside, theme);
    pen.next_line();
    if state.is_over() {
        pen.put(format!("  process {} ended before it began to train", state.child().pid), STRONG);
    } else {
        pen.put(
            format!(
                "  starting (pid {}) {}",
                state.child().pid,
                if theme.ascii { "..." } else { "…" }
            ),
            STRONG,
        );
    }
    pen.next_line().next_line();
    for phase in state.shown().phases() {
        let seconds = phase.dur_ns.unwrap_or(0) as f64 * 1e-9;
        pen.put(format!("  {:<16}", format::plain(&phase.phase)), theme.dim());
        pen.text(format::duration(seconds)).next_line();
    }
    if let Some(phase) = state.shown().phase() {
        pen.put(format!("  {:<16}", format::plain(&phase.phase)), STRONG);
        if phase.total > 0 {
            let share = phase.done as f64 / phase.total as f64;
            pen.put(theme.gauge(share.clamp(0.0, 1.0), PHASE_CELLS), theme.bar());
            pen.text(format!(" {}/{}", phase.done, phase.total));
        }
        pen.next_line();
    }
    // The newest are at the bottom, where readers expect them.
    let n_rows = pen.lines_left() as usize;
    let n_messages = state.shown().messages().count();
    for message in state.shown().messages().skip(n_messages.saturating_sub(n_rows)) {
        draw_message(&mut pen, message);
    }
}
