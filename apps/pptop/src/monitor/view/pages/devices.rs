//! The devices and the ranks on them: a row for each rank, and all about one of them.

use pp_telemetry::Model;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};

use super::super::paint::{Pen, mark_more, panel, slice_top};
use super::super::rank_table::{
    COLUMNS, Column, Placed, Room, Row as RankRow, bring_back, draw_heads, draw_row, drop_columns,
    hosts_of, names_of, place,
};
use super::super::theme::{STRONG, Theme};
use super::detail;
use crate::monitor::state::{Sort, State};
use crate::monitor::view::memory::MemoryScale;
use crate::monitor::view::memory::memory_scale;
use crate::monitor::words::incomplete_text;

/// From this width on, a rank says in full what it does.
const LONG_WIDTH: u16 = 110;
/// Below this size there is no frame.
const FRAME: (u16, u16) = (60, 8);
/// Rows that the chosen rank needs below the others, with its frame.
const DETAIL_ROWS_MIN: u16 = 9;
/// Cells of the chart at least and at most.
const CHART_CELLS: (u16, u16) = (10, 61);

/// Which columns go first when there is no room for all.
const DROPPED_FIRST: [Column; 22] = [
    Column::Chart,
    Column::Pcie,
    Column::Switches,
    Column::Tensor,
    Column::SmActive,
    Column::Device,
    Column::Copy,
    Column::Compute,
    Column::Activations,
    Column::OnCore,
    Column::Peak,
    Column::Nvml,
    Column::Layers,
    Column::Power,
    Column::Temperature,
    Column::Stages,
    Column::Throttle,
    Column::Starved,
    Column::Mem,
    Column::Host,
    Column::WaitsFor,
    Column::Bubble,
];

/// The columns for a width.
fn columns(width: u16, model: &Model) -> (Room, Vec<Placed>) {
    let room = Room {
        long: width >= LONG_WIDTH,
        tiny: width < 34,
        replicas: model.hello().is_some_and(|hello| hello.dp > 1),
        names: names_of(model),
        hosts: hosts_of(model),
        has_total: model.gpus().iter().any(|gpu| gpu.latest.total_bytes.is_some()),
        chart: CHART_CELLS,
        of_device: memory_scale(model) == MemoryScale::Device,
    };
    let is_wanted = |column: Column| column.has_content(model);
    let mut kept: Vec<Column> = COLUMNS.into_iter().filter(|&column| is_wanted(column)).collect();
    drop_columns(&mut kept, &DROPPED_FIRST, width, room);
    bring_back(&mut kept, &DROPPED_FIRST, width, room, is_wanted);
    (room, place(kept, width, room))
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    /// What stands above the ranks of a replica.
    Replica(u32),
    /// A rank, by its place in [`Model::ranks`].
    Rank(usize),
}

fn rows(state: &State) -> Vec<Row> {
    let model = state.shown();
    let grouped = state.devices().sort() == Sort::Rank
        && model.hello().is_some_and(|hello| hello.dp > 1 && hello.pp > 1);
    let mut rows = Vec::new();
    let mut before = None;
    for index in state.devices().order(model) {
        let replica = model.ranks().get(index).map(|rank| rank.replica);
        if let Some(replica) = replica.filter(|_| grouped && replica != before) {
            rows.push(Row::Replica(replica));
        }
        before = replica;
        rows.push(Row::Rank(index));
    }
    rows
}

/// Where the table is, and where the chosen rank stands in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Split {
    table: Option<Rect>,
    detail: Option<Rect>,
    /// Whether there are frames.
    framed: bool,
}

fn split(area: Rect, state: &State) -> Split {
    let framed = area.width >= FRAME.0 && area.height >= FRAME.1;
    if state.devices().is_detail() {
        return Split { table: None, detail: Some(area), framed };
    }
    let needed = u16::try_from(rows(state).len()).unwrap_or(u16::MAX).saturating_add(3);
    if framed && area.height >= needed.saturating_add(DETAIL_ROWS_MIN) {
        let (table, detail) = slice_top(area, needed);
        return Split { table: Some(table), detail: Some(detail), framed };
    }
    Split { table: Some(area), detail: None, framed }
}

