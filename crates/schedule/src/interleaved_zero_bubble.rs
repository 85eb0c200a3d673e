//! Interleaved zero bubble: the order of interleaved 1F1B with the backward in two halves and fewer
//! forwards ahead (`PyTorch`'s `ScheduleInterleavedZeroBubble`, after Qi et al. 2024,
//! arXiv:2401.10241).
//!
//! Warm-up is p−1−r instead of twice that beyond the first v−1 groups, because I passes on as soon
//! as F does. Each rank's W are r backwards late, so that the rank before gets its gradients first;
//! every rank holds v·p chunks.

use std::collections::VecDeque;

use crate::action::Action;
use crate::error::ScheduleError;
use crate::facts::{Chunks, Facts, Passes, Rows, round_and_round};
use crate::formula::{Formula, Idle};
use crate::interleaved::{near_rounds, rounds, rounds_accept, table};
use crate::row::Row;
use crate::sizes::Sizes;

pub(crate) static FACTS: Facts = Facts {
    name: "interleaved-zb",
    about: "interleaved-1f1b with backwards in two halves",
    chunks: Chunks::Any,
    passes: Passes::Halves,
    topology: round_and_round,
    has_group: false,
    takes,
    rows: Rows::Each(|rank, layout| row(rank, layout.p, layout.m, layout.v, layout.group)),
    // (p−1)(F+I−W)/v for W ≤ F and W ≤ I where p divides m, with min(mv, pv) chunks.
    formula: Some(Formula {
        idle: |case| {
            let holds = case.splits_well() && case.divides();
            holds.then(|| Idle::both((case.p() - 1.0) * case.less_weight_grad() / case.v()))
        },
        peak: |case, _| {
            let held = u64::from(case.sizes.n_virtual_stages) * u64::from(case.sizes.n_ranks);
            case.n_pairs().min(held) as u32
        },
    }),
};

fn takes(sizes: &Sizes) -> Result<u32, ScheduleError> {
    let &Sizes { n_ranks: p, n_micro_batches: m, .. } = sizes;
    if rounds_accept(p, m) {
        return Ok(m / rounds(p, m));
    }
    let why = ": it runs max(1, m/p) rounds of equal length";
    Err(FACTS.refused_micro_batches(sizes, why, format!("use {}", near_rounds(p, m))))
}

/// The row of one rank, with groups of `group` micro-batches.
pub(crate) fn row(
    rank: u32,
    n_ranks: u32,
    n_micro_batches: u32,
    n_virtual_stages: u32,
    group: u32,
) -> Vec<Action> {
    let v = n_virtual_stages;
    let n_all = n_micro_batches as usize * v as usize;
    let n_warm_up = n_all.min((v as usize - 1) * group as usize + (n_ranks - 1 - rank) as usize);
    let mut row = Row::with_capacity(3 * n_all);
    let mut to_do = table(n_micro_batches, v, group);
    let stage = |chunk| chunk * n_ranks + rank;
    to_do.by_ref().take(n_warm_up).for_each(|(chunk, j)| row.forward(stage(chunk), j));
    let mut late = VecDeque::with_capacity(n_all.min(rank as usize) + 1);
    for (undone, k) in table(n_micro_batches, v, group) {
        if let Some((chunk, j)) = to_do.next() {
            row.forward(stage(chunk), j);
        }
        let stage = stage(v - 1 - undone);
        row.input_grad(stage, k);
        late.push_back((stage, k));
        if late.len() > rank as usize
            && let Some((stage, k)) = late.pop_front()
        {
            row.weight_grad(stage, k);
        }
    }
    for (stage, k) in late {
        row.weight_grad(stage, k);
    }
    row.finish()
}
