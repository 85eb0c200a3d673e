//! Layer normalisation over the last dimension, with a backward (candle-nn's fast one has none).
//!
//! Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450. Shapes: `r` rows, `d` features.

#![expect(clippy::inline_always, reason = "loops compiled for each processor")]

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, TensorId};
use candle_nn::{Init, VarBuilder};
use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::chain::{Backward, ChainLayer, InputGradient};
use crate::context::ForwardContext;
use crate::cpu::{self, Fresh};
use crate::deferred;
use crate::gradients::{Gradients, in_place};
use crate::residue::{Residue, ResidueQueue, WeightGradient, bytes_of};

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

    /// The same, the weight gradient put off. Its backward is the one of the kernel, in candle's
    /// operations.
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
            queue.push(Residue::new(NormResidue {
                weight,
                bias,
                x: input.clone(),
                gy: gy.contiguous()?,
                norm,
            }));
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

/// The normalisation of a row, which the weight gradient does once more: keeping the normalised
/// rows would take as much memory again.
#[derive(Clone, Copy, Debug)]
struct NormRows {
    epsilon: f32,
}

impl NormRows {
    /// Mean and 1/deviation of a row.
    #[inline(always)]
    fn statistics(self, row: &[f32]) -> (f32, f32) {
        let n = row.len() as f32;
        let mean = cpu::sum_of(row, |v| v) / n;
        let variance = cpu::sum_of(row, |v| (v - mean) * (v - mean)) / n;
        (mean, 1.0 / (variance + self.epsilon).sqrt())
    }

    /// The whole layer norm.
    fn forward(self, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let d = weight.len();
        assert!(bias.len() == d && x.len().is_multiple_of(d.max(1)), "rows of {d} features");
        let mut y = Fresh::new(x.len());
        cpu::vectorized(Forward { norm: self, x, weight, bias, y: y.slots() });
        // SAFETY: the loop writes each element of each row, and there are whole rows only.
        #[expect(unsafe_code, reason = "zeros would be a pass over memory (`Fresh`)")]
        unsafe {
            y.written()
        }
    }

    /// `gx = (g − mean(g) − x̂·mean(g·x̂)) / deviation`, plus `onto`, with x̂ the normalised row
    /// and g = gy·w.
    fn input_gradient(
        self,
        x: &Tensor,
        weight: &Tensor,
        gy: &Tensor,
        onto: Option<&Tensor>,
    ) -> Result<Buffer> {
        let shape = x.shape().clone();
        let gx = cpu::read(x, |x| {
            cpu::read(gy, |gy| {
                cpu::read(weight, |weight| {
                    cpu::read_some(
                        onto,
                        |onto| Ok(self.input_gradient_of_rows(x, weight, gy, onto)),
                    )
                })
            })
        })?;
        Ok(Buffer::Owned(gx, shape))
    }

    fn input_gradient_of_rows(
        self,
        x: &[f32],
        weight: &[f32],
        gy: &[f32],
        onto: Option<&[f32]>,
    ) -> Vec<f32> {
        let d = weight.len();
        assert!(gy.len() == x.len() && x.len().is_multiple_of(d.max(1)), "rows of {d} features");
        assert!(onto.is_none_or(|onto| onto.len() == x.len()), "rows of {d} features");
        let mut gx = Fresh::new(x.len());
        let slots = gx.slots();
        cpu::vectorized(InputGradientLoop { norm: self, x, gy, weight, onto, gx: slots });
        // SAFETY: the loop writes each element of each row, and there are whole rows only.
        #[expect(unsafe_code, reason = "zeros would be a pass over memory (`Fresh`)")]
        unsafe {
            gx.written()
        }
    }

    /// With x̂ the normalised row: `gw = Σ gy·x̂`, `gb = Σ gy`, each (d).
    ///
    /// # Errors
    /// If a tensor cannot be read.
    fn weight_gradients(self, x: &Tensor, gy: &Tensor) -> Result<(Tensor, Tensor)> {
        let d = x.dim(D::Minus1)?;
        if !in_place(x) {
            let (normal, _) = normal_composed(x, f64::from(self.epsilon))?;
            let sum = |t: &Tensor| t.reshape(((), d))?.sum(0);
            return Ok((sum(&(gy * normal)?)?, sum(gy)?));
        }
        let (mut gw, mut gb) = (vec![0.0f32; d], vec![0.0f32; d]);
        cpu::read(x, |x| {
            cpu::read(gy, |gy| {
                cpu::vectorized(WeightGradients { norm: self, x, gy, gw: &mut gw, gb: &mut gb });
                Ok(())
            })
        })?;
        Ok((Tensor::from_vec(gw, d, x.device())?, Tensor::from_vec(gb, d, x.device())?))
    }
}

/// With x̂ the normalised rows of `x`, the gradient of `weight` is `Σ gy·x̂`.
/// The gradient of `bias` is `Σ gy`.
struct NormResidue {
    /// Parameter of shape (d).
    weight: TensorId,
    /// Parameter of shape (d).
    bias: TensorId,
    /// Input, (…, d), contiguous.
    x: Tensor,
    /// Gradient of the output, (…, d), contiguous.
    gy: Tensor,
    /// How rows are normalised.
    norm: NormRows,
}

impl WeightGradient for NormResidue {
    fn name(&self) -> &'static str {
        "Norm"
    }

    fn bytes(&self) -> usize {
        bytes_of(&self.x) + bytes_of(&self.gy)
    }

    fn parameters(&self) -> Vec<TensorId> {
        vec![self.weight, self.bias]
    }

    fn add_to(self: Box<Self>, sums: &mut Gradients, _: bool) -> Result<()> {
        let (gw, gb) = self.norm.weight_gradients(&self.x, &self.gy)?;
        sums.add(self.weight, &gw)?;
        sums.add(self.bias, &gb)
    }
}

