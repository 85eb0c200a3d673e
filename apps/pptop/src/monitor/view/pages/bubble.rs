//! Where the time of the ranks goes.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::super::theme::Theme;
use crate::monitor::state::State;

/// Draws the view.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    super::super::pipeline::draw(buffer, area, state, theme);
}
