//! What the view of the loss shows.

use super::super::input::Action;

/// What the view of the loss shows.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct LossState {}

impl LossState {
    /// Does what a key asks for.
    pub(crate) fn act(&mut self, _action: Action) {}
}
