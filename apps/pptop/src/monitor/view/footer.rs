//! The last lines: the keys, and above them what has to be said.

use ratatui::style::Style;

use super::format;
use super::paint::Pen;
use super::theme::STRONG;
use crate::monitor::input::Action;
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

/// Which key leaves; Ctrl-c does whatever is configured.
fn leaves(state: &State) -> String {
    let key = state.keymap().key_of(Action::Quit);
    format!("{} leaves", key.as_deref().unwrap_or("Ctrl-c"))
}

/// What has to be said, the most serious first.
pub(crate) fn notice(state: &State) -> Option<(Weight, String)> {
    if let Some(failure) = state.failure().filter(|_| state.playback().is_none()) {
        return Some(match state.status() {
            Status::Stopped => (Weight::Notice, format!("{failure}; {}", leaves(state))),
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
        return Some((Weight::Notice, format!("the run has ended; {}", leaves(state))));
    }
    if let Some(standing) = standing_notice(state) {
        return Some(standing);
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

/// What has to be said of how the run stands.
fn standing_notice(state: &State) -> Option<(Weight, String)> {
    let pid = state.child().pid;
    if let Some(not_recorded) = &state.child().not_recorded {
        return Some((Weight::Bad, format::plain(not_recorded)));
    }
    match state.status() {
        Status::Suspended => Some((
            Weight::Bad,
            format!("process {pid} is held, as by SIGSTOP: kill -CONT {pid} lets it go on"),
        )),
        Status::Unknown | Status::Stale(_) if pid == 0 => {
            let text = "the log has no end, and nothing is known of its process";
            Some((Weight::Notice, text.to_owned()))
        }
        Status::Unknown => {
            let host = format::plain(state.child().host.as_deref().unwrap_or("another machine"));
            let text = format!("it runs on {host}; whether it is alive is not known here");
            Some((Weight::Notice, text))
        }
        Status::Stale(seconds) => {
            let silent = format!("nothing was written for {seconds:.0} s");
            Some(match &state.child().host {
                Some(host) => {
                    let host = format::plain(host);
                    let text = format!(
                        "{silent}; it runs on {host}; whether it is alive is not known here"
                    );
                    (Weight::Notice, text)
                }
                None => (
                    Weight::Bad,
                    format!("process {pid} is alive, but has written nothing for {seconds:.0} s"),
                ),
            })
        }
        _ => None,
    }
}

/// Draws it.
pub(crate) fn draw_notice(pen: &mut Pen<'_>, (weight, text): &(Weight, String)) {
    let style: Style = match weight {
        Weight::Bad => pen.theme.bad(),
        Weight::Notice => pen.theme.notice(),
    };
    pen.text(" ").put(text, style);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::state::ChildState;

    #[test]
    fn of_a_silent_run_elsewhere_no_more_is_said_than_is_known() {
        let log = include_bytes!("../../../tests/fixtures/one_f_one_b_p4_m8.jsonl");
        let said = |host: Option<&str>| {
            let mut state = State::new(ChildState::default(), false);
            for line in log.split(|&byte| byte == b'\n') {
                if let Ok(pp_telemetry::Line::Event(event)) = pp_telemetry::Event::parse(line)
                    && !matches!(event, pp_telemetry::Event::End(_))
                {
                    state.apply(&event);
                }
            }
            let host = host.map(ToOwned::to_owned);
            state.observe(ChildState { pid: 7, host, ..ChildState::default() }, 60.0, 0);
            notice(&state).map(|(_, text)| text).unwrap_or_default()
        };
        assert_eq!(said(None), "process 7 is alive, but has written nothing for 60 s");
        let text = said(Some("far"));
        assert!(text.contains("it runs on far; whether it is alive is not known here"), "{text}");
    }
}
