//! The table of the ranks, of which the overview shows some columns and the view of the devices all that there is room for.

use pp_telemetry::{Account, Gpu, Model, RankState, RankTime};
use ratatui::style::Style;

use super::devices::{activity_text, layers_text, memory_scale, rank_name, starved_style};
use super::format;
use super::paint::Pen;
use super::theme::{STRONG, Theme};
use crate::monitor::state::{Sort, State};

const BUSY_BAR: usize = 8;
const MEM_BAR: usize = 6;

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Rank,
    Stages,
    Layers,
    Device,
    State,
    Busy,
    Starved,
    Bubble,
    WaitsFor,
    Mem,
    Peak,
    Activations,
    Compute,
    Copy,
    OnCore,
    Switches,
    Nvml,
    SmActive,
    Tensor,
    Temperature,
    Power,
    Throttle,
    Pcie,
    Chart,
}

/// In the order of the screen.
pub(crate) const COLUMNS: [Column; 24] = [
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
    Column::Activations,
    Column::Compute,
    Column::Copy,
    Column::OnCore,
    Column::Switches,
    Column::Nvml,
    Column::SmActive,
    Column::Tensor,
    Column::Temperature,
    Column::Power,
    Column::Throttle,
    Column::Pcie,
    Column::Chart,
];

/// How wide columns are, where that depends on what is shown.
#[expect(clippy::struct_excessive_bools, reason = "none depends on the others")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Room {
    pub(crate) long: bool,
    /// Without bars.
    pub(crate) tiny: bool,
    /// Whether ranks have the number of their replica.
    pub(crate) replicas: bool,
    /// Whether the size of the devices is known.
    pub(crate) has_total: bool,
    /// Cells of the longest names of stages and of layers.
    pub(crate) names: (u16, u16),
    /// Cells of the chart at least and at most.
    pub(crate) chart: (u16, u16),
    /// Whether the bar of the memory ends where the device's does, and not at the highest peak of
    /// all ranks.
    pub(crate) of_device: bool,
}

impl Column {
    fn width(self, room: Room) -> u16 {
        match self {
            Self::Rank if room.replicas => 6,
            Self::State if room.long => 20,
            Self::State if room.tiny => 8,
            Self::Busy if room.tiny => 7,
            Self::Mem if room.has_total => 20,
            Self::Rank => 4,
            Self::Busy => 16,
            Self::WaitsFor => 11,
            Self::Stages => (room.names.0 + 1).clamp(6, 12),
            Self::Layers => (room.names.1 + 1).clamp(9, 16),
            Self::Mem | Self::Switches | Self::Pcie | Self::Throttle => 14,
            Self::State => 9,
            Self::Compute | Self::Bubble | Self::Starved | Self::Device => 8,
            Self::Temperature | Self::SmActive => 6,
            Self::Nvml
            | Self::Peak
            | Self::Activations
            | Self::Copy
            | Self::OnCore
            | Self::Tensor
            | Self::Power => 7,
            Self::Chart => room.chart.0,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Rank => "#",
            Self::Stages => "STG",
            Self::Layers => "LAYERS",
            Self::Device => "DEVICE",
            Self::State => "STATE",
            Self::Mem => "MEM",
            Self::Peak => "PEAK",
            Self::Activations => "ACT-PK",
            Self::Compute => "COMPUTE",
            Self::Busy => "BUSY",
            Self::Bubble => "BUBBLE",
            Self::Starved => "STARVED",
            Self::WaitsFor => "WAITS FOR",
            Self::Copy => "COPY",
            Self::OnCore => "CORE",
            Self::Switches => "SWITCHES/s",
            Self::Nvml => "NVML",
            Self::SmActive => "SM",
            Self::Tensor => "TENSOR",
            Self::Temperature => "TEMP",
            Self::Power => "POWER",
            Self::Throttle => "THROTTLE",
            Self::Pcie => "PCIE TX/RX",
            Self::Chart => "busy, last steps",
        }
    }

    /// Whether its numbers end at the right of it.
    fn is_number(self) -> bool {
        match self {
            Self::Rank
            | Self::Stages
            | Self::Layers
            | Self::Device
            | Self::State
            | Self::Busy
            | Self::WaitsFor
            | Self::Mem
            | Self::Throttle
            | Self::Chart => false,
            Self::Peak
            | Self::Activations
            | Self::Compute
            | Self::Bubble
            | Self::Starved
            | Self::Copy
            | Self::OnCore
            | Self::Switches
            | Self::Nvml
            | Self::SmActive
            | Self::Tensor
            | Self::Temperature
            | Self::Power
            | Self::Pcie => true,
        }
    }

