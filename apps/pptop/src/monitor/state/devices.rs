//! What the view of the devices shows.

use pp_telemetry::Model;

use super::super::input::Action;

/// What the view of the devices shows.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct DevicesState {}

impl DevicesState {
    /// Does what a key asks for.
    pub(crate) fn act(&mut self, _action: Action, _model: &Model) {}

    /// Closes the last thing that was opened, if any.
    pub(crate) fn back(&mut self) -> bool {
        false
    }
}
