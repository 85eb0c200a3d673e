//! Layer normalisation over the last dimension, with a backward (candle-nn's fast one has none).
//!
//! Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450. Shapes: `r` rows, `d` features.

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::context::ForwardContext;
use crate::cpu;
use crate::residue::{Residue, ResidueQueue};

/// `(x − mean) / √(variance + ε) · weight + bias`, each row by itself.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight_d: Tensor,
    bias_d: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    /// Parameters `weight` (d), ones, and `bias` (d), zeros; ε is 1e-5.
    ///
    /// # Errors
    /// What the builder returns.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers hand over `builder.pp(name)`, as everywhere in candle"
    )]
    pub fn new(features: usize, builder: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            weight_d: builder.get_with_hints(features, "weight", Init::Const(1.0))?,
            bias_d: builder.get_with_hints(features, "bias", Init::Const(0.0))?,
            epsilon: 1e-5,
        })
    }

    /// `(…, d)` → `(…, d)`.
    ///
    /// # Errors
    /// If the last dimension is not `d`, or a kernel fails.
    pub fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        if !x.device().is_cpu() || x.dtype() != DType::F32 {
            return self.forward_composed(x);
        }
        let op = LayerNormOp { epsilon: self.epsilon as f32, queue: context.residues().cloned() };
        x.contiguous()?.apply_op3(&self.weight_d, &self.bias_d, op)
    }

    /// The same from candle's own operations: for devices without our kernels, and for the tests.
    ///
    /// # Errors
    /// If the last dimension is not `d`, or a kernel fails.
    pub fn forward_composed(&self, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normal = centred.broadcast_div(&(variance + self.epsilon)?.sqrt()?)?;
        normal.broadcast_mul(&self.weight_d)?.broadcast_add(&self.bias_d)
    }
}

struct LayerNormOp {
    epsilon: f32,
    queue: Option<ResidueQueue>,
}

impl LayerNormOp {
    /// Mean and 1/deviation of a row, summed in eight lanes so that the loop becomes vector code.
    fn statistics(&self, row: &[f32]) -> (f32, f32) {
        let n = row.len() as f32;
        let mean = lanes(row, |v| v) / n;
        let variance = lanes(row, |v| (v - mean) * (v - mean)) / n;
        (mean, 1.0 / (variance + self.epsilon).sqrt())
    }
}

fn lanes(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; 8];
    let chunks = row.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().map(|&v| f(v)).sum();
    for chunk in chunks {
        for (sum, &v) in sums.iter_mut().zip(chunk) {
            *sum += f(v);
        }
    }
    sums.iter().sum::<f32>() + rest
}

fn lanes2(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (ca, cb) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = ca.remainder().iter().zip(cb.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in ca.zip(cb) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}

impl CustomOp3 for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        weight: &CpuStorage,
        wl: &Layout,
        bias: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let xs: &[f32] = cpu::slice(x, xl)?;
        let (ws, bs): (&[f32], &[f32]) = (cpu::slice(weight, wl)?, cpu::slice(bias, bl)?);
        if xl.dims().last() != Some(&ws.len()) {
            candle_core::bail!(
                "a layer norm of {} features got a tensor of shape {:?}",
                ws.len(),
                xl.shape()
            );
        }
        let mut y = Vec::with_capacity(xs.len());
        for row in xs.chunks_exact(ws.len()) {
            let (mean, scale) = self.statistics(row);
            y.extend(
                row.iter().zip(ws.iter().zip(bs)).map(|(&v, (&w, &b))| (v - mean) * scale * w + b),
            );
        }
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }

    /// With x̂ the normalised row and g = gy·w:
    /// `gx = (g − mean(g) − x̂·mean(g·x̂)) / deviation`, `gw = Σ gy·x̂`, `gb = Σ gy`.
    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (xs, gys, ws) = (cpu::to_vec(x)?, cpu::to_vec(gy)?, cpu::to_vec(weight)?);
        let d = ws.len();
        let (mut gw, mut gb) = (vec![0.0f32; d], vec![0.0f32; d]);
        let mut gx = vec![0.0f32; xs.len()];
        let (mut normal, mut g) = (vec![0.0f32; d], vec![0.0f32; d]);
        for ((row, gy), out) in
            xs.chunks_exact(d).zip(gys.chunks_exact(d)).zip(gx.chunks_exact_mut(d))
        {
            let (mean, scale) = self.statistics(row);
            for i in 0..d {
                normal[i] = (row[i] - mean) * scale;
                g[i] = gy[i] * ws[i];
                gw[i] += gy[i] * normal[i];
                gb[i] += gy[i];
            }
            let mean_g = lanes(&g, |v| v) / d as f32;
            let mean_gn = lanes2(&g, &normal) / d as f32;
            for i in 0..d {
                out[i] = (g[i] - mean_g - normal[i] * mean_gn) * scale;
            }
        }
        let gx = Tensor::from_vec(gx, x.shape(), x.device())?;
        let gw = Tensor::from_vec(gw, d, x.device())?;
        let gb = Tensor::from_vec(gb, d, x.device())?;
        let gx = x.track_op().then_some(gx);
        let Some(queue) = &self.queue else { return Ok((gx, Some(gw), Some(gb))) };
        queue.push(Residue::Dense { parameter: weight.id(), gradient: gw });
        queue.push(Residue::Dense { parameter: bias.id(), gradient: gb });
        Ok((gx, None, None))
    }
}
