//! The devices: what each rank does, how busy it is, what it holds.

use pp_telemetry::{Activity, Model, PhaseEvent, RankState, Slowest, SpanKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::format;
use super::paint::{Pen, mark_more, panel};
use super::rank_table::{
    Column, MemoryScale, Placed, Room, Row, bring_back, draw_heads, draw_row, drop_columns,
    names_of, place,
};
use super::theme::{STRONG, Theme, letter};
use crate::monitor::state::State;

/// Cells of the chart, and the one behind it.
const CHART_CELLS: u16 = 25;

/// What the overview shows of the table.
const SHOWN: [Column; 12] = [
    Column::Rank,
    Column::Stages,
    Column::Layers,
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

/// Which columns go first when there is no room for all.
const DROPPED_FIRST: [Column; 9] = [
    Column::Chart,
    Column::Device,
    Column::Peak,
    Column::Layers,
    Column::Stages,
    Column::Mem,
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
    if !wide {
        kept.retain(|&column| column != Column::Chart && column != Column::Device);
    }
    let all = kept.clone();
    drop_columns(&mut kept, &DROPPED_FIRST, width, room);
    bring_back(&mut kept, &DROPPED_FIRST, width, room, |column| all.contains(&column));
    (room, place(kept, width, room))
}

/// The name of a rank on this screen: with replicas, `rank.replica`.
pub(crate) fn rank_name(model: &Model, replica: u32, rank: u32) -> String {
    if model.hello().is_some_and(|hello| hello.dp > 1) {
        format!("{rank}.{replica}")
    } else {
        rank.to_string()
    }
}

/// What a rank does now, in few characters, and how that looks.
pub(crate) fn activity_text(
    model: &Model,
    state: &RankState,
    theme: Theme,
    long: bool,
) -> (String, Style) {
    let chunks = model.hello().is_some_and(|hello| hello.virtual_stages > 1);
    let op_text = |op: pp_schedule::Op| {
        let letter = letter(SpanKind::from(op.phase));
        if chunks && long {
            format!("{letter}{} stage {}", op.micro_batch.0, op.stage.0)
        } else if chunks {
            format!("{letter}{} s{}", op.micro_batch.0, op.stage.0)
        } else {
            format!("{letter}{}", op.micro_batch.0)
        }
    };
    match model.activity(state.replica, state.rank) {
        Activity::Unknown => ("?".to_owned(), theme.dim()),
        Activity::Running(op) => (op_text(op), theme.op(op.phase.into()).patch(STRONG)),
        Activity::Waiting(wait) if long => {
            (format!("{} waits for r{}", op_text(wait.op), wait.for_rank), theme.dim())
        }
        Activity::Waiting(wait) => (format!("wait r{}", wait.for_rank), theme.dim()),
        Activity::Done => ("done".to_owned(), theme.dim()),
        Activity::Updating => ("optim".to_owned(), theme.op(SpanKind::Optim)),
        Activity::Phase => {
            let phase = model.phase().map_or("", |phase| phase.phase.as_str());
            let short = match phase {
                PhaseEvent::EVALUATING if !long => "eval",
                PhaseEvent::CHECKPOINT if !long => "ckpt",
                _ => phase,
            };
            (format::plain(short).chars().take(if long { 32 } else { 8 }).collect(), theme.dim())
        }
        Activity::Ended => ("ended".to_owned(), theme.dim()),
    }
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

/// How much longer than the others the slowest rank has to compute before it is pointed out: the
/// layers of a model can't be dealt out more evenly than that as a rule.
const SLOW_NOTICE: f64 = 1.1;
const SLOW_BAD: f64 = 1.3;
/// Share of the window without a core above which that is pointed out.
const STARVED_NOTICE: f64 = 0.1;

/// Highlights the rank that the others wait for: it is the cause, and they are fine.
pub(crate) fn culprit_style(model: &Model, rank: &RankState, theme: Theme) -> Style {
    let is_it = |slowest: &Slowest| (slowest.replica, slowest.rank) == (rank.replica, rank.rank);
    match model.slowest().filter(is_it) {
        Some(slowest) if slowest.ratio >= SLOW_BAD => theme.bad(),
        Some(slowest) if slowest.ratio >= SLOW_NOTICE => theme.notice(),
        _ => Style::new(),
    }
}

/// A rank without a core.
pub(crate) fn starved_style(starved: Option<f64>, theme: Theme) -> Style {
    if starved.is_some_and(|share| share > STARVED_NOTICE) { theme.notice() } else { Style::new() }
}

/// What the bars of the memory are drawn against.
pub(crate) fn memory_scale(model: &Model) -> MemoryScale {
    let has_size = |rank: &RankState| {
        let gpu = model.gpu_of(rank.replica, rank.rank);
        gpu.is_some_and(|gpu| gpu.latest.total_bytes.is_some())
    };
    if !model.ranks().is_empty() && model.ranks().iter().all(has_size) {
        MemoryScale::Device
    } else {
        MemoryScale::Peak(model.peak_memory().map_or(0, |(_, bytes)| bytes))
    }
}

/// That operations of the last steps were lost; nothing where none were.
pub(crate) fn incomplete_text(model: &Model) -> String {
    let incomplete = model.incomplete();
    match (incomplete.n_steps, incomplete.n_expected) {
        (0, _) => String::new(),
        (1, 0) => format!("step {} not complete: left out", incomplete.last_step),
        (1, of) => format!(
            "step {} lost {} of {of} ops: left out",
            incomplete.last_step, incomplete.n_missing
        ),
        (n_steps, _) => {
            format!("{n_steps} steps lost ops, the last {}: left out", incomplete.last_step)
        }
    }
}

/// The bytes of a rank's device (a processor's ranks share the machine's memory), the peaks of all ranks on it together, and how many they
/// are; `None` where the device does not tell its size.
pub(crate) fn room_of(model: &Model, rank: &RankState) -> Option<(u64, u64, usize)> {
    let gpu = model.gpu_of(rank.replica, rank.rank);
    let total = match gpu {
        Some(gpu) => gpu.latest.total_bytes?,
        None if is_cpu(rank) => model.hello().map(|hello| hello.host_memory_bytes)?,
        None => 0,
    };
    let is_there = |other: &&RankState| match gpu {
        Some(gpu) => model
            .gpu_of(other.replica, other.rank)
            .is_some_and(|there| there.latest.uuid == gpu.latest.uuid),
        None => is_cpu(other),
    };
    let ranks = model.ranks().iter().filter(is_there);
    let peaks = ranks.filter_map(|rank| rank.memory).map(|memory| memory.peak_bytes);
    let (sum, n_ranks) =
        peaks.fold((0_u64, 0), |(sum, n), bytes| (sum.saturating_add(bytes), n + 1));
    (total > 0).then_some((total, sum, n_ranks))
}

fn is_cpu(rank: &RankState) -> bool {
    rank.device.starts_with("cpu")
}

/// The layers of a rank, stage by stage.
pub(crate) fn layers_text(rank: &RankState) -> String {
    let layers: Vec<_> = rank
        .layers
        .iter()
        .map(
            |[first, last]| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        )
        .collect();
    layers.join(",")
}
