//! The devices: what each rank does, its busy share, and its memory.

use pp_telemetry::Model;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::memory::{MemoryScale, memory_scale};
use super::paint::{Pen, mark_more, panel};
use super::rank_table::{
    Column, Placed, Room, Row, bring_back, draw_heads, draw_row, drop_columns, hosts_of, names_of,
    place,
};
use super::theme::{STRONG, Theme};
use crate::monitor::state::State;
use crate::monitor::words::incomplete_text;

/// Cells of the chart, and the one behind it.
const CHART_CELLS: u16 = 25;

/// The columns of the table that the overview shows.
const SHOWN: [Column; 13] = [
    Column::Rank,
    Column::Stages,
    Column::Layers,
    Column::Host,
    Column::Device,
    Column::State,
    Column::Busy,
    Column::Starved,
    Column::Bubble,
    Column::WaitsFor,
    Column::Mem,
    Column::Peak,
    Column::Chart,
];

/// The order in which columns are dropped when there is no room for all.
const DROPPED_FIRST: [Column; 10] = [
    Column::Chart,
    Column::Device,
    Column::Peak,
    Column::Layers,
    Column::Stages,
    Column::Mem,
    Column::Host,
    Column::Bubble,
    Column::Starved,
    Column::WaitsFor,
];

/// The columns for a width.
fn columns(width: u16, wide: bool, model: &Model) -> (Room, Vec<Placed>) {
    let of_device = memory_scale(model) == MemoryScale::Device;
    let room = Room {
        long: wide,
        names: names_of(model),
        hosts: hosts_of(model),
        chart: (CHART_CELLS, CHART_CELLS),
        of_device,
        ..Room::default()
    };
    let mut kept: Vec<Column> = SHOWN.to_vec();
    if model.ranks_over_cores().is_none()
        && model.steps().starved_ratio().is_none_or(|ratio| ratio.mean < 0.005)
    {
        kept.retain(|&column| column != Column::Starved);
    }
    kept.retain(|&column| column != Column::Host || column.has_content(model));
    if !wide {
        kept.retain(|&column| column != Column::Chart && column != Column::Device);
    }
    let all = kept.clone();
    drop_columns(&mut kept, &DROPPED_FIRST, width, room);
    bring_back(&mut kept, &DROPPED_FIRST, width, room, |column| all.contains(&column));
    (room, place(kept, width, room))
}

/// Draws the panel.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme, wide: bool) {
    let model = state.shown();
    let n_ranks = model.ranks().len();
    let n_rows = area.height.saturating_sub(3) as usize;
    let first = state.first_rank(n_rows);
    state.see_rank_rows(n_rows);
    let right = if n_ranks > n_rows {
        let last = (first + n_rows).min(n_ranks);
        format!("{} to {last} of {n_ranks}", first + 1)
    } else {
        incomplete_text(model)
    };
    let replicas = model.hello().is_some_and(|hello| hello.dp > 1);
    let title = if replicas { "devices  rank.replica" } else { "devices" };
    let inside = panel(buffer, area, theme, title, &right);
    let below = n_ranks.saturating_sub(first + n_rows);
    let keys = state.keymap().scroll_keys();
    mark_more(buffer, area, theme, (first.min(n_ranks), below), &keys);
    let mut pen = Pen::new(buffer, inside, theme);
    let (room, columns) = columns(pen.width().saturating_sub(1), wide, model);
    draw_heads(&mut pen, &columns, None, room.of_device);
    for (index, rank) in model.ranks().iter().enumerate().skip(first).take(n_rows) {
        pen.next_line();
        if state.devices().is_chosen(index) {
            pen.put(">", STRONG);
        }
        draw_row(&mut pen, Row::new(state, rank), &columns, room);
    }
}
