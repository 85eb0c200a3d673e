//! The normalisation of rows: loops over slices, and the same from candle's operations.

#![expect(clippy::inline_always, reason = "loops compiled for each processor")]

use std::mem::MaybeUninit;

use candle_core::{D, Result, Tensor};
use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::cpu::{self, Fresh};
use crate::gradients::in_place;

/// The normalisation of a row, which the weight gradient does once more: keeping the normalised
/// rows would take as much memory again.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormRows {
    /// What is added to the variance.
    pub(super) epsilon: f64,
    /// Whether the mean is taken away; without, the deviation is that from zero.
    pub(super) is_centred: bool,
}

impl NormRows {
    /// Mean (or zero) and 1/deviation of a row.
    #[inline(always)]
    fn statistics(self, row: &[f32]) -> (f32, f32) {
        let n = row.len() as f32;
        let mean = if self.is_centred { cpu::sum_of(row, |v| v) / n } else { 0.0 };
        let variance = cpu::sum_of(row, |v| (v - mean) * (v - mean)) / n;
        (mean, 1.0 / (variance + self.epsilon as f32).sqrt())
    }

    /// The normalised rows and the deviation of each, from candle's operations.
    pub(super) fn composed(self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let centred =
            if self.is_centred { x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)? } else { x.clone() };
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.epsilon)?.sqrt()?;
        Ok((centred.broadcast_div(&deviation)?, deviation))
    }

    /// From the gradient `g` of the normalised rows to that of `x`, from candle's operations.
    pub(super) fn composed_input_gradient(self, x: &Tensor, g: &Tensor) -> Result<Tensor> {
        let (normal, deviation) = self.composed(x)?;
        let along = normal.broadcast_mul(&(g * &normal)?.mean_keepdim(D::Minus1)?)?;
        let shared = g.mean_keepdim(D::Minus1)?;
        let g = if self.is_centred { g.broadcast_sub(&shared)? } else { g.clone() };
        g.sub(&along)?.broadcast_div(&deviation)
    }

    /// The normalised rows times `weight`, plus `bias`.
    pub(super) fn forward(self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let d = weight.len();
        assert!(bias.is_none_or(|bias| bias.len() == d), "{d} features");
        assert!(x.len().is_multiple_of(d.max(1)), "rows of {d} features");
        let mut y = Fresh::new(x.len());
        cpu::vectorized(Forward { norm: self, x, weight, bias, y: y.slots() });
        // SAFETY: the loop writes each element of each row, and there are whole rows only.
        #[expect(unsafe_code, reason = "zeros would be a pass over memory (`Fresh`)")]
        unsafe {
            y.written()
        }
    }

    /// `gx = (g − mean(g) − x̂·mean(g·x̂)) / deviation`, plus `onto`, with x̂ the normalised row
    /// and g = gy·w. `mean(g)` is left out where no mean is taken away.
    pub(super) fn input_gradient(
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

    /// With x̂ the normalised row: `gw = Σ gy·x̂`, and `gb = Σ gy` if there is a bias, each (d).
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub(super) fn weight_gradients(
        self,
        x: &Tensor,
        gy: &Tensor,
        has_bias: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let d = x.dim(D::Minus1)?;
        if !in_place(x) {
            let (normal, _) = self.composed(x)?;
            let sum = |t: &Tensor| t.reshape(((), d))?.sum(0);
            return Ok((sum(&(gy * normal)?)?, has_bias.then(|| sum(gy)).transpose()?));
        }
        let (mut gw, mut gb) = (vec![0.0f32; d], vec![0.0f32; if has_bias { d } else { 0 }]);
        cpu::read(x, |x| {
            cpu::read(gy, |gy| {
                cpu::vectorized(WeightGradients { norm: self, x, gy, gw: &mut gw, gb: &mut gb });
                Ok(())
            })
        })?;
        let gb = has_bias.then(|| Tensor::from_vec(gb, d, x.device())).transpose()?;
        Ok((Tensor::from_vec(gw, d, x.device())?, gb))
    }
}

struct WeightGradients<'a> {
    norm: NormRows,
    x: &'a [f32],
    gy: &'a [f32],
    gw: &'a mut [f32],
    /// Empty if there is no bias.
    gb: &'a mut [f32],
}

impl WithSimd for WeightGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let d = self.gw.len();
        for (row, gy) in self.x.chunks_exact(d).zip(self.gy.chunks_exact(d)) {
            let (mean, scale) = self.norm.statistics(row);
            for (gw, (&x, &gy)) in self.gw.iter_mut().zip(row.iter().zip(gy)) {
                *gw += gy * ((x - mean) * scale);
            }
            for (gb, &gy) in self.gb.iter_mut().zip(gy) {
                *gb += gy;
            }
        }
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
            let mean_g = if self.norm.is_centred { cpu::sum_of(&g, |v| v) / d as f32 } else { 0.0 };
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
    bias: Option<&'a [f32]>,
    y: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let d = self.weight.len();
        for (row, y) in self.x.chunks_exact(d).zip(self.y.chunks_exact_mut(d)) {
            let (mean, scale) = self.norm.statistics(row);
            let of = |x: f32, weight: f32| (x - mean) * scale * weight;
            let terms = row.iter().zip(self.weight);
            match self.bias {
                Some(bias) => {
                    for ((y, (&x, &weight)), &bias) in y.iter_mut().zip(terms).zip(bias) {
                        y.write(of(x, weight) + bias);
                    }
                }
                None => {
                    for (y, (&x, &weight)) in y.iter_mut().zip(terms) {
                        y.write(of(x, weight));
                    }
                }
            }
        }
    }
}
