//! A plan for stages that are not equal: any costs, any latencies, any memory limits, on one stage a rank or several.
//!
//! Where a rank holds several stages both placements are tried, round and round and to and fro. On each, several thousand policies of list
//! scheduling (`list.rs`) compete with every fixed schedule that fits, and the shortest step wins. How far it can be from the best
//! that there is says [`crate::Simulation::lower_bound`], which is proven for all orders on the same ranks.

use crate::costs::Costs;
use crate::error::ScheduleError;
use crate::list::Length;
use crate::plan::ValidPlan;
use crate::schedule_name::{CostsOf, ScheduleName, Sizes};
use crate::search::{Aim, Candidate, best_of, better, fixed, listed, renamed, with_limits};
use crate::topology::{Placement, Topology};

/// The plan for these sizes, at the costs that a placement has.
pub(crate) fn plan(sizes: &Sizes, costs_of: &CostsOf<'_>) -> Result<ValidPlan, ScheduleError> {
    let &Sizes { n_ranks, n_virtual_stages, .. } = sizes;
    let (mut best, mut refused) = (None, None);
    // With one stage a rank both are the same.
    let placements = if n_virtual_stages > 1 && n_ranks > 1 {
        &[Placement::V, Placement::Loop][..]
    } else {
        &[Placement::Loop]
    };
    for &placement in placements {
        let topology = Topology::new(n_ranks, n_virtual_stages, placement)?;
        match on(sizes, &topology, costs_of(&topology)?) {
            Ok(found) => best = better(best, Some(found), &score),
            Err(no_room @ ScheduleError::MemoryLimit { .. }) => refused = refused.or(Some(no_room)),
            Err(other) => return Err(other),
        }
    }
    let found = best.ok_or(refused.unwrap_or(ScheduleError::Zero { what: "placements" }))?;
    renamed(found.plan, ScheduleName::Auto)
}

/// The best plan on one placement.
fn on(sizes: &Sizes, topology: &Topology, costs: Costs) -> Result<Candidate, ScheduleError> {
    let costs = with_limits(topology, costs);
    let is_fixed = |name: &ScheduleName| !name.is_synthesised() && name.trains();
    let names: Vec<ScheduleName> = ScheduleName::ALL.into_iter().filter(is_fixed).collect();
    let m = sizes.n_micro_batches;
    let found = listed(ScheduleName::Auto, topology, m, &costs, &score, Aim::Makespan);
    best_of(found, fixed(&names, sizes, topology, &costs, &score)?, &score)
}

fn score(length: Length) -> [f64; 2] {
    [length.makespan, length.longest_span]
}
