//! The cut of a model into stages, and its refusal.

use pp_partition::{Cut, LayerStack, Partition, Profile, Ranks};
use pp_schedule::Topology;

use crate::error::TrainError;

/// Cuts the layers into stages, for ranks or for a number of stages.
pub(crate) fn solve(
    cut: &Cut,
    stack: &LayerStack,
    ranks: impl Into<Ranks>,
    profile: Option<&Profile>,
) -> Result<Partition, TrainError> {
    let ranks = ranks.into();
    let (stages, layers) = (ranks.n_stages(), stack.len());
    let refused = |source| TrainError::Cut { source: Box::new(source), stages, layers };
    cut.solve(stack, ranks, profile).map_err(refused)
}

/// The ranks of a plan, which has so many micro-batches.
pub(crate) fn ranks_of(topology: &Topology, micro_batches: u32) -> Ranks {
    let copy = |pipe| topology.ranks(pipe).iter().map(|rank| rank.idx()).collect();
    Ranks::new(topology.pipes().map(copy).collect(), micro_batches as usize)
}
