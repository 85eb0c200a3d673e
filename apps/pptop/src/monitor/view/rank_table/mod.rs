//! The table of the ranks. The overview shows some of its columns, and the devices view all that
//! fit.

mod columns;

use pp_telemetry::{Account, Model, RankState, RankTime};
use ratatui::style::Style;

use crate::monitor::view::memory::{MemoryScale, memory_bar, memory_scale};
use crate::monitor::view::rank_looks::{activity_text, starved_style};
use crate::monitor::words::{format, layers_text, rank_name, stages_text};
pub(crate) use columns::{
    COLUMNS, Column, Placed, Room, bring_back, drop_columns, hosts_of, names_of, place,
};

use crate::monitor::state::{Sort, State};
use crate::monitor::view::paint::Pen;
use crate::monitor::view::theme::{STRONG, Theme};

const BUSY_BAR: usize = 8;
const MEM_BAR: usize = 6;

/// Draws the heads of the columns, and marks the column that sorts.
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

/// The text of a device's number that is unknown.
const NOTHING: &str = "-";

/// The data of a row.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) model: &'a Model,
    pub(crate) rank: &'a RankState,
    /// The account of the time, if it is known.
    pub(crate) account: Option<&'a Account>,
    /// The rank that the others wait for, by the advice.
    pub(crate) culprit: Option<u32>,
}

impl<'a> Row<'a> {
    /// The row of a rank, with the account of the time if it is known.
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

    /// The rank for which it waits most, and the share of the window: `r2 45%`.
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
        Column::Host => {
            let host = model.host_of(rank.replica, rank.rank).unwrap_or_default();
            pen.text(format::cut(&format::plain(host), width));
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
            // It waits for no rank, or the account is missing.
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

/// A number and its style.
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
