//! From the list to a frame.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::widgets::{Clear, Widget as _};

use super::comparison::Comparison;
use super::state::{Over, RunsState};
use super::table::table;
use crate::monitor::view::Theme;
use crate::monitor::view::overlay::{answer_at, draw_dialog, draw_prompt, middle};
use crate::monitor::view::paint::{Pen, panel, slice_bottom, slice_top};
use crate::monitor::view::theme::STRONG;
use crate::monitor::words::format;

/// Cells before a row: the choice and the mark.
const BEFORE: usize = 3;

/// Rows of the list: without the first line, the heads and the last line.
fn list_area(area: Rect) -> Rect {
    let (_, rest) = slice_top(area, 2);
    slice_bottom(rest, 1).0
}

/// The first row that is shown, so that the chosen one is seen.
fn first_shown(state: &RunsState, n_rows: usize) -> usize {
    let at = state.chosen_at().unwrap_or(0);
    (at + 1).saturating_sub(n_rows.max(1))
}

/// The row or the answer at a cell of the screen.
pub(crate) fn at(state: &RunsState, area: Rect, x: u16, y: u16) -> Option<At> {
    let place = Position { x, y };
    match state.over() {
        Some(Over::Ask(dialog)) => answer_at(area, dialog, place).map(At::Answer),
        Some(_) => None,
        None => {
            let list = list_area(area);
            let row = (y.checked_sub(list.y)?) as usize + first_shown(state, list.height as usize);
            (list.contains(place) && row < state.shown().len()).then_some(At::Row(row))
        }
    }
}

/// What is at a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Row(usize),
    Answer(usize),
}

/// Draws the list and what lies over it.
pub fn draw(frame: &mut Frame<'_>, state: &RunsState, theme: Theme) {
    let area = frame.area();
    if area.is_empty() {
        return;
    }
    let buffer = frame.buffer_mut();
    draw_first_line(&mut Pen::new(buffer, slice_top(area, 1).0, theme), state);
    draw_list(buffer, area, state, theme);
    draw_last_line(&mut Pen::new(buffer, slice_bottom(area, 1).1, theme), state);
    match state.over() {
        Some(Over::Ask(dialog)) => draw_dialog(buffer, area, theme, dialog, "Esc"),
        Some(Over::Prompt(prompt)) => draw_prompt(buffer, area, theme, prompt),
        Some(Over::Comparison(comparison)) => draw_comparison(buffer, area, theme, comparison),
        None => {}
    }
}

fn draw_first_line(pen: &mut Pen<'_>, state: &RunsState) {
    let theme = pen.theme;
    let (n_runs, n_live) = (state.n_runs(), state.n_live());
    let runs = if n_runs == 1 { "1 run".to_owned() } else { format!("{n_runs} runs") };
    pen.put(" pptop  ", theme.dim()).put(runs, STRONG);
    match n_live {
        // What is looked for is said in its place.
        0 if !state.filter().is_empty() => pen.text(""),
        0 if cfg!(feature = "train") => pen.text("  no run is live; pptop train starts one"),
        0 => pen.text("  no run is live"),
        n => pen.put(format!("  {n} live"), theme.good()),
    };
    let mut right = state.sort().name().to_owned();
    if !state.filter().is_empty() {
        right = format!("/{} {}  {right}", format::plain(state.filter()), state.shown().len());
    }
    pen.put_right(&format!("{right} "), theme.dim());
}

fn draw_list(buffer: &mut Buffer, area: Rect, state: &RunsState, theme: Theme) {
    let shown = state.shown();
    let columns = (area.width as usize).saturating_sub(BEFORE);
    let (head, lines) = table(shown.iter().copied(), columns);
    let line = Rect { height: 1, ..slice_top(area, 1).1 };
    if area.height > 2 {
        Pen::new(buffer, line, theme).column(BEFORE as u16).put(head, theme.dim());
    }
    let list = list_area(area);
    let mut pen = Pen::new(buffer, list, theme);
    if shown.is_empty() {
        pen.text("   ").put("no run matches the search; Esc clears it", theme.notice());
        return;
    }
    let first = first_shown(state, list.height as usize);
    let chosen = state.chosen_at();
    for (row, (at, text)) in (0..list.height).zip(lines.iter().enumerate().skip(first)) {
        let is_chosen = chosen == Some(at);
        let (choice, mark) = if theme.ascii { ('>', '*') } else { ('▸', '●') };
        pen.line(row);
        pen.put(if is_chosen { choice } else { ' ' }.to_string(), theme.notice());
        let is_marked = state.is_marked(shown[at]);
        pen.put(if is_marked { mark } else { ' ' }.to_string(), theme.notice()).text(" ");
        pen.text(text);
        if is_chosen {
            let style = Style::new().add_modifier(Modifier::REVERSED);
            pen.restyle(0, row, list.width, style);
        } else if shown[at].standing.is_alive() {
            pen.restyle(BEFORE as u16, row, list.width, theme.good());
        }
    }
}

fn draw_last_line(pen: &mut Pen<'_>, state: &RunsState) {
    let theme = pen.theme;
    if let Some(note) = state.note() {
        pen.text(" ").put(format::plain(note), theme.notice());
        return;
    }
    let compare = if state.n_marked() == 2 { "compare the two" } else { "compare" };
    let keys = [
        ("Enter", "open"),
        ("/", "search"),
        ("o", "sort"),
        ("Space", "mark"),
        ("c", compare),
        ("r", "replay"),
        ("d", "delete"),
        ("q", "quit"),
    ];
    for (key, what) in keys {
        if key.len() + what.len() + 3 > pen.left() as usize {
            break;
        }
        pen.text(" ").put(key, STRONG).put(format!(" {what} "), theme.dim());
    }
}

fn draw_comparison(buffer: &mut Buffer, area: Rect, theme: Theme, comparison: &Comparison) {
    const WHAT: usize = 17;
    const CHANGE: usize = 9;
    let names = comparison.names.each_ref().map(|name| format::plain(name));
    let values = comparison.lines.iter().flat_map(|(_, both, _)| both.iter());
    let widest = values.chain(&names).map(|text| text.chars().count()).max().unwrap_or(0);
    let room = (area.width as usize).saturating_sub(2 + WHAT + CHANGE + 4);
    let width = widest.min(room / 2);
    let window = middle(area, WHAT + 2 * width + CHANGE + 4, comparison.lines.len() + 1);
    Clear.render(window, buffer);
    let inside = panel(buffer, window, theme, "two runs", "Enter: both losses, Esc closes");
    let mut pen = Pen::new(buffer, inside, theme);
    let cell = |text: &str| format!("{:>width$}", format::cut(&format::plain(text), width));
    let indent = " ".repeat(WHAT + 1);
    pen.text(indent).put(cell(&names[0]), STRONG).text(" ").put(cell(&names[1]), STRONG);
    pen.next_line();
    for (what, both, change) in &comparison.lines {
        pen.put(format!(" {what:<WHAT$}"), theme.dim());
        pen.text(cell(&both[0])).text(" ").text(cell(&both[1]));
        pen.put(format!(" {change}"), theme.notice()).next_line();
    }
}
