//! Where on the screen what stands. Drawing and clicks both ask here.

use ratatui::layout::{Position, Rect};

use super::paint::{slice_bottom, slice_left, slice_top};
use super::{
    BOTTOM_ROWS_MIN, PANEL_ROWS, PANELS_HEIGHT_MIN, SizeClass, footer, header, overlay, pages,
    timeline, verdict,
};
use crate::monitor::screen::{Overlay, Target, View};
use crate::monitor::state::State;

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
    let notice = below(footer::notice(state).is_some() || verdict::has_line(state));
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

/// Rows below the timeline of a wide screen before it takes more than a line for each rank.
const WIDE_BOTTOM_ROWS: u16 = 22;
/// Rows of the messages, with their frame, and rows from which on there is room for them.
const MESSAGE_ROWS: (u16, u16) = (6, 16);
/// Columns of the pipeline in numbers, and on a wide screen.
const PIPELINE_COLUMNS: (u16, u16) = (40, 62);
/// Rows of the pipeline in numbers on a wide screen, with its frame; more say what each rank does.
const PIPELINE_ROWS: (u16, u16) = (10, 20);
/// Rows of the changes at least, with the frame and the heads.
const CHANGES_ROWS_MIN: u16 = 6;
/// Columns of a screen from which on the time of each rank stands in the overview.
const TIMES_WIDTH: u16 = 220;

/// Where the panels of the overview are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Overview {
    pub(crate) devices: Rect,
    pub(crate) timeline: Rect,
    /// Whether the timeline has the plan below it.
    pub(crate) is_large: bool,
    /// The pipeline in one line, where there is no room for panels.
    pub(crate) line: Option<Rect>,
    pub(crate) loss: Rect,
    pub(crate) pipeline: Rect,
    pub(crate) messages: Option<Rect>,
    /// What changes would bring.
    pub(crate) changes: Option<Rect>,
    /// What each rank does in a step.
    pub(crate) times: Option<Rect>,
}

/// Where the panels of the overview are.
pub(crate) fn overview(page: Rect, area: Rect, state: &State) -> Overview {
    let wide = SizeClass::of(area) == SizeClass::Wide;
    let n_rows = n_device_rows(page, area, state).saturating_add(PANEL_ROWS);
    let (devices, rest) = slice_top(page, n_rows);
    if area.height < PANELS_HEIGHT_MIN {
        let (timeline, line) = slice_bottom(rest, 1);
        return Overview { devices, timeline, line: Some(line), ..Overview::default() };
    }
    let most = rest.height.saturating_sub(WIDE_BOTTOM_ROWS);
    let large = if wide { pages::timeline::rows_within(state, rest.width, most) } else { None };
    let (timeline, rest) = slice_top(rest, large.unwrap_or(n_rows).max(n_rows));
    let is_large = large.is_some_and(|rows| rows >= n_rows);
    let placed = Overview { devices, timeline, is_large, ..Overview::default() };
    if !wide || rest.height < MESSAGE_ROWS.1 {
        let columns = if wide { PIPELINE_COLUMNS.1 } else { PIPELINE_COLUMNS.0 };
        let (loss, pipeline) = slice_left(rest, rest.width.saturating_sub(columns));
        return Overview { loss, pipeline, ..placed };
    }
    let found = state.bubble().found().and_then(Result::ok);
    let has_times = found.is_some() && area.width >= TIMES_WIDTH;
    let columns = PIPELINE_COLUMNS.1 * if has_times { 2 } else { 1 };
    let (left, mut right) = slice_left(rest, rest.width.saturating_sub(columns));
    let has_messages = state.shown().messages().next().is_some();
    let (loss, messages) = slice_bottom(left, if has_messages { MESSAGE_ROWS.0 } else { 0 });
    let messages = has_messages.then_some(messages);
    let rows_of = |n_lines: usize| u16::try_from(n_lines).unwrap_or(u16::MAX).saturating_add(3);
    let mut times = None;
    if let Some(found) = found.filter(|_| has_times) {
        let rows = rows_of(found.account.ranks.len()).min(right.height / 2);
        let (above, below) = slice_top(right, rows);
        (times, right) = (Some(above), below);
    }
    let wanted = found.map_or(0, |found| rows_of(found.what_if.len()));
    let (pipeline, changes) = if has_times {
        slice_left(right, PIPELINE_COLUMNS.1)
    } else {
        let least = PIPELINE_ROWS.0.min(right.height);
        let rows = match right.height.saturating_sub(PIPELINE_ROWS.1) {
            spare if spare >= wanted => spare,
            _ => right.height - least,
        };
        slice_bottom(right, rows.min(wanted))
    };
    let has_changes = wanted > 3 && changes.height >= CHANGES_ROWS_MIN;
    let pipeline = if has_changes { pipeline } else { right };
    Overview { loss, pipeline, messages, times, changes: has_changes.then_some(changes), ..placed }
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
        View::Overview => overview_rank_at(state, page, area, y)
            .map(Target::Rank)
            .or_else(|| overview_op_at(state, page, area, at)),
        View::Timeline => pages::timeline::op_at(page, state, at, false),
        View::Devices => pages::devices::rank_at(page, state, at).map(Target::Rank),
        View::Loss | View::Bubble | View::Log => None,
    }
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

/// The operation that a click on the timeline of the overview means.
fn overview_op_at(state: &State, page: Rect, area: Rect, at: Position) -> Option<Target> {
    let placed = overview(page, area, state);
    if !placed.timeline.contains(at) {
        return None;
    }
    if placed.is_large {
        return pages::timeline::op_at(placed.timeline, state, at, true);
    }
    let (rank, time_ns) = timeline::at_cell(state, placed.timeline, at)?;
    pages::timeline::op_at_time(state, rank, time_ns)
}

fn overview_rank_at(state: &State, page: Rect, area: Rect, y: u16) -> Option<usize> {
    let n_rows = n_device_rows(page, area, state) as usize;
    // The frame and the heads of the columns are above.
    let row = (y - page.y).checked_sub(2)? as usize;
    let index = state.first_rank(n_rows) + row;
    (row < n_rows && index < state.shown().ranks().len()).then_some(index)
}
