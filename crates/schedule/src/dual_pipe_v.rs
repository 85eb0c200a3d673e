//! `DualPipeV` (DeepSeek-AI 2025; the "cut in half" form of `DualPipe`, arXiv:2412.19437): forwards
//! of one direction overlap backwards of the other.
//!
//! Two stages a rank, placed like a V: rank r holds stage r, its half 0, and stage 2p−1−r, its
//! half 1. In the steady state each rank runs F of one half and B of the other as one cell, in
//! which the messages of each hide behind the work of the other. Backwards at the beginning and at
//! the end are split.

use std::collections::VecDeque;

use crate::action::Action;
use crate::error::ScheduleError;
use crate::facts::{Chunks, Facts, Passes, Rows, to_and_fro};
use crate::formula::{Formula, Idle, is_same};
use crate::row::Row;
use crate::sizes::Sizes;

pub(crate) static FACTS: Facts = Facts {
    name: "dualpipe-v",
    about: "forwards overlap backwards; two stages a rank, M at least 2P",
    chunks: Chunks::Two,
    passes: Passes::Halves,
    topology: to_and_fro,
    has_group: false,
    takes,
    rows: Rows::Each(|rank, layout| row(rank, layout.p, layout.m)),
    // (p−1)(F&B+B−3W)/2 for F = I = W and pairs F&B that take F+B, with 2p+1 chunks. With pairs
    // that gain time ranks are busy for unequal times: no single number is their idle time.
    formula: Some(Formula {
        idle: |case| {
            let (whole, share) = (case.whole(), case.share);
            let (i, w) = (share.input_grad, share.weight_grad);
            let gains_none = share.overlapped.is_none_or(|pair| is_same(pair, whole));
            let holds = case.is_equal() && gains_none;
            holds.then(|| Idle::both((case.p() - 1.0) * (whole + i + w - 3.0 * w) / 2.0))
        },
        peak: |case, _| 2 * case.sizes.n_ranks + 1,
    }),
};

fn takes(sizes: &Sizes) -> Result<u32, ScheduleError> {
    let least = 2 * u64::from(sizes.n_ranks);
    if u64::from(sizes.n_micro_batches) < least {
        return Err(FACTS.refused_micro_batches(sizes, "", format!("use m={least} or more")));
    }
    Ok(sizes.n_micro_batches)
}

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
