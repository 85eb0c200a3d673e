//! `DualPipeV` (DeepSeek-AI 2025; the "cut in half" form of `DualPipe`, arXiv:2412.19437): forwards of one direction overlap backwards
//! of the other.
//!
//! Two stages a rank, placed like a V: rank r holds stage r, its half 0, and stage 2p−1−r, its half 1. In the steady state each rank
//! runs F of one half and B of the other as one cell, in which the messages of each hide behind the work of the other. Backwards at
//! the beginning and at the end are split.

use std::collections::VecDeque;

use crate::action::Action;
use crate::row::Row;

/// A row while it is written: where each half has come to, and weight gradients that wait.
struct Writer {
    row: Row,
    stages: [u32; 2],
    n_forward: [u32; 2],
    n_backward: [u32; 2],
    late: VecDeque<(u32, u32)>,
}

impl Writer {
    fn next_forward(&mut self, half: usize) -> (u32, u32) {
        self.n_forward[half] += 1;
        (self.stages[half], self.n_forward[half] - 1)
    }

    fn next_backward(&mut self, half: usize) -> (u32, u32) {
        self.n_backward[half] += 1;
        (self.stages[half], self.n_backward[half] - 1)
    }

    fn forward(&mut self, half: usize) {
        let (stage, j) = self.next_forward(half);
        self.row.forward(stage, j);
    }

    fn backward(&mut self, half: usize) {
        let (stage, j) = self.next_backward(half);
        self.row.backward(stage, j);
    }

    fn input_grad(&mut self, half: usize) {
        let (stage, j) = self.next_backward(half);
        self.row.input_grad(stage, j);
        self.late.push_back((stage, j));
    }

    fn weight_grad(&mut self) {
        if let Some((stage, j)) = self.late.pop_front() {
            self.row.weight_grad(stage, j);
        }
    }

    fn overlapped(&mut self, forward: usize, backward: usize) {
        let (forward, backward) = (self.next_forward(forward), self.next_backward(backward));
        self.row.overlapped(forward, backward);
    }
}

/// The row of one rank, in the eight steps of the rule. Needs m ≥ 2p.
pub(crate) fn row(rank: u32, n_ranks: u32, n_micro_batches: u32) -> Vec<Action> {
    let (p, r, m) = (n_ranks, rank, n_micro_batches);
    let mut to = Writer {
        row: Row::with_capacity(5 * m as usize),
        stages: [r, 2 * p - 1 - r],
        n_forward: [0; 2],
        n_backward: [0; 2],
        late: VecDeque::new(),
    };
    // 1
    (0..2 * (p - r - 1)).for_each(|_| to.forward(0));
    // 2
    for _ in 0..=r {
        to.forward(0);
        to.forward(1);
    }
    // 3
    for _ in 0..p - r - 1 {
        to.input_grad(1);
        to.weight_grad();
        to.forward(1);
    }
    // 4
    for i in 0..=m - 2 * p + r {
        if i == 0 && r == p - 1 {
            // Nothing is under way yet on the last rank.
            to.forward(0);
            to.backward(1);
        } else {
            to.overlapped(0, 1);
        }
        to.overlapped(1, 0);
    }
    // 5
    for _ in 0..p - r - 1 {
        to.backward(1);
        to.overlapped(1, 0);
    }
    // 6: from the middle on the backward is split, so that the gradients arrive sooner
    let half_way = r.div_ceil(2);
    for i in 0..=r {
        let splits_both = i > half_way || (i == half_way && r % 2 == 1);
        if splits_both {
            to.input_grad(1);
        } else {
            to.backward(1);
        }
        if i >= half_way {
            to.input_grad(0);
        } else {
            to.backward(0);
        }
    }
    // 7
    for _ in 0..p - r - 1 {
        to.weight_grad();
        to.input_grad(0);
    }
    // 8
    (0..=r).for_each(|_| to.weight_grad());
    to.row.finish()
}
