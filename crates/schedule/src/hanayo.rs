//! Hanayo (Liu et al. 2023, arXiv:2308.15762): W waves, on 2W stages a rank that go to and fro over
//! the ranks.
//!
//! ```text
//! p=2 m=2, one wave; stages 0 and 3 on rank 0, 1 and 2 on rank 1
//! rank 0  0F0|0F1|....3F0|3B0----|3F1|3B1----|....0B0----|........0B1----|
//! rank 1  ....1F0|2F0|1F1|2F1|....2B0----|1B0----|2B1----|1B1----|........
//! ```
//! Each rank runs the forward that has come furthest and the backward that has come furthest back,
//! within a memory of p activations. The order follows from playing this with B = 2F, backwards
//! first, in turn with forwards (as 1F1B does), or behind them: with few micro-batches the first is
//! the fastest, with many the second. The fastest is kept.

use crate::action::Action;
use crate::costs::Costs;
use crate::facts::{Chunks, Facts, Passes, Rows, any_size, to_and_fro};
use crate::list::{First, Pick, Policy, Problem, schedule};
use crate::topology::Topology;

pub(crate) static FACTS: Facts = Facts {
    name: "hanayo",
    about: "waves to and fro, two stages a rank for each",
    chunks: Chunks::Even,
    passes: Passes::Whole,
    topology: to_and_fro,
    has_group: false,
    takes: any_size,
    rows: Rows::All(|layout| rows(layout.topology, layout.m)),
    formula: None,
};

/// The rows of all ranks.
pub(crate) fn rows(topology: &Topology, n_micro_batches: u32) -> Vec<Vec<Action>> {
    let n_chunks = f64::from(topology.n_virtual_stages() * topology.n_ranks());
    let costs = Costs {
        memory_limit: Some(vec![n_chunks; topology.n_ranks() as usize]),
        ..Costs::uniform(topology.n_stages(), 1.0, 1.0, 1.0, 0.0)
    };
    let n_in_flight = u32::MAX;
    let problem = Problem { topology, n_micro_batches, costs: &costs, n_in_flight, splits: false };
    let orders = [First::Back, First::InTurn, First::Forward];
    let played = orders.iter().flat_map(|&first| {
        [Pick::Lowest, Pick::Highest].map(|back| {
            let policy = Policy {
                first,
                forward: Pick::Highest,
                back,
                flushes: false,
                forward_delay: 1.0,
                weight_grad_delay: 1.0,
            };
            schedule(problem, policy)
        })
    });
    let fastest = played.min_by(|a, b| a.length.makespan.total_cmp(&b.length.makespan));
    fastest.map_or_else(Vec::new, |fastest| fastest.rows)
}
