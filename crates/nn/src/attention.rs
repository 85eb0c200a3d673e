//! Causal self-attention (Vaswani et al. 2017, arXiv:1706.03762), heads read in place.
//!
//! Weights are never kept (Dao et al. 2022, arXiv:2205.14135): scores exist for a block of queries
//! at a time, against the keys that these see, and the backward makes them again from the logarithm
//! of each row's sum.
//!
//! Shapes: `b` samples, `t` positions, `w` width = `h` heads × `d` features. Queries, keys and
//! values arrive as one tensor `(b, t, 3w)`, stacked in that order, heads contiguous inside `w`.

#![expect(clippy::inline_always, reason = "loops compiled for each processor")]

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor, bail};
use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::chain::{Backward, ChainLayer, InputGradient};
use crate::constant::Constant;
use crate::context::ForwardContext;
use crate::cpu::{self, Small, View};

/// `softmax(q·kᵀ/√d, future masked)·v`, each head by itself. It has no parameters.
#[derive(Clone, Debug)]
pub struct CausalSelfAttention {
    heads: usize,
    /// What hides the future, where it is added to the scores.
    mask: Constant,
}

impl CausalSelfAttention {
    /// Attention with `heads` heads.
    pub fn new(heads: usize) -> Self {
        Self { heads, mask: Constant::default() }
    }

    /// `(b, t, 3w)` → `(b, t, w)`.
    ///
    /// # Errors
    /// If `3w` is not three times a multiple of the number of heads, or a kernel fails.
    pub fn forward(&self, qkv: &Tensor) -> Result<Tensor> {
        self.check(qkv.shape())?;
        if !qkv.device().is_cpu() || qkv.dtype() != DType::F32 {
            return self.forward_composed(qkv);
        }
        qkv.contiguous()?
            .apply_op1(AttentionOp { heads: Heads(self.heads), log_sums: Mutex::new(Vec::new()) })
    }

    fn check(&self, shape: &Shape) -> Result<()> {
        let (_, _, three_w) = shape.dims3()?;
        if self.heads == 0 || three_w % (3 * self.heads) != 0 {
            bail!("{three_w} features are not queries, keys and values of {} heads", self.heads);
        }
        Ok(())
    }

    /// The same from candle's own operations: for devices without our kernels, and for the tests.
    ///
    /// # Errors
    /// If the shapes do not fit, or a kernel fails.
    pub fn forward_composed(&self, qkv: &Tensor) -> Result<Tensor> {
        let (b, t, three_w) = qkv.dims3()?;
        let (w, d) = (three_w / 3, three_w / 3 / self.heads);
        let part = |i: usize| {
            qkv.narrow(2, i * w, w)?.reshape((b, t, self.heads, d))?.transpose(1, 2)?.contiguous()
        };
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scores = (q.matmul(&k.t()?)? * (1.0 / (d as f64).sqrt()))?;
        let hidden = |i: usize| if i % t > i / t { f32::NEG_INFINITY } else { 0.0 };
        let mask = self.mask.get((t, t), qkv.device(), || (0..t * t).map(hidden).collect())?;
        let scores = scores.broadcast_add(&mask.to_dtype(qkv.dtype())?)?;
        let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let weights = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
        weights.matmul(&v)?.transpose(1, 2)?.reshape((b, t, w))
    }
}

impl ChainLayer for CausalSelfAttention {
    fn forward(&self, qkv: &Tensor, _: &ForwardContext) -> Result<Tensor> {
        Self::forward(self, qkv)
    }

    fn run(
        &self,
        qkv: Buffer,
        onto: Option<&Tensor>,
        _: &ForwardContext,
    ) -> Result<(Buffer, Backward)> {
        self.check(qkv.shape())?;
        let (b, t, three_w) = qkv.shape().dims3()?;
        let heads = Heads(self.heads);
        let (out, log_sums) = qkv.read(|qkv| Ok(heads.forward(qkv, (b, t, three_w / 3))))?;
        let out = Tensor::from_vec(out, (b, t, three_w / 3), &Device::Cpu)?;
        let known = out.clone();
        let y = Buffer::Shared(out).plus_some(onto)?;
        let backward = move |gy: Buffer, wish: InputGradient| {
            if !wish.is_wanted() {
                return Ok(None);
            }
            let g = qkv.read(|qkv| {
                cpu::read(&known, |out| {
                    gy.read(|gy| {
                        let known = Known { qkv, out, gy, log_sums: &log_sums };
                        Ok(heads.backward((b, t), known))
                    })
                })
            })?;
            Buffer::Owned(g, qkv.shape().clone()).plus_some(wish.other()).map(Some)
        };
        Ok((y, Box::new(backward)))
    }
}

/// How many heads there are.
#[derive(Clone, Copy)]
struct Heads(usize);

