//! ZB-V (Qi et al. 2024, arXiv:2401.10241 and arXiv:2405.15362): zero bubble with the memory of
//! 1F1B.
//!
//! ```text
//! p=2 m=3; stages 0 and 3 on rank 0, 1 and 2 on rank 1
//! rank 0  0F0|0F1|0F2|3F0|3I0|3W0|3F1|3I1|3W1|0I0|0W0|3F2|3I2|3W2|0I1|0W1|0I2|0W2|....
//! rank 1  ....1F0|2F0|1F1|2F1|2I0|2W0|1F2|1I0|1W0|2F2|2I1|2W1|1I1|2I2|1I2|1W1|2W2|1W2|
//! ```
//! Two stages a rank, placed like a V: rank r holds stage a = r on the way down and b = 2p−1−r on
//! the way up, so that the rank that starts a micro-batch is also the one that ends it. Every rank
//! holds at most 2p chunks, p whole activations, and where F = I = W of a chunk no rank waits
//! between its first op and its last.

use crate::action::Action;
use crate::facts::{Chunks, Facts, Passes, Rows, any_size, to_and_fro};
use crate::formula::{Formula, Idle};
use crate::row::Row;
use crate::work;

pub(crate) static FACTS: Facts = Facts {
    name: "zb-v",
    about: "zero bubble on two stages a rank, with the memory of 1f1b",
    chunks: Chunks::Two,
    passes: Passes::Halves,
    topology: to_and_fro,
    has_group: false,
    takes: any_size,
    rows: Rows::Each(|rank, layout| row(rank, layout.p, layout.m)),
    // (p−1)F/2, in its longest span nothing, for F = I = W and m ≥ 2p−1; 2p chunks.
    formula: Some(Formula {
        idle: |case| {
            let holds = case.is_equal() && case.m() >= 2.0 * case.p() - 1.0;
            let makespan = (case.p() - 1.0) * case.share.forward / 2.0;
            holds.then_some(Idle { makespan, span: 0.0 })
        },
        peak: |case, _| (2 * case.sizes.n_micro_batches).min(2 * case.sizes.n_ranks),
    }),
};

/// What a rank has done of one of its two stages so far, of the micro-batches that there are. The
/// phases are laid out for 2p−1 at least; those that are not there are passed over.
struct Half {
    stage: u32,
    n_micro_batches: u32,
    n_forward: u32,
    n_input_grad: u32,
    n_weight_grad: u32,
}

impl Half {
    fn new(stage: u32, n_micro_batches: u32) -> Self {
        Self { stage, n_micro_batches, n_forward: 0, n_input_grad: 0, n_weight_grad: 0 }
    }

    fn forward(&mut self, row: &mut Row) {
        work::done(1);
        if self.n_forward < self.n_micro_batches {
            row.forward(self.stage, self.n_forward);
            self.n_forward += 1;
        }
    }

    fn input_grad(&mut self, row: &mut Row) {
        work::done(1);
        if self.n_input_grad < self.n_micro_batches {
            row.input_grad(self.stage, self.n_input_grad);
            self.n_input_grad += 1;
        }
    }

    fn weight_grad(&mut self, row: &mut Row) {
        work::done(1);
        if self.n_weight_grad < self.n_micro_batches {
            row.weight_grad(self.stage, self.n_weight_grad);
            self.n_weight_grad += 1;
        }
    }
}

/// The row of one rank, in the eight phases of the rule.
pub(crate) fn row(rank: u32, n_ranks: u32, n_micro_batches: u32) -> Vec<Action> {
    let (p, r, m) = (n_ranks, rank, n_micro_batches);
    let mut row = Row::with_capacity(6 * m as usize);
    let (mut a, mut b) = (Half::new(r, m), Half::new(2 * p - 1 - r, m));
    // A round takes the next micro-batch of each op in it: after m rounds a phase has none left,
    // however many the rule has.
    let rounds = |n: u32| 0..n.min(m);
    // 1: down, until the first micro-batch comes up again
    rounds(2 * (p - r) - 1).for_each(|_| a.forward(&mut row));
    // 2: both ways
    for _ in rounds(r) {
        b.forward(&mut row);
        a.forward(&mut row);
    }
    // 3: the first gradients
    for _ in rounds(p - r) {
        b.forward(&mut row);
        b.input_grad(&mut row);
        b.weight_grad(&mut row);
    }
    // 4: steady state, until b, which is at p, has come to the last
    for _ in rounds(m.max(2 * p - 1) - p) {
        a.forward(&mut row);
        a.input_grad(&mut row);
        a.weight_grad(&mut row);
        b.forward(&mut row);
        b.input_grad(&mut row);
        b.weight_grad(&mut row);
    }
    // 5 and 6: cool-down
    for _ in rounds(r) {
        a.input_grad(&mut row);
        b.input_grad(&mut row);
    }
    for _ in rounds(p - r) {
        a.input_grad(&mut row);
        a.weight_grad(&mut row);
    }
    // 7 and 8: what no rank waits for
    for half in [&mut b, &mut a] {
        rounds(m).for_each(|_| half.weight_grad(&mut row));
    }
    row.finish()
}
