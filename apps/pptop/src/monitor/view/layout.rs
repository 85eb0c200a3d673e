//! Where on the screen what stands. Drawing and clicks both ask here.

use ratatui::layout::{Position, Rect};

use super::paint::{slice_bottom, slice_top};
use super::{
    BOTTOM_ROWS_MIN, PANEL_ROWS, PANELS_HEIGHT_MIN, SizeClass, footer, header, overlay, pages,
};
use crate::monitor::state::{Overlay, State, Target, View};

/// The lines around a view, and the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Areas {
    pub(crate) header: Rect,
    pub(crate) job: Option<Rect>,
    pub(crate) views: Option<Rect>,
    pub(crate) page: Rect,
    pub(crate) scrubber: Option<Rect>,
    pub(crate) notice: Option<Rect>,
    pub(crate) keys: Rect,
}

/// Where everything stands on a screen that is not small.
pub(crate) fn areas(area: Rect, state: &State) -> Areas {
    let wide = SizeClass::of(area) == SizeClass::Wide;
    let (header, mut page) = slice_top(area, 1);
    let mut below = |is_there: bool| {
        let (rest, line) = slice_bottom(page, u16::from(is_there));
        page = rest;
        is_there.then_some(line)
    };
    let keys = below(true).unwrap_or_default();
    let notice = below(footer::notice(state).is_some());
    let scrubber = below(state.playback().is_some());
    let mut above = |is_there: bool| {
        let (line, rest) = slice_top(page, u16::from(is_there));
        page = rest;
        is_there.then_some(line)
    };
    let job = above(wide);
    let views = above(wide || state.view() != View::Overview);
    Areas { header, job, views, page, scrubber, notice, keys }
}

/// Rows of ranks that the overview has.
pub(crate) fn n_device_rows(page: Rect, area: Rect, state: &State) -> u16 {
    let bottom_rows = if area.height >= PANELS_HEIGHT_MIN { BOTTOM_ROWS_MIN } else { 1 };
    let n_ranks = u16::try_from(state.shown().ranks().len()).unwrap_or(u16::MAX);
    (page.height.saturating_sub(bottom_rows) / 2)
        .saturating_sub(PANEL_ROWS)
        .clamp(1, n_ranks.max(1))
}

/// What a click at a cell of a screen means.
pub fn target(state: &State, area: Rect, x: u16, y: u16) -> Option<Target> {
    let at = Position { x, y };
    if let Some(Overlay::Ask(dialog)) = state.overlay() {
        return overlay::answer_at(area, dialog, at).map(Target::Answer);
    }
    if state.overlay().is_some() || !area.contains(at) {
        return None;
    }
    let page = match SizeClass::of(area) {
        SizeClass::Line => return None,
        SizeClass::Compact if state.view() == View::Overview => return None,
        SizeClass::Compact => slice_bottom(slice_top(area, 1).1, 1).0,
        SizeClass::Normal | SizeClass::Wide => {
            let areas = areas(area, state);
            if let Some(line) = areas.views.filter(|line| line.contains(at)) {
                return view_at(state, line, x);
            }
            areas.page
        }
    };
    if state.shown().hello().is_none() || !page.contains(at) {
        return None;
    }
    match state.view() {
        View::Overview => overview_rank_at(state, page, area, y),
        View::Devices => pages::devices::rank_at(page, state, at),
        _ => None,
    }
    .map(Target::Rank)
}

fn view_at(state: &State, line: Rect, x: u16) -> Option<Target> {
    let mut left = (x - line.x).checked_sub(1)? as usize;
    for (view, text) in header::view_names(state) {
        match left.checked_sub(text.chars().count()) {
            Some(rest) => left = rest,
            None => return Some(Target::View(view)),
        }
    }
    None
}

fn overview_rank_at(state: &State, page: Rect, area: Rect, y: u16) -> Option<usize> {
    let n_rows = n_device_rows(page, area, state) as usize;
    // The frame and the heads of the columns are above.
    let row = (y - page.y).checked_sub(2)? as usize;
    let index = state.first_rank(n_rows) + row;
    (row < n_rows && index < state.shown().ranks().len()).then_some(index)
}
