//! The pipeline in numbers: the measured bubble beside the schedule's, the speed, the slowest rank,
//! and the memory.

use std::collections::BTreeMap;

use pp_telemetry::{Model, Part, Rate, RecordedStep, Reduced, Span, SpanKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::paint::{Pen, panel};
use super::theme::{STRONG, Theme};
use crate::monitor::state::State;
use crate::monitor::view::memory::room_of;
use crate::monitor::words::{format, rank_name};

/// Above the closed form by this much, the bubble is pointed out.
const GAP_NOTICE: f64 = 0.03;
/// Below this many times the others no rank is called slow.
const ALIKE: f64 = 1.05;
const NAME_CELLS: usize = 10;

/// Draws the panel; what matters most stands first, for the lower lines may not fit.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, state: &State, theme: Theme) {
    let model = state.shown();
    let n_steps = model.steps().bubble_ratio().map_or(0, |bubble| bubble.n_steps);
    let right = if n_steps > 0 { format!("last {n_steps} steps") } else { String::new() };
    let inside = panel(buffer, area, theme, "pipeline", &right);
    let mut pen = Pen::new(buffer, inside, theme);
    if model.step() == 0 {
        pen.put(" no step has finished yet", theme.dim());
        return;
    }
    if let Some(alarm) = model.alarm() {
        let text = format!(" {alarm}");
        let text = if text.chars().count() > pen.width() as usize {
            let when = if alarm.is_spike() { "at" } else { "since" };
            format!(" {} {when} step {}", alarm.short(), alarm.step())
        } else {
            text
        };
        pen.put(text, theme.bad()).next_line();
    }
    draw_bubble(&mut pen, model);
    draw_gap(&mut pen, model);
    draw_speed(&mut pen, model);
    draw_slowest(&mut pen, state);
    draw_peak(&mut pen, model);
    draw_training(&mut pen, model);
    if let Some(step) = state.timeline().step(model) {
        draw_breakdown(&mut pen, model, step);
    }
}

/// The bubble and the speed in one line: as much as has room, each of it whole.
pub(crate) fn draw_line(pen: &mut Pen<'_>, state: &State) {
    let model = state.shown();
    pen.text(" ");
    draw_bubble_short(pen, model);
    let slowest = model.slowest().map(|slowest| {
        let name = rank_name(model, slowest.replica, slowest.rank);
        format!("slowest r{name}")
    });
    let step = model.steps().seconds().map(|seconds| format::duration(seconds.p50));
    let loss = model.loss().last().map(|loss| {
        let trend = super::loss_panel::trend_text(model.loss().trend(), pen.theme);
        format!("loss {} {trend}", format::number(loss))
    });
    let rate = rate(model).map(|(name, rate)| format!("{} {name}", format::count(rate)));
    for text in [loss, step.map(|step| format!("step {step}")), rate, slowest] {
        if let Some(text) = text.filter(|text| text.chars().count() + 3 <= pen.left() as usize) {
            pen.text("   ").text(text);
        }
    }
}

/// `bubble 29.1% (theory 27.3%)`.
pub(crate) fn draw_bubble_short(pen: &mut Pen<'_>, model: &Model) {
    let Some(bubble) = model.steps().bubble_ratio() else {
        pen.put("bubble -", pen.theme.dim());
        return;
    };
    pen.text("bubble ").put(format::percent(bubble.mean), STRONG);
    if let Some(theory) = theory(model) {
        pen.text(format!(" (theory {})", format::percent(theory)));
    }
}

/// How much is trained on in a second, with its unit.
pub(crate) fn rate(model: &Model) -> Option<(&'static str, f64)> {
    Some(match model.steps().rate()? {
        Rate::Tokens(rate) => ("tok/s", rate),
        Rate::Samples(rate) => ("samples/s", rate),
    })
}

fn theory(model: &Model) -> Option<f64> {
    model.hello().and_then(|hello| hello.theory)
}

fn name(pen: &mut Pen<'_>, name: &str) {
    let style = pen.theme.dim();
    pen.put(format!(" {name:<NAME_CELLS$}"), style);
}

