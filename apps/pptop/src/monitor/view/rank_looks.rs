//! The state of a rank in few characters, and the styles of states and of problems.

use pp_telemetry::{Activity, Model, PhaseEvent, RankState, Slowest, SpanKind};
use ratatui::style::Style;

use super::theme::{STRONG, Theme};
use crate::monitor::words::{format, letter};

/// The state of a rank in few characters, and its style.
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

/// The factor above which the slowest rank is highlighted. Below it, the layers of a model can
/// usually not be divided more evenly.
const SLOW_NOTICE: f64 = 1.1;
const SLOW_BAD: f64 = 1.3;
/// The share of the window without a core above which a rank is highlighted.
const STARVED_NOTICE: f64 = 0.1;

/// Highlights the rank for which the others wait, because it is the cause.
pub(crate) fn culprit_style(model: &Model, rank: &RankState, theme: Theme) -> Style {
    let is_it = |slowest: &Slowest| (slowest.replica, slowest.rank) == (rank.replica, rank.rank);
    match model.slowest().filter(is_it) {
        Some(slowest) if slowest.ratio >= SLOW_BAD => theme.bad(),
        Some(slowest) if slowest.ratio >= SLOW_NOTICE => theme.notice(),
        _ => Style::new(),
    }
}

/// The style of a rank without a core.
pub(crate) fn starved_style(starved: Option<f64>, theme: Theme) -> Style {
    if starved.is_some_and(|share| share > STARVED_NOTICE) { theme.notice() } else { Style::new() }
}
