//! A layer from candle's own operations whose weight gradient can wait: for devices and number
//! types without kernels of ours.
//!
//! candle computes the gradients of both factors of a product, wanted or not. So the layer's output
//! is computed outside of the graph and then handed on by an operation that knows only how to go
//! back.

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// `y`, which was computed from `x` and `weight` without a graph. `backward` gets the gradient of
/// `y`; it puts aside what the weights need, and returns the gradient of `x` where that is wanted.
///
/// # Errors
/// If `y` cannot be copied.
pub(crate) fn with_backward(
    y: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    backward: impl Fn(&Tensor) -> Result<Option<Tensor>> + Send + Sync + 'static,
) -> Result<Tensor> {
    // `weight` is there so that the operation is part of the graph even if nothing before it is.
    y.detach().contiguous()?.apply_op3(x, weight, Deferred { backward })
}

struct Deferred<F> {
    backward: F,
}

impl<F: Fn(&Tensor) -> Result<Option<Tensor>> + Send + Sync> CustomOp3 for Deferred<F> {
    fn name(&self) -> &'static str {
        "deferred weight gradient"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        y: &CudaStorage,
        layout: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok((None, (self.backward)(&gy.detach())?, None))
    }
}