struct AttentionOp {
    heads: Heads,
    /// Of each row of scores the logarithm of what its weights were divided by, (b, h, t), for the
    /// backward.
    log_sums: Mutex<Vec<f32>>,
}

/// Where one head of one sample lies inside its tensors.
struct Head {
    q: View,
    k: View,
    v: View,
    out: View,
}

impl Heads {
    fn of(self, (b, t, w): (usize, usize, usize)) -> impl Iterator<Item = Head> {
        let (heads, d) = (self.0, w / self.0);
        (0..b * heads).map(move |i| {
            let (sample, head) = (i / heads, i % heads);
            let part = |which: usize| View {
                offset: sample * t * 3 * w + which * w + head * d,
                rows: t,
                columns: d,
                row_stride: 3 * w,
                column_stride: 1,
            };
            let out = View { offset: sample * t * w + head * d, row_stride: w, ..part(0) };
            Head { q: part(0), k: part(1), v: part(2), out }
        })
    }

    fn scale(self, w: usize) -> f32 {
        1.0 / ((w / self.0) as f32).sqrt()
    }
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

impl CustomOp1 for AttentionOp {
    fn name(&self) -> &'static str {
        "causal self-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, t, three_w) = layout.shape().dims3()?;
        let sizes = (b, t, three_w / 3);
        let (out, log_sums) = self.heads.forward(cpu::slice(qkv, layout)?, sizes);
        *self.log_sums.lock().unwrap_or_else(PoisonError::into_inner) = log_sums;
        Ok((CpuStorage::F32(out), sizes.into()))
    }

    fn bwd(&self, qkv: &Tensor, out: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        let log_sums = self.log_sums.lock().unwrap_or_else(PoisonError::into_inner);
        let (b, t, _) = qkv.dims3()?;
        let g = cpu::read(qkv, |qkv| {
            cpu::read(out, |out| {
                cpu::read(gy, |gy| {
                    let known = Known { qkv, out, gy, log_sums: &log_sums };
                    Ok(self.heads.backward((b, t), known))
                })
            })
        })?;
        Ok(Some(Tensor::from_vec(g, qkv.shape(), qkv.device())?))
    }
}

/// What the backward starts from.
#[derive(Clone, Copy)]
struct Known<'a> {
    qkv: &'a [f32],
    out: &'a [f32],
    gy: &'a [f32],
    log_sums: &'a [f32],
}

impl Heads {
    /// The output (b, t, w), and of each row of scores the logarithm of what its weights were
    /// divided by.
    fn forward(self, qkv: &[f32], (b, t, w): (usize, usize, usize)) -> (Vec<f32>, Vec<f32>) {
        let scale = self.scale(w);
        let mut out = vec![0.0; b * t * w];
        let mut log_sums = vec![0.0; b * self.0 * t];
        let mut p = vec![0.0; QUERIES * t];
        let mut small = Small::new();
        let mut keys = small.room_for_turned(t, w / self.0);
        for (head, log_sums) in self.of((b, t, w)).zip(log_sums.chunks_exact_mut(t.max(1))) {
            keys.fill(qkv, head.k);
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
        (out, log_sums)
    }

    /// With P the weights, made again from the scores, and gP = gO·vᵀ: `gv = Pᵀ·gO`,
    /// `gS = P·(gP − rowsum(gO·O))`, `gq = gS·k/√d`, `gk = gSᵀ·q/√d` (Dao et al. 2022,
    /// arXiv:2205.14135, algorithm 4).
    fn backward(self, (b, t): (usize, usize), known: Known<'_>) -> Vec<f32> {
        let Known { qkv, out, gy, log_sums } = known;
        let mut g = vec![0.0; qkv.len()];
        let w = qkv.len() / (3 * b * t).max(1);
        let scale = self.scale(w);
        let (mut p, mut gs) = (vec![0.0; QUERIES * t], vec![0.0; QUERIES * t]);
        let mut small = Small::new();
        let room = || small.room_for_turned(t, w / self.0);
        let (mut keys, mut values) = (room(), room());
        for (head, log_sums) in self.of((b, t, w)).zip(log_sums.chunks_exact(t.max(1))) {
            keys.fill(qkv, head.k);
            values.fill(qkv, head.v);
            for block in blocks(t) {
                let scores = block.scores();
                let (q, gy_block) = ((qkv, block.queries(head.q)), (gy, block.queries(head.out)));
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
                small.product((&mut g[..], block.queries(head.q)), (&gs, scores), k, scale, false);
                let gs = (&gs[..], scores.transposed());
                small.product((&mut g[..], block.keys(head.k)), gs, q, scale, true);
                let p = (&p[..], scores.transposed());
                small.product((&mut g[..], block.keys(head.v)), p, gy_block, 1.0, true);
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
