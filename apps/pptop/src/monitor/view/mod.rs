//! From the state to a frame. Nothing here changes anything, and nothing panics, whatever the size.

mod chart;
mod compact;
mod devices;
mod footer;
pub(crate) mod format;
mod header;
mod loss;
mod messages;
mod overlay;
mod pages;
mod paint;
mod pipeline;
mod scrubber;
mod theme;
mod timeline;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

pub use theme::Theme;

use super::state::{Overlay, State, View};
use paint::{Pen, slice_bottom, slice_left, slice_top};

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
        Some(Overlay::Ask(dialog)) => overlay::draw_dialog(buffer, area, theme, *dialog),
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
    let (line, rest) = slice_top(area, 1);
    header::draw(&mut Pen::new(buffer, line, theme), state);
    let (rest, line) = slice_bottom(rest, 1);
    footer::draw_keys(&mut Pen::new(buffer, line, theme), state);
    let mut rest = rest;
    if let Some(notice) = footer::notice(state) {
        let (above, line) = slice_bottom(rest, 1);
        footer::draw_notice(&mut Pen::new(buffer, line, theme), &notice);
        rest = above;
    }
    if wide {
        let (line, below) = slice_top(rest, 1);
        header::draw_job(&mut Pen::new(buffer, line, theme), state);
        rest = below;
    }
    if wide || state.view() != View::Overview {
        let (line, below) = slice_top(rest, 1);
        header::draw_views(&mut Pen::new(buffer, line, theme), state);
        rest = below;
    }
    if let Some(playback) = state.playback() {
        let (above, line) = slice_bottom(rest, 1);
        scrubber::draw(&mut Pen::new(buffer, line, theme), state, playback);
        rest = above;
    }
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
    let with_panels = area.height >= PANELS_HEIGHT_MIN;
    let bottom_rows = if with_panels { BOTTOM_ROWS_MIN } else { 1 };
    let n_ranks = u16::try_from(state.shown().ranks().len()).unwrap_or(u16::MAX);
    let n_rows = (rest.height.saturating_sub(bottom_rows) / 2)
        .saturating_sub(PANEL_ROWS)
        .clamp(1, n_ranks.max(1));
    let (devices_area, rest) = slice_top(rest, n_rows.saturating_add(PANEL_ROWS));
    devices::draw(buffer, devices_area, state, theme, wide);
    if !with_panels {
        let (timeline_area, line) = slice_bottom(rest, 1);
        timeline::draw(buffer, timeline_area, state, theme);
        pipeline::draw_line(&mut Pen::new(buffer, line, theme), state);
        return;
    }
    let (timeline_area, mut rest) = slice_top(rest, n_rows.saturating_add(PANEL_ROWS));
    timeline::draw(buffer, timeline_area, state, theme);
    if wide && rest.height >= 18 && state.shown().messages().next().is_some() {
        let (above, messages_area) = slice_bottom(rest, 6);
        messages::draw(buffer, messages_area, state, theme);
        rest = above;
    }
    let pipeline_width = if wide { 62 } else { 40 };
    let (loss_area, pipeline_area) = slice_left(rest, rest.width.saturating_sub(pipeline_width));
    loss::draw(buffer, loss_area, state, theme);
    pipeline::draw(buffer, pipeline_area, state, theme);
}
