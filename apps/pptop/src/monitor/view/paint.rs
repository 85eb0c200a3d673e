//! Writing into a buffer without ever writing outside of it.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Block, Widget as _};

use super::theme::Theme;
use crate::monitor::words::format::cells;

/// Writes one line after another, or along one line, inside of an area.
pub(crate) struct Pen<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    x: u16,
    y: u16,
    pub(crate) theme: Theme,
}

impl<'a> Pen<'a> {
    /// A pen at the beginning of the first line of `area`.
    pub(crate) fn new(buffer: &'a mut Buffer, area: Rect, theme: Theme) -> Self {
        let area = area.intersection(buffer.area);
        Self { buffer, area, x: 0, y: 0, theme }
    }

    pub(crate) fn width(&self) -> u16 {
        self.area.width
    }

    pub(crate) fn height(&self) -> u16 {
        self.area.height
    }

    /// Cells that are left on this line.
    pub(crate) fn left(&self) -> u16 {
        self.area.width.saturating_sub(self.x)
    }

    /// Lines that are left, this one included.
    pub(crate) fn lines_left(&self) -> u16 {
        self.area.height.saturating_sub(self.y)
    }

    /// Goes to the beginning of another line.
    pub(crate) fn line(&mut self, y: u16) -> &mut Self {
        (self.x, self.y) = (0, y);
        self
    }

    /// Goes to the beginning of the next line.
    pub(crate) fn next_line(&mut self) -> &mut Self {
        self.line(self.y.saturating_add(1))
    }

    /// Goes to a cell of this line.
    pub(crate) fn column(&mut self, x: u16) -> &mut Self {
        self.x = x;
        self
    }

    /// Writes, and stands behind what was written; what does not fit is lost.
    pub(crate) fn put(&mut self, text: impl AsRef<str>, style: Style) -> &mut Self {
        if self.y < self.area.height && self.x < self.area.width {
            let (x, y) = (self.area.x + self.x, self.area.y + self.y);
            let (end, _) =
                self.buffer.set_stringn(x, y, text.as_ref(), self.left() as usize, style);
            self.x = end.saturating_sub(self.area.x);
        }
        self
    }

    /// Writes in the usual style.
    pub(crate) fn text(&mut self, text: impl AsRef<str>) -> &mut Self {
        self.put(text, Style::new())
    }

    /// Writes one character into one cell, without moving.
    pub(crate) fn cell(&mut self, x: u16, y: u16, symbol: char, style: Style) {
        if x < self.area.width && y < self.area.height {
            self.buffer[(self.area.x + x, self.area.y + y)].set_char(symbol).set_style(style);
        }
    }

    /// Changes the look of cells of a line, without what stands in them.
    pub(crate) fn restyle(&mut self, x: u16, y: u16, n_cells: u16, style: Style) {
        for x in x..x.saturating_add(n_cells).min(self.area.width) {
            if y < self.area.height {
                self.buffer[(self.area.x + x, self.area.y + y)].set_style(style);
            }
        }
    }

    /// Writes at the right end of this line, if `text` fits behind what is there.
    pub(crate) fn put_right(&mut self, text: &str, style: Style) -> &mut Self {
        let n_cells = u16::try_from(cells(text)).unwrap_or(u16::MAX);
        if n_cells <= self.left() {
            self.x = self.area.width - n_cells;
            self.put(text, style);
        }
        self
    }
}

/// Draws a frame with a title at its left and one at its right, and gives what is inside of it.
pub(crate) fn panel(
    buffer: &mut Buffer,
    area: Rect,
    theme: Theme,
    title: &str,
    right: &str,
) -> Rect {
    let area = area.intersection(buffer.area);
    let block = Block::bordered().border_set(theme.border()).border_style(theme.dim());
    let inside = block.inner(area);
    block.render(area, buffer);
    head(buffer, area, theme, title, right);
    inside
}

/// Writes into the upper edge of a frame: a title at its left and one at its right, where there is
/// room for both.
pub(crate) fn head(buffer: &mut Buffer, area: Rect, theme: Theme, title: &str, right: &str) {
    let area = area.intersection(buffer.area);
    if area.height > 0 && area.width > 4 {
        let line = Rect { x: area.x + 1, width: area.width - 2, height: 1, ..area };
        let mut pen = Pen::new(buffer, line, theme);
        pen.put(format!(" {title} "), theme.title());
        if !right.is_empty() && cells(right) + 3 < pen.left() as usize {
            pen.put_right(&format!(" {right} "), theme.dim());
        }
    }
}

/// Says in the lower edge of a panel how much of its content is above and below what is seen.
pub(crate) fn mark_more(
    buffer: &mut Buffer,
    area: Rect,
    theme: Theme,
    (above, below): (usize, usize),
    keys: &str,
) {
    let area = area.intersection(buffer.area);
    let text = more_text(above, below, keys);
    if text.is_empty() || area.height < 2 || area.width < 5 {
        return;
    }
    let y = area.y + area.height - 1;
    let line = Rect { x: area.x + 1, y, width: area.width - 2, height: 1 };
    let mut pen = Pen::new(buffer, line, theme);
    // What is cut off has to be seen, the keys for it need not.
    let all = format!(" {text} ");
    let text = if all.chars().count() < line.width as usize {
        all
    } else {
        format!(" {} ", more_text(above, below, ""))
    };
    let style = theme.notice();
    pen.put_right(&text, style);
}

/// `12 more below`, `3 above, 12 below`; nothing where all is seen.
pub(crate) fn more_text(above: usize, below: usize, keys: &str) -> String {
    let text = match (above, below) {
        (0, 0) => return String::new(),
        (0, below) => format!("{below} more below"),
        (above, 0) => format!("{above} more above"),
        (above, below) => format!("{above} more above, {below} below"),
    };
    if keys.is_empty() { text } else { format!("{text}: {keys}") }
}

/// The upper `n_rows` of an area, and the rest.
pub(crate) fn slice_top(area: Rect, n_rows: u16) -> (Rect, Rect) {
    let n_rows = n_rows.min(area.height);
    let rest = Rect { y: area.y.saturating_add(n_rows), height: area.height - n_rows, ..area };
    (Rect { height: n_rows, ..area }, rest)
}

/// The rest of an area, and its lower `n_rows`.
pub(crate) fn slice_bottom(area: Rect, n_rows: u16) -> (Rect, Rect) {
    slice_top(area, area.height.saturating_sub(n_rows))
}

/// The left `n_columns` of an area, and the rest.
pub(crate) fn slice_left(area: Rect, n_columns: u16) -> (Rect, Rect) {
    let n_columns = n_columns.min(area.width);
    let rest = Rect { x: area.x.saturating_add(n_columns), width: area.width - n_columns, ..area };
    (Rect { width: n_columns, ..area }, rest)
}
