//! All about one rank: what it does, what it holds and whether that fits, its thread, its GPU, what was slow.

use pp_telemetry::{Activity, Gpu, GpuState, Mem, Model, RankState, SHARE_STEPS, SlowGroup};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::super::devices::{
    activity_text, culprit_style, layers_text, rank_name, room_of, starved_style,
};
use super::super::format;
use super::super::paint::{Pen, mark_more, panel, slice_left, slice_top};
use super::super::rank_table::memory_bar;
use super::super::theme::{STRONG, Theme};
use crate::monitor::input::Action;
use crate::monitor::state::State;
use crate::monitor::words;

/// From this size on, the charts stand beside the text.
const CHARTS: (u16, u16) = (124, 10);
/// Cells of the text at most, where there are charts.
const TEXT_CELLS: u16 = 78;
/// Cells of what stands before a line.
const NAME_CELLS: usize = 10;
/// From this width on, what does not fit on its line stands below it, behind the name.
const WIDE_CELLS: usize = 56;
const MEM_BAR: usize = 12;
/// Cells of a chart within a line.
const LINE_CHART: usize = 60;
/// Groups of slow operations that are named.
const SLOW_MAX: usize = 4;
/// Below this share of the device that is left, one should know.
const LEFT_NOTICE: f64 = 0.1;
const LEFT_BAD: f64 = 0.02;

/// Draws the chosen rank.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, framed: bool, state: &State, theme: Theme) {
    let model = state.shown();
    let index = state.devices().chosen(model);
    let Some(rank) = model.ranks().get(index) else { return };
    let title = title(model, rank);
    let charts = charts(model, rank);
    let beside = framed && area.width >= CHARTS.0 && area.height >= CHARTS.1;
    let n_cells = match (framed, beside) {
        (false, _) => area.width,
        (true, false) => area.width.saturating_sub(2),
        (true, true) => TEXT_CELLS.min(area.width.saturating_sub(2) * 3 / 5),
    } as usize;
    let text = text(model, rank, theme, if beside { &[] } else { &charts }, n_cells);
    let text: Vec<_> = text.into_iter().flat_map(|line| fold(line, n_cells)).collect();
    let height = area.height.saturating_sub(if framed { 2 } else { 1 }) as usize;
    let first = state.devices().first_line().min(text.len().saturating_sub(height));
    let more = if text.len() > height {
        let last = (first + height).min(text.len());
        format!("lines {} to {last} of {}", first + 1, text.len())
    } else {
        String::new()
    };
    let mut inside = if framed {
        let is_alone = state.devices().is_detail();
        let (action, what) =
            if is_alone { (Action::Back, "back") } else { (Action::Enter, "alone") };
        let hint = state.keymap().hint(action, what);
        let more = if more.is_empty() { hint } else { format!("{more}  {hint}") };
        let inside = panel(buffer, area, theme, &title, &more);
        let below = text.len().saturating_sub(first + height);
        let pages = [1, -1].map(|by| state.keymap().key_of(Action::Page(by)));
        let keys = pages.into_iter().flatten().collect::<Vec<_>>().join(" ");
        // Only a rank that stands alone can be scrolled.
        let keys = if is_alone { keys } else { state.keymap().hint(Action::Enter, "shows all") };
        mark_more(buffer, area, theme, (first, below), &keys);
        inside
    } else {
        let (line, rest) = slice_top(area, 1);
        let mut pen = Pen::new(buffer, line, theme);
        pen.put(title, STRONG).text("  ").put_right(&more, theme.dim());
        rest
    };
    if beside {
        let (left, right) = slice_left(inside, n_cells as u16);
        draw_charts(buffer, right, &charts, theme);
        inside = left;
    }
    let mut pen = Pen::new(buffer, inside, theme);
    for line in text.iter().skip(first).take(height) {
        for part in line {
            pen.put(&part.content, part.style);
        }
        pen.next_line();
    }
}

fn title(model: &Model, rank: &RankState) -> String {
    let name = rank_name(model, rank.replica, rank.rank);
    let mut parts = vec![format!("rank {name}")];
    if !rank.stages.is_empty() {
        let stages: Vec<_> = rank.stages.iter().map(u32::to_string).collect();
        parts.push(format!("s{}", stages.join(",")));
        parts.push(format!("layers {}", layers_text(rank)));
    }
    parts.push(format::plain(&rank.device));
    parts.join("  ")
}

