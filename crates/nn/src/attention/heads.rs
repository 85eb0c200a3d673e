//! The loops of attention over heads, documents and blocks of queries.

#![expect(clippy::inline_always, reason = "loops compiled for each processor")]

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::cpu::{self, Small, View};
use crate::documents::Documents;

/// Heads of queries, and heads of keys and values, which divide them: as many queries as come to
/// one share its keys and values (Ainslie et al. 2023, arXiv:2305.13245).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    pub(super) queries: usize,
    pub(super) pairs: usize,
}

/// The tensors of one micro-batch: `(b, t, (h + 2k)·d)` for `h` heads of queries and `k` of keys
/// and values, and `(b, t, h·d)` for the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) heads: Heads,
    pub(super) b: usize,
    pub(super) t: usize,
    pub(super) d: usize,
}

/// Where one head of one document lies inside its tensors.
struct Head {
    q: View,
    k: View,
    v: View,
    out: View,
    /// Where its rows stand among the sums of rows, (b, h, t).
    sums: Range<usize>,
    /// Whether its keys and values are others than those of the head before.
    has_new_keys: bool,
}

/// What the backward starts from.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) qkv: &'a [f32],
    pub(super) out: &'a [f32],
    pub(super) gy: &'a [f32],
    pub(super) log_sums: &'a [f32],
}

/// Queries that are looked at together. Their scores, against all keys that they see, are all that
/// is ever written down.
const QUERIES: usize = 32;

/// Some queries of one head, and as many keys as the last of them sees.
struct Block {
    queries: Range<usize>,
}

fn blocks(t: usize) -> impl Iterator<Item = Block> {
    (0..t).step_by(QUERIES).map(move |first| Block { queries: first..(first + QUERIES).min(t) })
}

impl Block {
    fn queries(&self, view: View) -> View {
        view.rows(self.queries.clone())
    }

    fn keys(&self, view: View) -> View {
        view.rows(0..self.queries.end)
    }

    /// Scores: rows queries, columns keys.
    fn scores(&self) -> View {
        View::row_major(self.queries.len(), self.queries.end)
    }
}

impl Sizes {
    /// Features of a position in the tensor of queries, keys and values.
    pub(super) fn features(&self) -> usize {
        (self.heads.queries + 2 * self.heads.pairs) * self.d
    }

    /// Features of a position in the output.
    pub(super) fn outputs(&self) -> usize {
        self.heads.queries * self.d
    }

    fn scale(&self) -> f32 {
        1.0 / (self.d as f32).sqrt()
    }

    /// The documents of all samples: of each its sample and its positions.
    fn documents(&self, documents: Option<&Documents>) -> Vec<(usize, Range<usize>)> {
        let samples = if self.t == 0 { 0 } else { self.b };
        let Some(documents) = documents else {
            return (0..samples).map(|sample| (sample, 0..self.t)).collect();
        };
        let of = |b| documents.of_sample(b).into_iter().map(move |document| (b, document));
        (0..samples).flat_map(of).collect()
    }

    /// The heads of one document.
    fn heads(self, sample: usize, document: Range<usize>) -> impl Iterator<Item = Head> {
        let Self { heads: Heads { queries, pairs }, t, d, .. } = self;
        let (features, group) = (self.features(), queries / pairs);
        (0..queries).map(move |head| {
            let part = |first: usize| {
                let row_stride = features;
                let offset = sample * t * features + first * d;
                View { offset, rows: t, columns: d, row_stride, column_stride: 1 }
                    .rows(document.clone())
            };
            let pair = head / group;
            let out = View {
                offset: (sample * t * queries + head) * d,
                rows: t,
                columns: d,
                row_stride: queries * d,
                column_stride: 1,
            };
            let row = (sample * queries + head) * t;
            Head {
                q: part(head),
                k: part(queries + pair),
                v: part(queries + pairs + pair),
                out: out.rows(document.clone()),
                sums: row + document.start..row + document.end,
                has_new_keys: head.is_multiple_of(group),
            }
        })
    }

    /// The output (b, t, h·d), and of each row of scores the logarithm of what its weights were
    /// divided by.
    pub(super) fn forward(
        self,
        qkv: &[f32],
        documents: Option<&Documents>,
    ) -> (Vec<f32>, Vec<f32>) {
        let Self { heads, b, t, d } = self;
        let scale = self.scale();
        let mut out = vec![0.0; b * t * self.outputs()];
        let mut log_sums = vec![0.0; b * heads.queries * t];
        let mut p = vec![0.0; QUERIES * t];
        let mut small = Small::new();
        for (sample, document) in self.documents(documents) {
            let t = document.len();
            let mut keys = small.room_for_turned(t, d);
            for head in self.heads(sample, document) {
                if head.has_new_keys {
                    keys.fill(qkv, head.k);
                }
                let log_sums = &mut log_sums[head.sums];
                for block in blocks(t) {
                    let scores = block.scores();
                    let q = (qkv, block.queries(head.q));
                    small.product_with_turned((&mut p, scores), q, &keys, scale);
                    let log_sums = &mut log_sums[block.queries.clone()];
                    let first = block.queries.start;
                    cpu::vectorized(CausalSoftmax { scores: &mut p, first, log_sums });
                    let v = (qkv, block.keys(head.v));
                    let out = (&mut out[..], block.queries(head.out));
                    small.product(out, (&p, scores), v, 1.0, false);
                }
            }
        }
        (out, log_sums)
    }

