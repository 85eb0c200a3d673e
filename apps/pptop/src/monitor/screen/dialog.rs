//! Questions that are asked before something happens to a run.
//!
//! A key that was meant for something else, or pasted text, must not end a run. So a question opens
//! on Cancel, letters and arrows only choose, only Enter acts, and nothing at all is taken in its
//! first moments.

use std::time::Duration;

/// For so long a question takes no key: what was typed before it was seen was not meant for it.
pub(crate) const DEAF: Duration = Duration::from_millis(300);

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// Leaving a run that was started here.
    Quit,
    /// Ending the run; why that cannot be done from here, if it cannot.
    Stop(Option<String>),
    /// Removing a recorded run, by its name, with what becomes of it.
    Delete(String),
}

/// A question that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dialog {
    question: Question,
    /// Which answer is chosen.
    chosen: usize,
    /// When it was opened, by the clock that is handed in.
    opened: Duration,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Leave, and let the run go on.
    Detach,
    /// End the run after its step, and leave then.
    StopAndLeave,
    /// End the run after its step.
    Stop,
    /// Write the weights down after this step, and end the run then.
    CheckpointAndStop,
    /// Write the weights down after this step.
    Checkpoint,
    /// End the run at once.
    Kill,
    /// Remove a recorded run.
    Delete,
    /// Do nothing.
    Cancel,
}

/// An answer with its key and what it means.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// The key that chooses it.
    pub(crate) key: char,
    /// What it does.
    pub(crate) choice: Choice,
    /// What the screen says about it.
    pub(crate) text: &'static str,
}

const QUIT: &[Answer] = &[
    Answer { key: 'c', choice: Choice::Cancel, text: "cancel: stay here" },
    Answer { key: 'd', choice: Choice::Detach, text: "detach: leave, the run goes on" },
    Answer { key: 's', choice: Choice::StopAndLeave, text: "stop: end the run after this step" },
];

const STOP: &[Answer] = &[
    Answer { key: 'c', choice: Choice::Cancel, text: "cancel: let it run" },
    Answer { key: 's', choice: Choice::Stop, text: "stop: end the run after this step" },
    Answer {
        key: 'w',
        choice: Choice::CheckpointAndStop,
        text: "write a checkpoint after this step, then end",
    },
    Answer { key: 'p', choice: Choice::Checkpoint, text: "checkpoint after this step, and go on" },
    // Not `k`, which goes up here as everywhere.
    Answer { key: 'a', choice: Choice::Kill, text: "at once: kill it, this step is lost" },
];

const OUT_OF_REACH: &[Answer] =
    &[Answer { key: 'c', choice: Choice::Cancel, text: "close: nothing is sent" }];

const DELETE: &[Answer] = &[
    Answer { key: 'c', choice: Choice::Cancel, text: "cancel: keep it" },
    Answer { key: 'd', choice: Choice::Delete, text: "delete the run and its files" },
];

impl Dialog {
    /// Asks at a moment of the clock.
    pub(crate) fn new(question: Question, now: Duration) -> Self {
        let mut dialog = Self { question, chosen: 0, opened: now };
        dialog.choose(Choice::Cancel);
        dialog
    }

    /// Whether it takes keys yet.
    pub(crate) fn listens(&self, now: Duration) -> bool {
        now.saturating_sub(self.opened) >= DEAF
    }

    /// The question.
    pub(crate) fn title(&self) -> &'static str {
        match self.question {
            Question::Quit => "leave the run?",
            Question::Stop(_) => "end the run?",
            Question::Delete(_) => "delete the run?",
        }
    }

    /// The text above the answers.
    pub(crate) fn text(&self) -> Option<String> {
        match &self.question {
            Question::Quit | Question::Stop(None) => None,
            Question::Stop(Some(why)) => Some(format!("This cannot be done from here: {why}.")),
            Question::Delete(what) => Some(what.clone()),
        }
    }

    /// The answers.
    pub(crate) fn answers(&self) -> &'static [Answer] {
        match self.question {
            Question::Quit => QUIT,
            Question::Stop(None) => STOP,
            Question::Stop(Some(_)) => OUT_OF_REACH,
            Question::Delete(_) => DELETE,
        }
    }

    /// Which answer is chosen, by its place.
    pub(crate) fn chosen_at(&self) -> usize {
        self.chosen
    }

    /// The answer that is chosen.
    pub(crate) fn chosen(&self) -> Choice {
        self.answers().get(self.chosen).map_or(Choice::Cancel, |answer| answer.choice)
    }

    /// Chooses an answer, if it is one.
    pub(crate) fn choose(&mut self, choice: Choice) {
        if let Some(at) = self.answers().iter().position(|answer| answer.choice == choice) {
            self.chosen = at;
        }
    }

    /// Chooses the answer at a place, if there is one.
    pub(crate) fn choose_at(&mut self, at: usize) {
        if at < self.answers().len() {
            self.chosen = at;
        }
    }

    /// Chooses another answer: one of the next, round and round.
    pub(crate) fn move_by(&mut self, by: isize) {
        let n_answers = self.answers().len() as isize;
        self.chosen = (self.chosen as isize + by).rem_euclid(n_answers.max(1)) as usize;
    }

    /// The answer that a key chooses.
    pub(crate) fn choice_of(&self, key: char) -> Option<Choice> {
        let is_it = |answer: &&Answer| answer.key == key.to_ascii_lowercase();
        self.answers().iter().find(is_it).map(|answer| answer.choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_opens_on_cancel_and_is_deaf_at_first() {
        for question in [
            Question::Quit,
            Question::Stop(None),
            Question::Stop(Some("why".to_owned())),
            Question::Delete("it".to_owned()),
        ] {
            let opened = Duration::from_secs(7);
            let mut dialog = Dialog::new(question, opened);
            assert_eq!(dialog.chosen(), Choice::Cancel);
            assert!(!dialog.listens(opened) && !dialog.listens(opened + DEAF / 2));
            assert!(dialog.listens(opened + DEAF));
            // Round and round, and no letter stands twice.
            let n_answers = dialog.answers().len();
            (0..n_answers).for_each(|_| dialog.move_by(1));
            assert_eq!(dialog.chosen(), Choice::Cancel);
            for (at, answer) in dialog.answers().iter().enumerate() {
                assert!(!matches!(answer.key, 'j' | 'k'), "{} moves", answer.key);
                assert_eq!(dialog.choice_of(answer.key), Some(answer.choice));
                dialog.choose_at(at);
                assert_eq!(dialog.chosen(), answer.choice);
            }
            dialog.choose_at(n_answers);
            dialog.move_by(1);
            assert_eq!(dialog.chosen(), Choice::Cancel);
        }
    }
}
