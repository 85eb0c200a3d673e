//! The line of a replay: where one is in the run.

use super::paint::Pen;
use super::theme::STRONG;
use crate::monitor::state::{Playback, State};
use crate::monitor::words::format;

/// Cells of the times at both ends, with what stands around them.
const TEXT_CELLS: usize = 28;

/// Draws the run as a bar with the steps at hand, the warnings and the clock on it.
pub(crate) fn draw(pen: &mut Pen<'_>, state: &State, playback: &Playback) {
    let theme = pen.theme;
    let whole = playback.whole_seconds.max(playback.seconds).max(1e-9);
    pen.text(" ").put(format::clock(playback.seconds), STRONG).text(" ");
    let n_cells = (pen.left() as usize).saturating_sub(TEXT_CELLS - 10).min(400);
    let cell_of = |seconds: f64| -> usize {
        #[expect(clippy::cast_sign_loss, reason = "a negative time becomes the first cell")]
        let at = (seconds / whole * n_cells as f64) as usize;
        at.min(n_cells.saturating_sub(1))
    };
    let (line, head) = if theme.ascii { ('-', '|') } else { ('─', '┃') };
    let mut cells = vec![line; n_cells];
    for recorded in state.shown().recorded().complete_steps() {
        if let Some((_, end_ns)) = recorded.range_ns()
            && let Some(cell) = cells.get_mut(cell_of(end_ns as f64 * 1e-9))
        {
            *cell = if theme.ascii { '+' } else { '┴' };
        }
    }
    for message in state.shown().messages() {
        if message.level == pp_telemetry::Level::Warn
            && let Some(cell) = cells.get_mut(cell_of(message.elapsed_ns as f64 * 1e-9))
        {
            *cell = '!';
        }
    }
    if let Some(cell) = cells.get_mut(cell_of(playback.seconds)) {
        *cell = head;
    }
    pen.put(cells.into_iter().collect::<String>(), theme.dim());
    pen.text(" ").put(format::clock(whole), theme.dim());
    let end = match (playback.is_at_end, playback.is_loop) {
        (_, true) => " loop",
        (true, false) => " end",
        (false, false) => "",
    };
    pen.put(end, theme.notice());
}
