//! The rectifier.

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

struct ReluOp;

impl CustomOp1 for ReluOp {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = cpu::slice::<f32>(x, xl)?.iter().map(|&v| if v <= 0.0 { 0.0 } else { v }).collect();
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(y.apply_op2_no_bwd(&gy.contiguous()?, &ReluGradient)?))
    }
}

struct ReluGradient;

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
        let gx = cpu::slice::<f32>(y, yl)?
            .iter()
            .zip(cpu::slice::<f32>(gy, gl)?)
            .map(|(&v, &g)| if v == 0.0 { 0.0 } else { g })
            .collect();
        Ok((CpuStorage::F32(gx), yl.shape().clone()))
    }
}
