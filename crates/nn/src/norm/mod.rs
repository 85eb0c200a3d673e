//! Norms of the last dimension, with a backward (candle-nn's fast ones have none).
//!
//! Shapes: `r` rows, `d` features.

mod residue;
mod rows;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use candle_nn::{Init, VarBuilder};

use crate::buffer::Buffer;
use crate::chain::{Backward, ChainLayer, InputGradient};
use crate::context::ForwardContext;
use crate::cpu;
use crate::deferred;
use crate::gradients::in_place;
use crate::residue::{Residue, ResidueQueue};
use residue::NormResidue;
use rows::NormRows;

/// The rows of a tensor, normalised. [`Norm::layer`] and [`Norm::rms`] say how.
#[derive(Clone, Debug)]
pub struct Norm {
    weight_d: Tensor,
    bias_d: Option<Tensor>,
    rows: NormRows,
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "callers hand over `builder.pp(name)`, as everywhere in candle"
)]
impl Norm {
    /// `(x − mean) / √(variance + ε) · weight + bias`, each row by itself (Ba, Kiros, Hinton 2016,
    /// arXiv:1607.06450). Parameters `weight` (d), ones, and `bias` (d), zeros; ε is 1e-5.
    ///
    /// # Errors
    /// What the builder returns.
    pub fn layer(features: usize, builder: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            weight_d: builder.get_with_hints(features, "weight", Init::Const(1.0))?,
            bias_d: Some(builder.get_with_hints(features, "bias", Init::Const(0.0))?),
            rows: NormRows { epsilon: 1e-5, is_centred: true },
        })
    }

    /// `x / √(mean(x²) + ε) · weight`, each row by itself (Zhang, Sennrich 2019, arXiv:1910.07467).
    /// Parameter `weight` (d), ones.
    ///
    /// # Errors
    /// What the builder returns.
    pub fn rms(features: usize, epsilon: f64, builder: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            weight_d: builder.get_with_hints(features, "weight", Init::Const(1.0))?,
            bias_d: None,
            rows: NormRows { epsilon, is_centred: false },
        })
    }
}

impl Norm {
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
        let op = NormOp { rows: self.rows, queue: context.residues().cloned() };
        let x = x.contiguous()?;
        match &self.bias_d {
            Some(bias_d) => x.apply_op3(&self.weight_d, bias_d, op),
            None => x.apply_op2(&self.weight_d, op),
        }
    }

    /// The same from candle's own operations: for devices without our kernels, and for the tests.
    ///
    /// # Errors
    /// If the last dimension is not `d`, or a kernel fails.
    pub fn forward_composed(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.rows.composed(x)?.0.broadcast_mul(&self.weight_d)?;
        match &self.bias_d {
            Some(bias_d) => y.broadcast_add(bias_d),
            None => Ok(y),
        }
    }

    /// The same, the weight gradient put off. Its backward is the one of the kernel, in candle's
    /// operations.
    fn forward_deferred(&self, x: &Tensor, queue: &ResidueQueue) -> Result<Tensor> {
        let outside = Self {
            weight_d: self.weight_d.detach(),
            bias_d: self.bias_d.as_ref().map(Tensor::detach),
            rows: self.rows,
        };
        let y = outside.forward_composed(&x.detach())?;
        let (queue, input, wants_gx) = (queue.clone(), x.detach(), x.track_op());
        let (weight, bias) = (self.weight_d.id(), self.bias_d.as_ref().map(Tensor::id));
        deferred::with_backward(&y, x, &self.weight_d, move |gy| {
            let gx = wants_gx.then(|| {
                let g = gy.broadcast_mul(&outside.weight_d)?;
                outside.rows.composed_input_gradient(&input, &g)
            });
            let (x, gy, norm) = (input.clone(), gy.contiguous()?, outside.rows);
            queue.push(Residue::new(NormResidue { weight, bias, x, gy, norm }));
            gx.transpose()
        })
    }
}

fn check(shape: &Shape, features: usize) -> Result<()> {
    if shape.dims().last() != Some(&features) {
        bail!("a norm of {features} features got a tensor of shape {shape:?}");
    }
    Ok(())
}

impl ChainLayer for Norm {
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
        let (x, norm) = (x.into_tensor()?, self.rows);
        let y = cpu::read(&x, |x| {
            cpu::read(&self.weight_d, |weight| {
                cpu::read_some(self.bias_d.as_ref(), |bias| Ok(norm.forward(x, weight, bias)))
            })
        })?;
        let y = Buffer::Owned(y, x.shape().clone()).plus_some(onto)?;
        let (weight, bias) = (self.weight_d.clone(), self.bias_d.as_ref().map(Tensor::id));
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

/// A norm as an operation of candle's graph.
struct NormOp {
    rows: NormRows,
    queue: Option<ResidueQueue>,
}

impl NormOp {
    fn forward(
        &self,
        (x, xl): (&CpuStorage, &Layout),
        (weight, wl): (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let (xs, ws): (&[f32], &[f32]) = (cpu::slice(x, xl)?, cpu::slice(weight, wl)?);
        let bias = bias.map(|(bias, layout)| cpu::slice::<f32>(bias, layout)).transpose()?;
        check(xl.shape(), ws.len())?;
        Ok((CpuStorage::F32(self.rows.forward(xs, ws, bias)), xl.shape().clone()))
    }

    /// Gradients of x, weight and bias; the last two are `None` when a queue takes their residue.
    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let input_gradient = || self.rows.input_gradient(x, weight, gy, None)?.into_tensor();
        let gx = x.track_op().then(input_gradient).transpose()?;
        let Some(queue) = &self.queue else {
            let (gw, gb) = self.rows.weight_gradients(x, gy, bias.is_some())?;
            return Ok((gx, Some(gw), gb));
        };
        queue.push(Residue::new(NormResidue {
            weight: weight.id(),
            bias: bias.map(Tensor::id),
            x: x.detach(),
            gy: gy.contiguous()?,
            norm: self.rows,
        }));
        Ok((gx, None, None))
    }
}

impl CustomOp3 for NormOp {
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
        self.forward((x, xl), (weight, wl), Some((bias, bl)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        self.backward(x, weight, Some(bias), gy)
    }
}

impl CustomOp2 for NormOp {
    fn name(&self) -> &'static str {
        "RMS norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        weight: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, xl), (weight, wl), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (gx, gw, _) = self.backward(x, weight, None, gy)?;
        Ok((gx, gw))
    }
}
