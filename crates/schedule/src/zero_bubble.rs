//! Zero bubble by hand (Qi et al. 2024, arXiv:2401.10241): the backward in two halves, so that
//! nobody waits for the gradient of another's weights.
//!
//! ```text
//! ZB-H1, p=2 m=3
//! rank 0  F0|F1|...I0|W0|F2|I1|W1|I2|W2|
//! rank 1  ...F0|I0|F1|I1|W0|F2|I2|W1|W2|
//! ZB-H2, p=2 m=3
//! rank 0  F0|F1|F2|I0|W0|I1|W1|I2|W2|...
//! rank 1  ...F0|I0|F1|I1|F2|I2|W0|W1|W2|
//! ```
//! Each I leaves as soon as it can: the W of rank r are r (H1) or 2r (H2) rounds behind it.
//! ZB-H1 holds no more than 1F1B: at most p activations. ZB-H2 holds up to 2p−1, and where F = I =
//! W no rank waits between its first op and its last.

use crate::action::Action;
use crate::facts::{Chunks, Facts, Passes, Rows, any_size, round_and_round};
use crate::formula::{Formula, Idle};
use crate::row::Row;

pub(crate) static H1: Facts = Facts {
    name: "zb-h1",
    about: "backwards in two halves, with the memory of 1f1b",
    chunks: Chunks::One,
    passes: Passes::Halves,
    topology: round_and_round,
    has_group: false,
    takes: any_size,
    rows: Rows::Each(|rank, layout| h1(rank, layout.p, layout.m)),
    // (p−1)(F+I−W) for W ≤ F, W ≤ I and m ≥ p, with p activations.
    formula: Some(Formula {
        idle: |case| {
            let holds = case.splits_well() && case.m() >= case.p();
            holds.then(|| Idle::both((case.p() - 1.0) * case.less_weight_grad()))
        },
        peak: |case, _| case.sizes.n_micro_batches.min(case.sizes.n_ranks),
    }),
};

pub(crate) static H2: Facts = Facts {
    name: "zb-h2",
    about: "backwards in two halves, with twice that memory",
    chunks: Chunks::One,
    passes: Passes::Halves,
    topology: round_and_round,
    has_group: false,
    takes: any_size,
    rows: Rows::Each(|rank, layout| h2(rank, layout.p, layout.m)),
    // The larger of (p−1)F and (p−1)(F+I−2W), in its longest span the second alone, for W ≤ F, W ≤
    // I and m ≥ 2p−1; 2p−1 activations.
    formula: Some(Formula {
        idle: |case| {
            let (p, share) = (case.p(), case.share);
            let holds = case.splits_well() && case.m() >= 2.0 * p - 1.0;
            holds.then(|| {
                let gap = share.forward + share.input_grad - 2.0 * share.weight_grad;
                let span = (p - 1.0) * gap.max(0.0);
                Idle { makespan: span.max((p - 1.0) * share.forward), span }
            })
        },
        peak: |case, _| case.sizes.n_micro_batches.min(2 * case.sizes.n_ranks - 1),
    }),
};

/// The row of one rank of ZB-H1.
pub(crate) fn h1(rank: u32, n_ranks: u32, n_micro_batches: u32) -> Vec<Action> {
    row(rank, n_micro_batches, n_ranks - 1 - rank, rank)
}

/// The row of one rank of ZB-H2.
pub(crate) fn h2(rank: u32, n_ranks: u32, n_micro_batches: u32) -> Vec<Action> {
    row(rank, n_micro_batches, 2 * (n_ranks - 1 - rank), 2 * rank)
}

/// Warm-up, then rounds of F and I, with each W `delay` rounds behind its I.
fn row(stage: u32, n_micro_batches: u32, warm_up: u32, delay: u32) -> Vec<Action> {
    let m = n_micro_batches;
    let n_warm_up = warm_up.min(m);
    let mut row = Row::with_capacity(3 * m as usize);
    (0..n_warm_up).for_each(|j| row.forward(stage, j));
    for b in 0..m {
        if n_warm_up + b < m {
            row.forward(stage, n_warm_up + b);
        }
        row.input_grad(stage, b);
        if let Some(w) = b.checked_sub(delay) {
            row.weight_grad(stage, w);
        }
    }
    (m.saturating_sub(delay)..m).for_each(|w| row.weight_grad(stage, w));
    row.finish()
}
