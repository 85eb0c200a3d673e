//! The gated linear unit with the sigmoid linear unit, `SwiGLU` (Shazeer 2020, arXiv:2002.05202).
//!
//! Shapes: `f` features of the gate, and as many that it lets pass, side by side.

#![expect(clippy::inline_always, reason = "loops compiled for each processor")]

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor, bail};
use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::chain::{Backward, ChainLayer, InputGradient};
use crate::columns::with_last;
use crate::context::ForwardContext;
use crate::cpu::{self, Fresh};
use crate::gradients::in_place;

/// `silu(gate) · up` with `silu(x) = x / (1 + e^−x)`: `(…, 2f)` → `(…, f)`, the gate first.
#[derive(Clone, Copy, Debug, Default)]
pub struct SwiGlu;

impl SwiGlu {
    /// Runs it under candle's autograd.
    ///
    /// # Errors
    /// If the number of features is odd, or a kernel fails.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        half(x.shape())?;
        if !in_place(x) {
            return self.forward_composed(x);
        }
        x.contiguous()?.apply_op1(SwiGluOp)
    }

    /// The same from candle's own operations: for devices without our kernels, and for the tests.
    ///
    /// # Errors
    /// If the number of features is odd, or a kernel fails.
    pub fn forward_composed(self, x: &Tensor) -> Result<Tensor> {
        let f = half(x.shape())?;
        let (gate, up) = (x.narrow(D::Minus1, 0, f)?, x.narrow(D::Minus1, f, f)?);
        gate.silu()? * up
    }
}

/// The features of the gate.
fn half(shape: &Shape) -> Result<usize> {
    match shape.dims().last() {
        Some(features) if features.is_multiple_of(2) => Ok(features / 2),
        _ => bail!("a gate and as many features: {shape:?} does not halve"),
    }
}

fn halved(shape: &Shape) -> Result<Shape> {
    Ok(with_last(shape, half(shape)?))
}

fn gated(x: &[f32], f: usize) -> Vec<f32> {
    let mut y = Fresh::new(x.len() / 2);
    cpu::vectorized(Gated { x, f, y: y.slots() });
    // SAFETY: the loop writes each element of each row, and there are whole rows only.
    #[expect(unsafe_code, reason = "zeros would be a pass over memory (`Fresh`)")]
    unsafe {
        y.written()
    }
}

fn gradient(x: &[f32], gy: &[f32], f: usize) -> Vec<f32> {
    assert_eq!(x.len(), 2 * gy.len(), "a gradient for each feature");
    let mut gx = Fresh::new(x.len());
    cpu::vectorized(Gradient { x, gy, f, gx: gx.slots() });
    // SAFETY: as above.
    #[expect(unsafe_code, reason = "zeros would be a pass over memory (`Fresh`)")]
    unsafe {
        gx.written()
    }
}

impl ChainLayer for SwiGlu {
    fn forward(&self, x: &Tensor, _: &ForwardContext) -> Result<Tensor> {
        Self::forward(*self, x)
    }

    fn run(
        &self,
        x: Buffer,
        onto: Option<&Tensor>,
        _: &ForwardContext,
    ) -> Result<(Buffer, Backward)> {
        let (f, shape) = (half(x.shape())?, halved(x.shape())?);
        let y = Buffer::Owned(x.read(|x| Ok(gated(x, f)))?, shape);
        let backward = move |gy: Buffer, wish: InputGradient| {
            if !wish.is_wanted() {
                return Ok(None);
            }
            let gx = x.read(|x| gy.read(|gy| Ok(gradient(x, gy, f))))?;
            Buffer::Owned(gx, x.shape().clone()).plus_some(wish.other()).map(Some)
        };
        Ok((y.plus_some(onto)?, Box::new(backward)))
    }
}

struct SwiGluOp;

impl CustomOp1 for SwiGluOp {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = gated(cpu::slice(x, layout)?, half(layout.shape())?);
        Ok((CpuStorage::F32(y), halved(layout.shape())?))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.contiguous()?.apply_op2_no_bwd(&gy.contiguous()?, &SwiGluGradient)?))
    }
}

struct SwiGluGradient;

impl CustomOp2 for SwiGluGradient {
    fn name(&self) -> &'static str {
        "swiglu gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        gy: &CpuStorage,
        gl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let gx = gradient(cpu::slice(x, xl)?, cpu::slice(gy, gl)?, half(xl.shape())?);
        Ok((CpuStorage::F32(gx), xl.shape().clone()))
    }
}

struct Gated<'a> {
    x: &'a [f32],
    f: usize,
    y: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let f = self.f.max(1);
        for (row, y) in self.x.chunks_exact(2 * f).zip(self.y.chunks_exact_mut(f)) {
            let (gate, up) = row.split_at(f);
            for (y, (&gate, &up)) in y.iter_mut().zip(gate.iter().zip(up)) {
                y.write(gate * cpu::sigmoid(gate) * up);
            }
        }
    }
}

struct Gradient<'a> {
    x: &'a [f32],
    gy: &'a [f32],
    f: usize,
    gx: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let f = self.f.max(1);
        let rows = self.x.chunks_exact(2 * f).zip(self.gy.chunks_exact(f));
        for ((row, gy), gx) in rows.zip(self.gx.chunks_exact_mut(2 * f)) {
            let ((gate, up), (to_gate, to_up)) = (row.split_at(f), gx.split_at_mut(f));
            let inputs = gate.iter().zip(up).zip(gy);
            for ((to_gate, to_up), ((&gate, &up), &gy)) in to_gate.iter_mut().zip(to_up).zip(inputs)
            {
                let s = cpu::sigmoid(gate);
                to_gate.write(gy * up * (s + gate * s * (1.0 - s)));
                to_up.write(gy * (gate * s));
            }
        }
    }
}
