//! Zero bubble from measured times (the task of Qi et al. 2024, arXiv:2401.10241, section 3.1),
//! under a memory limit.
//!
//! Their heuristics warm up with as many F as memory allows until the first backward arrives, then
//! run one F and one I a round, and fill gaps with W; three switches say how greedily. Ours plays
//! the same step with each of some hundred policies (`list.rs`), and takes, of the plans that take
//! no longer than the best fixed schedule that fits, the one with the least span: the longest time
//! from a rank's first start to its last end, which is what counts when one step follows the other
//! without waiting for all ranks.

use crate::error::ScheduleError;
use crate::facts::{Chunks, Facts, Passes, Rows, Wanted, any_size, round_and_round};
use crate::list::Length;
use crate::plan::ValidPlan;
use crate::search::{Aim, best_of, fixed, listed, renamed, with_limits};
use crate::{gpipe, naive, one_f_one_b, zero_bubble};

pub(crate) static FACTS: Facts = Facts {
    name: "zb-auto",
    about: "zero bubble for given times, under a memory limit",
    chunks: Chunks::One,
    passes: Passes::Halves,
    topology: round_and_round,
    has_group: false,
    takes: any_size,
    rows: Rows::Searched(plan),
    formula: None,
};

/// The fixed schedules with one stage a rank.
static FIXED: [&Facts; 5] =
    [&zero_bubble::H2, &zero_bubble::H1, &one_f_one_b::FACTS, &gpipe::FACTS, &naive::FACTS];

/// The plan, on one stage a rank.
fn plan(wanted: &Wanted<'_>) -> Result<ValidPlan, ScheduleError> {
    let &Wanted { sizes, topology, costs_of, .. } = wanted;
    let costs = with_limits(topology, costs_of(topology)?);
    let shortest = |length: Length| [length.makespan, 0.0];
    let fastest = fixed(&FIXED, sizes, topology, &costs, &shortest)?;
    let bar = fastest.map_or(f64::INFINITY, |fastest| fastest.length.makespan) * (1.0 + 1e-9);
    let score = |length: Length| {
        [if length.makespan > bar { length.makespan } else { 0.0 }, length.longest_span]
    };
    let m = sizes.n_micro_batches;
    let found = listed(FACTS.name, topology, m, &costs, &score, Aim::Score);
    let best = best_of(found, fixed(&FIXED, sizes, topology, &costs, &score)?, &score)?;
    renamed(best.plan, FACTS.name)
}
