//! The last lines: the keys, and above them what has to be said.

use ratatui::style::Style;

use super::paint::Pen;
use super::theme::STRONG;
use crate::monitor::state::{State, Status};
use crate::monitor::words::format;

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

/// What has to be said. What came of a key comes first: it leaves by itself.
pub(crate) fn notice(state: &State) -> Option<(Weight, String)> {
    if let Some(note) = state.note() {
        let weight = if state.note_is_error() { Weight::Bad } else { Weight::Notice };
        return Some((weight, note.to_owned()));
    }
    if let Some(mut failure) = state.failure().filter(|_| state.playback().is_none()) {
        if let Some(saved) = state.model().end().and_then(|end| end.saved.as_deref()) {
            failure = format!("{failure}; {}", format::plain(saved));
        }
        return Some(match state.status() {
            Status::Stopped => (Weight::Notice, format!("{failure}; {}", state.keymap().leaves())),
            _ => (Weight::Bad, format!("failed: {failure}")),
        });
    }
    if let Some(trouble) = state.trouble() {
        return Some((Weight::Bad, trouble.to_owned()));
    }
    if state.is_stopping() {
        return Some((
            Weight::Notice,
            "the run was asked to end; it ends after this step".to_owned(),
        ));
    }
    standing_notice(state)
}

/// A problem of the run's standing.
fn standing_notice(state: &State) -> Option<(Weight, String)> {
    let pid = state.child().pid;
    if let Some(not_recorded) = &state.child().not_recorded {
        return Some((Weight::Bad, format::plain(not_recorded)));
    }
    match state.status() {
        Status::Suspended => Some((
            Weight::Bad,
            format!("process {pid} is suspended (SIGSTOP): kill -CONT {pid} resumes it"),
        )),
        Status::Stale(seconds) => {
            let silent = format!("nothing was written for {seconds:.0} s");
            Some(match &state.child().host {
                Some(host) => {
                    let host = format::plain(host);
                    let text = format!("{silent}; it runs on {host}; its state is unknown here");
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
    fn the_end_of_a_stopped_run_says_what_is_saved() {
        let mut state = State::new(ChildState::default(), false);
        let reason = "stopped by SIGTERM".to_owned();
        let saved = Some("step 7 is saved in kept/step-00000007".to_owned());
        let end = pp_telemetry::End { code: 143, reason, saved, ..pp_telemetry::End::default() };
        state.apply(&pp_telemetry::Event::End(end));
        let (_, text) = notice(&state).unwrap();
        assert!(
            text.contains("stopped by SIGTERM; step 7 is saved in kept/step-00000007"),
            "{text}"
        );
    }

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
            let notice = notice(&state).map(|(_, text)| text);
            notice.or_else(|| state.standing_word()).unwrap_or_default()
        };
        assert_eq!(said(None), "process 7 is alive, but has written nothing for 60 s");
        let text = said(Some("far"));
        assert!(text.contains("it runs on far; its state is unknown here"), "{text}");
    }
}
