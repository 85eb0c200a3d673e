//! The first line: which run it is, how it stands, how far it is.

use ratatui::style::Style;

use super::paint::Pen;
use super::pipeline;
use super::theme::{STRONG, Theme};
use crate::monitor::screen::View;
use crate::monitor::state::{State, Status};
use crate::monitor::words::format;

/// Cells of the bar, at most and at least.
const BAR_CELLS: (usize, usize) = (15, 6);
/// Cells of the estimate, with what stands before it.
const ETA_CELLS: usize = 15;

fn status_text(state: &State, theme: Theme) -> (String, Style) {
    let (mut text, style) = status_alone(state, theme);
    if state.is_frozen() && state.status() != Status::Frozen {
        text = format!("{text}, {}", frozen_text(state));
    }
    (text, style)
}

fn status_alone(state: &State, theme: Theme) -> (String, Style) {
    let dot = if theme.ascii { "*" } else { "●" };
    let phase = state.shown().phase().map(|phase| format::plain(&phase.text()));
    match (state.status(), phase) {
        (Status::Starting, Some(phase)) => (format!("{dot} STARTING {phase}"), theme.notice()),
        (Status::Live, Some(phase)) if !state.is_stopping() => {
            (format!("{dot} {phase}"), theme.good())
        }
        (status, _) => status_word(state, status, dot, theme),
    }
}

fn status_word(state: &State, status: Status, dot: &str, theme: Theme) -> (String, Style) {
    match status {
        Status::Starting => (format!("{dot} STARTING"), theme.notice()),
        Status::Live if state.is_stopping() => (format!("{dot} STOPPING"), theme.notice()),
        Status::Live => (format!("{dot} LIVE"), theme.good()),
        Status::Frozen => (frozen_text(state), theme.notice()),
        Status::Stale(seconds) => (format!("STALE {seconds:.0} s"), theme.bad()),
        Status::Suspended => ("SUSPENDED".to_owned(), theme.notice()),
        Status::Died => ("DIED".to_owned(), theme.bad()),
        Status::Unknown => ("UNKNOWN".to_owned(), theme.notice()),
        Status::Paused => ("PAUSED".to_owned(), theme.notice()),
        Status::Replay(speed) => (format!("REPLAY {speed}x"), theme.good()),
        Status::Stopped => ("STOPPED".to_owned(), theme.notice()),
        Status::Ended(0) => ("ENDED".to_owned(), STRONG),
        Status::Ended(code) => (format!("FAILED ({code})"), theme.bad()),
    }
}

/// How far the run is ahead of a screen that stands still.
fn frozen_text(state: &State) -> String {
    match state.model().step().saturating_sub(state.shown().step()) {
        0 => "FROZEN".to_owned(),
        1 => "FROZEN 1 step behind".to_owned(),
        n => format!("FROZEN {n} steps behind"),
    }
}

/// Steps that are over, steps that are planned, and the share.
fn progress(state: &State) -> (u64, u64, f64) {
    let model = state.shown();
    let n_steps = model.hello().map_or(0, |hello| hello.steps);
    let share = if n_steps == 0 { 0.0 } else { model.step() as f64 / n_steps as f64 };
    (model.step(), n_steps, share)
}

/// The name of the run, once it is known.
fn name(state: &State) -> &str {
    state.shown().hello().map_or("", |hello| hello.run.as_str())
}

fn put_eta(pen: &mut Pen<'_>, state: &State, prefix: &str) {
    let is_going_on = state.standing().has_rest() && !state.is_stopping();
    if !is_going_on || state.playback().is_some() || state.child().not_recorded.is_some() {
        return;
    }
    if let Some(seconds) = state.shown().eta_seconds() {
        pen.put_right(&format!("{prefix}~{} ", format::clock(seconds)), STRONG);
    }
}

/// The first line of the panels.
pub(crate) fn draw(pen: &mut Pen<'_>, state: &State) {
    let theme = pen.theme;
    let (step, n_steps, share) = progress(state);
    let (status, style) = status_text(state, theme);
    let (steps, percent) = if n_steps == 0 {
        (format!("  step {step} "), String::new())
    } else {
        let percent = format!(" {:.0}%", (share * 100.0).floor());
        (format!("  step {step}/{n_steps} "), percent)
    };
    pen.put(" pptop  ", theme.dim());
    if state.shown().hello().is_none() {
        pen.put(status, style);
        return;
    }
    // The bar gives way first, then the name: neither changes anything, and what changes has to be
    // seen.
    let alarm = state.shown().alarm().map(|alarm| format!("  {}", alarm.short()));
    let texts = [status.as_str(), &steps, &percent, alarm.as_deref().unwrap_or("")];
    let fixed = texts.iter().map(|text| format::cells(text)).sum::<usize>() + 4 + ETA_CELLS;
    let room = (pen.left() as usize).saturating_sub(fixed);
    let bar_cells = room.saturating_sub(format::cells(name(state))).clamp(BAR_CELLS.1, BAR_CELLS.0);
    pen.put(format::cut(name(state), room.saturating_sub(bar_cells).max(8)), STRONG);
    pen.text("  ").put(status, style).text(steps);
    let (open, close) = if theme.ascii { ("[", "]") } else { ("▕", "▏") };
    // Without an end there is no part of the way.
    if n_steps > 0 {
        pen.put(open, theme.dim())
            .put(theme.gauge(share, bar_cells), theme.bar())
            .put(close, theme.dim());
    }
    pen.text(percent);
    pen.put(alarm.as_deref().unwrap_or(""), theme.bad());
    let n_dropped = state.shown().n_dropped();
    if n_dropped > 0 {
        pen.put(format!("  lost {n_dropped}"), theme.bad());
    }
    put_eta(pen, state, " ETA ");
}

