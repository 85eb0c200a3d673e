//! The history of a rank, as small charts.

use pp_telemetry::{Model, RankState};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::monitor::view::paint::{Pen, slice_top};
use crate::monitor::view::theme::{STRONG, Theme};
use crate::monitor::words::format;

/// The most rows of a chart, with its title.
const CHART_ROWS_MAX: u16 = 8;
/// The most cells of a value in a chart.
const VALUE_CELLS_MAX: usize = 4;

/// Numbers of one kind over time, oldest first.
pub(super) struct Chart {
    title: &'static str,
    /// The title beside a line.
    pub(super) short: &'static str,
    pub(super) values: Vec<Option<f64>>,
    /// The value at the top of the chart.
    high: f64,
    /// The meaning of that value: a total, or the highest value so far.
    high_is: &'static str,
    format: fn(f64) -> String,
}

impl Chart {
    pub(super) fn has_values(&self) -> bool {
        self.values.iter().any(Option::is_some)
    }

    pub(super) fn newest(&self) -> String {
        let newest = self.values.last().copied().flatten();
        newest.map_or_else(|| "n/a".to_owned(), self.format)
    }

    fn share(&self, value: f64) -> f64 {
        if self.high > 0.0 { (value / self.high).clamp(0.0, 1.0) } else { 0.0 }
    }

    pub(super) fn symbol(&self, value: Option<f64>, theme: Theme) -> String {
        match value {
            Some(value) => theme.columns(std::iter::once(self.share(value))),
            None => " ".to_owned(),
        }
    }
}

/// The history of a rank.
pub(super) fn charts(model: &Model, rank: &RankState) -> Vec<Chart> {
    let whole_percent = |share: f64| format!("{:.0}%", share * 100.0);
    let bytes = |bytes: f64| format::bytes(bytes.max(0.0) as u64);
    // Against the memory of a whole machine, no column would be visible.
    let gpu = model.gpu_of(rank.replica, rank.rank);
    let total = gpu.and_then(|gpu| gpu.latest.total_bytes).unwrap_or(0);
    let peak = rank.memory.map_or(0, |memory| memory.peak_bytes);
    let mut charts = vec![
        Chart {
            title: "busy, by step",
            short: "busy",
            values: rank.history().map(Some).collect(),
            high: 1.0,
            high_is: "of",
            format: whole_percent,
        },
        Chart {
            title: "memory, by step",
            short: "live",
            values: rank.memory_history().map(|bytes| Some(bytes as f64)).collect(),
            high: total.max(peak) as f64,
            high_is: if total > 0 { "of" } else { "most" },
            format: bytes,
        },
    ];
    if let Some(gpu) = model.gpu_of(rank.replica, rank.rank) {
        let highest = |values: &[Option<f64>]| values.iter().flatten().copied().fold(0.0, f64::max);
        let power: Vec<_> = gpu.power().collect();
        charts.push(Chart {
            title: "GPU utilisation, by sample",
            short: "NVML",
            values: gpu.utilisation().collect(),
            high: 1.0,
            high_is: "of",
            format: whole_percent,
        });
        charts.push(Chart {
            title: "power, by sample",
            short: "power",
            high: highest(&power),
            high_is: "most",
            values: power,
            format: |watts| format!("{watts:.0}W"),
        });
        charts.push(Chart {
            title: "temperature, by sample",
            short: "temp",
            values: gpu.temperature().collect(),
            high: 100.0,
            high_is: "of",
            format: |celsius| format!("{celsius:.0}C"),
        });
    }
    charts
}

/// Draws the charts that have values, one above the other.
pub(super) fn draw_charts(buffer: &mut Buffer, area: Rect, charts: &[Chart], theme: Theme) {
    let charts: Vec<_> = charts.iter().filter(|chart| chart.has_values()).collect();
    // Each chart takes at least three rows; charts that do not fit are left out.
    let n_charts = charts.len().min(area.height as usize / 3);
    if n_charts == 0 {
        return;
    }
    let n_rows = (area.height / n_charts as u16).min(CHART_ROWS_MAX);
    let mut rest = area;
    for chart in charts.into_iter().take(n_charts) {
        let (area, below) = slice_top(rest, n_rows);
        draw_chart(&mut Pen::new(buffer, area, theme), chart);
        rest = below;
    }
}

fn draw_chart(pen: &mut Pen<'_>, chart: &Chart) {
    let theme = pen.theme;
    let n_rows = pen.height().saturating_sub(1);
    let n_cells = pen.width().saturating_sub(2) as usize;
    pen.put(format!(" {} ", chart.title), theme.dim()).put(chart.newest(), STRONG);
    pen.put(format!("  {} {}", chart.high_is, (chart.format)(chart.high)), theme.dim());
    let skip = chart.values.len().saturating_sub(n_cells);
    let shown = chart.values.get(skip..).unwrap_or_default();
    // Few values are drawn wider.
    let n_cells = n_cells.min(shown.len() * VALUE_CELLS_MAX);
    let values =
        (0..n_cells).map(|cell| shown.get(cell * shown.len() / n_cells).copied().flatten());
    for row in 0..n_rows {
        let below = f64::from(n_rows - 1 - row);
        let cells = values.clone().map(|value| {
            let part = value.map(|value| chart.share(value) * f64::from(n_rows) - below);
            match part {
                None => " ".to_owned(),
                // The lowest row shows that there is a value, however small.
                Some(part) if part <= 0.0 && below > 0.0 => " ".to_owned(),
                Some(part) => theme.columns(std::iter::once(part)),
            }
        });
        let cells: String = cells.collect();
        pen.next_line().column(1).put(cells, theme.bar());
    }
}
