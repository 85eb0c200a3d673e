//! The weight gradient of a linear layer for one micro-batch, and its addition to the sums.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, TensorId};

use crate::cpu::{self, Kernel, Product, View};
use crate::gradients::Gradients;
use crate::residue::{WeightGradient, bytes_of};

/// The gradient of `weight` is `gyᵀ·x`, that of `bias` the column sums of `gy`.
pub(super) struct LinearResidue {
    /// Parameter of shape (o, i).
    pub(super) weight: TensorId,
    /// Parameter of shape (o).
    pub(super) bias: Option<TensorId>,
    /// Input, (…, i), contiguous.
    pub(super) x: Tensor,
    /// Gradient of the output, (…, o), contiguous.
    pub(super) gy: Tensor,
}

impl WeightGradient for LinearResidue {
    fn name(&self) -> &'static str {
        "Linear"
    }

    fn bytes(&self) -> usize {
        bytes_of(&self.x) + bytes_of(&self.gy)
    }

    fn parameters(&self) -> Vec<TensorId> {
        [Some(self.weight), self.bias].into_iter().flatten().collect()
    }

    fn add_to(self: Box<Self>, sums: &mut Gradients, is_last: bool) -> Result<()> {
        let Self { weight, bias, x, gy } = *self;
        let (outputs, inputs) = sums.shape_of(weight)?.dims2()?;
        let (x, gy) = (x.reshape(((), inputs))?, gy.reshape(((), outputs))?);
        let kernel = sums.kernels().of(Product::WeightGradient, x.dim(0)?);
        sums.add_with(
            weight,
            |sum, add| {
                let squares = Cell::new(None);
                let op = AddProduct { kernel, add, squares: is_last.then_some(&squares) };
                sum.inplace_op3(&gy, &x, &op)?;
                Ok(squares.get())
            },
            |_| gy.t()?.matmul(&x),
        )?;
        let Some(bias) = bias else { return Ok(()) };
        sums.add_with(
            bias,
            |sum, add| sum.inplace_op2(&gy, &AddColumns { add }).map(|()| None),
            |_| gy.sum(0),
        )
    }
}

/// `sum (+)= gyᵀ·x`: sum (o, i), gy (r, o), x (r, i).
pub(super) struct AddProduct<'a> {
    pub(super) kernel: Kernel,
    pub(super) add: bool,
    /// Receives the sum of the squares of the finished sum, where that is wanted.
    pub(super) squares: Option<&'a Cell<Option<f64>>>,
}

impl InplaceOp3 for AddProduct<'_> {
    fn name(&self) -> &'static str {
        "linear weight gradient"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sl: &Layout,
        gy: &CpuStorage,
        gl: &Layout,
        x: &CpuStorage,
        xl: &Layout,
    ) -> Result<()> {
        let ((rows, outputs), (_, inputs)) = (gl.shape().dims2()?, xl.shape().dims2()?);
        let sum = (cpu::slice_mut(sum, sl)?, View::row_major(outputs, inputs));
        let gy = (cpu::slice(gy, gl)?, View::row_major(rows, outputs).transposed());
        let x = (cpu::slice(x, xl)?, View::row_major(rows, inputs));
        match self.squares {
            Some(squares) => {
                squares.set(Some(cpu::gemm_and_squares(self.kernel, sum, gy, x, self.add)));
            }
            None => cpu::gemm(self.kernel, sum, gy, x, 1.0, self.add),
        }
        Ok(())
    }
}

/// `sum (+)=` the column sums of gy (r, o).
struct AddColumns {
    add: bool,
}

impl InplaceOp2 for AddColumns {
    fn name(&self) -> &'static str {
        "linear bias gradient"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sl: &Layout,
        source: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let sum = cpu::slice_mut(sum, sl)?;
        if !self.add {
            sum.fill(0.0);
        }
        cpu::add_columns(sum, cpu::slice(source, layout)?);
        Ok(())
    }
}
