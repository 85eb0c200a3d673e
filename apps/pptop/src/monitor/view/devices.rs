//! The devices: what each rank does, how busy it is, what it holds.

use pp_telemetry::{Activity, Model, RankState, SpanKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::format;
use super::paint::{Pen, panel};
use super::theme::{STRONG, Theme, letter};
use crate::monitor::input::Action;
use crate::monitor::state::State;

const UTIL_BAR: usize = 8;
const MEM_BAR: usize = 6;
const CHART_CELLS: usize = 24;
/// How far above the closed form the bubble of a rank may be before it is pointed out.
const BUBBLE_NOTICE: f64 = 0.05;
const BUBBLE_BAD: f64 = 0.20;

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Rank,
    Stages,
    Layers,
    Device,
    State,
    Util,
    Mem,
    Peak,
    Busy,
    Bubble,
    Starved,
    Chart,
}

/// In the order of the screen.
const COLUMNS: [Column; 12] = [
    Column::Rank,
    Column::Stages,
    Column::Layers,
    Column::Device,
    Column::State,
    Column::Util,
    Column::Mem,
    Column::Peak,
    Column::Busy,
    Column::Bubble,
    Column::Starved,
    Column::Chart,
];

/// Which columns go first when there is no room for all.
const DROPPED_FIRST: [Column; 9] = [
    Column::Chart,
    Column::Device,
    Column::Starved,
    Column::Peak,
    Column::Busy,
    Column::Layers,
    Column::Stages,
    Column::Mem,
    Column::Bubble,
];

impl Column {
    fn width(self, wide: bool) -> u16 {
        match self {
            Self::Rank => 4,
            Self::Stages => 6,
            Self::State if wide => 20,
            Self::Layers | Self::State => 9,
            Self::Util => 15,
            Self::Mem => 14,
            Self::Peak | Self::Busy => 7,
            Self::Device | Self::Bubble | Self::Starved => 8,
            Self::Chart => CHART_CELLS as u16,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Rank => "#",
            Self::Stages => "STG",
            Self::Layers => "LAYERS",
            Self::Device => "DEVICE",
            Self::State => "STATE",
            Self::Util => "UTIL",
            Self::Mem => "MEM",
            Self::Peak => "  PEAK",
            Self::Busy => "  BUSY",
            Self::Bubble => " BUBBLE",
            Self::Starved => "STARVED",
            Self::Chart => "util, last steps",
        }
    }
}

/// The columns for a width, each with the cell where it begins.
fn columns(width: u16, wide: bool, model: &Model) -> Vec<(Column, u16)> {
    let mut kept: Vec<Column> = COLUMNS.to_vec();
    if model.ranks_over_cores().is_none()
        && model.steps().starved_ratio().is_none_or(|ratio| ratio.mean < 0.005)
    {
        kept.retain(|&column| column != Column::Starved);
    }
    if !wide {
        kept.retain(|&column| column != Column::Chart && column != Column::Device);
    }
    let needed = |kept: &[Column]| kept.iter().map(|column| column.width(wide)).sum::<u16>();
    for dropped in DROPPED_FIRST {
        if needed(&kept) <= width {
            break;
        }
        kept.retain(|&column| column != dropped);
    }
    let mut x = 0;
    kept.into_iter()
        .map(|column| {
            let begins = x;
            x += column.width(wide);
            (column, begins)
        })
        .collect()
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
        Activity::Ended => ("ended".to_owned(), theme.dim()),
    }
}

