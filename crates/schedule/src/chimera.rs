//! Chimera (Li and Hoefler 2021, arXiv:2107.06925): two pipelines in opposite directions over the
//! same ranks.
//!
//! ```text
//! p=4 m=4: micro-batches 0 and 1 go down, 2 and 3 up
//! rank 0  0F0|0F1|....3F2|3B2----|3F3|3B3----|....0B0----|........0B1----|
//! rank 1  ....1F0|2F2|1F1|2F3|....2B2----|1B0----|2B3----|1B1----|........
//! rank 2  ....1F2|2F0|1F3|2F1|....2B0----|1B2----|2B1----|1B3----|........
//! rank 3  0F2|0F3|....3F0|3B0----|3F1|3B1----|....0B2----|........0B3----|
//! ```
//! Each rank holds a stage of both copies of the model, so that the one pipeline fills while the
//! other drains. The price is a second copy of the weights, whose gradients have to be averaged: it
//! trains as two replicas with half the micro-batches each.

use crate::action::Action;
use crate::error::ScheduleError;
use crate::facts::{Chunks, Facts, Passes, Rows};
use crate::formula::{Formula, Idle, is_same};
use crate::ids::Rank;
use crate::row::Row;
use crate::sizes::Sizes;
use crate::topology::Topology;

pub(crate) static FACTS: Facts = Facts {
    name: "chimera",
    about: "two pipelines in opposite directions, two copies of the weights; even P and M",
    chunks: Chunks::One,
    passes: Passes::Whole,
    topology: both_ways,
    has_group: false,
    takes,
    rows: Rows::Each(|rank, layout| row(rank, layout.p, layout.m)),
    // (p−2)F for F = B where p divides m, with p/2+1 chunks at the ends to p in the middle.
    formula: Some(Formula {
        idle: |case| {
            let share = case.share;
            let is_equal = is_same(share.forward, share.input_grad + share.weight_grad);
            (is_equal && case.divides()).then(|| Idle::both((case.p() - 2.0) * share.forward))
        },
        peak: |case, rank| {
            let p = case.sizes.n_ranks;
            p / 2 + 1 + rank.min(p - 1 - rank)
        },
    }),
};

/// One copy of the model down the ranks, the other one up.
fn both_ways(n_ranks: u32, _: u32) -> Result<Topology, ScheduleError> {
    let down: Vec<Rank> = (0..n_ranks).map(Rank).collect();
    let up = down.iter().rev().copied().collect();
    Topology::from_pipes(&[down, up])
}

fn takes(sizes: &Sizes) -> Result<u32, ScheduleError> {
    let &Sizes { n_ranks: p, n_micro_batches: m, .. } = sizes;
    if !p.is_multiple_of(2) {
        let (why, remedy) = (", an odd number", even_near("p", p));
        return Err(ScheduleError::Ranks { schedule: FACTS.name, given: p, why, remedy });
    }
    if !m.is_multiple_of(2) {
        let why = ": half of them go each way";
        return Err(FACTS.refused_micro_batches(sizes, why, even_near("m", m)));
    }
    Ok(m)
}

/// The even numbers next to an odd one, as a remedy.
fn even_near(what: &str, odd: u32) -> String {
    let above = odd.saturating_add(1);
    match odd - 1 {
        0 => format!("use {what}={above}"),
        below => format!("use {what}={below} or {what}={above}"),
    }
}

/// The row of one rank, for an even number of ranks and of micro-batches.
///
/// Micro-batch j of the way down is at stage s in slot s+2j with its F, and in slot 2p−1−s+2j with
/// its B; the way up is its mirror image. A unit of p/2 micro-batches each way takes 2p slots, in
/// which no two ops of a rank meet; more units follow 2p slots apart.
pub(crate) fn row(rank: u32, n_ranks: u32, n_micro_batches: u32) -> Vec<Action> {
    let (p, m) = (u64::from(n_ranks), n_micro_batches);
    let (n_each_way, n_unit) = (m / 2, n_ranks / 2);
    let ways = [(rank, 0), (n_ranks - 1 - rank, n_each_way)];
    let mut row = Row::with_capacity(2 * m as usize);
    // The ops of a unit lie in 3p slots, so that those of two units mix, and no more.
    let mut ops: Vec<(u64, bool, u32, u32)> = Vec::new();
    for unit in 0..n_each_way.div_ceil(n_unit) {
        let first_slot = 2 * p * u64::from(unit);
        for (stage, first) in ways {
            for j in 0..n_unit.min(n_each_way - unit * n_unit) {
                let (s, offset) = (u64::from(stage), first_slot + 2 * u64::from(j));
                let micro_batch = first + unit * n_unit + j;
                ops.push((offset + s, true, stage, micro_batch));
                ops.push((offset + 2 * p - 1 - s, false, stage, micro_batch));
            }
        }
        ops.sort_unstable();
        let n_settled = ops.partition_point(|&(slot, ..)| slot < first_slot + 2 * p);
        write(&mut row, ops.drain(..n_settled));
    }
    write(&mut row, ops.into_iter());
    row.finish()
}

fn write(row: &mut Row, ops: impl Iterator<Item = (u64, bool, u32, u32)>) {
    for (_, is_forward, stage, micro_batch) in ops {
        if is_forward {
            row.forward(stage, micro_batch);
        } else {
            row.backward(stage, micro_batch);
        }
    }
}
