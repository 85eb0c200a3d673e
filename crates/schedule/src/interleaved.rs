//! Interleaved 1F1B (Narayanan et al. 2021, arXiv:2104.04473): v chunks on each rank, so that the pipeline fills in steps of 1/v.
//!
//! ```text
//! p=2 m=2 v=2; stages 0 and 2 on rank 0, 1 and 3 on rank 1
//! rank 0  0F0,0F1,2F0,2F1,2B0,2B1,0B0,0B1
//! rank 1  1F0,1F1,3F0,3B0,3F1,3B1,1B0,1B1
//! ```
//! Micro-batches go in groups of N: a whole group passes through one chunk, then through the next. Two rules choose N. Megatron's
//! table takes N from p to m with m mod N zero or at least p; `PyTorch` makes max(1, m/p) rounds of equal length. With N = m/rounds
//! the second gives rows of the very same form, so that one generator serves both.

use crate::error::ScheduleError;
use crate::op::Op;

/// The row of one rank, with groups of `group` micro-batches.
pub(crate) fn row(
    rank: u32,
    n_ranks: u32,
    n_micro_batches: u32,
    n_virtual_stages: u32,
    group: u32,
) -> Vec<Op> {
    let (p, v) = (n_ranks as usize, n_virtual_stages);
    let table = table(n_micro_batches, v, group);
    let forward = |&(chunk, j): &(u32, u32)| Op::forward(chunk * n_ranks + rank, j);
    let backward = |&(chunk, j): &(u32, u32)| Op::backward((v - 1 - chunk) * n_ranks + rank, j);
    let n_warm_up =
        table.len().min((v as usize - 1) * group as usize + 2 * (p - 1 - rank as usize));
    let mut row = Vec::with_capacity(2 * table.len());
    row.extend(table[..n_warm_up].iter().map(forward));
    for (to_do, to_undo) in table[n_warm_up..].iter().zip(&table) {
        row.extend([forward(to_do), backward(to_undo)]);
    }
    row.extend(table[table.len() - n_warm_up..].iter().map(backward));
    row
}

/// The order of (chunk, micro-batch) on every rank: group by group, within a group chunk by chunk.
fn table(n_micro_batches: u32, n_virtual_stages: u32, group: u32) -> Vec<(u32, u32)> {
    let mut table = Vec::with_capacity(n_micro_batches as usize * n_virtual_stages as usize);
    let mut first = 0;
    while first < n_micro_batches {
        let last = n_micro_batches.min(first.saturating_add(group));
        for chunk in 0..n_virtual_stages {
            table.extend((first..last).map(|j| (chunk, j)));
        }
        first = last;
    }
    table
}

/// The group size: the one that was asked for, else p where Megatron's table accepts it, else that of `PyTorch`'s rounds.
pub(crate) fn group(
    n_ranks: u32,
    n_micro_batches: u32,
    asked: Option<u32>,
) -> Result<u32, ScheduleError> {
    if let Some(group) = asked {
        if megatron_accepts(n_ranks, n_micro_batches, group) {
            return Ok(group);
        }
        let accepted = match smallest_group(n_ranks, n_micro_batches) {
            Some(group) => format!("accepted: N={group}, for example"),
            None => format!(
                "accepted: no N, because m={n_micro_batches} is below p={n_ranks}; leave N out"
            ),
        };
        return Err(ScheduleError::InterleaveGroup { group, n_ranks, n_micro_batches, accepted });
    }
    if megatron_accepts(n_ranks, n_micro_batches, n_ranks) {
        return Ok(n_ranks);
    }
    if rounds_accept(n_ranks, n_micro_batches) {
        return Ok(n_micro_batches / rounds(n_ranks, n_micro_batches));
    }
    let below = (1..n_micro_batches).rev().find(|&m| rounds_accept(n_ranks, m));
    let above = (n_micro_batches..u32::MAX).skip(1).find(|&m| rounds_accept(n_ranks, m));
    let mut accepted: Vec<String> =
        below.into_iter().chain(above).map(|m| format!("m={m}")).collect();
    accepted.extend(
        smallest_group(n_ranks, n_micro_batches)
            .map(|group| format!("an interleave group of {group}")),
    );
    Err(ScheduleError::InterleavedSize {
        n_ranks,
        n_micro_batches,
        rounds: rounds(n_ranks, n_micro_batches),
        accepted: accepted.join(", or "),
    })
}

fn megatron_accepts(n_ranks: u32, n_micro_batches: u32, group: u32) -> bool {
    (n_ranks..=n_micro_batches).contains(&group)
        && (n_micro_batches.is_multiple_of(group) || n_micro_batches % group >= n_ranks)
}

fn smallest_group(n_ranks: u32, n_micro_batches: u32) -> Option<u32> {
    (n_ranks..=n_micro_batches).find(|&group| megatron_accepts(n_ranks, n_micro_batches, group))
}

fn rounds(n_ranks: u32, n_micro_batches: u32) -> u32 {
    (n_micro_batches / n_ranks).max(1)
}

/// Every multiple of p passes as well: it makes m/p rounds of p.
fn rounds_accept(n_ranks: u32, n_micro_batches: u32) -> bool {
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
        assert!(refused.contains("N=3") && refused.contains("accepted: N=5"), "{refused}");
        let refused = group(4, 3, Some(4)).unwrap_err().to_string();
        assert!(refused.contains("accepted: no N"), "{refused}");
    }
}
