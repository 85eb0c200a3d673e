//! What the view of the log shows.

use pp_telemetry::Model;

use super::super::input::Action;

/// What the view of the log shows.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct LogState {
    filter: String,
}

impl LogState {
    /// Does what a key asks for.
    pub(crate) fn act(&mut self, _action: Action, _model: &Model) {}

    /// Shows only what contains a text.
    pub(crate) fn set_filter(&mut self, filter: String) {
        self.filter = filter;
    }

    /// Closes the last thing that was opened, if any.
    pub(crate) fn back(&mut self) -> bool {
        !std::mem::take(&mut self.filter).is_empty()
    }
}
