//! One rank in full: its activity, its memory and whether that fits, its thread, its GPU, and its
//! slow operations.

mod charts;
mod gpu;

use pp_telemetry::{Activity, Mem, Model, RankState, SHARE_STEPS, SlowGroup};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::monitor::input::Action;
use crate::monitor::state::State;
use crate::monitor::view::memory::{memory_bar, room_of};
use crate::monitor::view::paint::{Pen, mark_more, panel, slice_left, slice_top};
use crate::monitor::view::rank_looks::{activity_text, culprit_style, starved_style};
use crate::monitor::view::theme::{STRONG, Theme};
use crate::monitor::words::{self, format, layers_text, rank_name, stages_text};
use charts::{Chart, charts, draw_charts};
use gpu::{put_gpu, put_gpu_error};

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
            if is_alone { (Action::Back, "back") } else { (Action::Enter, "full") };
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
        parts.push(stages_text(rank));
        parts.push(format!("layers {}", layers_text(rank)));
    }
    parts.push(format::plain(&rank.device));
    if let Some(host) = model.host_of(rank.replica, rank.rank) {
        parts.push(format!("on {}", format::plain(host)));
    }
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
        text.name(name).put(format!("s{:<3}", stage.stage), STRONG);
        if let Some([first, last]) = stage.layers {
            text.text(format!(" layers {:<9}", format!("{first}-{last}")));
        }
        if stage.parameters > 0 {
            text.text(format!(
                "{:>7} parameters {:>7}",
                format::count(stage.parameters as f64),
                format::bytes(stage.parameter_bytes)
            ));
        }
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
        if planned.checkpoint_bytes > 0 {
            text.text(format!(" +{} for a checkpoint", format::bytes(planned.checkpoint_bytes)));
        }
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
        text.put("  capacity unknown", theme.dim());
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