/// The views with their names, which stand one behind another from the second cell on.
pub(crate) fn view_names(state: &State) -> impl Iterator<Item = (View, String)> {
    let shown = state.view();
    View::ALL.into_iter().enumerate().map(move |(at, view)| {
        let (number, title) = (at + 1, view.title());
        let is_shown = view == shown;
        let text =
            if is_shown { format!("[{number}]{title}  ") } else { format!("{number} {title}  ") };
        (view, text)
    })
}

/// The views, the one that is shown in brackets, and which of several runs this is.
pub(crate) fn draw_views(pen: &mut Pen<'_>, state: &State) {
    let theme = pen.theme;
    pen.text(" ");
    for (view, text) in view_names(state) {
        pen.put(text, if view == state.view() { STRONG } else { theme.dim() });
    }
    let (at, n_runs) = state.place();
    if n_runs > 1 {
        pen.put_right(&format!("run {} of {n_runs} ", at + 1), STRONG);
    }
}

/// The second line of a wide screen: what is trained, and how.
pub(crate) fn draw_job(pen: &mut Pen<'_>, state: &State) {
    let Some(hello) = state.shown().hello() else { return };
    let theme = pen.theme;
    pen.text(format!(" {} ", hello.schedule)).put(
        format!(
            "p={} m={} v={} dp={}",
            hello.pp, hello.micro_batches, hello.virtual_stages, hello.dp
        ),
        STRONG,
    );
    draw_progress(pen, state);
    // What the run does not tell is not shown as 0.
    if hello.parameters > 0 {
        pen.text(format!("   {} parameters", format::count(hello.parameters as f64)));
    }
    if hello.batch_size > 0 {
        pen.text(format!("   batch {}", hello.batch_size));
    }
    if hello.cores > 0 {
        pen.text(format!("   {} cores", hello.cores));
    }
    pen.text(format!("   process {}", hello.pid));
    if !hello.program.is_empty() {
        pen.text(format!("   {}", format::plain(&hello.program)));
    }
    if let Some(before) = &hello.continues {
        pen.text(format!("   continues {}", format::plain(&before.to_string())));
    }
    // A clock that is not the machine's own has to be known.
    if hello.clock != "host" && !hello.clock.is_empty() {
        pen.text(format!("   clock {}", format::plain(&hello.clock)));
    }
    if state.n_bad_lines() > 0 {
        pen.put(format!("   {} bad lines in the log", state.n_bad_lines()), theme.notice());
    }
    if state.is_read_only() {
        pen.put("   read-only", theme.dim());
    }
    if hello.span_every > 1 {
        let every = format::ordinal(hello.span_every);
        pen.put(format!("   spans: every {every} step"), theme.dim());
    }
}

/// How long it has trained, on how much, and how fast: samples or tokens, and arithmetic where that
/// is known.
fn draw_progress(pen: &mut Pen<'_>, state: &State) {
    let model = state.shown();
    let totals = model.totals();
    if model.step() == 0 {
        return;
    }
    let before = model.hello().and_then(|hello| hello.continues.as_ref());
    let seconds_before = before.map_or(0.0, |before| before.elapsed_seconds);
    let own = model.end().map_or(totals.elapsed_seconds, |end| end.wall_seconds);
    let elapsed = seconds_before + own;
    pen.text("   elapsed ").put(format::clock(elapsed), STRONG);
    let (unit, n) = match totals.tokens {
        0 => ("samples", totals.samples),
        tokens => ("tok", tokens),
    };
    if let Some((name, rate)) = pipeline::rate(model).filter(|_| n > 0) {
        pen.text("   ").put(format!("{} {name}", format::count(rate)), STRONG).text(", ");
    }
    if n > 0 {
        pen.text(format!("{} {unit} in all", format::count(n as f64)));
    }
    if let Some(flops) = model.flops() {
        pen.text("   ").put(format!("{}FLOP/s", format::count(flops)), STRONG);
        if let Some(share) = model.flops_utilisation() {
            pen.text("  MFU ").put(format::percent(share), STRONG);
        }
    }
}

/// The first line of a small screen.
pub(crate) fn draw_compact(pen: &mut Pen<'_>, state: &State) {
    let theme = pen.theme;
    let (step, n_steps, share) = progress(state);
    let (status, style) = status_text(state, theme);
    if state.status() != Status::Live || state.is_stopping() {
        pen.put(status, style).text(" ");
    } else {
        let model = state.shown().hello().map_or("", |hello| hello.model.as_str());
        pen.put(format::cut(model, 12), STRONG).text(" ");
    }
    if n_steps > 0 {
        pen.text(format!("{step}/{n_steps} {:.0}%", (share * 100.0).floor()));
    } else if step > 0 {
        pen.text(format!("step {step}"));
    }
    if let Some(alarm) = state.shown().alarm() {
        pen.put(format!(" {}", alarm.short()), theme.bad());
    }
    put_eta(pen, state, " ");
}

/// All that fits into one line.
pub(crate) fn draw_line(pen: &mut Pen<'_>, state: &State) {
    draw_compact(pen, state);
    if let Some(loss) = state.shown().loss().last() {
        pen.text(format!(" loss {}", format::number(loss)));
    }
}
