//! The last lines: the keys, and above them what has to be said.

use ratatui::style::Style;

use super::paint::Pen;
use super::theme::STRONG;
use crate::monitor::state::{State, Status};

/// Share of the time without a core above which one should know.
const STARVED_NOTICE: f64 = 0.1;

/// How serious a notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// The run has failed, or something is broken.
    Bad,
    /// One should know.
    Notice,
}

/// Draws as many keys as fit.
pub(crate) fn draw_keys(pen: &mut Pen<'_>, state: &State) {
    let theme = pen.theme;
    for hint in state.keymap().hints(state.at()) {
        let n_cells = hint.keys.chars().count() + hint.what.chars().count() + 3;
        if n_cells > pen.left() as usize {
            break;
        }
        pen.text(" ").put(hint.keys, STRONG).put(format!(" {} ", hint.what), theme.dim());
    }
}

/// What has to be said, the most serious first.
pub(crate) fn notice(state: &State) -> Option<(Weight, String)> {
    if let Some(failure) = state.failure().filter(|_| state.playback().is_none()) {
        return Some(match state.status() {
            Status::Stopped => (Weight::Notice, format!("{failure}; q leaves")),
            _ => (Weight::Bad, format!("failed: {failure}")),
        });
    }
    if let Some(note) = state.note() {
        return Some((Weight::Notice, note.to_owned()));
    }
    if let Some(trouble) = state.trouble() {
        return Some((Weight::Bad, trouble.to_owned()));
    }
    if state.is_stopping() {
        return Some((
            Weight::Notice,
            "the run was asked to end; it does after this step".to_owned(),
        ));
    }
    if matches!(state.status(), Status::Ended(_)) {
        return Some((Weight::Notice, "the run has ended; q leaves".to_owned()));
    }
    if let Status::Stale(seconds) = state.status() {
        let pid = state.child().pid;
        if pid == 0 {
            let text = "the log has no end, and nothing is known of its process";
            return Some((Weight::Notice, text.to_owned()));
        }
        return Some((
            Weight::Bad,
            format!("process {pid} is alive, but has written nothing for {seconds:.0} s"),
        ));
    }
    let model = state.shown();
    let Some((n_ranks, n_cores)) = model.ranks_over_cores() else {
        let starved =
            model.steps().starved_ratio().filter(|starved| starved.mean > STARVED_NOTICE)?;
        let share = starved.mean * 100.0;
        return Some((
            Weight::Notice,
            format!(
                "for {share:.0}% of the time a rank had no core: something else uses this machine"
            ),
        ));
    };
    let cores = if n_cores == 1 { "core" } else { "cores" };
    Some((
        Weight::Notice,
        format!(
            "{n_ranks} ranks share {n_cores} {cores}: time without a core is starved, not the schedule's"
        ),
    ))
}

/// Draws it.
pub(crate) fn draw_notice(pen: &mut Pen<'_>, (weight, text): &(Weight, String)) {
    let style: Style = match weight {
        Weight::Bad => pen.theme.bad(),
        Weight::Notice => pen.theme.notice(),
    };
    pen.text(" ").put(text, style);
}
