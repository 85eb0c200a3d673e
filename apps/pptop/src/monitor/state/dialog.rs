//! Questions that are asked before something happens to the run.

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialog {
    /// Leaving a run that was started here.
    Quit,
    /// Ending the run.
    Stop,
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
    /// Do nothing.
    Cancel,
}

/// An answer with its key and what it means.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// The key.
    pub(crate) key: char,
    /// What it does.
    pub(crate) choice: Choice,
    /// What the screen says about it.
    pub(crate) text: &'static str,
}

const QUIT: &[Answer] = &[
    Answer { key: 'd', choice: Choice::Detach, text: "detach: leave, the run goes on" },
    Answer { key: 's', choice: Choice::StopAndLeave, text: "stop: end the run after this step" },
    Answer { key: 'c', choice: Choice::Cancel, text: "cancel: stay here" },
];

const STOP: &[Answer] = &[
    Answer { key: 's', choice: Choice::Stop, text: "stop: end the run after this step" },
    Answer {
        key: 'w',
        choice: Choice::CheckpointAndStop,
        text: "write a checkpoint after this step, then end",
    },
    Answer { key: 'p', choice: Choice::Checkpoint, text: "checkpoint after this step, and go on" },
    Answer { key: 'k', choice: Choice::Kill, text: "kill: end it at once, this step is lost" },
    Answer { key: 'c', choice: Choice::Cancel, text: "cancel: let it run" },
];

impl Dialog {
    /// The question.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Quit => "leave the run?",
            Self::Stop => "end the run?",
        }
    }

    /// The answers.
    pub(crate) fn answers(self) -> &'static [Answer] {
        match self {
            Self::Quit => QUIT,
            Self::Stop => STOP,
        }
    }

    /// The answer that a key stands for.
    pub(crate) fn choice_of(self, key: char) -> Option<Choice> {
        self.answers()
            .iter()
            .find(|answer| answer.key == key.to_ascii_lowercase())
            .map(|answer| answer.choice)
    }
}
