//! What the run has said, what was slow and what was lost, the newest at the bottom.

use pp_telemetry::{Level, Message};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::super::paint::{Pen, mark_more, panel, slice_top};
use super::super::theme::{STRONG, Theme};
use crate::monitor::input::Action;
use crate::monitor::screen::{Overlay, Prompt, PromptKind};
use crate::monitor::state::{Entry, LogState, State};
use crate::monitor::words::{self, format};

/// Below this size there is no frame.
const FRAME: (u16, u16) = (60, 8);
/// Lines that one message may take, where there is room.
const LINES_MAX: usize = 3;
/// Rows from which on there is.
const ROOM: u16 = 8;
/// Below this width there is no clock.
const CLOCK_WIDTH: u16 = 30;

/// Draws the view.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let model = state.shown();
    let log = shown_log(state);
    let entries = log.entries(model);
    let held = log.held_at(&entries);
    let (title, right) = titles(state, &log, &entries, held);
    let framed = area.width >= FRAME.0 && area.height >= FRAME.1;
    let inside = if framed {
        panel(buffer, area, theme, &title, &right)
    } else if area.height > 3 {
        let (line, rest) = slice_top(area, 1);
        let style = if held.is_some() { theme.notice() } else { theme.dim() };
        let mut pen = Pen::new(buffer, line, theme);
        pen.put(if right.is_empty() { title } else { format!("{title}  {right}") }, style);
        rest
    } else {
        area
    };
    let mut pen = Pen::new(buffer, inside, theme);
    if entries.is_empty() {
        let nothing = if log.filter().is_empty() { "no messages" } else { "no match" };
        pen.put(format!(" {nothing}"), theme.dim());
        return;
    }
    let step_cells = entries
        .iter()
        .filter_map(|entry| entry.step())
        .max()
        .map_or(0, |step| step_text(step).len());
    let writer = Writer { theme, filter: log.filter(), area: inside, framed, step_cells };
    let (lines, above, below) = writer.window(&entries, held);
    for line in lines {
        for part in line {
            pen.put(&part.content, part.style);
        }
        pen.next_line();
    }
    if framed {
        mark_more(buffer, area, theme, (above, below), &state.keymap().scroll_keys());
    }
}

/// What is shown of the log: while a text to look for is typed, it is looked for already.
fn shown_log(state: &State) -> LogState {
    let mut log = state.log().clone();
    if let Some(Overlay::Prompt(Prompt { kind: PromptKind::Filter, text })) = state.overlay() {
        log.set_filter(text.clone());
    }
    log
}

fn titles(
    state: &State,
    log: &LogState,
    entries: &[Entry<'_>],
    held: Option<usize>,
) -> (String, String) {
    let mut parts = vec!["log".to_owned()];
    if log.warnings_only() {
        parts.push("warnings only".to_owned());
    }
    if !log.filter().is_empty() {
        parts.push(format!("/{}", log.filter()));
    }
    if let Some(at) = held {
        let n_above = entries.len() - 1 - at;
        let unit = if n_above == 1 { "line" } else { "lines" };
        let mut text = format!("pinned {n_above} {unit} above the newest");
        let hint = state.keymap().hint(Action::Edge { last: true }, "follows");
        if !hint.is_empty() {
            text.push_str(", ");
            text.push_str(&hint);
        }
        parts.push(text);
    }
    let lines = match entries.len() {
        1 => "1 line".to_owned(),
        n => format!("{n} lines"),
    };
    let right = match state.shown().n_warnings() {
        0 => lines,
        1 => format!("{lines}, 1 warning"),
        n => format!("{lines}, {n} warnings"),
    };
    (parts.join("  "), right)
}

/// Whether it says that the training goes wrong: in the words of an alarm.
fn is_alarm(message: &Message) -> bool {
    ["the loss ", "the gradient norm ", "loss spike ", "gradient norm spike "]
        .iter()
        .any(|beginning| message.text.starts_with(beginning))
}

/// Puts lines of the log on the screen.
struct Writer<'a> {
    theme: Theme,
    filter: &'a str,
    area: Rect,
    framed: bool,
    /// Cells of the longest name of a step.
    step_cells: usize,
}

