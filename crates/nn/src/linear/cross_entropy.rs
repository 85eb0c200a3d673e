//! The cross-entropy of a linear layer's outputs, without the outputs: rows go through the layer, the
//! softmax and the way back a few at a time.
//!
//! With `n` rows and `v` classes the outputs would be `n·v` numbers, and their gradient as many: 200
//! MB for 512 rows and 49,152 classes. The forward already knows the gradient of its result but for
//! a factor, so it makes the gradient of the input on the way and keeps that alone. The weight
//! gradient makes the outputs again, which costs one product more.
//!
//! Shapes: `n` rows, `d` features, `v` classes.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor, bail};

use super::residue::AddProduct;
use super::{Linear, Products};
use crate::context::ForwardContext;
use crate::cpu::{self, Addends, Product};
use crate::deferred;
use crate::gradients::{Gradients, in_place};
use crate::residue::{Residue, ResidueQueue, WeightGradient, bytes_of};

/// A target that does not count.
pub const IGNORED: u32 = u32::MAX;

/// Rows that go through together. It is the same everywhere, so that sums have the same bits.
const ROWS: usize = 64;

fn chunks(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(ROWS).map(move |first| first..(first + ROWS).min(n))
}

/// `Σ −ln softmax(hidden·weightᵀ)[target]` over the rows whose target is not [`IGNORED`], in nats: a
/// scalar.
///
/// Shapes: hidden `(…, d)`, weight `(v, d)`, targets `(…)`, U32 class numbers.
///
/// # Errors
/// If the shapes do not fit. On the CPU also if a target is neither below `v` nor [`IGNORED`]; a
/// device would have to be waited for.
pub fn linear_cross_entropy(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    context: &ForwardContext,
) -> Result<Tensor> {
    let (v, d) = weight.dims2()?;
    if hidden.dim(D::Minus1)? != d {
        bail!("a head of {d} features got a tensor of shape {:?}", hidden.shape());
    }
    let hidden = hidden.reshape(((), d))?.contiguous()?;
    let targets = targets.to_dtype(DType::U32)?.flatten_all()?.contiguous()?;
    if hidden.dim(0)? != targets.dim(0)? {
        bail!("{} rows, but {} targets", hidden.dim(0)?, targets.dim(0)?);
    }
    if !in_place(&hidden) {
        return match context.residues() {
            Some(queue) => deferred_composed(&hidden, weight, &targets, queue),
            None => composed(&hidden, weight, &targets),
        };
    }
    let targets: Arc<[u32]> = targets.to_vec1()?.into();
    if let Some(target) = targets.iter().find(|&&t| t != IGNORED && t as usize >= v) {
        bail!("target {target} is not one of {v} classes");
    }
    let head = Head { targets, sizes: (v, d), products: Products::of_weight(weight, context) };
    let wants_gradient = context.is_training();
    let (queue, gradient) = (context.residues().cloned(), Mutex::new(Vec::new()));
    hidden.apply_op2(weight, HeadOp { head, queue, wants_gradient, gradient })
}

impl Linear {
    /// The weight, (o, i): for a layer whose outputs go into [`linear_cross_entropy`].
    pub fn weight(&self) -> &Tensor {
        &self.weight_oi
    }
}

/// What both directions need.
#[derive(Clone)]
struct Head {
    targets: Arc<[u32]>,
    /// Classes and features.
    sizes: (usize, usize),
    products: Products,
}

impl Head {
    /// For some rows the loss, and the gradient of the outputs for a loss that counts once.
    fn of_rows(&self, rows: Range<usize>, hidden: &[f32], weight: &[f32]) -> (f64, Vec<f32>) {
        let (v, d) = self.sizes;
        let hidden = &hidden[rows.start * d..rows.end * d];
        let with = (weight, self.sizes);
        let mut outputs = self.products.multiply(Product::Output, hidden, with, Addends::default());
        let targets = &self.targets[rows];
        let picked: Vec<Option<f32>> = targets
            .iter()
            .enumerate()
            .map(|(row, &target)| (target != IGNORED).then(|| outputs[row * v + target as usize]))
            .collect();
        let mut loss = 0.0;
        let found = cpu::softmax(&mut outputs, v);
        let rows = outputs.chunks_exact_mut(v).zip(found).zip(picked.iter().zip(targets));
        for ((row, (max, sum)), (picked, &target)) in rows {
            match picked {
                Some(picked) => {
                    loss += f64::from(sum).ln() - f64::from(picked - max);
                    row[target as usize] -= 1.0;
                }
                None => row.fill(0.0),
            }
        }
        (loss, outputs)
    }

