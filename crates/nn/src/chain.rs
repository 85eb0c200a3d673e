//! Layers in a row whose backward is written down, so that candle's autograd sees one operation.
//!
//! candle's backward makes a tensor of zeros for each gradient of each operation, and adds what the
//! operation returns: two passes over memory for nothing. It cannot add a residual path inside of a
//! product, nor let a rectifier work in place. A [`Chain`] runs its layers itself and remembers how
//! to go back:
//!
//! ```
//! use candle_core::{DType, Device};
//! use pp_nn::{Activation, Chain, Norm, Linear, ParameterStore};
//!
//! # fn main() -> candle_core::Result<()> {
//! let store = ParameterStore::seeded(7);
//! let at = |name: &str| store.builder(DType::F32, &Device::Cpu).pp(name);
//! // x + mlp(norm(x))
//! let block = Chain::new().residual(
//!     Chain::new()
//!         .then(Norm::layer(8, at("norm"))?)
//!         .then(Linear::new(8, 32, at("up"))?)
//!         .then(Activation::Gelu)
//!         .then(Linear::new(32, 8, at("down"))?),
//! );
//! # Ok(())
//! # }
//! ```
//!
//! Results and gradients have the bits of the same layers under autograd; only where three paths or
//! more begin at one tensor are their gradients added in another order.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::buffer::Buffer;
use crate::context::ForwardContext;
use crate::gradients::in_place;

/// A layer of a [`Chain`].
pub trait ChainLayer: Send + Sync {
    /// Runs the layer under candle's autograd: on any device, and where no residues are collected.
    ///
    /// # Errors
    /// If the shape does not fit, or a kernel fails.
    fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor>;

    /// Returns the output for `x`, plus `onto`, and the backward. The backward leaves residues for
    /// the weights.
    ///
    /// # Errors
    /// If the shape does not fit, or a kernel fails.
    fn run(
        &self,
        x: Buffer,
        onto: Option<&Tensor>,
        context: &ForwardContext,
    ) -> Result<(Buffer, Backward)>;

    /// Whether it returns its input in this pass.
    fn is_identity(&self, context: &ForwardContext) -> bool {
        let _ = context;
        false
    }

    /// One of its parameters, if it has any.
    fn parameter(&self) -> Option<&Tensor> {
        None
    }
}

/// From the gradient of a layer's output to that of its input, `None` where it is not wanted.
pub type Backward = Box<dyn FnOnce(Buffer, InputGradient) -> Result<Option<Buffer>> + Send>;

/// What happens to the gradient of an input.
#[derive(Clone, Debug)]
pub enum InputGradient {
    /// It is not wanted: the input is the batch itself.
    Unwanted,
    /// It goes on.
    Wanted,
    /// This gradient, of another path, is added to it.
    AddedTo(Tensor),
}

impl InputGradient {
    /// Whether it is wanted.
    pub fn is_wanted(&self) -> bool {
        !matches!(self, Self::Unwanted)
    }

    /// The gradient that is added.
    pub fn other(&self) -> Option<&Tensor> {
        match self {
            Self::AddedTo(other) => Some(other),
            Self::Unwanted | Self::Wanted => None,
        }
    }
}

/// Layers in a row: each takes what the one before it returns.
#[derive(Default)]
pub struct Chain {
    layers: Vec<Box<dyn ChainLayer>>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chain({} layers)", self.layers.len())
    }
}

impl Chain {
    /// No layer: it returns its input.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more layer.
    #[must_use]
    pub fn then(mut self, layer: impl ChainLayer + 'static) -> Self {
        self.layers.push(Box::new(layer));
        self
    }

    /// `x + path(x)` as one more layer.
    #[must_use]
    pub fn residual(self, path: Self) -> Self {
        self.then(Residual(path))
    }

    /// Runs the layers on one micro-batch, under candle's autograd. Where its kernels work (numbers
    /// of 32 bits, on the CPU) and the context collects residues, they are one operation of its
    /// graph.
    ///
    /// # Errors
    /// If a shape does not fit, or a kernel fails.
    pub fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        if !ChainPass::is_for(x, context) {
            return ChainLayer::forward(self, x, context);
        }
        let mut pass = ChainPass::new(x)?;
        pass.run(self, context)?;
        pass.finish()
    }
}

impl ChainLayer for Chain {
    fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        self.layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x, context))
    }

    fn run(
        &self,
        mut x: Buffer,
        mut onto: Option<&Tensor>,
        context: &ForwardContext,
    ) -> Result<(Buffer, Backward)> {
        let mut back = Vec::new();
        let active: Vec<_> = self.layers.iter().filter(|l| !l.is_identity(context)).collect();
        for (i, layer) in active.iter().enumerate() {
            let onto = if i + 1 == active.len() { onto.take() } else { None };
            let (y, backward) = layer.run(x, onto, context)?;
            x = y;
            back.push(backward);
        }
        Ok((x.plus_some(onto)?, Box::new(move |gy, wish| go_back(back, gy, &wish))))
    }

    fn is_identity(&self, context: &ForwardContext) -> bool {
        self.layers.iter().all(|layer| layer.is_identity(context))
    }

    fn parameter(&self) -> Option<&Tensor> {
        self.layers.iter().find_map(|layer| layer.parameter())
    }
}

