//! The cut of a model into stages, and its refusal.

use pp_partition::{Cut, LayerStack, Partition, Profile};

use crate::error::TrainError;

/// Cuts the layers into stages.
pub(crate) fn solve(
    cut: &Cut,
    stack: &LayerStack,
    stages: usize,
    profile: Option<&Profile>,
) -> Result<Partition, TrainError> {
    let layers = stack.len();
    let refused = |source| TrainError::Cut { source: Box::new(source), stages, layers };
    cut.solve(stack, stages, profile).map_err(refused)
}
