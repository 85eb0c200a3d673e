//! Keys: one table from which the handler, the help, the bottom line and the names of the
//! configuration are made.

mod keymap;
mod table;

pub use keymap::Keymap;
pub(crate) use table::Where;
pub use table::action_names;

use crate::monitor::screen::{Choice, View};

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Leave.
    Quit,
    /// Ask how to end the run.
    Stop,
    /// Show or hide the keys.
    Help,
    /// Close what lies over the screen, or go back to the overview.
    Back,
    /// Choose an answer of a question.
    Choose(Choice),
    /// Choose another answer: one of the next, or one before.
    Answer(isize),
    /// Type a character into a prompt.
    Type(char),
    /// Take back the last character of a prompt.
    Erase,
    /// Do what a prompt says, or what is chosen of a question.
    Accept,
    /// Show another view.
    Show(View),
    /// Choose another panel: the next, or the one before.
    Panel(i8),
    /// Show more of what is chosen.
    Enter,
    /// Show the chosen panel alone.
    Full,
    /// Let the screen stand still, or go on.
    Freeze,
    /// Show another recorded step.
    StepBy(i64),
    /// Show the newest recorded step.
    NewestStep,
    /// Ask for a step to go to.
    GoTo,
    /// Ask for a text to look for.
    Filter,
    /// Show less of the step, larger.
    ZoomIn,
    /// Show more of the step.
    ZoomOut,
    /// Show the whole step.
    ZoomFit,
    /// Move along the step, or the cursor on it.
    Pan(f64),
    /// Choose another rank or line.
    Scroll(isize),
    /// The same by a screen.
    Page(isize),
    /// To the first or to the last.
    Edge {
        /// Whether the last is meant.
        last: bool,
    },
    /// How the timeline shows its step: measured, planned under it, laid over others.
    Mode,
    /// Write a trace of what the timeline shows.
    ExportTrace,
    /// Sort the devices by another column.
    Sort,
    /// Another number in the chart.
    Metric,
    /// A logarithmic axis, or not.
    LogScale,
    /// Another part of the run in the chart.
    Range,
    /// What the numbers mean.
    Definition,
    /// Warnings alone, or everything.
    Warnings,
    /// Write the screen into a file.
    Snapshot,
    /// Another watched run.
    Run(i8),
    /// Lay another of the runs over the one that is shown.
    Compare,
    /// Slower or faster.
    Speed(i8),
    /// Begin again at the end of a replay, or not.
    Loop,
    /// Draw everything anew.
    Redraw,
    /// Give the terminal back to the shell for a while.
    Suspend,
}

impl Action {
    /// Whether a key that is held down does it again and again.
    pub(crate) fn may_repeat(self) -> bool {
        matches!(
            self,
            Self::StepBy(_)
                | Self::ZoomIn
                | Self::ZoomOut
                | Self::Pan(_)
                | Self::Scroll(_)
                | Self::Page(_)
                | Self::Panel(_)
                | Self::Run(_)
                | Self::Speed(_)
        )
    }

    /// Whether it writes a file or leaves: a letter of pasted text must not do so.
    pub(crate) fn has_consequences(self) -> bool {
        matches!(self, Self::Quit | Self::Snapshot | Self::ExportTrace)
    }
}