    /// With P the weights, made again from the scores, and gP = gO·vᵀ: `gv = Pᵀ·gO`,
    /// `gS = P·(gP − rowsum(gO·O))`, `gq = gS·k/√d`, `gk = gSᵀ·q/√d` (Dao et al. 2022,
    /// arXiv:2205.14135, algorithm 4). Heads that share keys and values add to them in ascending
    /// order.
    pub(super) fn backward(self, known: Known<'_>, documents: Option<&Documents>) -> Vec<f32> {
        let Known { qkv, out, gy, log_sums } = known;
        let mut g = vec![0.0; qkv.len()];
        let (t, d, scale) = (self.t, self.d, self.scale());
        let (mut p, mut gs) = (vec![0.0; QUERIES * t], vec![0.0; QUERIES * t]);
        let mut small = Small::new();
        for (sample, document) in self.documents(documents) {
            let t = document.len();
            let (mut keys, mut values) = (small.room_for_turned(t, d), small.room_for_turned(t, d));
            for head in self.heads(sample, document) {
                if head.has_new_keys {
                    keys.fill(qkv, head.k);
                    values.fill(qkv, head.v);
                }
                let log_sums = &log_sums[head.sums.clone()];
                for block in blocks(t) {
                    let scores = block.scores();
                    let q = (qkv, block.queries(head.q));
                    let gy_block = (gy, block.queries(head.out));
                    small.product_with_turned((&mut p, scores), q, &keys, scale);
                    small.product_with_turned((&mut gs, scores), gy_block, &values, 1.0);
                    cpu::vectorized(ScoreGradients {
                        p: &mut p,
                        gs: &mut gs,
                        first: block.queries.start,
                        log_sums: &log_sums[block.queries.clone()],
                        out: (out, block.queries(head.out)),
                        gy: gy_block,
                    });
                    let k = (qkv, block.keys(head.k));
                    let gq = (&mut g[..], block.queries(head.q));
                    small.product(gq, (&gs, scores), k, scale, false);
                    let gs = (&gs[..], scores.transposed());
                    small.product((&mut g[..], block.keys(head.k)), gs, q, scale, true);
                    let p = (&p[..], scores.transposed());
                    small.product((&mut g[..], block.keys(head.v)), p, gy_block, 1.0, true);
                }
            }
        }
        g
    }
}

/// Turns rows of scores into weights: of each row as many as there are positions before it, and its
/// own; the others become zero.
struct CausalSoftmax<'a> {
    scores: &'a mut [f32],
    /// The position of the first row.
    first: usize,
    log_sums: &'a mut [f32],
}

impl WithSimd for CausalSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.first + self.log_sums.len();
        let rows = self.scores.chunks_exact_mut(width).zip(self.log_sums);
        for (position, (row, log_sum)) in (self.first..).zip(rows) {
            let (past, future) = row.split_at_mut(position + 1);
            let max = cpu::max_of(past);
            for s in past.iter_mut() {
                *s = cpu::exp_of_difference(*s - max);
            }
            let sum = cpu::sum_of(past, |s| s);
            let share = 1.0 / sum;
            for s in past {
                *s *= share;
            }
            future.fill(0.0);
            *log_sum = max + sum.ln();
        }
    }
}

/// Turns scores into weights again, and gradients of weights into those of scores.
struct ScoreGradients<'a> {
    p: &'a mut [f32],
    gs: &'a mut [f32],
    first: usize,
    log_sums: &'a [f32],
    out: (&'a [f32], View),
    gy: (&'a [f32], View),
}

impl WithSimd for ScoreGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.first + self.log_sums.len();
        let rows = self.p.chunks_exact_mut(width).zip(self.gs.chunks_exact_mut(width));
        for (i, ((p, gs), &log_sum)) in rows.zip(self.log_sums).enumerate() {
            let dot = cpu::sum_of_pairs(row(self.gy, i), row(self.out, i), |g, o| g * o);
            let (past, future) = p.split_at_mut(self.first + i + 1);
            let (past_gs, future_gs) = gs.split_at_mut(self.first + i + 1);
            for (p, gs) in past.iter_mut().zip(past_gs) {
                *p = cpu::exp_of_difference(*p - log_sum);
                *gs = *p * (*gs - dot);
            }
            future.fill(0.0);
            future_gs.fill(0.0);
        }
    }
}

#[inline(always)]
fn row((data, view): (&[f32], View), row: usize) -> &[f32] {
    let start = view.offset + row * view.row_stride;
    &data[start..start + view.columns]
}
