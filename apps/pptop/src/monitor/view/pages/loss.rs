//! The loss and other numbers of the steps.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::super::theme::Theme;
use crate::monitor::state::State;

/// Draws the view.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    super::super::loss::draw(buffer, area, state, theme);
}
