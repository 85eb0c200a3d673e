//! The sizes of a plan.

use serde::{Deserialize, Serialize};

/// The sizes of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sizes {
    /// p, the ranks along the pipeline.
    pub n_ranks: u32,
    /// m, the micro-batches of one step.
    pub n_micro_batches: u32,
    /// v, the stages of each rank.
    pub n_virtual_stages: u32,
    /// How many micro-batches go through one chunk before the next chunk has its turn; only for
    /// interleaved schedules, and `None` for the rule's own choice.
    pub interleave_group: Option<u32>,
}
