//! Causal self-attention (Vaswani et al. 2017, arXiv:1706.03762), heads read in place.
//!
//! Shapes: `b` samples, `t` positions, `w` width = `h` heads × `d` features. Queries, keys and
//! values arrive as one tensor `(b, t, 3w)`, stacked in that order, heads contiguous inside `w`.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{self, View};

/// `softmax(q·kᵀ/√d, future masked)·v`, each head by itself. It has no parameters.
#[derive(Clone, Copy, Debug)]
pub struct CausalSelfAttention {
    heads: usize,
}

impl CausalSelfAttention {
    /// Attention with `heads` heads.
    pub fn new(heads: usize) -> Self {
        Self { heads }
    }

    /// `(b, t, 3w)` → `(b, t, w)`.
    ///
    /// # Errors
    /// If `3w` is not three times a multiple of the number of heads, or a kernel fails.
    pub fn forward(&self, qkv: &Tensor) -> Result<Tensor> {
        let (_, _, three_w) = qkv.dims3()?;
        if self.heads == 0 || three_w % (3 * self.heads) != 0 {
            bail!("{three_w} features are not queries, keys and values of {} heads", self.heads);
        }
        if !qkv.device().is_cpu() || qkv.dtype() != DType::F32 {
            return self.forward_composed(qkv);
        }
        qkv.contiguous()?
            .apply_op1(AttentionOp { heads: self.heads, weights: Mutex::new(Vec::new()) })
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
        let mask: Vec<f32> =
            (0..t * t).map(|i| if i % t > i / t { f32::NEG_INFINITY } else { 0.0 }).collect();
        let scores = scores
            .broadcast_add(&Tensor::from_vec(mask, (t, t), qkv.device())?.to_dtype(qkv.dtype())?)?;
        let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let weights = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
        weights.matmul(&v)?.transpose(1, 2)?.reshape((b, t, w))
    }
}

struct AttentionOp {
    heads: usize,
    /// The attention weights of the forward, (b, h, t, t), for the backward.
    weights: Mutex<Vec<f32>>,
}

/// Where one head of one sample lies inside its tensors.
struct Head {
    q: View,
    k: View,
    v: View,
    out: View,
}

impl AttentionOp {
    fn heads(&self, b: usize, t: usize, w: usize) -> impl Iterator<Item = Head> + use<> {
        let (heads, d) = (self.heads, w / self.heads);
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
}

impl CustomOp1 for AttentionOp {
    fn name(&self) -> &'static str {
        "causal self-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, t, three_w) = layout.shape().dims3()?;
        let w = three_w / 3;
        let scale = 1.0 / ((w / self.heads) as f32).sqrt();
        let qkv: &[f32] = cpu::slice(qkv, layout)?;
        let mut out = vec![0.0; b * t * w];
        let mut weights = vec![0.0; b * self.heads * t * t];
        let square = View::row_major(t, t);
        for (head, p) in self.heads(b, t, w).zip(weights.chunks_exact_mut((t * t).max(1))) {
            cpu::gemm((p, square), (qkv, head.q), (qkv, head.k.transposed()), scale, false);
            for (position, row) in p.chunks_exact_mut(t).enumerate() {
                let (past, future) = row.split_at_mut(position + 1);
                let max = past.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                for s in past.iter_mut() {
                    *s = cpu::exp(*s - max);
                }
                let sum: f32 = past.iter().sum();
                for s in past.iter_mut() {
                    *s /= sum;
                }
                future.fill(0.0);
            }
            cpu::gemm((&mut out, head.out), (p, square), (qkv, head.v), 1.0, false);
        }
        *self.weights.lock().unwrap_or_else(PoisonError::into_inner) = weights;
        Ok((CpuStorage::F32(out), (b, t, w).into()))
    }

    /// With P the weights and gP = gO·vᵀ: `gv = Pᵀ·gO`, `gS = P·(gP − rowsum(gP·P))`,
    /// `gq = gS·k/√d`, `gk = gSᵀ·q/√d`.
    fn bwd(&self, qkv: &Tensor, _: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        let (b, t, three_w) = qkv.dims3()?;
        let w = three_w / 3;
        let scale = 1.0 / ((w / self.heads) as f32).sqrt();
        let (inputs, gys) = (cpu::to_vec(qkv)?, cpu::to_vec(gy)?);
        let weights =
            std::mem::take(&mut *self.weights.lock().unwrap_or_else(PoisonError::into_inner));
        if weights.len() != b * self.heads * t * t {
            bail!("the graph of an attention was walked twice");
        }
        let mut g = vec![0.0; inputs.len()];
        let mut gs = vec![0.0; t * t];
        let square = View::row_major(t, t);
        for (head, p) in self.heads(b, t, w).zip(weights.chunks_exact((t * t).max(1))) {
            cpu::gemm((&mut g, head.v), (p, square.transposed()), (&gys, head.out), 1.0, false);
            cpu::gemm(
                (&mut gs, square),
                (&gys, head.out),
                (&inputs, head.v.transposed()),
                1.0,
                false,
            );
            for (row, p) in gs.chunks_exact_mut(t).zip(p.chunks_exact(t)) {
                let dot: f32 = row.iter().zip(p).map(|(g, p)| g * p).sum();
                for (g, p) in row.iter_mut().zip(p) {
                    *g = p * (*g - dot);
                }
            }
            cpu::gemm((&mut g, head.q), (&gs, square), (&inputs, head.k), scale, false);
            cpu::gemm(
                (&mut g, head.k),
                (&gs, square.transposed()),
                (&inputs, head.q),
                scale,
                false,
            );
        }
        Ok(Some(Tensor::from_vec(g, qkv.shape(), qkv.device())?))
    }
}
