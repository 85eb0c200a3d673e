//! Interleaved zero bubble: the order of interleaved 1F1B with the backward in two halves and fewer forwards ahead (`PyTorch`'s
//! `ScheduleInterleavedZeroBubble`, after Qi et al. 2024, arXiv:2401.10241).
//!
//! Warm-up is p−1−r instead of twice that beyond the first v−1 groups, because I passes on as soon as F does. Each rank's W are
//! r backwards late, so that the rank before gets its gradients first; every rank holds v·p chunks.

use std::collections::VecDeque;

use crate::action::Action;
use crate::interleaved::table;
use crate::row::Row;

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
