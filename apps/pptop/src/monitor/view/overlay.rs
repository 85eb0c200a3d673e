//! What lies over the screen: the keys, and questions.

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Span;
use ratatui::widgets::{Clear, Widget as _};

use super::paint::{Pen, mark_more, panel, slice_bottom};
use super::theme::{STRONG, Theme};
use crate::monitor::input::Action;
use crate::monitor::screen::{Dialog, Prompt};
use crate::monitor::state::State;
use crate::monitor::words::format;

/// An empty panel in the middle of the screen, as large as there is room for, and what is inside of
/// it; `key` closes it.
fn window(
    buffer: &mut Buffer,
    area: Rect,
    theme: Theme,
    (title, key): (&str, &str),
    width: usize,
    height: usize,
) -> (Rect, Rect) {
    let window = middle(area, width, height);
    Clear.render(window, buffer);
    (window, panel(buffer, window, theme, title, &format!("{key} closes")))
}

/// The middle of the screen, with room for a frame around these columns and rows.
pub(crate) fn middle(area: Rect, width: usize, height: usize) -> Rect {
    let width = u16::try_from(width + 2).unwrap_or(u16::MAX).min(area.width);
    let height = u16::try_from(height + 2).unwrap_or(u16::MAX).min(area.height);
    Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    }
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
    let (window, inside) =
        window(buffer, area, theme, ("keys", &key), names + texts + 4, lines.len());
    let n_rows = inside.height as usize;
    state.see_help_rows(n_rows);
    let first = first.min(lines.len().saturating_sub(n_rows));
    let below = lines.len().saturating_sub(first + n_rows);
    let keys = state.keymap().scroll_keys();
    mark_more(buffer, window, theme, (first, below), &keys);
    let mut pen = Pen::new(buffer, inside, theme);
    for line in lines.iter().skip(first) {
        let style = if line.is_here { Style::new() } else { theme.dim() };
        pen.put(format!(" {:>names$}", line.keys), if line.is_here { STRONG } else { style });
        let room = (pen.left() as usize).saturating_sub(2);
        pen.text("  ").put(format::cut(line.text, room), style);
        pen.next_line();
    }
}

/// Draws a line that is being typed, at the bottom.
pub(crate) fn draw_prompt(buffer: &mut Buffer, area: Rect, theme: Theme, prompt: &Prompt) {
    let (_, line) = slice_bottom(area, 1);
    Clear.render(line, buffer);
    let mut pen = Pen::new(buffer, line, theme);
    pen.text(" ").put(prompt.label(), STRONG);
    // The end of what is typed is seen, with the cursor behind it.
    let room = (pen.left() as usize).saturating_sub(1);
    let n_cells = |text: &str| Span::raw(text).width();
    let mut text = prompt.text.as_str();
    while n_cells(text) > room {
        let mut letters = text.chars();
        letters.next();
        text = letters.as_str();
    }
    pen.text(text);
    pen.put(if theme.ascii { "_" } else { "▏" }, theme.notice());
}

/// Columns that the text above the answers has at most.
const TEXT_COLUMNS: usize = 56;

/// Where a question stands on a screen, what is said above its answers, and in which row the first
/// of them is.
fn question(area: Rect, dialog: &Dialog) -> (Rect, Vec<String>, u16) {
    let answers = dialog.answers();
    let columns = answers.iter().map(|answer| answer.text.len() + 8).max().unwrap_or(0);
    let room = (area.width.saturating_sub(4) as usize).min(TEXT_COLUMNS);
    let text = dialog.text().map(|text| wrapped(&format::plain(&text), room));
    let text = text.unwrap_or_default();
    let widest = text.iter().map(|line| line.chars().count() + 2).max().unwrap_or(0);
    let n_text = if text.is_empty() { 0 } else { text.len() + 1 };
    let window = middle(area, columns.max(widest), answers.len() + n_text + 2);
    // Where there is no room for all, the answers come before the empty lines and the text.
    let rows = window.height.saturating_sub(2) as usize;
    let above = rows.saturating_sub(answers.len()).min(n_text + 1);
    (window, text, u16::try_from(above).unwrap_or(u16::MAX))
}

/// A text in lines of so many columns at most; a word that is longer is cut into parts.
fn wrapped(text: &str, n_columns: usize) -> Vec<String> {
    let n_columns = n_columns.max(1);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        while !rest.is_empty() {
            let line = lines.last_mut().map_or(0, |line| line.chars().count());
            let gap = usize::from(line > 0);
            if line + gap + rest.len() <= n_columns || line == 0 {
                let part: String = rest.drain(..rest.len().min(n_columns)).collect();
                if let Some(last) = lines.last_mut() {
                    last.push_str(if gap > 0 { " " } else { "" });
                    last.push_str(&part);
                }
            } else {
                lines.push(String::new());
            }
        }
    }
    lines
}

/// The answer at a cell of the screen, by its place.
pub(crate) fn answer_at(area: Rect, dialog: &Dialog, at: Position) -> Option<usize> {
    let (window, _, above) = question(area, dialog);
    let inside = Rect {
        x: window.x + 1,
        y: window.y + 1,
        width: window.width.saturating_sub(2),
        height: window.height.saturating_sub(2),
    };
    if !inside.contains(at) {
        return None;
    }
    let row = (at.y - inside.y).checked_sub(above)? as usize;
    (row < dialog.answers().len()).then_some(row)
}

/// Draws a question with its answers; `key` closes it.
pub(crate) fn draw_dialog(
    buffer: &mut Buffer,
    area: Rect,
    theme: Theme,
    dialog: &Dialog,
    key: &str,
) {
    let (window, text, above) = question(area, dialog);
    Clear.render(window, buffer);
    let inside = panel(buffer, window, theme, dialog.title(), &format!("{key} closes"));
    let n_answers = dialog.answers().len();
    let below = (above as usize + n_answers).saturating_sub(inside.height as usize);
    mark_more(buffer, window, theme, (0, below), "");
    let mut pen = Pen::new(buffer, inside, theme);
    if !text.is_empty() && above > 0 {
        pen.line(u16::from(above as usize > text.len()));
        for line in text.iter().take(above as usize) {
            pen.text(" ").put(line, theme.notice()).next_line();
        }
    }
    for (at, answer) in dialog.answers().iter().enumerate() {
        pen.line(above + at as u16);
        let is_chosen = at == dialog.chosen_at();
        let mark = match (is_chosen, theme.ascii) {
            (false, _) => ' ',
            (true, true) => '>',
            (true, false) => '▸',
        };
        let style = if is_chosen { STRONG } else { Style::new() };
        pen.put(format!(" {mark} "), theme.notice());
        pen.put(answer.key.to_string(), STRONG).text("  ").put(answer.text, style);
        if is_chosen {
            let line = Style::new().add_modifier(Modifier::REVERSED);
            pen.restyle(0, above + at as u16, inside.width, line);
        }
    }
}
