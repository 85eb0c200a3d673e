//! Layer normalisation over the last dimension, with a backward (candle-nn's fast one has none).
//!
//! Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450. Shapes: `r` rows, `d` features.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::context::ForwardContext;
use crate::cpu;
use crate::deferred;
use crate::gradients::in_place;
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
        if !in_place(x) {
            return match context.residues() {
                Some(queue) => self.forward_deferred(x, queue),
                None => self.forward_composed(x),
            };
        }
        let op = LayerNormOp { epsilon: self.epsilon as f32, queue: context.residues().cloned() };
        x.contiguous()?.apply_op3(&self.weight_d, &self.bias_d, op)
    }

    /// The same from candle's own operations: for devices without our kernels, and for the tests.
    ///
    /// # Errors
    /// If the last dimension is not `d`, or a kernel fails.
    pub fn forward_composed(&self, x: &Tensor) -> Result<Tensor> {
        let (normal, _) = normal_composed(x, self.epsilon)?;
        normal.broadcast_mul(&self.weight_d)?.broadcast_add(&self.bias_d)
    }

    /// The same, the weight gradient put off. Its backward is the one of the kernel, in candle's operations.
    fn forward_deferred(&self, x: &Tensor, queue: &ResidueQueue) -> Result<Tensor> {
        let outside = Self {
            weight_d: self.weight_d.detach(),
            bias_d: self.bias_d.detach(),
            epsilon: self.epsilon,
        };
        let y = outside.forward_composed(&x.detach())?;
        let (queue, input, wants_gx) = (queue.clone(), x.detach(), x.track_op());
        let (weight, bias) = (self.weight_d.id(), self.bias_d.id());
        let norm = NormRows { epsilon: self.epsilon as f32 };
        deferred::with_backward(&y, x, &self.weight_d, move |gy| {
            let gx = wants_gx.then(|| {
                let (normal, deviation) = normal_composed(&input, outside.epsilon)?;
                let g = gy.broadcast_mul(&outside.weight_d)?;
                let shared = g.mean_keepdim(D::Minus1)?;
                let along = normal.broadcast_mul(&(&g * &normal)?.mean_keepdim(D::Minus1)?)?;
                g.broadcast_sub(&shared)?.sub(&along)?.broadcast_div(&deviation)
            });
            queue.push(Residue::Norm {
                weight,
                bias,
                x: input.clone(),
                gy: gy.contiguous()?,
                norm,
            });
            gx.transpose()
        })
    }
}

/// The normalised rows, and the deviation of each.
fn normal_composed(x: &Tensor, epsilon: f64) -> Result<(Tensor, Tensor)> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?;
    Ok((centred.broadcast_div(&deviation)?, deviation))
}

/// The normalisation of a row, which the weight gradient does once more: keeping the normalised rows would take as much memory again.
#[derive(Clone, Copy, Debug)]
pub struct NormRows {
    epsilon: f32,
}

impl NormRows {
    /// Mean and 1/deviation of a row, summed in eight lanes so that the loop becomes vector code.
    fn statistics(self, row: &[f32]) -> (f32, f32) {
        let n = row.len() as f32;
        let mean = lanes(row, |v| v) / n;
        let variance = lanes(row, |v| (v - mean) * (v - mean)) / n;
        (mean, 1.0 / (variance + self.epsilon).sqrt())
    }

    /// With x̂ the normalised row: `gw = Σ gy·x̂`, `gb = Σ gy`, each (d).
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub(crate) fn weight_gradients(self, x: &Tensor, gy: &Tensor) -> Result<(Tensor, Tensor)> {
        let d = x.dim(D::Minus1)?;
        if !in_place(x) {
            let (normal, _) = normal_composed(x, f64::from(self.epsilon))?;
            let sum = |t: &Tensor| t.reshape(((), d))?.sum(0);
            return Ok((sum(&(gy * normal)?)?, sum(gy)?));
        }
        let (xs, gys) = (cpu::to_vec(x)?, cpu::to_vec(gy)?);
        let (mut gw, mut gb) = (vec![0.0f32; d], vec![0.0f32; d]);
        for (row, gy) in xs.chunks_exact(d).zip(gys.chunks_exact(d)) {
            let (mean, scale) = self.statistics(row);
            for i in 0..d {
                gw[i] += gy[i] * ((row[i] - mean) * scale);
                gb[i] += gy[i];
            }
        }
        Ok((Tensor::from_vec(gw, d, x.device())?, Tensor::from_vec(gb, d, x.device())?))
    }
}

struct LayerNormOp {
    epsilon: f32,
    queue: Option<ResidueQueue>,
}

impl LayerNormOp {
    /// With x̂ the normalised row and g = gy·w: `gx = (g − mean(g) − x̂·mean(g·x̂)) / deviation`.
    fn input_gradient(&self, x: &Tensor, weight: &Tensor, gy: &Tensor) -> Result<Tensor> {
        let (xs, gys, ws) = (cpu::to_vec(x)?, cpu::to_vec(gy)?, cpu::to_vec(weight)?);
        let d = ws.len();
        let norm = NormRows { epsilon: self.epsilon };
        let mut gx = vec![0.0f32; xs.len()];
        let (mut normal, mut g) = (vec![0.0f32; d], vec![0.0f32; d]);
        for ((row, gy), out) in
            xs.chunks_exact(d).zip(gys.chunks_exact(d)).zip(gx.chunks_exact_mut(d))
        {
            let (mean, scale) = norm.statistics(row);
            for i in 0..d {
                normal[i] = (row[i] - mean) * scale;
                g[i] = gy[i] * ws[i];
            }
            let mean_g = lanes(&g, |v| v) / d as f32;
            let mean_gn = lanes2(&g, &normal) / d as f32;
            for i in 0..d {
                out[i] = (g[i] - mean_g - normal[i] * mean_gn) * scale;
            }
        }
        Tensor::from_vec(gx, x.shape(), x.device())
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
        let norm = NormRows { epsilon: self.epsilon };
        let mut y = Vec::with_capacity(xs.len());
        for row in xs.chunks_exact(ws.len()) {
            let (mean, scale) = norm.statistics(row);
            y.extend(
                row.iter().zip(ws.iter().zip(bs)).map(|(&v, (&w, &b))| (v - mean) * scale * w + b),
            );
        }
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gx = x.track_op().then(|| self.input_gradient(x, weight, gy)).transpose()?;
        let norm = NormRows { epsilon: self.epsilon };
        let Some(queue) = &self.queue else {
            let (gw, gb) = norm.weight_gradients(x, gy)?;
            return Ok((gx, Some(gw), Some(gb)));
        };
        queue.push(Residue::Norm {
            weight: weight.id(),
            bias: bias.id(),
            x: x.detach(),
            gy: gy.contiguous()?,
            norm,
        });
        Ok((gx, None, None))
    }
}
