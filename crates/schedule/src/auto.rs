//! A plan for stages that are not equal: any costs, any latencies, any memory limits, on one stage
//! a rank or several.
//!
//! Where a rank holds several stages both placements are tried, round and round and to and fro. On
//! each, several thousand policies of list scheduling (`list.rs`) compete with every fixed schedule
//! that fits, and the shortest step wins. How far it can be from the best that there is says
//! [`crate::Simulation::lower_bound`], which is proven for all orders on the same ranks.

use crate::costs::Costs;
use crate::error::ScheduleError;
use crate::facts::{Chunks, Facts, Passes, Rows, Wanted, any_size, round_and_round};
use crate::list::Length;
use crate::plan::ValidPlan;
use crate::search::{Aim, Candidate, best_of, better, fixed, listed, renamed, with_limits};
use crate::sizes::Sizes;
use crate::topology::{Placement, Topology};

pub(crate) static FACTS: Facts = Facts {
    name: "auto",
    about: "the fastest found for given times, under a memory limit",
    chunks: Chunks::Any,
    passes: Passes::Halves,
    topology: round_and_round,
    has_group: false,
    takes: any_size,
    rows: Rows::Searched(plan),
    formula: None,
};

/// The plan for these sizes, at the costs that a placement has.
fn plan(wanted: &Wanted<'_>) -> Result<ValidPlan, ScheduleError> {
    let &Sizes { n_ranks, n_virtual_stages, .. } = wanted.sizes;
    let (mut best, mut refused) = (None, None);
    // With one stage a rank both are the same.
    let placements = if n_virtual_stages > 1 && n_ranks > 1 {
        &[Placement::V, Placement::Loop][..]
    } else {
        &[Placement::Loop]
    };
    for &placement in placements {
        let topology = Topology::new(n_ranks, n_virtual_stages, placement)?;
        match on(wanted, &topology, (wanted.costs_of)(&topology)?) {
            Ok(found) => best = better(best, Some(found), &score),
            Err(no_room @ ScheduleError::MemoryLimit { .. }) => refused = refused.or(Some(no_room)),
            Err(other) => return Err(other),
        }
    }
    let found = best.ok_or(refused.unwrap_or(ScheduleError::Zero { what: "placements" }))?;
    renamed(found.plan, FACTS.name)
}

/// The best plan on one placement.
fn on(wanted: &Wanted<'_>, topology: &Topology, costs: Costs) -> Result<Candidate, ScheduleError> {
    let costs = with_limits(topology, costs);
    let m = wanted.sizes.n_micro_batches;
    let found = listed(FACTS.name, topology, m, &costs, &score, Aim::Makespan);
    best_of(found, fixed(wanted.fixed, wanted.sizes, topology, &costs, &score)?, &score)
}

fn score(length: Length) -> [f64; 2] {
    [length.makespan, length.longest_span]
}