    /// The loss, and the gradient of the input (n, d) if that is wanted.
    fn forward(&self, hidden: &[f32], weight: &[f32], wants_gradient: bool) -> (f64, Vec<f32>) {
        let (mut loss, mut gradient) = (0.0, Vec::new());
        if wants_gradient {
            gradient.reserve_exact(hidden.len());
        }
        for rows in chunks(self.targets.len()) {
            let (of_rows, outputs) = self.of_rows(rows, hidden, weight);
            loss += of_rows;
            if wants_gradient {
                let with = (weight, self.sizes);
                let product = Product::InputGradient;
                gradient.extend(self.products.multiply(
                    product,
                    &outputs,
                    with,
                    Addends::default(),
                ));
            }
        }
        (loss, gradient)
    }
}

struct HeadOp {
    head: Head,
    queue: Option<ResidueQueue>,
    wants_gradient: bool,
    /// The gradient of the input, for a loss that counts once.
    gradient: Mutex<Vec<f32>>,
}

impl CustomOp2 for HeadOp {
    fn name(&self) -> &'static str {
        "linear cross-entropy"
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        hl: &Layout,
        weight: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (hidden, weight) = (cpu::slice(hidden, hl)?, cpu::slice(weight, wl)?);
        let (loss, gradient) = self.head.forward(hidden, weight, self.wants_gradient);
        *self.gradient.lock().unwrap_or_else(PoisonError::into_inner) = gradient;
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let factor = gy.to_scalar::<f32>()?;
        // The forward's buffer becomes the gradient: a graph is walked once.
        let mut g =
            std::mem::take(&mut *self.gradient.lock().unwrap_or_else(PoisonError::into_inner));
        if g.len() != hidden.elem_count() {
            bail!("the graph of a cross-entropy was walked twice, or outside of training");
        }
        for g in &mut g {
            *g *= factor;
        }
        let g = Tensor::from_vec(g, hidden.shape(), hidden.device())?;
        let residue = HeadResidue {
            weight: weight.clone(),
            hidden: hidden.detach(),
            targets: Targets::Host(self.head.clone()),
            factor: gy.detach(),
        };
        let Some(queue) = &self.queue else {
            return Ok((Some(g), Some(residue.gradient()?)));
        };
        queue.push(Residue::new(residue));
        Ok((Some(g), None))
    }
}

enum Targets {
    /// Where our kernels work.
    Host(Head),
    /// On the device of the weight.
    Device(Tensor),
}

/// The gradient of `weight` is `gᵀ·hidden`, with g the gradient of the outputs, made again.
struct HeadResidue {
    /// Parameter of shape (v, d). It stays as it is until the step ends.
    weight: Tensor,
    /// Input, (n, d), contiguous.
    hidden: Tensor,
    targets: Targets,
    /// What the loss counts.
    factor: Tensor,
}

impl HeadResidue {
    /// The gradient of the outputs of some rows, (rows, v).
    fn of_rows(&self, rows: Range<usize>) -> Result<Tensor> {
        match &self.targets {
            Targets::Host(head) => {
                let factor = self.factor.to_scalar::<f32>()?;
                let mut g = cpu::read(&self.hidden, |hidden| {
                    cpu::read(&self.weight, |weight| {
                        Ok(head.of_rows(rows.clone(), hidden, weight).1)
                    })
                })?;
                for g in &mut g {
                    *g *= factor;
                }
                Tensor::from_vec(g, (rows.len(), head.sizes.0), self.hidden.device())
            }
            Targets::Device(targets) => {
                let hidden = self.hidden.narrow(0, rows.start, rows.len())?;
                let targets = targets.narrow(0, rows.start, rows.len())?;
                let (_, g) = composed_rows(&hidden, &self.weight.detach(), &targets)?;
                g.broadcast_mul(&self.factor)
            }
        }
    }

    /// The whole gradient, as a tensor of its own.
    fn gradient(&self) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for rows in chunks(self.hidden.dim(0)?) {
            let hidden = self.hidden.narrow(0, rows.start, rows.len())?;
            let g = self.of_rows(rows)?.t()?.matmul(&hidden)?;
            sum = Some(match sum {
                Some(sum) => (sum + g)?,
                None => g,
            });
        }
        match sum {
            Some(sum) => Ok(sum),
            None => self.weight.zeros_like(),
        }
    }
}

