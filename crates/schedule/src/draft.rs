//! A plan that may hold anything, until it has been validated.

use crate::action::Action;
use crate::op::Op;
use crate::topology::{Places, Topology};

/// A plan that has not been validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The name of the schedule, or of the file that it came from.
    pub name: String,
    /// Which rank holds which stage.
    pub topology: Topology,
    /// m, the micro-batches of one step.
    pub n_micro_batches: u32,
    /// The actions of each rank, in order.
    pub rows: Vec<Vec<Action>>,
}

impl Draft {
    pub(crate) fn places(&self) -> Places<'_> {
        Places::new(&self.topology, self.n_micro_batches)
    }

    pub(crate) fn ops(&self) -> impl Iterator<Item = Op> {
        self.rows.iter().flatten().flat_map(|action| action.ops())
    }
}
