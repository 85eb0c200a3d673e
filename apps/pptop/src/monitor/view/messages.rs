//! What the run has said: beside everything else on a wide screen, and alone while there is nothing else to show.

use pp_telemetry::{Level, Message};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::format;
use super::paint::{Pen, panel};
use super::theme::{STRONG, Theme};
use crate::monitor::state::State;

fn draw_message(pen: &mut Pen<'_>, message: &Message) {
    let theme = pen.theme;
    let (word, style) = match message.level {
        Level::Info => ("    ", theme.dim()),
        Level::Warn => ("WARN", theme.notice()),
    };
    pen.put(format!(" {} ", format::clock(message.elapsed_ns as f64 * 1e-9)), theme.dim());
    pen.put(word, style).text(" ").text(&message.text);
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
    for message in model.messages().rev().take(inside.height as usize) {
        draw_message(&mut pen, message);
    }
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
    for message in state.shown().messages() {
        draw_message(&mut pen, message);
    }
}
