//! What lies over the screen: the keys, and questions.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::widgets::{Clear, Widget as _};

use super::paint::{Pen, panel};
use super::theme::{STRONG, Theme};
use crate::monitor::input::TABLE;
use crate::monitor::state::Dialog;

/// An empty panel in the middle of the screen, as large as there is room for.
fn window(
    buffer: &mut Buffer,
    area: Rect,
    theme: Theme,
    title: &str,
    width: usize,
    height: usize,
) -> Rect {
    let width = u16::try_from(width + 2).unwrap_or(u16::MAX).min(area.width);
    let height = u16::try_from(height + 2).unwrap_or(u16::MAX).min(area.height);
    let window = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    Clear.render(window, buffer);
    panel(buffer, window, theme, title, "Esc closes")
}

/// Draws the keys.
pub(crate) fn draw_help(buffer: &mut Buffer, area: Rect, theme: Theme) {
    let names = TABLE.iter().map(|entry| entry.names.len()).max().unwrap_or(0);
    let texts = TABLE.iter().map(|entry| entry.help.len()).max().unwrap_or(0);
    let inside = window(buffer, area, theme, "keys", names + texts + 4, TABLE.len());
    let mut pen = Pen::new(buffer, inside, theme);
    for entry in TABLE {
        pen.put(format!(" {:>names$}", entry.names), STRONG).text("  ").text(entry.help);
        pen.next_line();
    }
}

/// Draws a question with its answers.
pub(crate) fn draw_dialog(buffer: &mut Buffer, area: Rect, theme: Theme, dialog: Dialog) {
    let width = dialog.answers().iter().map(|answer| answer.text.len()).max().unwrap_or(0) + 8;
    let inside = window(buffer, area, theme, dialog.title(), width, dialog.answers().len() + 2);
    let mut pen = Pen::new(buffer, inside, theme);
    // Where there is room, an empty line above.
    if pen.height() as usize > dialog.answers().len() {
        pen.next_line();
    }
    for answer in dialog.answers() {
        pen.text("  ").put(answer.key.to_string(), STRONG).text("  ").text(answer.text);
        pen.next_line();
    }
}