    /// The order that is by this column.
    fn sort(self) -> Option<Sort> {
        match self {
            Self::Busy => Some(Sort::Busy),
            Self::Bubble => Some(Sort::Bubble),
            Self::Mem => Some(Sort::Memory),
            Self::Compute => Some(Sort::Slowest),
            _ => None,
        }
    }

    /// Whether anything is known that would stand in it.
    pub(crate) fn has_content(self, model: &Model) -> bool {
        let any_gpu = |has: fn(&Gpu) -> bool| model.gpus().iter().any(|gpu| has(&gpu.latest));
        match self {
            Self::OnCore | Self::Switches => {
                model.ranks().iter().any(|rank| rank.thread().is_some())
            }
            Self::Nvml | Self::Temperature | Self::Power => any_gpu(|_| true),
            Self::SmActive => any_gpu(|gpu| gpu.sm_active.is_some()),
            Self::Tensor => any_gpu(|gpu| gpu.tensor_active.is_some()),
            Self::Throttle => any_gpu(|gpu| !gpu.throttle.is_empty() || gpu.error.is_some()),
            Self::Pcie => any_gpu(|gpu| gpu.pcie_sent_bytes_per_second.is_some()),
            _ => true,
        }
    }
}

/// A column that is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) column: Column,
    /// The cell where it begins.
    pub(crate) x: u16,
    pub(crate) width: u16,
}

/// Cells of the longest names of stages and of layers.
pub(crate) fn names_of(model: &Model) -> (u16, u16) {
    let longest = |text: fn(&RankState) -> String| {
        let cells = model.ranks().iter().map(|rank| text(rank).chars().count());
        u16::try_from(cells.max().unwrap_or(0)).unwrap_or(u16::MAX).min(100)
    };
    (longest(stages_text), longest(layers_text))
}

fn stages_text(rank: &RankState) -> String {
    let stages: Vec<_> = rank.stages.iter().map(u32::to_string).collect();
    format!("s{}", stages.join(","))
}

/// The cells that columns need.
fn needed(columns: &[Column], room: Room) -> u16 {
    columns.iter().map(|column| column.width(room)).sum()
}

/// Lets columns go, in this order, until the rest has room.
pub(crate) fn drop_columns(kept: &mut Vec<Column>, first: &[Column], width: u16, room: Room) {
    for dropped in first {
        if needed(kept, room) <= width {
            return;
        }
        kept.retain(|column| column != dropped);
    }
}

/// Brings columns back that are narrow enough for what is left, the last to go first.
pub(crate) fn bring_back(
    kept: &mut Vec<Column>,
    first: &[Column],
    width: u16,
    room: Room,
    is_wanted: impl Fn(Column) -> bool,
) {
    for &column in first.iter().rev().filter(|column| is_wanted(**column)) {
        if !kept.contains(&column) && needed(kept, room) + column.width(room) <= width {
            kept.push(column);
        }
    }
}

/// Puts columns side by side in the order of the screen; the chart takes what is left.
pub(crate) fn place(mut kept: Vec<Column>, width: u16, room: Room) -> Vec<Placed> {
    kept.sort_by_key(|column| COLUMNS.iter().position(|other| other == column));
    let spare = width.saturating_sub(needed(&kept, room));
    let mut x = 0;
    let placed = kept.into_iter().map(|column| {
        let width = match column {
            Column::Chart => (column.width(room) + spare).min(room.chart.1),
            _ => column.width(room),
        };
        let placed = Placed { column, x, width };
        x += width;
        placed
    });
    placed.collect()
}

/// Draws the heads of the columns, the one that sorts marked.
pub(crate) fn draw_heads(
    pen: &mut Pen<'_>,
    columns: &[Placed],
    sort: Option<Sort>,
    of_device: bool,
) {
    let theme = pen.theme;
    let mark = if theme.ascii { 'v' } else { '▼' };
    for &Placed { column, x, width } in columns {
        let width = width as usize - 1;
        let is_sorted = sort.is_some() && column.sort() == sort;
        let title = match column {
            Column::Mem if of_device => "MEM of device",
            Column::Mem => "MEM of peak",
            _ => column.title(),
        };
        let mut title = format::cut(title, width);
        if is_sorted && title.chars().count() < width {
            title.push(mark);
        }
        let style = if is_sorted { STRONG } else { theme.dim() };
        pen.column(x + 1);
        if column.is_number() {
            pen.put(format!("{title:>width$}"), style);
        } else {
            pen.put(title, style);
        }
    }
}

