//! Zero bubble by hand (Qi et al. 2024, arXiv:2401.10241): the backward in two halves, so that nobody waits for the gradient of
//! another's weights.
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
//! ZB-H1 holds no more than 1F1B: at most p activations. ZB-H2 holds up to 2p−1, and where F = I = W no rank waits between its first
//! op and its last.

use crate::action::Action;
use crate::row::Row;

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