fn step_text(step: u64) -> String {
    format!("step {step}")
}

impl Writer<'_> {
    /// The lines that are seen: up to the one that is held, or else to the newest; more, while
    /// there is room. And how many entries are above and below them.
    fn window(
        &self,
        entries: &[Entry<'_>],
        held: Option<usize>,
    ) -> (Vec<Line<'static>>, usize, usize) {
        let height = self.area.height as usize;
        let (above, below) = entries.split_at(held.map_or(entries.len(), |at| at + 1));
        let mut blocks = Vec::new();
        let mut n_lines = 0;
        for (back, entry) in above.iter().rev().enumerate() {
            if n_lines >= height {
                break;
            }
            let block = self.block(*entry, held.is_some() && back == 0);
            n_lines += block.len();
            blocks.push(block);
        }
        let n_over = n_lines.saturating_sub(height);
        let n_above = above.len() - blocks.len();
        let mut n_below = below.len();
        let mut lines: Vec<_> = blocks.into_iter().rev().flatten().skip(n_over).collect();
        for entry in below {
            if lines.len() >= height {
                break;
            }
            lines.extend(self.block(*entry, false));
            n_below -= 1;
        }
        (lines, n_above, n_below)
    }

    /// The lines of one entry; the one that is held has a mark.
    fn block(&self, entry: Entry<'_>, is_held: bool) -> Vec<Line<'static>> {
        let theme = self.theme;
        let (word, style) = match entry {
            Entry::Message(Message { level: Level::Info, .. }) => ("info", theme.dim()),
            Entry::Message(message) if is_alarm(message) => ("WARN", theme.bad()),
            Entry::Message(_) => ("WARN", theme.notice()),
            Entry::Alarm(..) => ("WARN", theme.bad()),
            Entry::Slow(_) => ("SLOW", theme.notice()),
            Entry::Lost(_) => ("LOST", theme.bad()),
        };
        let clock = format::clock(entry.elapsed_ns() as f64 * 1e-9);
        let dim = theme.dim();
        let short: String = word.chars().take(1).collect();
        let clock_style = if is_held { STRONG } else { dim };
        let mut head = if self.framed {
            let mark = if is_held { '>' } else { ' ' };
            vec![
                Span::styled(format!("{mark}{clock}  "), clock_style),
                Span::styled(format!("{word}  "), style),
            ]
        } else if self.area.width >= CLOCK_WIDTH {
            vec![
                Span::styled(format!("{clock} "), clock_style),
                Span::styled(format!("{short} "), style),
            ]
        } else {
            vec![Span::styled(format!("{short} "), style)]
        };
        if self.framed && self.step_cells > 0 {
            let step = entry.step().map(step_text).unwrap_or_default();
            head.push(Span::styled(format!("{step:<width$}  ", width = self.step_cells), dim));
        }
        let indent: usize = head.iter().map(Span::width).sum();
        let indent = if self.framed { indent } else { 2.min(indent) };
        let first = (self.area.width as usize)
            .saturating_sub(head.iter().map(Span::width).sum::<usize>() + usize::from(self.framed));
        let others = (self.area.width as usize).saturating_sub(indent + usize::from(self.framed));
        let n_lines = if self.area.height >= ROOM { LINES_MAX } else { 1 };
        let letters = Letter::of(&entry.text(), self.filter, theme.ascii);
        let text_style = match entry {
            Entry::Message(Message { level: Level::Info, .. }) => Style::new(),
            _ => STRONG,
        };
        let mut lines: Vec<Line<'static>> = Vec::new();
        for part in wrap(&letters, first, others, n_lines, theme.ascii) {
            let mut line = if lines.is_empty() {
                Line::from(std::mem::take(&mut head))
            } else {
                Line::from(" ".repeat(indent))
            };
            for letters in part.chunk_by(|a, b| a.is_found == b.is_found) {
                let is_found = letters.first().is_some_and(|letter| letter.is_found);
                let text: String = letters.iter().map(|letter| letter.symbol).collect();
                line.push_span(Span::styled(
                    text,
                    if is_found { theme.found() } else { text_style },
                ));
            }
            lines.push(line);
        }
        lines
    }
}

/// A character of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Letter {
    symbol: char,
    cells: usize,
    /// Whether it belongs to what is looked for.
    is_found: bool,
}

