//! The devices and the ranks on them: a row for each rank, and all about one of them.

use pp_telemetry::{Gpu, Model, RankState};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;

use super::super::devices::{activity_text, bubble_style, layers_text, memory, rank_name};
use super::super::format;
use super::super::paint::{Pen, panel, slice_top};
use super::super::theme::{STRONG, Theme};
use super::detail;
use crate::monitor::state::{Sort, State};

const UTIL_BAR: usize = 8;
const MEM_BAR: usize = 6;
/// From this width on, a rank says in full what it does.
const LONG_WIDTH: u16 = 110;
/// Below this size there is no frame.
const FRAME: (u16, u16) = (60, 8);
/// Rows that the chosen rank needs below the others, with its frame.
const DETAIL_ROWS_MIN: u16 = 9;
/// Cells of the chart at least and at most.
const CHART_CELLS: (u16, u16) = (10, 61);

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
    Activations,
    Compute,
    Busy,
    Bubble,
    Starved,
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
const COLUMNS: [Column; 24] = [
    Column::Rank,
    Column::Stages,
    Column::Layers,
    Column::Device,
    Column::State,
    Column::Util,
    Column::Mem,
    Column::Peak,
    Column::Activations,
    Column::Compute,
    Column::Busy,
    Column::Bubble,
    Column::Starved,
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

/// Which columns go first when there is no room for all.
const DROPPED_FIRST: [Column; 21] = [
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
    Column::Starved,
    Column::Peak,
    Column::Nvml,
    Column::Layers,
    Column::Busy,
    Column::Power,
    Column::Temperature,
    Column::Stages,
    Column::Throttle,
    Column::Mem,
    Column::Bubble,
];

/// How wide columns are, where that depends on what is shown.
#[expect(clippy::struct_excessive_bools, reason = "none depends on the others")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    long: bool,
    /// Without bars.
    tiny: bool,
    /// Whether ranks have the number of their replica.
    replicas: bool,
    /// Whether the size of the devices is known.
    has_total: bool,
}

impl Column {
    fn width(self, room: Room) -> u16 {
        match self {
            Self::Rank if room.replicas => 6,
            Self::State if room.long => 20,
            Self::State if room.tiny => 8,
            Self::Util if room.tiny => 6,
            Self::Mem if room.has_total => 20,
            Self::Rank => 4,
            Self::Util => 15,
            Self::Mem | Self::Switches | Self::Pcie | Self::Throttle => 14,
            Self::Layers | Self::State => 9,
            Self::Compute | Self::Bubble | Self::Starved | Self::Device => 8,
            Self::Stages | Self::Temperature | Self::SmActive => 6,
            Self::Nvml
            | Self::Peak
            | Self::Activations
            | Self::Busy
            | Self::Copy
            | Self::OnCore
            | Self::Tensor
            | Self::Power => 7,
            Self::Chart => CHART_CELLS.0,
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
            Self::Peak => "PEAK",
            Self::Activations => "ACT-PK",
            Self::Compute => "COMPUTE",
            Self::Busy => "BUSY",
            Self::Bubble => "BUBBLE",
            Self::Starved => "STARVED",
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
            Self::Chart => "util, last steps",
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
            | Self::Util
            | Self::Mem
            | Self::Throttle
            | Self::Chart => false,
            Self::Peak
            | Self::Activations
            | Self::Compute
            | Self::Busy
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
            Self::Util => Some(Sort::Busy),
            Self::Bubble => Some(Sort::Bubble),
            Self::Mem => Some(Sort::Memory),
            Self::Compute => Some(Sort::Slowest),
            _ => None,
        }
    }