/// Breaks a line between words where it is too long.
fn fold(line: Line<'static>, n_cells: usize) -> Vec<Line<'static>> {
    if line.width() <= n_cells {
        return vec![line];
    }
    let indent = if n_cells >= WIDE_CELLS { NAME_CELLS + 1 } else { 2 };
    let mut lines = vec![Line::default()];
    let mut left = n_cells;
    for span in line {
        for word in span.content.split_inclusive(' ') {
            let word = Span::styled(word.to_owned(), span.style);
            if Span::raw(word.content.trim_end()).width() > left {
                lines.push(Line::from(" ".repeat(indent)));
                left = n_cells.saturating_sub(indent);
            }
            left = left.saturating_sub(word.width());
            if let Some(line) = lines.last_mut() {
                line.push_span(word);
            }
        }
    }
    lines
}

/// Lines, one part after another.
struct Text {
    theme: Theme,
    lines: Vec<Line<'static>>,
}

impl Text {
    /// Begins a line with a name.
    fn name(&mut self, name: &str) -> &mut Self {
        let name = format!(" {name:<NAME_CELLS$}");
        self.lines.push(Line::from(Span::styled(name, self.theme.dim())));
        self
    }

    fn put(&mut self, text: impl Into<String>, style: Style) -> &mut Self {
        if let Some(line) = self.lines.last_mut() {
            line.push_span(Span::styled(text.into(), style));
        }
        self
    }

    fn text(&mut self, text: impl Into<String>) -> &mut Self {
        self.put(text, Style::new())
    }
}

fn text(
    model: &Model,
    rank: &RankState,
    theme: Theme,
    charts: &[Chart],
    n_cells: usize,
) -> Vec<Line<'static>> {
    let mut text = Text { theme, lines: Vec::new() };
    let (activity, style) = activity_text(model, rank, theme, true);
    text.name("now").put(activity, style);
    if model.activity(rank.replica, rank.rank) == Activity::Unknown {
        text.put("  the operations of this step are not recorded", theme.dim());
    }
    put_gpu_error(&mut text, model, rank);
    put_time(&mut text, model, rank);
    put_slow(&mut text, model, rank);
    for chart in charts.iter().filter(|chart| chart.has_values()) {
        let most = n_cells.saturating_sub(NAME_CELLS + 9).clamp(1, LINE_CHART);
        let skip = chart.values.len().saturating_sub(most);
        let shares = chart.values.iter().skip(skip);
        let columns: String = shares.map(|value| chart.symbol(*value, theme)).collect();
        text.name(chart.short).put(columns, theme.bar());
        text.text(format!(" {}", chart.newest()));
    }
    put_memory(&mut text, model, rank);
    put_stages(&mut text, model, rank);
    put_thread(&mut text, rank);
    if let Some(gpu) = model.gpu_of(rank.replica, rank.rank) {
        put_gpu(&mut text, gpu);
    }
    text.lines
}

fn put_time(text: &mut Text, model: &Model, rank: &RankState) {
    let theme = text.theme;
    let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), format::percent);
    let culprit = culprit_style(model, rank, theme);
    let starved = rank.starved_of_window();
    // These three are all of the window.
    text.name("time").text("busy ").put(share(rank.computing_of_window()), STRONG.patch(culprit));
    text.text(" + starved ").put(share(starved), starved_style(starved, theme));
    text.text(format!(" + bubble {}", share(rank.bubble_of_window())));
    text.text(format!("  copy {}", share(rank.copy_of_window())));
    if let Some(seconds) = rank.computing_seconds() {
        text.name("").text(format!("computes {} a step", format::duration(seconds)));
        text.put(format!("  (last {SHARE_STEPS} recorded steps)"), theme.dim());
    }
}

fn put_stages(text: &mut Text, model: &Model, rank: &RankState) {
    let Some(hello) = model.hello() else { return };
    let has_copies = hello.stages.iter().any(|stage| stage.copy > 0);
    let mut name = "stages";
    for stage in hello.stages.iter().filter(|stage| stage.rank == rank.rank) {
        let [first, last] = stage.layers;
        text.name(name).put(format!("s{:<3}", stage.stage), STRONG);
        text.text(format!(
            " layers {:<9}{:>7} parameters {:>7}",
            format!("{first}-{last}"),
            format::count(stage.parameters as f64),
            format::bytes(stage.parameter_bytes)
        ));
        if has_copies {
            text.text(format!("  copy {} of the model", stage.copy));
        }
        name = "";
    }
}