/// Goes back through the layers, the last one first. `wish` is for the gradient of the first one's
/// input.
fn go_back(back: Vec<Backward>, gy: Buffer, wish: &InputGradient) -> Result<Option<Buffer>> {
    let n = back.len();
    if n == 0 {
        return wish.is_wanted().then(|| gy.plus_some(wish.other())).transpose();
    }
    let mut gradient = gy;
    for (i, backward) in back.into_iter().enumerate().rev() {
        let wish = if i == 0 { wish.clone() } else { InputGradient::Wanted };
        match backward(gradient, wish)? {
            Some(gx) => gradient = gx,
            None if i == 0 => return Ok(None),
            None => bail!("a layer of a chain returned no gradient of its input"),
        }
    }
    Ok(Some(gradient))
}

/// `x + path(x)`.
struct Residual(Chain);

impl ChainLayer for Residual {
    fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        x + ChainLayer::forward(&self.0, x, context)?
    }

    fn run(
        &self,
        x: Buffer,
        onto: Option<&Tensor>,
        context: &ForwardContext,
    ) -> Result<(Buffer, Backward)> {
        let x = x.into_tensor()?;
        let (y, back) = self.0.run(Buffer::Shared(x.clone()), Some(&x), context)?;
        let backward = move |gy: Buffer, wish: InputGradient| {
            if !wish.is_wanted() {
                return back(gy, wish);
            }
            let gy = gy.into_tensor()?;
            let gx = back(Buffer::Shared(gy.clone()), InputGradient::AddedTo(gy))?;
            gx.map(|gx| gx.plus_some(wish.other())).transpose()
        };
        Ok((y.plus_some(onto)?, Box::new(backward)))
    }

    fn parameter(&self) -> Option<&Tensor> {
        self.0.parameter()
    }
}

/// Chains that run one after another as a single operation of candle's graph.
#[derive(Debug)]
pub struct ChainPass {
    x: Tensor,
    value: Buffer,
    parameter: Option<Tensor>,
    back: Back,
}

impl ChainPass {
    /// Whether a pass of `x` can be one operation.
    pub fn is_for(x: &Tensor, context: &ForwardContext) -> bool {
        in_place(x) && context.residues().is_some()
    }

    /// Begins with `x`.
    ///
    /// # Errors
    /// If `x` cannot be read.
    pub fn new(x: &Tensor) -> Result<Self> {
        let x = x.contiguous()?;
        let value = Buffer::Shared(x.detach());
        Ok(Self { x, value, parameter: None, back: Back::default() })
    }

    /// One more chain.
    ///
    /// # Errors
    /// As [`Chain::forward`].
    pub fn run(&mut self, chain: &Chain, context: &ForwardContext) -> Result<()> {
        let value = std::mem::replace(&mut self.value, Buffer::empty());
        let (value, backward) = ChainLayer::run(chain, value, None, context)?;
        self.value = value;
        self.back.0.push(backward);
        if self.parameter.is_none() {
            self.parameter = ChainLayer::parameter(chain).cloned();
        }
        Ok(())
    }

    /// The result of the last chain, as an operation of candle's graph on the first one's input.
    ///
    /// # Errors
    /// If the result cannot be read.
    pub fn finish(self) -> Result<Tensor> {
        let Self { x, value, parameter, back } = self;
        let (y, shape) = value.into_vec()?;
        let op = ChainOp { y: Mutex::new(Some(y)), shape, back: Mutex::new(Some(back)) };
        // A parameter is there so that the operation is part of the graph even if `x` is the batch.
        match parameter {
            Some(parameter) => x.apply_op2(&parameter, op),
            None => x.apply_op2(&x.detach(), op),
        }
    }
}

/// The backwards of the layers, in the order of the forward.
#[derive(Default)]
struct Back(Vec<Backward>);

impl std::fmt::Debug for Back {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Back({})", self.0.len())
    }
}

struct ChainOp {
    /// What the forward returns: it has been computed before.
    y: Mutex<Option<Vec<f32>>>,
    shape: Shape,
    back: Mutex<Option<Back>>,
}

fn take<T>(value: &Mutex<Option<T>>) -> Option<T> {
    value.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl CustomOp2 for ChainOp {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        match take(&self.y) {
            Some(y) => Ok((CpuStorage::F32(y), self.shape.clone())),
            None => bail!("the result of a chain was taken twice"),
        }
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(Back(back)) = take(&self.back) else {
            bail!("the graph of a chain was walked twice");
        };
        let wish = if x.track_op() { InputGradient::Wanted } else { InputGradient::Unwanted };
        let gx = go_back(back, Buffer::Shared(gy.contiguous()?), &wish)?;
        Ok((gx.map(Buffer::into_tensor).transpose()?, None))
    }
}