fn draw_bubble(pen: &mut Pen<'_>, model: &Model) {
    name(pen, "bubble");
    match model.steps().bubble_ratio() {
        Some(bubble) => {
            let sign = if pen.theme.ascii { "+-" } else { "±" };
            pen.put(format::percent(bubble.mean), STRONG)
                .text(format!(" {sign}{:.1}", bubble.sd * 100.0));
        }
        None => {
            pen.text("not measured");
        }
    }
    if let Some(theory) = theory(model) {
        pen.text(format!("  theory {}", format::percent(theory)));
    }
    pen.next_line();
}

fn draw_gap(pen: &mut Pen<'_>, model: &Model) {
    let theme = pen.theme;
    name(pen, "gap");
    if let (Some(bubble), Some(theory)) = (model.steps().bubble_ratio(), theory(model)) {
        let gap = bubble.mean - theory;
        let style = if gap > GAP_NOTICE { theme.notice() } else { STRONG };
        pen.put(format!("{:+.1}pp", gap * 100.0), style);
    } else {
        pen.text("-");
    }
    if let Some(starved) = model.steps().starved_ratio() {
        pen.text(format!("  starved {}", format::percent(starved.mean)));
    }
    if let Some(copy) = model.copy_ratio()
        && pen.left() >= 14
    {
        pen.text(format!("  copy {}", format::percent(copy)));
    }
    pen.next_line();
}

/// Lines that the speed may take only where this many are left: the slowest rank and the memory
/// come behind it.
const SPEED_ROOM: u16 = 4;

fn draw_speed(pen: &mut Pen<'_>, model: &Model) {
    let rate = rate(model).map(|(unit, rate)| (unit, format::count(rate)));
    let seconds = model.steps().seconds();
    if pen.lines_left() < SPEED_ROOM {
        if rate.is_none() && seconds.is_none() {
            return;
        }
        name(pen, "step");
        let seconds = seconds.map(|seconds| format::duration(seconds.p50));
        pen.text(seconds.unwrap_or_default());
        if let Some((unit, rate)) = rate {
            pen.text("  ").put(rate, STRONG).text(format!(" {unit}"));
        }
        pen.next_line();
        return;
    }
    if let Some((unit, rate)) = rate {
        name(pen, unit);
        pen.put(rate, STRONG);
        pen.next_line();
    }
    if let Some(seconds) = seconds {
        name(pen, "step");
        pen.text(format!(
            "{}  p95 {}",
            format::duration(seconds.p50),
            format::duration(seconds.p95)
        ));
        pen.next_line();
    }
}

/// How many times as long as the others a rank takes: the verdict's own number where it speaks of
/// that rank.
fn draw_slowest(pen: &mut Pen<'_>, state: &State) {
    let model = state.shown();
    let Some(slowest) = model.slowest() else { return };
    name(pen, "slowest");
    let found = state.bubble().found().and_then(Result::ok);
    let of_verdict = found
        .filter(|found| found.advice.rank == Some(slowest.rank))
        .map(|found| found.account.ratio_of_rank(slowest.rank));
    let ratio = of_verdict.unwrap_or(slowest.ratio);
    let slow = rank_name(model, slowest.replica, slowest.rank);
    if found.is_some_and(|found| found.advice.part == Some(Part::Starved)) {
        // Ranks that share cores disturb each other: their times say little about the ranks.
        pen.put("unclear: too few cores", pen.theme.dim());
    } else if ratio < ALIKE {
        pen.text("none: ranks are alike");
    } else {
        pen.text(format!("r{slow} {ratio:.1}x the others"));
    }
    pen.next_line();
}

fn draw_peak(pen: &mut Pen<'_>, model: &Model) {
    let Some((rank, bytes)) = model.peak_memory() else { return };
    name(pen, "peak mem");
    pen.text(format!("{} r{}", format::bytes(bytes), rank_name(model, rank.replica, rank.rank)));
    match room_of(model, rank) {
        Some((total, peaks, _)) if peaks > total => {
            let style = pen.theme.bad();
            pen.put("  does not fit", style);
        }
        Some((total, peaks, _)) => {
            pen.text(format!("  {} left", format::bytes(total - peaks)));
        }
        None => {}
    }
    pen.next_line();
}

