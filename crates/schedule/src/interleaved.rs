//! Interleaved 1F1B (Narayanan et al. 2021, arXiv:2104.04473): v chunks on each rank, so that the
//! pipeline fills in steps of 1/v.
//!
//! ```text
//! p=2 m=2 v=2; stages 0 and 2 on rank 0, 1 and 3 on rank 1
//! rank 0  0F0,0F1,2F0,2F1,2B0,2B1,0B0,0B1
//! rank 1  1F0,1F1,3F0,3B0,3F1,3B1,1B0,1B1
//! ```
//! Micro-batches go in groups of N: a whole group passes through one chunk, then through the next.
//! Two rules choose N. Megatron's table takes N from p to m with m mod N zero or at least p;
//! `PyTorch` makes max(1, m/p) rounds of equal length. With N = m/rounds the second gives rows of
//! the very same form, so that one generator serves both.

use crate::action::Action;
use crate::error::ScheduleError;
use crate::facts::{Chunks, Facts, Passes, Rows, round_and_round};
use crate::formula::{Formula, Idle};
use crate::row::Row;

pub(crate) static FACTS: Facts = Facts {
    name: "interleaved-1f1b",
    about: "1f1b over several stages a rank: less bubble, more messages",
    chunks: Chunks::Any,
    passes: Passes::Whole,
    topology: round_and_round,
    has_group: true,
    takes: |sizes| group(sizes.n_ranks, sizes.n_micro_batches, sizes.interleave_group),
    rows: Rows::Each(|rank, layout| row(rank, layout.p, layout.m, layout.v, layout.group)),
    // (p−1)(F+B)/v for groups of N ≥ p, with min(mv, (v−1)N+2(p−1−r)+1) chunks; one group of m < p
    // takes longer.
    formula: Some(Formula {
        idle: |case| Some(Idle::both(case.looped(case.whole()))),
        peak: |case, rank| {
            let behind = 2 * u64::from(case.sizes.n_ranks - 1 - rank) + 1;
            let ahead = u64::from(case.sizes.n_virtual_stages - 1) * u64::from(case.group);
            case.n_pairs().min(ahead + behind) as u32
        },
    }),
};

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
    let n_warm_up =
        n_all.min((v as usize - 1) * group as usize + 2 * (n_ranks - 1 - rank) as usize);
    let mut row = Row::with_capacity(2 * n_all);
    let (mut to_do, mut to_undo) =
        (table(n_micro_batches, v, group), table(n_micro_batches, v, group));
    let stage = |chunk| chunk * n_ranks + rank;
    to_do.by_ref().take(n_warm_up).for_each(|(chunk, j)| row.forward(stage(chunk), j));
    for ((chunk, j), (undone, k)) in to_do.zip(to_undo.by_ref().take(n_all - n_warm_up)) {
        row.forward(stage(chunk), j);
        row.backward(stage(v - 1 - undone), k);
    }
    to_undo.for_each(|(undone, k)| row.backward(stage(v - 1 - undone), k));
    row.finish()
}

/// The order of (chunk, micro-batch) on every rank: group by group, within a group chunk by chunk.
pub(crate) fn table(
    n_micro_batches: u32,
    n_virtual_stages: u32,
    group: u32,
) -> impl Iterator<Item = (u32, u32)> {
    (0..n_micro_batches).step_by(group as usize).flat_map(move |first| {
        let last = n_micro_batches.min(first.saturating_add(group));
        (0..n_virtual_stages).flat_map(move |chunk| (first..last).map(move |j| (chunk, j)))
    })
}

/// The group size: the one that was asked for, else p where Megatron's table accepts it, else that
/// of `PyTorch`'s rounds.
pub(crate) fn group(
    n_ranks: u32,
    n_micro_batches: u32,
    asked: Option<u32>,
) -> Result<u32, ScheduleError> {
    if let Some(group) = asked {
        if megatron_accepts(n_ranks, n_micro_batches, group) {
            return Ok(group);
        }
        let remedy = match smallest_group(n_ranks, n_micro_batches) {
            Some(group) => format!("use N={group}, for example"),
            None => {
                format!("leave N out, because no N fits m={n_micro_batches} below p={n_ranks}")
            }
        };
        return Err(ScheduleError::InterleaveGroup { group, n_ranks, n_micro_batches, remedy });
    }
    if megatron_accepts(n_ranks, n_micro_batches, n_ranks) {
        return Ok(n_ranks);
    }
    if rounds_accept(n_ranks, n_micro_batches) {
        return Ok(n_micro_batches / rounds(n_ranks, n_micro_batches));
    }
    let near = near_rounds(n_ranks, n_micro_batches);
    let remedy = match smallest_group(n_ranks, n_micro_batches) {
        Some(group) => format!("use {near}, or an interleave group of {group}"),
        None => format!("use {near}"),
    };
    Err(ScheduleError::InterleavedSize {
        n_ranks,
        n_micro_batches,
        rounds: rounds(n_ranks, n_micro_batches),
        remedy,
    })
}

/// The sizes nearest to one that the rounds do not take, as text.
pub(crate) fn near_rounds(n_ranks: u32, n_micro_batches: u32) -> String {
    let below = (1..n_micro_batches).rev().find(|&m| rounds_accept(n_ranks, m));
    let above = (n_micro_batches..u32::MAX).skip(1).find(|&m| rounds_accept(n_ranks, m));
    let near: Vec<String> = below.into_iter().chain(above).map(|m| format!("m={m}")).collect();
    near.join(" or ")
}

fn megatron_accepts(n_ranks: u32, n_micro_batches: u32, group: u32) -> bool {
    (n_ranks..=n_micro_batches).contains(&group)
        && (n_micro_batches.is_multiple_of(group) || n_micro_batches % group >= n_ranks)
}

fn smallest_group(n_ranks: u32, n_micro_batches: u32) -> Option<u32> {
    (n_ranks..=n_micro_batches).find(|&group| megatron_accepts(n_ranks, n_micro_batches, group))
}

pub(crate) fn rounds(n_ranks: u32, n_micro_batches: u32) -> u32 {
    (n_micro_batches / n_ranks).max(1)
}

/// Every multiple of p passes as well: it makes m/p rounds of p.
pub(crate) fn rounds_accept(n_ranks: u32, n_micro_batches: u32) -> bool {
    n_micro_batches.is_multiple_of(rounds(n_ranks, n_micro_batches))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_follows_the_rules_in_order() {
        assert_eq!(group(4, 8, None), Ok(4));
        assert_eq!(group(4, 10, None), Ok(5), "two rounds of PyTorch's");
        assert_eq!(group(4, 3, None), Ok(3), "fewer micro-batches than ranks make one round");
        assert_eq!(group(4, 9, Some(5)), Ok(5), "the rest of 4 is as large as p");
    }

    #[test]
    fn a_size_that_neither_rule_takes_names_both_and_what_is_near() {
        let refused = group(4, 9, None).unwrap_err().to_string();
        for part in ["Megatron", "PyTorch", "p=4", "m=9", "m=8", "m=10", "group of 5"] {
            assert!(refused.contains(part), "{part} is not in: {refused}");
        }
        let refused = group(4, 9, Some(3)).unwrap_err().to_string();
        assert!(refused.contains("N=3") && refused.contains("use N=5"), "{refused}");
        let refused = group(4, 3, Some(4)).unwrap_err().to_string();
        assert!(refused.contains("leave N out"), "{refused}");
    }
}