fn put_memory(text: &mut Text, model: &Model, rank: &RankState) {
    let theme = text.theme;
    let Some(memory) = rank.memory else {
        text.name("memory").put("not reported yet", theme.dim());
        return;
    };
    let room = room_of(model, rank);
    // The bars below are parts of this rank's own peak, as the numbers beside them are.
    let whole = memory.peak_bytes.max(1);
    text.name("memory").text("live ").put(format::bytes(memory.live_bytes), STRONG);
    text.text("  peak ").put(format::bytes(memory.peak_bytes), STRONG);
    let plan = model.hello().map_or(&[][..], |hello| &hello.memory_plan);
    if let Some(planned) = plan.iter().find(|planned| planned.rank == rank.rank) {
        text.text(format!(" planned {}", format::bytes(planned.peak_bytes)));
    }
    let has_gpu = model.gpu_of(rank.replica, rank.rank).is_some();
    put_fit(text, room, if has_gpu { "device memory" } else { "host RAM" });
    let Mem {
        parameter_bytes,
        gradient_bytes,
        optimizer_bytes,
        packed_bytes,
        stash_bytes,
        temporary_bytes,
        peak_bytes,
        ..
    } = memory;
    let known = [
        parameter_bytes,
        gradient_bytes,
        optimizer_bytes,
        packed_bytes,
        stash_bytes,
        temporary_bytes,
    ]
    .into_iter()
    .fold(0, u64::saturating_add);
    for (name, bytes) in [
        ("parameters", parameter_bytes),
        ("gradients", gradient_bytes),
        ("optimizer", optimizer_bytes),
        ("packed", packed_bytes),
        ("activations", stash_bytes),
        ("temporary", temporary_bytes),
        ("other", peak_bytes.saturating_sub(known)),
    ] {
        if matches!(name, "packed" | "temporary" | "other") && bytes == 0 {
            continue;
        }
        text.name("").text(format!("{name:<12}"));
        text.put(memory_bar(theme, bytes, 0, whole, MEM_BAR), theme.bar());
        let of_peak = bytes as f64 / peak_bytes.max(1) as f64;
        text.text(format!("{:>7}", format::bytes(bytes)));
        text.put(format!("  {:>3.0}% of the peak", of_peak * 100.0), theme.dim());
    }
}

/// Whether it will fit.
fn put_fit(text: &mut Text, room: Option<(u64, u64, usize)>, what: &str) {
    let theme = text.theme;
    let Some((total, peaks, _)) = room else {
        text.put("  size of the device unknown", theme.dim());
        return;
    };
    let left = total.saturating_sub(peaks);
    let share = left as f64 / total.max(1) as f64;
    let (word, style) = match share {
        _ if peaks > total => ("does not fit", theme.bad()),
        share if share < LEFT_BAD => ("barely fits", theme.bad()),
        share if share < LEFT_NOTICE => ("fits tightly", theme.notice()),
        _ => ("fits", theme.good()),
    };
    text.text("  ").put(word, style);
    let gib = |bytes: u64| bytes as f64 / f64::from(1_u32 << 30);
    text.text(format!(": {what} free {:.1} of {:.1} GiB", gib(left), gib(total)));
}

fn put_thread(text: &mut Text, rank: &RankState) {
    let theme = text.theme;
    let Some(thread) = rank.thread() else {
        text.name("thread").put("not sampled", theme.dim());
        return;
    };
    let style = if thread.starved > 0.1 { theme.notice() } else { Style::new() };
    text.name("thread").text(format!("on a core {}  ", format::percent(thread.on_core)));
    text.put(format!("waits for one {}", format::percent(thread.starved)), style);
    text.name("").text(format!(
        "per second: {} waits, preempted {} times",
        format::count(thread.voluntary_switches.round()),
        format::count(thread.involuntary_switches.round())
    ));
}

fn put_gpu_error(text: &mut Text, model: &Model, rank: &RankState) {
    let gpu = model.gpu_of(rank.replica, rank.rank);
    if let Some(error) = gpu.and_then(|gpu| gpu.latest.error.as_deref()) {
        let bad = text.theme.bad();
        text.name("GPU").put(format::plain(error), bad);
    }
}