fn draw_training(pen: &mut Pen<'_>, model: &Model) {
    if let Some(step) = model.steps().last()
        && (step.lr.is_some() || step.grad_norm.is_some())
    {
        name(pen, "training");
        let told = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), format::number);
        let norm = format!("grad norm {}", told(step.grad_norm));
        let both = format!("lr {}  {norm}", told(step.lr));
        // A number that is cut is another number.
        let text = if both.chars().count() <= pen.left() as usize { both } else { norm };
        let style = if model.alarm().is_some() { pen.theme.bad() } else { Style::new() };
        pen.put(text, style);
        pen.next_line();
    }
    if let Some(mark) = model.loss().marks().last() {
        name(pen, "val loss");
        pen.text(format!("{} after step {}", format::number(mark.loss), mark.step));
        if let Some(accuracy) = mark.accuracy
            && pen.left() >= 17
        {
            pen.text(format!("  accuracy {}", format::percent(accuracy)));
        }
        pen.next_line();
    }
}

/// What the time of a step goes into.
const PARTS: [(&str, &[SpanKind]); 8] = [
    ("forward", &[SpanKind::F]),
    ("backward", &[SpanKind::B, SpanKind::I, SpanKind::W]),
    ("wait act", &[SpanKind::WaitAct]),
    ("wait grad", &[SpanKind::WaitGrad]),
    ("copy", &[SpanKind::Send, SpanKind::Recv]),
    ("reduce", &[SpanKind::AllReduce]),
    ("optimizer", &[SpanKind::Optim]),
    ("data, ckpt", &[SpanKind::Data, SpanKind::Checkpoint]),
];

/// Where there is room: for each rank the shares of the step that is drawn.
fn draw_breakdown(pen: &mut Pen<'_>, model: &Model, step: &RecordedStep) {
    const CELLS: usize = 7;
    let n_ranks = (pen.width() as usize).saturating_sub(NAME_CELLS + 2) / CELLS;
    if (pen.lines_left() as usize) < PARTS.len() + 3 || n_ranks == 0 {
        return;
    }
    let theme = pen.theme;
    if step.n_missing > 0 {
        pen.next_line();
        pen.put(
            format!(" step {} lost {} ops: no breakdown", step.step, step.n_missing),
            theme.dim(),
        );
        pen.next_line();
        return;
    }
    let step_ns = step.step_ns.unwrap_or(0).max(1) as f64;
    let mut sums: BTreeMap<(u32, u32, usize), u64> = BTreeMap::new();
    let mut of_rank: BTreeMap<(u32, u32), Vec<&Span>> = BTreeMap::new();
    for span in &step.spans {
        of_rank.entry((span.replica, span.rank)).or_default().push(span);
        if span.op == SpanKind::AllReduce {
            continue;
        }
        if let Some(part) = PARTS.iter().position(|(_, kinds)| kinds.contains(&span.op)) {
            let sum = sums.entry((span.replica, span.rank, part)).or_default();
            *sum = sum.saturating_add(span.dur_ns);
        }
    }
    // A mean beside other work is no time of its own.
    let mean_part = PARTS.iter().position(|(_, kinds)| kinds.contains(&SpanKind::AllReduce));
    for ((replica, rank), spans) in of_rank {
        if let Some(part) = mean_part {
            sums.insert((replica, rank, part), Reduced::of(spans).alone_ns);
        }
    }
    pen.next_line();
    pen.put(format!(" % of step {:<1}", ""), theme.dim());
    for rank in model.ranks().iter().take(n_ranks) {
        pen.put(
            format!("{:>CELLS$}", format!("r{}", rank_name(model, rank.replica, rank.rank))),
            STRONG,
        );
    }
    let n_more = model.ranks().len().saturating_sub(n_ranks);
    if n_more > 0 {
        let style = theme.notice();
        pen.put(format!(" +{n_more}"), style);
    }
    for (part, (part_name, _)) in PARTS.iter().enumerate() {
        pen.next_line();
        name(pen, part_name);
        for rank in model.ranks().iter().take(n_ranks) {
            let sum = sums.get(&(rank.replica, rank.rank, part)).copied().unwrap_or(0);
            pen.text(format!("{:>CELLS$.1}", sum as f64 / step_ns * 100.0));
        }
    }
    pen.next_line();
}
