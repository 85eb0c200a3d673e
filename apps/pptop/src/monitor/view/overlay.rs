//! What lies over the screen: the keys, and questions.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Clear, Widget as _};

use super::paint::{Pen, panel, slice_bottom};
use super::theme::{STRONG, Theme};
use crate::monitor::input::Action;
use crate::monitor::state::{Dialog, Prompt, State};

/// An empty panel in the middle of the screen, as large as there is room for; `key` closes it.
fn window(
    buffer: &mut Buffer,
    area: Rect,
    theme: Theme,
    (title, key): (&str, &str),
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
    panel(buffer, window, theme, title, &format!("{key} closes"))
}

/// Draws the keys: what means something in this view first, the rest dim.
pub(crate) fn draw_help(
    buffer: &mut Buffer,
    area: Rect,
    state: &State,
    theme: Theme,
    first: usize,
) {
    let lines = state.keymap().help(state.at());
    let names = lines.iter().map(|line| line.keys.chars().count()).max().unwrap_or(0);
    let texts = lines.iter().map(|line| line.text.len()).max().unwrap_or(0);
    let of = |action| state.keymap().key_of(action);
    let key = of(Action::Back).or_else(|| of(Action::Help)).unwrap_or_default();
    let inside = window(buffer, area, theme, ("keys", &key), names + texts + 4, lines.len());
    let first = first.min(lines.len().saturating_sub(inside.height as usize));
    let mut pen = Pen::new(buffer, inside, theme);
    for line in lines.iter().skip(first) {
        let style = if line.is_here { Style::new() } else { theme.dim() };
        pen.put(format!(" {:>names$}", line.keys), if line.is_here { STRONG } else { style });
        pen.text("  ").put(line.text, style);
        pen.next_line();
    }
}

/// Draws a line that is being typed, at the bottom.
pub(crate) fn draw_prompt(buffer: &mut Buffer, area: Rect, theme: Theme, prompt: &Prompt) {
    let (_, line) = slice_bottom(area, 1);
    Clear.render(line, buffer);
    let mut pen = Pen::new(buffer, line, theme);
    pen.text(" ").put(prompt.label(), STRONG).text(&prompt.text);
    pen.put(if theme.ascii { "_" } else { "▏" }, theme.notice());
}

/// Draws a question with its answers.
pub(crate) fn draw_dialog(
    buffer: &mut Buffer,
    area: Rect,
    state: &State,
    theme: Theme,
    dialog: Dialog,
) {
    // Ctrl-c closes it, whatever is configured.
    let key = state.keymap().key_of(Action::Back).unwrap_or_else(|| "Ctrl-c".to_owned());
    let width = dialog.answers().iter().map(|answer| answer.text.len()).max().unwrap_or(0) + 8;
    let inside =
        window(buffer, area, theme, (dialog.title(), &key), width, dialog.answers().len() + 2);
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