/// Draws the panel.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme, wide: bool) {
    let model = state.shown();
    let n_ranks = model.ranks().len();
    let n_rows = area.height.saturating_sub(3) as usize;
    let first = state.first_rank(n_rows);
    let right = if n_ranks > n_rows {
        let last = (first + n_rows).min(n_ranks);
        let keys = [1, -1].map(|by| state.keymap().key_of(Action::Scroll(by)));
        let keys: Vec<String> = keys.into_iter().flatten().collect();
        let comma = if keys.is_empty() { "" } else { ", " };
        format!("{} to {last} of {n_ranks}{comma}{}", first + 1, keys.join(" "))
    } else {
        String::new()
    };
    let replicas = model.hello().is_some_and(|hello| hello.dp > 1);
    let title = if replicas { "devices  rank.replica" } else { "devices" };
    let inside = panel(buffer, area, theme, title, &right);
    let mut pen = Pen::new(buffer, inside, theme);
    let columns = columns(pen.width().saturating_sub(1), wide, model);
    for &(column, x) in &columns {
        pen.column(x + 1).put(column.title(), theme.dim());
    }
    for (index, rank) in model.ranks().iter().enumerate().skip(first).take(n_rows) {
        pen.next_line();
        if state.devices().is_chosen(index) {
            pen.put(">", STRONG);
        }
        for &(column, x) in &columns {
            pen.column(x + 1);
            draw_cell(&mut pen, model, rank, column, wide);
        }
    }
}

fn draw_cell(pen: &mut Pen<'_>, model: &Model, rank: &RankState, column: Column, wide: bool) {
    let theme = pen.theme;
    let width = column.width(wide) as usize - 1;
    let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), format::percent);
    match column {
        Column::Rank => {
            pen.put(rank_name(model, rank.replica, rank.rank), STRONG);
        }
        Column::Stages => {
            let stages: Vec<_> = rank.stages.iter().map(u32::to_string).collect();
            pen.text(format::cut(&format!("s{}", stages.join(",")), width));
        }
        Column::Layers => {
            pen.text(format::cut(&layers_text(rank), width));
        }
        Column::Device => {
            pen.text(format::cut(&rank.device, width));
        }
        Column::State => {
            let (text, style) = activity_text(model, rank, theme, wide);
            pen.put(format::cut(&text, width), style);
        }
        Column::Util => {
            let busy = rank.busy_of_step();
            pen.put(theme.gauge(busy.unwrap_or(0.0), UTIL_BAR), theme.bar());
            pen.text(
                busy.map_or_else(|| "    -".to_owned(), |busy| format!("{:>4.0}%", busy * 100.0)),
            );
        }
        Column::Mem => {
            let (live, most) = memory(model, rank);
            pen.put(
                theme.gauge(live.map_or(0.0, |live| live as f64 / most.max(1) as f64), MEM_BAR),
                theme.bar(),
            );
            pen.text(format!("{:>7}", live.map_or_else(|| "-".to_owned(), format::bytes)));
        }
        Column::Peak => {
            let peak = rank.memory.map(|memory| format::bytes(memory.peak_bytes));
            pen.text(format!("{:>6}", peak.unwrap_or_else(|| "-".to_owned())));
        }
        Column::Busy => {
            pen.text(format!("{:>6}", share(rank.busy_of_window())));
        }
        Column::Bubble => {
            let bubble = rank.busy_of_window().map(|busy| 1.0 - busy);
            pen.put(format!("{:>7}", share(bubble)), bubble_style(model, bubble, theme));
        }
        Column::Starved => {
            pen.text(format!("{:>7}", share(rank.starved_of_window())));
        }
        Column::Chart => {
            let skip = rank.history().len().saturating_sub(CHART_CELLS);
            pen.put(theme.columns(rank.history().skip(skip)), theme.bar());
        }
    }
}

/// Low utilisation is what one has to look into: how much more idle a rank is than its schedule makes it.
pub(crate) fn bubble_style(model: &Model, bubble: Option<f64>, theme: Theme) -> Style {
    let theory = model.hello().and_then(|hello| hello.theory);
    match (bubble, theory) {
        (Some(bubble), Some(theory)) if bubble > theory + BUBBLE_BAD => theme.bad(),
        (Some(bubble), Some(theory)) if bubble > theory + BUBBLE_NOTICE => theme.notice(),
        _ => Style::new(),
    }
}

/// What a rank holds now, and the highest peak of all ranks: what its bar is drawn against.
pub(crate) fn memory(model: &Model, rank: &RankState) -> (Option<u64>, u64) {
    (rank.memory.map(|memory| memory.live_bytes), model.peak_memory().map_or(0, |(_, bytes)| bytes))
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