/// What the bars of the memory are drawn against: the same for all ranks of a run, on every screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryScale {
    /// The memory of the rank's own device.
    Device,
    /// The highest peak of all ranks, where not every device tells its size, or where ranks share
    /// the machine's memory.
    Peak(u64),
}

/// A bar of what a rank holds of `whole`, with a mark where its peak is.
pub(crate) fn memory_bar(theme: Theme, live: u64, peak: u64, whole: u64, width: usize) -> String {
    let share = |bytes: u64| bytes as f64 / whole.max(1) as f64;
    let bar = theme.gauge(share(live), width);
    #[expect(clippy::cast_sign_loss, reason = "a share of bytes is not negative")]
    let at = (share(peak).min(1.0) * width as f64).ceil() as usize;
    let mark = if theme.ascii { '|' } else { '▕' };
    let idle = theme.idle();
    let with_mark = |(cell, symbol): (usize, char)| {
        if cell + 1 == at && symbol == idle { mark } else { symbol }
    };
    bar.chars().enumerate().map(with_mark).collect()
}

/// What a number of a device looks like where it is not known.
const NOTHING: &str = "-";

/// What a row is about.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) model: &'a Model,
    pub(crate) rank: &'a RankState,
    /// Where the time goes, where that is known.
    pub(crate) account: Option<&'a Account>,
    /// The rank that the others wait for, by the advice.
    pub(crate) culprit: Option<u32>,
}

impl<'a> Row<'a> {
    /// The row of a rank, with what is known of where the time goes.
    pub(crate) fn new(state: &'a State, rank: &'a RankState) -> Self {
        let found = state.bubble().found().and_then(Result::ok);
        Self {
            model: state.shown(),
            rank,
            account: found.map(|found| &found.account),
            culprit: found.and_then(|found| found.advice.rank),
        }
    }

    /// What the rank did in a step, by that account.
    fn time(self) -> Option<RankTime> {
        let is_its =
            |time: &&RankTime| time.rank == self.rank.rank && time.replica == self.rank.replica;
        self.account?.ranks.iter().find(is_its).copied()
    }

    /// The rank that it waits for most, and for which share of the window: `r2 45%`.
    pub(crate) fn waits_for(self) -> Option<String> {
        let time = self.time()?;
        let (other, _) = time.waits_for?;
        let share = time.waits_for_in_window / self.account?.window_seconds;
        let percent = share * 100.0;
        let other = rank_name(self.model, self.rank.replica, other);
        (percent >= 0.5).then(|| format!("r{other} {percent:.0}%"))
    }
}

/// Draws the row of a rank.
pub(crate) fn draw_row(pen: &mut Pen<'_>, row: Row<'_>, columns: &[Placed], room: Room) {
    for &Placed { column, x, width } in columns {
        pen.column(x + 1);
        draw_cell(pen, row, column, room, width as usize - 1);
    }
}

fn draw_cell(pen: &mut Pen<'_>, row: Row<'_>, column: Column, room: Room, width: usize) {
    let theme = pen.theme;
    let Row { model, rank, account, .. } = row;
    let is_culprit = row.culprit == Some(rank.rank);
    match column {
        Column::Rank => {
            let style = if is_culprit { theme.bad() } else { STRONG };
            pen.put(rank_name(model, rank.replica, rank.rank), style);
        }
        Column::Stages => {
            pen.text(format::cut(&stages_text(rank), width));
        }
        Column::Layers => {
            pen.text(format::cut(&layers_text(rank), width));
        }
        Column::Device => {
            pen.text(format::cut(&format::plain(&rank.device), width));
        }
        Column::State => {
            let (text, style) = activity_text(model, rank, theme, room.long);
            pen.put(format::cut(&text, width), style);
        }
        // On a core; with STARVED and BUBBLE that is all of the window.
        Column::Busy => {
            let busy = rank.computing_of_window();
            if !room.tiny {
                let style = if is_culprit { theme.bad() } else { theme.bar() };
                pen.put(theme.gauge(busy.unwrap_or(0.0), BUSY_BAR), style);
            }
            let busy = busy.map_or_else(|| NOTHING.to_owned(), format::percent);
            pen.text(format!("{busy:>6}"));
        }
        Column::WaitsFor => match row.waits_for() {
            Some(text) => {
                pen.text(format::cut(&text, width));
            }
            // Nobody keeps it waiting, or that is not known.
            None => {
                pen.put(if account.is_some() { "nobody" } else { NOTHING }, theme.dim());
            }
        },
        Column::Mem => draw_memory(pen, model, rank, room),
        Column::Throttle => draw_throttle(pen, model, rank, width),
        Column::Chart => {
            let skip = rank.history().len().saturating_sub(width);
            pen.put(theme.columns(rank.history().skip(skip)), theme.bar());
        }
        _ => {
            let (text, style) = number(model, rank, column, theme);
            let text = text.unwrap_or_else(|| NOTHING.to_owned());
            pen.put(format!("{:>width$}", format::cut(&text, width)), style);
        }
    }
}