fn check(shape: &Shape, features: usize) -> Result<()> {
    if shape.dims().last() != Some(&features) {
        candle_core::bail!("a layer norm of {features} features got a tensor of shape {shape:?}");
    }
    Ok(())
}

impl ChainLayer for LayerNorm {
    fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        Self::forward(self, x, context)
    }

    fn run(
        &self,
        x: Buffer,
        onto: Option<&Tensor>,
        context: &ForwardContext,
    ) -> Result<(Buffer, Backward)> {
        check(x.shape(), self.weight_d.elem_count())?;
        let (x, norm) = (x.into_tensor()?, NormRows { epsilon: self.epsilon as f32 });
        let y = cpu::read(&x, |x| {
            cpu::read(&self.weight_d, |weight| {
                cpu::read(&self.bias_d, |bias| Ok(norm.forward(x, weight, bias)))
            })
        })?;
        let y = Buffer::Owned(y, x.shape().clone()).plus_some(onto)?;
        let (weight, bias) = (self.weight_d.clone(), self.bias_d.id());
        let queue = context.residues().cloned();
        let backward = move |gy: Buffer, wish: InputGradient| {
            let gy = gy.into_tensor()?;
            let gx = wish.is_wanted().then(|| norm.input_gradient(&x, &weight, &gy, wish.other()));
            if let Some(queue) = queue {
                queue.push(Residue::new(NormResidue { weight: weight.id(), bias, x, gy, norm }));
            }
            gx.transpose()
        };
        Ok((y, Box::new(backward)))
    }

    fn parameter(&self) -> Option<&Tensor> {
        Some(&self.weight_d)
    }
}

struct WeightGradients<'a> {
    norm: NormRows,
    x: &'a [f32],
    gy: &'a [f32],
    gw: &'a mut [f32],
    gb: &'a mut [f32],
}

impl WithSimd for WeightGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let d = self.gw.len();
        for (row, gy) in self.x.chunks_exact(d).zip(self.gy.chunks_exact(d)) {
            let (mean, scale) = self.norm.statistics(row);
            let sums = self.gw.iter_mut().zip(self.gb.iter_mut());
            for ((gw, gb), (&x, &gy)) in sums.zip(row.iter().zip(gy)) {
                *gw += gy * ((x - mean) * scale);
                *gb += gy;
            }
        }
    }
}

struct LayerNormOp {
    epsilon: f32,
    queue: Option<ResidueQueue>,
}

impl LayerNormOp {
    fn input_gradient(&self, x: &Tensor, weight: &Tensor, gy: &Tensor) -> Result<Tensor> {
        let norm = NormRows { epsilon: self.epsilon };
        norm.input_gradient(x, weight, gy, None)?.into_tensor()
    }
}

struct InputGradientLoop<'a> {
    norm: NormRows,
    x: &'a [f32],
    gy: &'a [f32],
    weight: &'a [f32],
    /// What is added.
    onto: Option<&'a [f32]>,
    gx: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for InputGradientLoop<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let d = self.weight.len();
        let (mut normal, mut g) = (vec![0.0f32; d], vec![0.0f32; d]);
        let rows = self.x.chunks_exact(d).zip(self.gy.chunks_exact(d));
        for (i, ((row, gy), out)) in rows.zip(self.gx.chunks_exact_mut(d)).enumerate() {
            let (mean, scale) = self.norm.statistics(row);
            for (normal, &x) in normal.iter_mut().zip(row) {
                *normal = (x - mean) * scale;
            }
            for (g, (&gy, &weight)) in g.iter_mut().zip(gy.iter().zip(self.weight)) {
                *g = gy * weight;
            }
            let mean_g = cpu::sum_of(&g, |v| v) / d as f32;
            let mean_gn = cpu::sum_of_pairs(&g, &normal, |g, normal| g * normal) / d as f32;
            let terms = g.iter().zip(&normal);
            let of = |g: f32, normal: f32| (g - mean_g - normal * mean_gn) * scale;
            match self.onto {
                Some(onto) => {
                    let onto = &onto[i * d..(i + 1) * d];
                    for ((out, (&g, &normal)), &onto) in out.iter_mut().zip(terms).zip(onto) {
                        out.write(of(g, normal) + onto);
                    }
                }
                None => {
                    for (out, (&g, &normal)) in out.iter_mut().zip(terms) {
                        out.write(of(g, normal));
                    }
                }
            }
        }
    }
}

struct Forward<'a> {
    norm: NormRows,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    y: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let d = self.weight.len();
        for (row, y) in self.x.chunks_exact(d).zip(self.y.chunks_exact_mut(d)) {
            let (mean, scale) = self.norm.statistics(row);
            let parameters = self.weight.iter().zip(self.bias);
            for ((y, &x), (&weight, &bias)) in y.iter_mut().zip(row).zip(parameters) {
                y.write((x - mean) * scale * weight + bias);
            }
        }
    }
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
        check(xl.shape(), ws.len())?;
        let norm = NormRows { epsilon: self.epsilon };
        Ok((CpuStorage::F32(norm.forward(xs, ws, bs)), xl.shape().clone()))
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
        queue.push(Residue::new(NormResidue {
            weight: weight.id(),
            bias: bias.id(),
            x: x.detach(),
            gy: gy.contiguous()?,
            norm,
        }));
        Ok((gx, None, None))
    }
}
