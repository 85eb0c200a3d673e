//! From the state to a frame. Nothing here changes anything, and nothing panics, whatever the size.

mod chart;
mod compact;
mod devices;
mod footer;
mod header;
mod layout;
mod loss_panel;
mod memory;
mod messages;
pub(crate) mod overlay;
mod pages;
pub(crate) mod paint;
mod pipeline;
mod rank_looks;
mod rank_table;
mod scrubber;
pub(crate) mod theme;
mod timeline;
mod verdict;

use pp_schedule::is_obeyed;
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

pub use layout::target;
pub use theme::Theme;

use super::state::State;
use crate::monitor::screen::{Overlay, Panel, View};
use paint::Pen;

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SizeClass {
    /// For one line.
    Line,
    /// For lines without frames.
    Compact,
    /// For all panels.
    Normal,
    /// For everything.
    Wide,
}

impl SizeClass {
    fn of(area: Rect) -> Self {
        if area.width < 20 || area.height < 5 {
            Self::Line
        } else if area.width < 60 || area.height < 16 {
            Self::Compact
        } else if area.width >= 140 && area.height >= 40 {
            Self::Wide
        } else {
            Self::Normal
        }
    }
}

/// Rows that the panels of the loss and of the pipeline need at least, with their frames.
const BOTTOM_ROWS_MIN: u16 = 7;
/// Below this height there is one line about the pipeline in place of these panels.
const PANELS_HEIGHT_MIN: u16 = 22;
/// Rows of a panel that are not about a rank: its frame, and its head or its axis.
const PANEL_ROWS: u16 = 3;

/// Draws the whole screen.
pub fn draw(frame: &mut Frame<'_>, state: &State, theme: Theme) {
    let area = frame.area();
    if area.is_empty() {
        return;
    }
    let buffer = frame.buffer_mut();
    draw_all(buffer, area, state, theme);
    obeyed_by_nobody(buffer);
}

/// What a log, a path or a device is called may be anything. Whatever else is done about that: no
/// cell holds what a terminal obeys.
fn obeyed_by_nobody(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        if cell.symbol().contains(is_obeyed) {
            cell.set_char('\u{fffd}');
        }
    }
}

fn draw_all(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    match SizeClass::of(area) {
        SizeClass::Line => header::draw_line(&mut Pen::new(buffer, area, theme), state),
        SizeClass::Compact if state.view() == View::Overview => {
            compact::draw(buffer, area, state, theme);
        }
        SizeClass::Compact => compact::draw_page(buffer, area, state, theme),
        SizeClass::Normal => draw_panels(buffer, area, state, theme, false),
        SizeClass::Wide => draw_panels(buffer, area, state, theme, true),
    }
    match state.overlay() {
        Some(Overlay::Help(first)) => overlay::draw_help(buffer, area, state, theme, *first),
        Some(Overlay::Ask(dialog)) => {
            // Esc closes it, whatever is configured.
            overlay::draw_dialog(buffer, area, theme, dialog, "Esc");
        }
        Some(Overlay::Prompt(prompt)) => overlay::draw_prompt(buffer, area, theme, prompt),
        None => {}
    }
}

/// Draws the view that fills the screen.
fn draw_page(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    match state.view() {
        View::Overview => {}
        View::Timeline => pages::timeline::draw(buffer, area, state, theme),
        View::Devices => pages::devices::draw(buffer, area, state, theme),
        View::Loss => pages::loss::draw(buffer, area, state, theme),
        View::Bubble => pages::bubble::draw(buffer, area, state, theme),
        View::Log => pages::log::draw(buffer, area, state, theme),
    }
}

fn draw_panels(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme, wide: bool) {
    let areas = layout::areas(area, state);
    header::draw(&mut Pen::new(buffer, areas.header, theme), state);
    footer::draw_keys(&mut Pen::new(buffer, areas.keys, theme), state);
    if let Some(line) = areas.notice {
        let mut pen = Pen::new(buffer, line, theme);
        match footer::notice(state) {
            Some(notice) => footer::draw_notice(&mut pen, &notice),
            None => verdict::draw(&mut pen, state),
        }
    }
    if let Some(line) = areas.job {
        header::draw_job(&mut Pen::new(buffer, line, theme), state);
    }
    if let Some(line) = areas.views {
        header::draw_views(&mut Pen::new(buffer, line, theme), state);
    }
    if let (Some(line), Some(playback)) = (areas.scrubber, state.playback()) {
        scrubber::draw(&mut Pen::new(buffer, line, theme), state, playback);
    }
    let rest = areas.page;
    if state.shown().hello().is_none() {
        messages::draw_waiting(buffer, rest, state, theme);
        return;
    }
    if state.view() != View::Overview {
        draw_page(buffer, rest, state, theme);
        return;
    }
    draw_overview(buffer, rest, area, state, theme, wide);
}

fn draw_overview(
    buffer: &mut Buffer,
    rest: Rect,
    area: Rect,
    state: &State,
    theme: Theme,
    wide: bool,
) {
    let placed = layout::overview(rest, area, state);
    devices::draw(buffer, placed.devices, state, theme, wide);
    mark(buffer, placed.devices, state, Panel::Devices, theme);
    if placed.is_large {
        pages::timeline::draw_embedded(buffer, placed.timeline, state, theme);
    } else {
        timeline::draw(buffer, placed.timeline, state, theme);
    }
    mark(buffer, placed.timeline, state, Panel::Timeline, theme);
    if let Some(line) = placed.line {
        pipeline::draw_line(&mut Pen::new(buffer, line, theme), state);
        return;
    }
    loss_panel::draw(buffer, placed.loss, state, theme);
    mark(buffer, placed.loss, state, Panel::Loss, theme);
    if let Some(messages_area) = placed.messages {
        messages::draw(buffer, messages_area, state, theme);
        mark(buffer, messages_area, state, Panel::Messages, theme);
    }
    pipeline::draw(buffer, placed.pipeline, state, theme);
    mark(buffer, placed.pipeline, state, Panel::Pipeline, theme);
    if let Some(Ok(found)) = state.bubble().found() {
        if let Some(times) = placed.times {
            pages::bubble::draw_ranks(buffer, times, state, found, theme);
        }
        if let Some(changes) = placed.changes {
            pages::bubble::draw_changes(buffer, changes, found, theme);
        }
    }
}

/// Marks the panel that is chosen.
fn mark(buffer: &mut Buffer, area: Rect, state: &State, panel: Panel, theme: Theme) {
    if state.panel() == Some(panel) {
        let mark = if theme.ascii { '>' } else { '▸' };
        Pen::new(buffer, area, theme).cell(1, 0, mark, theme.notice());
    }
}
