//! `y = x·wᵀ + b`, with a weight gradient that can wait.
//!
//! Shapes: `r` rows (all leading dimensions together), `i` inputs, `o` outputs.

mod cross_entropy;
mod residue;

use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, TensorId, bail,
};
use candle_nn::{Init, VarBuilder};

use crate::buffer::Buffer;
use crate::chain::{Backward, ChainLayer, InputGradient};
use crate::context::ForwardContext;
use crate::cpu::{self, Addends, Fresh, InstructionSet, Kernels, Panels, Product, View};
use crate::deferred;
use crate::packed_weights::PackedWeights;
use crate::residue::{Residue, ResidueQueue};
pub use cross_entropy::{IGNORED, linear_cross_entropy};
use residue::LinearResidue;

/// A fully connected layer.
#[derive(Clone, Debug)]
pub struct Linear {
    weight_oi: Tensor,
    bias_o: Option<Tensor>,
}

impl Linear {
    /// Parameters `weight` (o, i) and `bias` (o), both uniform in ±1/√i (PyTorch's default).
    ///
    /// # Errors
    /// What the builder returns.
    pub fn new(inputs: usize, outputs: usize, builder: VarBuilder<'_>) -> Result<Self> {
        let bound = 1.0 / (inputs as f64).sqrt();
        Self::with_init(inputs, outputs, true, Init::Uniform { lo: -bound, up: bound }, builder)
    }

    /// Parameters `weight` (o, i) from `init` and, if wanted, `bias` (o): zero when `init` is a
    /// normal distribution, else from `init` as well.
    ///
    /// # Errors
    /// What the builder returns.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers hand over `builder.pp(name)`, as everywhere in candle"
    )]
    pub fn with_init(
        inputs: usize,
        outputs: usize,
        bias: bool,
        init: Init,
        builder: VarBuilder<'_>,
    ) -> Result<Self> {
        let weight_oi = builder.get_with_hints((outputs, inputs), "weight", init)?;
        let bias_init = if matches!(init, Init::Randn { .. }) { Init::Const(0.0) } else { init };
        let bias_o =
            bias.then(|| builder.get_with_hints(outputs, "bias", bias_init)).transpose()?;
        Ok(Self { weight_oi, bias_o })
    }

    /// `(…, i)` → `(…, o)`.
    ///
    /// # Errors
    /// If the last dimension is not `i`, or a kernel fails.
    pub fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        self.check(x.shape())?;
        if !x.device().is_cpu() || x.dtype() != DType::F32 {
            return match context.residues() {
                Some(queue) => self.forward_deferred(x, queue),
                None => self.forward_composed(x),
            };
        }
        let op = LinearOp { queue: context.residues().cloned(), products: self.products(context) };
        let x = x.contiguous()?;
        match &self.bias_o {
            Some(bias_o) => x.apply_op3(&self.weight_oi, bias_o, op),
            None => x.apply_op2(&self.weight_oi, op),
        }
    }

    fn check(&self, shape: &Shape) -> Result<()> {
        let inputs = self.weight_oi.dim(1)?;
        if shape.dims().last() != Some(&inputs) {
            bail!("a linear layer of {inputs} inputs got a tensor of shape {shape:?}");
        }
        Ok(())
    }

    fn products(&self, context: &ForwardContext) -> Products {
        Products::of_weight(&self.weight_oi, context)
    }

    /// The same from candle's own operations, the weight gradient put off.
    fn forward_deferred(&self, x: &Tensor, queue: &ResidueQueue) -> Result<Tensor> {
        let outside = Self {
            weight_oi: self.weight_oi.detach(),
            bias_o: self.bias_o.as_ref().map(Tensor::detach),
        };
        let y = outside.forward_composed(&x.detach())?;
        let (queue, input, wants_gx) = (queue.clone(), x.detach().contiguous()?, x.track_op());
        let (weight, bias) = (self.weight_oi.id(), self.bias_o.as_ref().map(Tensor::id));
        deferred::with_backward(&y, x, &self.weight_oi, move |gy| {
            let gy = gy.contiguous()?;
            let gx = wants_gx.then(|| {
                let rows = gy.reshape(((), outside.weight_oi.dim(0)?))?;
                rows.matmul(&outside.weight_oi)?.reshape(input.shape())
            });
            queue.push(Residue::new(LinearResidue {
                weight,
                bias,
                x: input.clone(),
                gy: gy.clone(),
            }));
            gx.transpose()
        })
    }

    /// The same from candle's own operations: for devices without our kernels, and for the tests.
    fn forward_composed(&self, x: &Tensor) -> Result<Tensor> {
        let (outputs, inputs) = self.weight_oi.dims2()?;
        let mut shape = x.dims().to_vec();
        let y = x.reshape(((), inputs))?.matmul(&self.weight_oi.t()?)?;
        let y = match &self.bias_o {
            Some(bias_o) => y.broadcast_add(bias_o)?,
            None => y,
        };
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        y.reshape(shape)
    }
}

impl ChainLayer for Linear {
    fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        Self::forward(self, x, context)
    }

    fn run(
        &self,
        x: Buffer,
        onto: Option<&Tensor>,
        context: &ForwardContext,
    ) -> Result<(Buffer, Backward)> {
        self.check(x.shape())?;
        let products = self.products(context);
        let (x, weight) = (x.into_tensor()?, self.weight_oi.clone());
        let y = products.of(Product::Output, &x, &weight, self.bias_o.as_ref(), onto)?;
        let (queue, bias) = (context.residues().cloned(), self.bias_o.as_ref().map(Tensor::id));
        let backward = move |gy: Buffer, wish: InputGradient| {
            let gy = gy.into_tensor()?;
            let gx = wish
                .is_wanted()
                .then(|| products.of(Product::InputGradient, &gy, &weight, None, wish.other()));
            if let Some(queue) = queue {
                queue.push(Residue::new(LinearResidue { weight: weight.id(), bias, x, gy }));
            }
            gx.transpose()
        };
        Ok((y, Box::new(backward)))
    }

    fn parameter(&self) -> Option<&Tensor> {
        Some(&self.weight_oi)
    }
}

