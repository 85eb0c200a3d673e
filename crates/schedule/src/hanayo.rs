//! Hanayo (Liu et al. 2023, arXiv:2308.15762): W waves, on 2W stages a rank that go to and fro over the ranks.
//!
//! ```text
//! p=2 m=2, one wave; stages 0 and 3 on rank 0, 1 and 2 on rank 1
//! rank 0  0F0|0F1|....3F0|3B0----|3F1|3B1----|....0B0----|0B1----|
//! rank 1  ....1F0|2F0|1F1|2F1|2B0----|1B0----|2B1----|1B1----|....    (as long as F and B allow)
//! ```
//! Each rank runs a backward as soon as it can, else the forward that has come furthest, with at most p micro-batches on their way,
//! so that no rank holds more than p activations. The order follows from playing this rule with B = 2F.

use crate::action::Action;
use crate::costs::Costs;
use crate::list::{First, Pick, Policy, Problem, schedule};
use crate::topology::Topology;

/// The rows of all ranks.
pub(crate) fn rows(topology: &Topology, n_micro_batches: u32) -> Vec<Vec<Action>> {
    let costs = Costs::uniform(topology.n_stages(), 1.0, 1.0, 1.0, 0.0);
    let problem = Problem {
        topology,
        n_micro_batches,
        costs: &costs,
        n_in_flight: topology.n_ranks(),
        splits: false,
    };
    let policy = Policy {
        first: First::Back,
        forward: Pick::Highest,
        back: Pick::Lowest,
        flushes: false,
        forward_delay: 1.0,
        weight_grad_delay: 1.0,
    };
    schedule(problem, policy).rows
}