impl Letter {
    fn of(text: &str, filter: &str, ascii: bool) -> Vec<Self> {
        let mut letters: Vec<Self> = text
            .chars()
            .map(|c| if ascii && !c.is_ascii() { '?' } else { c })
            .map(|symbol| Self { symbol, cells: cells_of(symbol), is_found: false })
            .collect();
        for range in words::find(text, filter) {
            for letter in letters.get_mut(range).unwrap_or_default() {
                letter.is_found = true;
            }
        }
        letters
    }
}

/// The cells that a character takes.
fn cells_of(symbol: char) -> usize {
    if symbol.is_ascii() { 1 } else { Span::raw(symbol.to_string()).width() }
}

/// Breaks a text into at most `n_lines` lines, the first of `first` cells, the others of `others`;
/// what is cut off has a mark.
fn wrap(
    letters: &[Letter],
    first: usize,
    others: usize,
    n_lines: usize,
    ascii: bool,
) -> Vec<Vec<Letter>> {
    let mut lines = Vec::new();
    let mut rest = letters;
    while lines.is_empty() || (!rest.is_empty() && lines.len() < n_lines) {
        let width = if lines.is_empty() { first } else { others };
        let fitting = fitting(rest, width);
        let is_last = lines.len() + 1 == n_lines;
        if fitting == rest.len() {
            lines.push(rest.to_vec());
            rest = &[];
        } else if is_last || width == 0 {
            let mark = if ascii { ".." } else { "…" };
            let kept =
                rest.split_at(self::fitting(rest, width.saturating_sub(mark.chars().count()))).0;
            let mut line = kept.to_vec();
            line.extend(mark.chars().map(|symbol| Letter { symbol, cells: 1, is_found: false }));
            lines.push(line);
            break;
        } else {
            // After the last space that fits, unless that would leave most of the line empty.
            let (fits, _) = rest.split_at(fitting);
            let space = fits.iter().rposition(|letter| letter.symbol == ' ');
            let end = match space {
                _ if rest.get(fitting).is_some_and(|letter| letter.symbol == ' ') => fitting,
                Some(at) if at * 2 >= fitting => at,
                _ => fitting.max(1),
            };
            let (line, left) = rest.split_at(end);
            lines.push(line.to_vec());
            let n_spaces = left.iter().take_while(|letter| letter.symbol == ' ').count();
            rest = left.get(n_spaces..).unwrap_or_default();
        }
    }
    lines
}

/// How many letters fit into so many cells.
fn fitting(letters: &[Letter], width: usize) -> usize {
    let mut cells = 0;
    letters
        .iter()
        .take_while(|letter| {
            cells += letter.cells;
            cells <= width
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(text: &str, first: usize, others: usize, n_lines: usize) -> Vec<String> {
        wrap(&Letter::of(text, "", false), first, others, n_lines, false)
            .into_iter()
            .map(|line| line.into_iter().map(|letter| letter.symbol).collect())
            .collect()
    }

    #[test]
    fn long_lines_are_broken_between_words_and_cut_in_the_end() {
        assert_eq!(wrapped("one two three", 8, 8, 3), ["one two", "three"]);
        assert_eq!(wrapped("one two three four", 8, 6, 2), ["one two", "three…"]);
        assert_eq!(wrapped("abcdefghij", 4, 4, 3), ["abcd", "efgh", "ij"]);
        assert_eq!(wrapped("漢字漢字", 5, 5, 2), ["漢字", "漢字"]);
        assert_eq!(wrapped("漢字漢字", 5, 5, 1), ["漢字…"]);
        assert_eq!(wrapped("", 5, 5, 1), [""]);
        assert_eq!(wrapped("abc", 0, 0, 3), ["…"]);
        assert_eq!(wrapped("漢", 1, 1, 3), ["漢"]);
    }
}
