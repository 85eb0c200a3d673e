//! What came of the last thing that was asked for: it is shown for some seconds, and then it is
//! gone.

use std::time::Duration;

use super::{State, Status};
use crate::monitor::words::format;

/// How long a note is shown.
const NOTE_TIME: Duration = Duration::from_secs(4);
/// How long it is shown that something did not work.
const ERROR_TIME: Duration = Duration::from_secs(8);

/// A note, and for how long it is still shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    text: String,
    is_error: bool,
    left: Duration,
}

impl State {
    /// What came of the last thing that was asked for.
    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_ref().map(|note| note.text.as_str())
    }

    /// Whether that is that it did not work.
    pub(crate) fn note_is_error(&self) -> bool {
        self.note.as_ref().is_some_and(|note| note.is_error)
    }

    pub(crate) fn set_note(&mut self, text: String) {
        self.note = Some(Note { text, is_error: false, left: NOTE_TIME });
    }

    /// Something that was asked for did not work.
    pub(crate) fn set_error(&mut self, text: String) {
        self.note = Some(Note { text, is_error: true, left: ERROR_TIME });
    }

    /// Lets time pass: a note goes when its time is over. Whether the screen has to be drawn for
    /// that.
    pub fn pass(&mut self, elapsed: Duration) -> bool {
        let word = self.standing_word();
        if word != self.told {
            self.told.clone_from(&word);
            if let Some(text) = word.filter(|_| self.note.is_none()) {
                self.note = Some(Note { text, is_error: false, left: ERROR_TIME });
                return true;
            }
        }
        let Some(note) = &mut self.note else { return false };
        note.left = note.left.saturating_sub(elapsed);
        if note.left.is_zero() {
            self.note = None;
        }
        self.note.is_none()
    }

    /// The note about how the run stands. It is shown once; the head line keeps showing the state.
    pub(crate) fn standing_word(&self) -> Option<String> {
        let leaves = self.keymap.leaves();
        match self.status() {
            // Its log has ended, and its process has not: `q` would still ask.
            Status::Ended(0) | Status::Stopped if !self.is_over() => None,
            Status::Ended(0) => Some(format!("the run has ended; {leaves}")),
            Status::Stopped => self.failure().map(|failure| format!("{failure}; {leaves}")),
            Status::Unknown => Some(match &self.child.host {
                Some(host) => {
                    let host = format::plain(host);
                    format!("it runs on {host}; its state is unknown here")
                }
                None => "the log has no end record, and its process is unknown".to_owned(),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use pp_telemetry::{End, Event};

    use super::*;
    use crate::monitor::state::ChildState;

    #[test]
    fn a_note_leaves_after_some_seconds_and_an_error_later() {
        let mut state = State::new(ChildState { pid: 1, ..ChildState::default() }, false);
        state.set_note("written".to_owned());
        assert!(!state.pass(Duration::from_millis(3900)));
        assert_eq!(state.note(), Some("written"));
        assert!(state.pass(Duration::from_millis(200)));
        assert_eq!(state.note(), None);
        assert!(!state.pass(Duration::from_secs(9)));
        state.set_error("cannot write".to_owned());
        assert!(!state.pass(Duration::from_secs(7)));
        assert!(state.note_is_error());
        assert!(state.pass(Duration::from_secs(1)));
        assert_eq!((state.note(), state.note_is_error()), (None, false));
    }

    #[test]
    fn the_end_of_a_run_is_told_once() {
        let mut state = State::new(ChildState { pid: 1, ..ChildState::default() }, false);
        state.pass(Duration::from_secs(1));
        assert_eq!(state.note(), None);
        state.observe(ChildState { pid: 1, code: Some(0), ..ChildState::default() }, 0.0, 0);
        assert!(state.pass(Duration::from_secs(1)));
        assert_eq!(state.note(), Some("the run has ended; q leaves"));
        assert!(state.pass(Duration::from_secs(9)));
        assert!(!state.pass(Duration::from_secs(9)));
        assert_eq!(state.note(), None);
    }

    /// Between the last line of its log and its exit, `q` still asks whether the run should go on.
    #[test]
    fn that_q_leaves_is_told_when_it_does() {
        let child = ChildState { pid: 1, ..ChildState::default() };
        let mut state = State::new(child.clone(), true);
        state.apply(&Event::Hello(Box::default()));
        state.apply(&Event::End(End { code: 0, reason: "finished".to_owned(), ..End::default() }));
        state.pass(Duration::from_secs(1));
        assert_eq!((state.status(), state.note()), (Status::Ended(0), None));
        state.observe(ChildState { code: Some(0), ..child }, 0.0, 0);
        state.pass(Duration::from_secs(1));
        assert_eq!(state.note(), Some("the run has ended; q leaves"));
    }
}
