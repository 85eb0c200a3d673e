//! The rectifier.
#![expect(clippy::inline_always, reason = "inlined into loops for each processor")]

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor};

use crate::cpu;

/// `max(x, 0)`, element by element; NaN stays NaN.
///
/// # Errors
/// If a kernel fails.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() || x.dtype() != DType::F32 {
        return x.relu();
    }
    x.contiguous()?.apply_op1(ReluOp)
}

pub(crate) struct ReluOp;

impl cpu::Unary for ReluOp {
    #[inline(always)]
    fn at(&self, x: f32) -> f32 {
        if x <= 0.0 { 0.0 } else { x }
    }
}

impl CustomOp1 for ReluOp {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(cpu::unary(&ReluOp, cpu::slice(x, xl)?)), xl.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(y.apply_op2_no_bwd(&gy.contiguous()?, &ReluGradient { scale: 1.0 })?))
    }
}

/// Through what the output let pass, times `scale`.
pub(crate) struct ReluGradient {
    pub(crate) scale: f32,
}

impl cpu::Binary for ReluGradient {
    #[inline(always)]
    fn at(&self, y: f32, gy: f32) -> f32 {
        if y == 0.0 { 0.0 } else { gy * self.scale }
    }
}

impl CustomOp2 for ReluGradient {
    fn name(&self) -> &'static str {
        "relu gradient"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        yl: &Layout,
        gy: &CpuStorage,
        gl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let gx = cpu::binary(self, cpu::slice(y, yl)?, cpu::slice(gy, gl)?);
        Ok((CpuStorage::F32(gx), yl.shape().clone()))
    }
}