/// The rows that are seen, and whether the heads of the columns are.
struct Window {
    area: Rect,
    rows: Vec<Row>,
    first: usize,
    has_heads: bool,
}

impl Window {
    /// What is seen in the table, the chosen rank among it.
    fn new(table: Rect, framed: bool, state: &State) -> Self {
        let area = if framed { inside(table) } else { table };
        let rows = rows(state);
        // Without heads nobody knows what the numbers are; only where ranks would have to go for
        // them they do.
        let has_heads = area.height > 3 || area.height as usize > rows.len();
        let n_rows = area.height.saturating_sub(u16::from(has_heads)) as usize;
        let chosen = Row::Rank(state.devices().chosen(state.shown()));
        let at = rows.iter().position(|row| *row == chosen).unwrap_or(0);
        let first = at.saturating_sub(n_rows / 2).min(rows.len().saturating_sub(n_rows));
        Self { area, rows, first, has_heads }
    }

    /// The rows that are seen, each with its line.
    fn lines(&self) -> impl Iterator<Item = (u16, Row)> {
        let first_line = u16::from(self.has_heads);
        (first_line..self.area.height).zip(self.rows.iter().copied().skip(self.first))
    }
}

/// What a frame leaves free.
fn inside(area: Rect) -> Rect {
    Rect {
        x: area.x.saturating_add(1),
        y: area.y.saturating_add(1),
        width: area.width.saturating_sub(2),
        height: area.height.saturating_sub(2),
    }
}

/// The rank whose row is at a cell, by its place in [`Model::ranks`].
pub(crate) fn rank_at(area: Rect, state: &State, at: Position) -> Option<usize> {
    let split = split(area, state);
    let window = Window::new(split.table?, split.framed, state);
    if !window.area.contains(at) {
        return None;
    }
    let line = at.y - window.area.y;
    window.lines().find_map(|(y, row)| match row {
        Row::Rank(index) if y == line => Some(index),
        _ => None,
    })
}

/// Draws the view.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let split = split(area, state);
    if let Some(table) = split.table {
        draw_table(buffer, table, split.framed, state, theme);
    }
    if let Some(area) = split.detail {
        detail::draw(buffer, area, split.framed, state, theme);
    }
}

fn draw_table(buffer: &mut Buffer, table: Rect, framed: bool, state: &State, theme: Theme) {
    let model = state.shown();
    let window = Window::new(table, framed, state);
    if framed {
        let replicas = model.hello().is_some_and(|hello| hello.dp > 1);
        let name = if replicas { "devices  rank.replica" } else { "devices" };
        let title = match state.devices().sort() {
            Sort::Rank => name.to_owned(),
            sort => format!("{name}  by {}", sort.name()),
        };
        let seen: Vec<_> = window.lines().collect();
        let n_seen = seen.iter().filter(|(_, row)| matches!(row, Row::Rank(_))).count();
        let before = window.rows.iter().take(window.first);
        let n_before = before.filter(|row| matches!(row, Row::Rank(_))).count();
        let n_ranks = model.ranks().len();
        let right = if n_seen < n_ranks {
            format!("{} to {} of {n_ranks}", n_before + 1, n_before + n_seen)
        } else {
            incomplete_text(model)
        };
        panel(buffer, table, theme, &title, &right);
        let below = n_ranks.saturating_sub(n_before + n_seen);
        let keys = state.keymap().scroll_keys();
        mark_more(buffer, table, theme, (n_before, below), &keys);
    }
    let mut pen = Pen::new(buffer, window.area, theme);
    // The first cell is for the mark of the chosen rank.
    let (room, columns) = columns(pen.width().saturating_sub(1), model);
    if window.has_heads {
        draw_heads(&mut pen, &columns, Some(state.devices().sort()), room.of_device);
    }
    let chosen = state.devices().chosen(model);
    for (y, row) in window.lines() {
        pen.line(y);
        match row {
            Row::Replica(replica) => {
                pen.put(format!(" replica {replica}"), theme.dim());
            }
            Row::Rank(index) => {
                let Some(rank) = model.ranks().get(index) else { continue };
                if index == chosen {
                    pen.put(">", STRONG);
                }
                draw_row(&mut pen, RankRow::new(state, rank), &columns, room);
            }
        }
    }
}