/// How the products with one weight are made.
#[derive(Clone)]
struct Products {
    weight: TensorId,
    kernels: Kernels,
    packed: Option<PackedWeights>,
}

impl Products {
    fn of_weight(weight: &Tensor, context: &ForwardContext) -> Self {
        let packed = context.packed_weights().cloned();
        Self { weight: weight.id(), kernels: context.kernels(), packed }
    }

    /// `y = x·wᵀ` or `gx = gy·w`, plus `addends`, for a weight (o, i): as many rows as `from` has.
    fn multiply(
        &self,
        product: Product,
        from: &[f32],
        (weight, (outputs, inputs)): (&[f32], (usize, usize)),
        addends: Addends<'_>,
    ) -> Vec<f32> {
        let view = View::row_major(outputs, inputs);
        let right = if matches!(product, Product::Output) { view.transposed() } else { view };
        let rows = from.len() / right.rows.max(1);
        let kernel = self.kernels.of(product, rows);
        let from = (from, View::row_major(rows, right.rows));
        let of_to = View::row_major(rows, right.columns);
        if let (Some(packed), Some(set)) = (&self.packed, InstructionSet::of(kernel)) {
            let mut to = Fresh::new(rows * right.columns);
            let by_copy = |panels: &Panels| {
                cpu::gemm_into_fresh(panels, (to.slots(), of_to), from, addends);
            };
            let sizes = (outputs, inputs);
            if packed.with((self.weight, weight), sizes, product, set, by_copy) {
                // SAFETY: the product has written every slot.
                #[expect(unsafe_code, reason = "zeros would be a pass over memory (`Fresh`)")]
                return unsafe { to.written() };
            }
        }
        let mut to = vec![0.0; rows * right.columns];
        cpu::gemm_and_add(kernel, (&mut to, of_to), from, (weight, right), addends);
        to
    }

    /// One of the two, plus a bias and a tensor: the shape of `from` with another last dimension.
    fn of(
        &self,
        product: Product,
        from: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        onto: Option<&Tensor>,
    ) -> Result<Buffer> {
        let (outputs, inputs) = weight.dims2()?;
        let of_to = if product == Product::InputGradient { inputs } else { outputs };
        let mut shape = from.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = of_to;
        }
        let shape = Shape::from(shape);
        if let Some(onto) = onto.filter(|onto| onto.shape() != &shape) {
            bail!("a linear layer gives {shape:?}, which cannot be added to {:?}", onto.shape());
        }
        let to = cpu::read(from, |from| {
            cpu::read(weight, |weight| {
                cpu::read_some(bias, |bias| {
                    cpu::read_some(onto, |onto| {
                        let weight = (weight, (outputs, inputs));
                        Ok(self.multiply(product, from, weight, Addends { bias, onto }))
                    })
                })
            })
        })?;
        Ok(Buffer::Owned(to, shape))
    }
}

struct LinearOp {
    queue: Option<ResidueQueue>,
    products: Products,
}

impl LinearOp {
    fn forward(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = weight.1.shape().dims2()?;
        let xs: &[f32] = cpu::slice(x.0, x.1)?;
        let ws: &[f32] = cpu::slice(weight.0, weight.1)?;
        let bias = bias.map(|(storage, layout)| cpu::slice::<f32>(storage, layout)).transpose()?;
        let weight = (ws, (outputs, inputs));
        let y = self.products.multiply(Product::Output, xs, weight, Addends { bias, onto: None });
        let mut shape = x.1.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        Ok((CpuStorage::F32(y), shape.into()))
    }

    /// Gradients of x, weight and bias; the last two are `None` when a queue takes their residue.
    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gy = gy.contiguous()?;
        // The gradient of the batch itself is not wanted.
        let op = InputGradientOp(self.products.clone());
        let gx = x.track_op().then(|| gy.apply_op2_no_bwd(weight, &op)).transpose()?;
        if let Some(queue) = &self.queue {
            queue.push(Residue::new(LinearResidue {
                weight: weight.id(),
                bias: bias.map(Tensor::id),
                x: x.detach(),
                gy,
            }));
            return Ok((gx, None, None));
        }
        let (outputs, inputs) = weight.dims2()?;
        let gy = gy.reshape(((), outputs))?;
        let gw = gy.t()?.matmul(&x.reshape(((), inputs))?)?;
        let gb = bias.map(|_| gy.sum(0)).transpose()?;
        Ok((gx, Some(gw), gb))
    }
}

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
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

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
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

/// `gx = gy·w`.
struct InputGradientOp(Products);

impl CustomOp2 for InputGradientOp {
    fn name(&self) -> &'static str {
        "linear input gradient"
    }

    fn cpu_fwd(
        &self,
        gy: &CpuStorage,
        gl: &Layout,
        weight: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = wl.shape().dims2()?;
        let gys: &[f32] = cpu::slice(gy, gl)?;
        let weight = (cpu::slice(weight, wl)?, (outputs, inputs));
        let gx = self.0.multiply(Product::InputGradient, gys, weight, Addends::default());
        let mut shape = gl.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = inputs;
        }
        Ok((CpuStorage::F32(gx), shape.into()))
    }
}