fn put_gpu(text: &mut Text, state: &GpuState) {
    let theme = text.theme;
    let gpu = &state.latest;
    text.name("GPU").put(format::plain(gpu.name.as_deref().unwrap_or("no name")), STRONG);
    text.name("").put(format::plain(gpu.pci.as_deref().unwrap_or("")), theme.dim());
    text.put(format!("  {}", format::plain(&gpu.uuid)), theme.dim());
    let share = |share: f64| format!("{:.0}%", share * 100.0);
    let rate = |bytes: f64| format!("{}/s", format::bytes(bytes.max(0.0) as u64));
    let numbers: [&[(&str, &str, Option<String>)]; 5] = [
        &[
            ("utilisation", "utilisation", gpu.utilisation.map(share)),
            ("SM", "sm_active", gpu.sm_active.map(share)),
            ("tensor", "tensor_active", gpu.tensor_active.map(share)),
        ],
        &[
            ("used", "used_bytes", gpu.used_bytes.map(format::bytes)),
            ("of", "total_bytes", gpu.total_bytes.map(format::whole_bytes)),
            ("processes", "processes", gpu.processes.map(|n| n.to_string())),
        ],
        &[
            ("power", "power_watts", gpu.power_watts.map(|watts| format!("{watts:.0}W"))),
            (
                "energy",
                "energy_joules",
                state.joules().map(|joules| format!("{}J", format::count(joules))),
            ),
            (
                "temperature",
                "temperature_celsius",
                gpu.temperature_celsius.map(|celsius| format!("{celsius:.0}C")),
            ),
        ],
        &[
            ("SM clock", "sm_clock_mhz", gpu.sm_clock_mhz.map(|mhz| format!("{mhz} MHz"))),
            (
                "memory clock",
                "memory_clock_mhz",
                gpu.memory_clock_mhz.map(|mhz| format!("{mhz} MHz")),
            ),
        ],
        &[
            ("PCIe sends", "pcie_sent_bytes_per_second", gpu.pcie_sent_bytes_per_second.map(rate)),
            (
                "receives",
                "pcie_received_bytes_per_second",
                gpu.pcie_received_bytes_per_second.map(rate),
            ),
        ],
    ];
    if gpu.error.is_none() {
        for line in numbers {
            text.name("");
            for (at, (name, key, value)) in line.iter().enumerate() {
                text.text(if at > 0 { "  " } else { "" }).text(format!("{name} "));
                match value {
                    Some(value) => text.put(value, STRONG),
                    None => text.put(absence(gpu, key), theme.dim()),
                };
            }
        }
        let throttled = !gpu.throttle.is_empty();
        let reasons =
            if throttled { format::plain(&gpu.throttle.join(", ")) } else { "no".to_owned() };
        let style = if throttled { theme.notice() } else { Style::new() };
        text.name("").text("throttled ").put(reasons, style);
    }
    let is_told = |what: &str| numbers.iter().flat_map(|line| line.iter()).any(|n| n.1 == what);
    for unavailable in gpu.unavailable.iter().filter(|number| !is_told(&number.what)) {
        let what = format::plain(&unavailable.what).replace('_', " ");
        text.name("").text(format!("{what} "));
        text.put(absence(gpu, &unavailable.what), theme.dim());
    }
}

/// Why a number is not known.
fn absence(gpu: &Gpu, what: &str) -> String {
    match gpu.unavailable.iter().find(|number| number.what == what) {
        Some(number) => format!("n/a ({})", format::plain(&number.why)),
        None => "n/a".to_owned(),
    }
}

/// What was slow lately, the newest first.
fn put_slow(text: &mut Text, model: &Model, rank: &RankState) {
    let theme = text.theme;
    let is_its =
        |slow: &&SlowGroup| (slow.last.replica, slow.last.rank) == (rank.replica, rank.rank);
    let mut name = "slow";
    for slow in model.slow_groups().rev().filter(is_its).take(SLOW_MAX) {
        text.name(name);
        if slow.count <= 1 {
            text.put(format!("step {} ", slow.first_step), theme.dim());
        }
        text.put(words::clean(&words::slow_ops(slow)).into_owned(), theme.notice());
        name = "";
    }
}

/// Numbers of one kind over time, oldest first.
struct Chart {
    title: &'static str,
    /// The title beside a line.
    short: &'static str,
    values: Vec<Option<f64>>,
    /// What reaches up to the top.
    high: f64,
    /// What that is: all of something, or the highest that was seen.
    high_is: &'static str,
    format: fn(f64) -> String,
}

impl Chart {
    fn has_values(&self) -> bool {
        self.values.iter().any(Option::is_some)
    }

    fn newest(&self) -> String {
        let newest = self.values.last().copied().flatten();
        newest.map_or_else(|| "n/a".to_owned(), self.format)
    }

    fn share(&self, value: f64) -> f64 {
        if self.high > 0.0 { (value / self.high).clamp(0.0, 1.0) } else { 0.0 }
    }

    fn symbol(&self, value: Option<f64>, theme: Theme) -> String {
        match value {
            Some(value) => theme.columns(std::iter::once(self.share(value))),
            None => " ".to_owned(),
        }
    }
}

fn charts(model: &Model, rank: &RankState) -> Vec<Chart> {
    let whole_percent = |share: f64| format!("{:.0}%", share * 100.0);
    let bytes = |bytes: f64| format::bytes(bytes.max(0.0) as u64);
    // Against the memory of a whole machine no column would be seen.
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

/// Rows of a chart at most, with its title.
const CHART_ROWS_MAX: u16 = 8;
/// Cells of a value in a chart at most.
const VALUE_CELLS_MAX: usize = 4;

fn draw_charts(buffer: &mut Buffer, area: Rect, charts: &[Chart], theme: Theme) {
    let charts: Vec<_> = charts.iter().filter(|chart| chart.has_values()).collect();
    // Three rows each, at least; what does not fit is left out.
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