    /// Whether anything is known that would stand in it.
    fn has_content(self, model: &Model) -> bool {
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

/// The columns for a width, each with the cell where it begins and how wide it is.
fn columns(width: u16, model: &Model) -> (Room, Vec<(Column, u16, u16)>) {
    let room = Room {
        long: width >= LONG_WIDTH,
        tiny: width < 34,
        replicas: model.hello().is_some_and(|hello| hello.dp > 1),
        has_total: model.gpus().iter().any(|gpu| gpu.latest.total_bytes.is_some()),
    };
    let mut kept: Vec<Column> =
        COLUMNS.into_iter().filter(|column| column.has_content(model)).collect();
    let needed = |kept: &[Column]| kept.iter().map(|column| column.width(room)).sum::<u16>();
    for dropped in DROPPED_FIRST {
        if needed(&kept) <= width {
            break;
        }
        kept.retain(|&column| column != dropped);
    }
    // What is narrow enough for the rest comes back, the most important first.
    let came = |column: &&Column| column.has_content(model);
    for column in DROPPED_FIRST.iter().rev().filter(came) {
        if !kept.contains(column) && needed(&kept) + column.width(room) <= width {
            kept.push(*column);
        }
    }
    kept.sort_by_key(|column| COLUMNS.iter().position(|other| other == column));
    let spare = width.saturating_sub(needed(&kept));
    let mut x = 0;
    let placed = kept.into_iter().map(|column| {
        let begins = x;
        let width = match column {
            Column::Chart => (column.width(room) + spare).min(CHART_CELLS.1),
            _ => column.width(room),
        };
        x += width;
        (column, begins, width)
    });
    (room, placed.collect())
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
        let has_heads = area.height > 3;
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
            String::new()
        };
        panel(buffer, table, theme, &title, &right);
    }
    let mut pen = Pen::new(buffer, window.area, theme);
    // The first cell is for the mark of the chosen rank.
    let (room, columns) = columns(pen.width().saturating_sub(1), model);
    if window.has_heads {
        draw_heads(&mut pen, &columns, state.devices().sort());
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
                for &(column, x, width) in &columns {
                    pen.column(x + 1);
                    draw_cell(&mut pen, model, rank, column, room, width as usize - 1);
                }
            }
        }
    }
}

fn draw_heads(pen: &mut Pen<'_>, columns: &[(Column, u16, u16)], sort: Sort) {
    let theme = pen.theme;
    let mark = if theme.ascii { 'v' } else { '▼' };
    for &(column, x, width) in columns {
        let width = width as usize - 1;
        let is_sorted = column.sort() == Some(sort);
        let mut title = format::cut(column.title(), width);
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

fn draw_cell(
    pen: &mut Pen<'_>,
    model: &Model,
    rank: &RankState,
    column: Column,
    room: Room,
    width: usize,
) {
    let theme = pen.theme;
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
            let (text, style) = activity_text(model, rank, theme, room.long);
            pen.put(format::cut(&text, width), style);
        }
        Column::Util => {
            let busy = rank.busy_of_step();
            if !room.tiny {
                pen.put(theme.gauge(busy.unwrap_or(0.0), UTIL_BAR), theme.bar());
            }
            pen.text(whole_percent(busy));
        }
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

/// A share in five cells.
fn whole_percent(share: Option<f64>) -> String {
    share.map_or_else(|| format!("{NOTHING:>5}"), |share| format!("{:>4.0}%", share * 100.0))
}

fn draw_memory(pen: &mut Pen<'_>, model: &Model, rank: &RankState, room: Room) {
    let theme = pen.theme;
    let (live, highest) = memory(model, rank);
    let peak = rank.memory.map_or(0, |memory| memory.peak_bytes);
    let gpu = model.gpu_of(rank.replica, rank.rank);
    let total = gpu.and_then(|gpu| gpu.latest.total_bytes);
    let bar = memory_bar(theme, live.unwrap_or(0), peak, total.unwrap_or(highest), MEM_BAR);
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
        Column::Compute => rank.busy_seconds().map(format::duration),
        Column::Busy => rank.busy_of_window().map(format::percent),
        Column::Bubble => {
            let bubble = rank.busy_of_window().map(|busy| 1.0 - busy);
            return (bubble.map(format::percent), bubble_style(model, bubble, theme));
        }
        Column::Starved => rank.starved_of_window().map(format::percent),
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
