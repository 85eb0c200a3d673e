//! Which part of the run one looks at.

/// What fills the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Something of everything.
    Overview,
    /// One step, operation by operation.
    Timeline,
    /// The devices and the ranks on them.
    Devices,
    /// The loss and other numbers of the steps.
    Loss,
    /// Where the time of the ranks goes.
    Bubble,
    /// What the run has said.
    Log,
}

impl View {
    /// All of them, in the order of their keys.
    pub const ALL: [Self; 6] =
        [Self::Overview, Self::Timeline, Self::Devices, Self::Loss, Self::Bubble, Self::Log];

    /// Its name on the screen.
    pub fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Timeline => "Timeline",
            Self::Devices => "Devices",
            Self::Loss => "Loss",
            Self::Bubble => "Bubble",
            Self::Log => "Log",
        }
    }
}

/// Something on the screen that a click can mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The name of a view.
    View(View),
    /// An answer of the question that is open, by its place.
    Answer(usize),
    /// A rank, by its place in [`Model::ranks`](pp_telemetry::Model::ranks).
    Rank(usize),
    /// An operation of the step that the timeline shows.
    Op {
        /// Its rank, by its place in the model.
        rank: usize,
        /// Its place among the operations of the rank.
        at: usize,
    },
}

/// A panel of the overview.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Panel {
    Devices,
    Timeline,
    Loss,
    Pipeline,
    Messages,
}

impl Panel {
    const ALL: [Self; 5] =
        [Self::Devices, Self::Timeline, Self::Loss, Self::Pipeline, Self::Messages];

    /// The view that shows all of it.
    pub(crate) fn view(self) -> View {
        match self {
            Self::Devices => View::Devices,
            Self::Timeline => View::Timeline,
            Self::Loss => View::Loss,
            Self::Pipeline => View::Bubble,
            Self::Messages => View::Log,
        }
    }

    /// The next one, or the one before.
    pub(crate) fn neighbour(self, by: i8) -> Self {
        let at = Self::ALL.iter().position(|panel| *panel == self).unwrap_or(0);
        let n_panels = Self::ALL.len();
        let to = if by < 0 { at + n_panels - 1 } else { at + 1 };
        Self::ALL[to % n_panels]
    }
}

/// What a typed line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PromptKind {
    /// The number of a step.
    Step,
    /// A text that the log is searched for.
    Filter,
}

/// A line that is being typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) kind: PromptKind,
    pub(crate) text: String,
}

/// Characters of a typed line at most.
const PROMPT_MAX: usize = 80;

impl Prompt {
    pub(crate) fn new(kind: PromptKind) -> Self {
        Self { kind, text: String::new() }
    }

    pub(crate) fn push(&mut self, letter: char) {
        if self.text.chars().count() < PROMPT_MAX && !pp_schedule::is_obeyed(letter) {
            self.text.push(letter);
        }
    }

    /// Takes the first line of pasted text that is not empty.
    pub(crate) fn paste(&mut self, text: &str) {
        let line = text.split(['\n', '\r']).map(str::trim).find(|line| !line.is_empty());
        line.unwrap_or_default().chars().for_each(|letter| self.push(letter));
    }

    pub(crate) fn pop(&mut self) {
        self.text.pop();
    }

    /// What stands before it.
    pub(crate) fn label(&self) -> &'static str {
        match self.kind {
            PromptKind::Step => "go to step :",
            PromptKind::Filter => "search /",
        }
    }
}
