//! What a rank does now, and how that and what is wrong with it look.

use pp_telemetry::{Activity, Model, PhaseEvent, RankState, Slowest, SpanKind};
use ratatui::style::Style;

use super::theme::{STRONG, Theme};
use crate::monitor::words::{format, letter};

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
        Activity::Phase => {
            let phase = model.phase().map_or("", |phase| phase.phase.as_str());
            let short = match phase {
                PhaseEvent::EVALUATING if !long => "eval",
                PhaseEvent::CHECKPOINT if !long => "ckpt",
                _ => phase,
            };
            (format::plain(short).chars().take(if long { 32 } else { 8 }).collect(), theme.dim())
        }
        Activity::Ended => ("ended".to_owned(), theme.dim()),
    }
}

/// How much longer than the others the slowest rank has to compute before it is pointed out: the
/// layers of a model can't be dealt out more evenly than that as a rule.
const SLOW_NOTICE: f64 = 1.1;
const SLOW_BAD: f64 = 1.3;
/// Share of the window without a core above which that is pointed out.
const STARVED_NOTICE: f64 = 0.1;

/// Highlights the rank that the others wait for: it is the cause, and they are fine.
pub(crate) fn culprit_style(model: &Model, rank: &RankState, theme: Theme) -> Style {
    let is_it = |slowest: &Slowest| (slowest.replica, slowest.rank) == (rank.replica, rank.rank);
    match model.slowest().filter(is_it) {
        Some(slowest) if slowest.ratio >= SLOW_BAD => theme.bad(),
        Some(slowest) if slowest.ratio >= SLOW_NOTICE => theme.notice(),
        _ => Style::new(),
    }
}

/// A rank without a core.
pub(crate) fn starved_style(starved: Option<f64>, theme: Theme) -> Style {
    if starved.is_some_and(|share| share > STARVED_NOTICE) { theme.notice() } else { Style::new() }
}