fn draw_memory(pen: &mut Pen<'_>, model: &Model, rank: &RankState, room: Room) {
    let theme = pen.theme;
    let live = rank.memory.map(|memory| memory.live_bytes);
    let peak = rank.memory.map_or(0, |memory| memory.peak_bytes);
    let gpu = model.gpu_of(rank.replica, rank.rank);
    let total = gpu.and_then(|gpu| gpu.latest.total_bytes);
    let whole = match memory_scale(model) {
        MemoryScale::Device => total.unwrap_or(0),
        MemoryScale::Peak(highest) => highest,
    };
    let bar = memory_bar(theme, live.unwrap_or(0), peak, whole, MEM_BAR);
    pen.put(bar, theme.bar());
    let live = live.map_or_else(|| NOTHING.to_owned(), format::bytes);
    pen.text(format!("{live:>7}"));
    if room.has_total
        && let Some(total) = total
    {
        pen.put(format!("/{}", format::whole_bytes(total)), theme.dim());
    }
}

fn draw_throttle(pen: &mut Pen<'_>, model: &Model, rank: &RankState, width: usize) {
    let theme = pen.theme;
    let Some(gpu) = model.gpu_of(rank.replica, rank.rank) else { return };
    if let Some(error) = &gpu.latest.error {
        pen.put(format::cut(&format::plain(error), width), theme.bad());
    } else {
        let reasons = format::plain(&gpu.latest.throttle.join(", "));
        pen.put(format::cut(&reasons, width), theme.notice());
    }
}

/// A number, and how it looks.
fn number(
    model: &Model,
    rank: &RankState,
    column: Column,
    theme: Theme,
) -> (Option<String>, Style) {
    let gpu = model.gpu_of(rank.replica, rank.rank).map(|gpu| &gpu.latest);
    let whole = |share: f64| format!("{:.0}%", share * 100.0);
    let text = match column {
        Column::Peak => rank.memory.map(|memory| format::bytes(memory.peak_bytes)),
        Column::Activations => rank.memory.map(|memory| format::bytes(memory.stash_bytes)),
        Column::Compute => rank.computing_seconds().map(format::duration),
        Column::Bubble => rank.bubble_of_window().map(format::percent),
        Column::Starved => {
            let starved = rank.starved_of_window();
            return (starved.map(format::percent), starved_style(starved, theme));
        }
        Column::Copy => rank.copy_of_window().map(format::percent),
        Column::OnCore => rank.thread().map(|thread| whole(thread.on_core)),
        Column::Switches => rank.thread().map(|thread| {
            let count = |a_second: f64| format::count(a_second.round());
            format!("{}+{}", count(thread.voluntary_switches), count(thread.involuntary_switches))
        }),
        Column::Nvml => gpu.and_then(|gpu| gpu.utilisation).map(whole),
        Column::SmActive => gpu.and_then(|gpu| gpu.sm_active).map(whole),
        Column::Tensor => gpu.and_then(|gpu| gpu.tensor_active).map(whole),
        Column::Temperature => {
            gpu.and_then(|gpu| gpu.temperature_celsius).map(|celsius| format!("{celsius:.0}C"))
        }
        Column::Power => gpu.and_then(|gpu| gpu.power_watts).map(|watts| format!("{watts:.0}W")),
        Column::Pcie => gpu.and_then(|gpu| {
            let (sent, received) =
                (gpu.pcie_sent_bytes_per_second?, gpu.pcie_received_bytes_per_second?);
            let bytes = |rate: f64| format::bytes(rate.max(0.0) as u64);
            Some(format!("{}/{}", bytes(sent), bytes(received)))
        }),
        _ => None,
    };
    (text, Style::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_marks_the_peak_beyond_what_is_held() {
        let theme = Theme::plain(false, true);
        assert_eq!(memory_bar(theme, 40, 75, 100, 10), "####...|..");
        assert_eq!(memory_bar(theme, 40, 40, 100, 10), "####......");
        assert_eq!(memory_bar(theme, 0, 500, 100, 4), "...|");
        assert_eq!(memory_bar(theme, 0, 0, 0, 4), "....");
    }
}