impl WeightGradient for HeadResidue {
    fn name(&self) -> &'static str {
        "Head"
    }

    fn bytes(&self) -> usize {
        let of_targets = match &self.targets {
            Targets::Host(head) => std::mem::size_of_val(&*head.targets),
            Targets::Device(targets) => bytes_of(targets),
        };
        bytes_of(&self.hidden) + of_targets
    }

    fn parameters(&self) -> Vec<candle_core::TensorId> {
        vec![self.weight.id()]
    }

    fn add_to(self: Box<Self>, sums: &mut Gradients, is_last: bool) -> Result<()> {
        let n = self.hidden.dim(0)?;
        if n == 0 {
            return Ok(());
        }
        let kernels = sums.kernels();
        let add_chunks = |sum: &Tensor, add: bool| {
            let squares = std::cell::Cell::new(None);
            for rows in chunks(n) {
                let (is_first, ends) = (rows.start == 0, rows.end == n);
                let kernel = kernels.of(Product::WeightGradient, rows.len());
                let hidden = self.hidden.narrow(0, rows.start, rows.len())?;
                let g = self.of_rows(rows)?;
                let squares = (is_last && ends).then_some(&squares);
                sum.inplace_op3(
                    &g,
                    &hidden,
                    &AddProduct { kernel, add: add || !is_first, squares },
                )?;
            }
            Ok(squares.get())
        };
        sums.add_with(self.weight.id(), add_chunks, |_| self.gradient())
    }
}

/// For some rows the loss and the gradient of the outputs, in candle's operations. Nothing is known
/// on the host.
fn composed_rows(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    let outputs = hidden.matmul(&weight.t()?)?;
    let counts = targets.ne(IGNORED)?;
    let target = (targets * &counts.to_dtype(DType::U32)?)?.unsqueeze(1)?;
    let counts = counts.to_dtype(outputs.dtype())?.unsqueeze(1)?;
    let shifted = outputs.broadcast_sub(&outputs.max_keepdim(1)?.detach())?;
    let sum = shifted.exp()?.sum_keepdim(1)?;
    let loss = ((sum.log()? - shifted.gather(&target, 1)?)? * &counts)?.sum_all()?;
    let softmax = shifted.exp()?.broadcast_div(&sum)?.detach();
    let g = softmax.broadcast_mul(&counts)?.scatter_add(&target, &counts.neg()?, 1)?;
    Ok((loss, g))
}

fn sum_of_losses(losses: Vec<Tensor>, like: &Tensor) -> Result<Tensor> {
    let zero = Tensor::zeros((), like.dtype(), like.device())?;
    losses.into_iter().try_fold(zero, |sum, loss| sum + loss)
}

/// The same from candle's own operations: for devices without our kernels, and for the tests.
fn composed(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let losses = chunks(hidden.dim(0)?)
        .map(|rows| {
            let part = |t: &Tensor| t.narrow(0, rows.start, rows.len());
            Ok(composed_rows(&part(hidden)?, weight, &part(targets)?)?.0)
        })
        .collect::<Result<_>>()?;
    sum_of_losses(losses, hidden)
}

/// The same, the weight gradient put off.
fn deferred_composed(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    queue: &ResidueQueue,
) -> Result<Tensor> {
    let (input, outside) = (hidden.detach(), weight.detach());
    let (mut losses, mut gradients) = (Vec::new(), Vec::new());
    for rows in chunks(input.dim(0)?) {
        let part = |t: &Tensor| t.narrow(0, rows.start, rows.len());
        let (loss, g) = composed_rows(&part(&input)?, &outside, &part(targets)?)?;
        losses.push(loss);
        gradients.push(g.matmul(&outside)?);
    }
    let loss = sum_of_losses(losses, &input)?;
    let gradient =
        if gradients.is_empty() { input.zeros_like()? } else { Tensor::cat(&gradients, 0)? };
    let (queue, weight, targets) = (queue.clone(), weight.clone(), targets.clone());
    let of_graph = weight.clone();
    deferred::with_backward(&loss, hidden, &of_graph, move |gy| {
        queue.push(Residue::new(HeadResidue {
            weight: weight.clone(),
            hidden: input.clone(),
            targets: Targets::Device(targets.clone()),
            factor: gy.detach(),
        }));
        Ok(Some(gradient.broadcast_mul(gy)?))
    })
}
