//! The Gaussian error linear unit, in its tanh form (Hendrycks, Gimpel 2016, arXiv:1606.08415).
#![expect(clippy::inline_always, reason = "inlined into loops for each processor")]

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor};

use crate::cpu;

/// √(2/π) and the cubic's factor, from section 2 of the paper.
const SCALE: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// `x/2 · (1 + tanh u)` with `u = √(2/π)·(x + 0.044715·x³)`, element by element. It is computed as
/// `x / (1 + e^−2u)`, which is the same.
///
/// # Errors
/// If a kernel fails.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() || x.dtype() != DType::F32 {
        return x.gelu();
    }
    x.contiguous()?.apply_op1(GeluOp)
}

pub(crate) struct GeluOp;

impl cpu::Unary for GeluOp {
    #[inline(always)]
    fn at(&self, x: f32) -> f32 {
        x * cpu::sigmoid(2.0 * SCALE * (x + CUBIC * x * x * x))
    }
}

impl CustomOp1 for GeluOp {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = cpu::unary(&GeluOp, cpu::slice(x, xl)?);
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.contiguous()?.apply_op2_no_bwd(&gy.contiguous()?, &GeluGradient)?))
    }
}

pub(crate) struct GeluGradient;

impl cpu::Binary for GeluGradient {
    #[inline(always)]
    fn at(&self, x: f32, gy: f32) -> f32 {
        let s = cpu::sigmoid(2.0 * SCALE * (x + CUBIC * x * x * x));
        let slope = 2.0 * SCALE * (1.0 + 3.0 * CUBIC * x * x);
        gy * (s + x * s * (1.0 - s) * slope)
    }
}

impl CustomOp2 for GeluGradient {
    fn name(&self) -> &'static str {
        "gelu gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        gy: &CpuStorage,
        gl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let gx = cpu::binary(&GeluGradient, cpu::slice(x, xl)?, cpu::slice(gy, gl)?);
        Ok((CpuStorage::F32(gx), xl.shape().clone()))
    }
}
