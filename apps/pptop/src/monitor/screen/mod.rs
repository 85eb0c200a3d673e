//! The views that can fill the screen and the overlays above them: types that keys, state and
//! drawing share.

mod dialog;
mod prompt;

pub use dialog::Choice;
pub(crate) use dialog::{Dialog, Question};
pub(crate) use prompt::{Prompt, PromptKind};

/// A view: it fills the screen.
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

/// An overlay above the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Overlay {
    /// The help, scrolled to this line.
    Help(usize),
    /// A question.
    Ask(Dialog),
    /// A line to be typed.
    Prompt(Prompt),
}
