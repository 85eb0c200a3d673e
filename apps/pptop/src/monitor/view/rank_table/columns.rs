//! The columns of the table, and the choice of those that fit.

use pp_telemetry::{Gpu, Model, RankState};

use crate::monitor::state::Sort;
use crate::monitor::words::{layers_text, stages_text};

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Rank,
    Stages,
    Layers,
    Host,
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

/// All columns, in the order of the screen.
pub(crate) const COLUMNS: [Column; 25] = [
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

/// The widths of columns that depend on the shown run and the screen.
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
    /// Cells of the longest name of a host.
    pub(crate) hosts: u16,
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
            Self::Host => (room.hosts + 1).clamp(5, 17),
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

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Rank => "#",
            Self::Stages => "STG",
            Self::Layers => "LAYERS",
            Self::Host => "HOST",
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

    /// Whether its numbers are aligned to the right.
    pub(super) fn is_number(self) -> bool {
        match self {
            Self::Rank
            | Self::Stages
            | Self::Layers
            | Self::Host
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

    /// The sort order by this column.
    pub(super) fn sort(self) -> Option<Sort> {
        match self {
            Self::Busy => Some(Sort::Busy),
            Self::Bubble => Some(Sort::Bubble),
            Self::Mem => Some(Sort::Memory),
            Self::Compute => Some(Sort::Slowest),
            _ => None,
        }
    }

    /// Whether any rank has a value for this column.
    pub(crate) fn has_content(self, model: &Model) -> bool {
        let any_gpu = |has: fn(&Gpu) -> bool| model.gpus().iter().any(|gpu| has(&gpu.latest));
        match self {
            Self::Host => hosts_of(model) > 0,
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

/// A drawn column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) column: Column,
    /// Its first cell.
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

/// Cells of the longest name of a host; 0 if the run has one only.
pub(crate) fn hosts_of(model: &Model) -> u16 {
    let hosts = model.hello().map(|hello| hello.hosts.as_slice()).filter(|hosts| hosts.len() > 1);
    let cells = hosts.unwrap_or_default().iter().map(|of| of.host.chars().count());
    u16::try_from(cells.max().unwrap_or(0)).unwrap_or(u16::MAX).min(100)
}

/// The number of cells that columns need.
fn needed(columns: &[Column], room: Room) -> u16 {
    columns.iter().map(|column| column.width(room)).sum()
}

/// Drops columns, in this order, until the rest fits.
pub(crate) fn drop_columns(kept: &mut Vec<Column>, first: &[Column], width: u16, room: Room) {
    for dropped in first {
        if needed(kept, room) <= width {
            return;
        }
        kept.retain(|column| column != dropped);
    }
}

/// Brings back columns that fit into the remaining room, the last dropped first.
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

/// Places columns side by side in the order of the screen. The chart takes the remaining cells.
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
