//! What each layer costs, measured.

use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
#[cfg(doc)]
use pp_nn::memory;
use pp_nn::memory::Meter;
use pp_nn::{ForwardContext, Gradients, Kernels, PackedWeights, ParameterStore, ResidueQueue};
use pp_quantile::upper_median;

use crate::error::PartitionError;
use crate::layer::Objective;
use crate::stack::LayerStack;
use crate::stage::Stage;

/// The cost of one layer for one micro-batch.
#[derive(Clone, Debug)]
pub struct LayerProfile {
    /// Its name.
    pub name: String,
    /// Numbers that it trains.
    pub parameters: u64,
    /// Their bytes.
    pub parameter_bytes: u64,
    /// Median seconds of its forward.
    pub forward_seconds: f64,
    /// Median seconds of the first half of its backward: the gradient of its inputs, and of its
    /// weights where the layer can't put that off.
    pub input_grad_seconds: f64,
    /// Median seconds of the second half: the sums of the weights' gradients.
    pub weight_grad_seconds: f64,
    /// Bytes kept between forward and backward. Counted by the allocator where the program has
    /// [`memory::CountingAllocator`], else the tensors of the autograd graph.
    pub activation_bytes: u64,
    /// Bytes kept between the two halves of its backward: what the second half needs.
    pub residue_bytes: u64,
    /// Bytes of its outputs: what crosses a boundary after it.
    pub boundary_bytes: u64,
}

impl LayerProfile {
    /// Seconds of its whole backward.
    pub fn backward_seconds(&self) -> f64 {
        self.input_grad_seconds + self.weight_grad_seconds
    }
}

/// The costs of a model's layers.
#[derive(Clone, Debug)]
pub struct Profile {
    /// One entry a layer, in order. The loss counts to the last.
    pub layers: Vec<LayerProfile>,
}

/// How carefully to measure.
#[derive(Clone, Copy, Debug)]
pub struct ProfileConfig {
    /// Passes that are not counted.
    pub warm_up: usize,
    /// Passes whose median counts.
    pub repeats: usize,
    /// The seed of the weights.
    pub seed: u64,
    /// What multiplies matrices.
    pub kernels: Kernels,
    /// Whether packed copies of the weights are kept.
    pub packs_weights: bool,
}

impl Default for ProfileConfig {
    fn default() -> Self {
        Self { warm_up: 1, repeats: 5, seed: 0, kernels: Kernels::default(), packs_weights: true }
    }
}

/// Runs one micro-batch through each layer by itself, forward and backward, and takes medians.
///
/// Each layer is built alone and dropped again, so that the profile of a model needs no more
/// memory than its largest layer. Shapes: `inputs` and `targets` are one micro-batch.
///
/// # Errors
/// [`PartitionError::Layer`] if a layer fails to build or to run.
pub fn profile(
    stack: &LayerStack,
    objective: &dyn Objective,
    inputs: &[Tensor],
    targets: &Tensor,
    device: &Device,
    config: ProfileConfig,
) -> Result<Profile, PartitionError> {
    profile_with(stack, objective, inputs, targets, device, config, |_| {})
}

/// The same, and says how many layers are measured: before the first, and after each.
///
/// # Errors
/// As [`profile`].
pub fn profile_with(
    stack: &LayerStack,
    objective: &dyn Objective,
    inputs: &[Tensor],
    targets: &Tensor,
    device: &Device,
    config: ProfileConfig,
    mut on_layer: impl FnMut(usize),
) -> Result<Profile, PartitionError> {
    on_layer(0);
    let here = |t: &Tensor| t.to_device(device).map_err(PartitionError::Tensor);
    let mut tensors = inputs.iter().map(here).collect::<Result<Vec<_>, _>>()?;
    let targets = &here(targets)?;
    let mut layers = Vec::with_capacity(stack.len());
    for layer in 0..stack.len() {
        let store = ParameterStore::seeded(config.seed);
        let stage = Stage::build(stack, layer..layer + 1, &store, DType::F32, device)?;
        let objective = (layer + 1 == stack.len()).then_some((objective, targets));
        let measured = measure(&stage, &tensors, objective, config).map_err(|source| {
            PartitionError::Layer { layer, name: stack.name(layer).to_owned(), source }
        })?;
        let parameters = stage.parameters().iter().map(|p| p.var.elem_count() as u64).sum();
        layers.push(LayerProfile {
            name: stack.name(layer).to_owned(),
            parameters,
            parameter_bytes: parameters * DType::F32.size_in_bytes() as u64,
            forward_seconds: measured.forward_seconds,
            input_grad_seconds: measured.input_grad_seconds,
            weight_grad_seconds: measured.weight_grad_seconds,
            activation_bytes: measured.activation_bytes,
            residue_bytes: measured.residue_bytes,
            boundary_bytes: bytes(&measured.outputs),
        });
        tensors = measured.outputs;
        on_layer(layer + 1);
    }
    Ok(Profile { layers })
}

struct Measured {
    outputs: Vec<Tensor>,
    forward_seconds: f64,
    input_grad_seconds: f64,
    weight_grad_seconds: f64,
    activation_bytes: u64,
    residue_bytes: u64,
}

fn measure(
    stage: &Stage,
    inputs: &[Tensor],
    objective: Option<(&dyn Objective, &Tensor)>,
    config: ProfileConfig,
) -> candle_core::Result<Measured> {
    let queue = ResidueQueue::default();
    let packed = config.packs_weights.then(PackedWeights::default);
    let mut context = ForwardContext::training(config.seed, 1)
        .with_residues(queue.clone())
        .with_kernels(config.kernels);
    if let Some(packed) = &packed {
        context = context.with_packed_weights(packed.clone());
    }
    let packed_bytes = || packed.as_ref().map_or(0, |packed| packed.bytes() as i64);
    let mut sums = Gradients::new(stage.parameters().to_vec())?.with_kernels(config.kernels);
    let device = inputs.first().map_or(&Device::Cpu, Tensor::device);
    let meter = Meter::of(device);
    let counted = meter.is_counted();
    let (mut forward, mut input_grad, mut weight_grad) = (Vec::new(), Vec::new(), Vec::new());
    let mut measured = None;
    for pass in 0..config.warm_up + config.repeats.max(1) {
        let leaves: Vec<Tensor> = inputs.iter().map(leaf).collect::<candle_core::Result<_>>()?;
        let live = meter.live_bytes() - packed_bytes();
        let start = Instant::now();
        let outputs = stage.forward(&leaves, &context)?;
        let scalar = match objective {
            Some((objective, targets)) => objective.loss(&outputs, targets, &context)?,
            None => probe(&outputs)?,
        };
        wait_for(&scalar)?;
        let forward_seconds = start.elapsed().as_secs_f64();
        let activation_bytes = if counted {
            (meter.live_bytes() - packed_bytes() - live).max(0) as u64
        } else {
            let nodes = scalar.sorted_nodes();
            nodes.iter().filter(|n| !n.is_variable()).map(|n| bytes(std::slice::from_ref(n))).sum()
        };
        let start = Instant::now();
        let mut grads = scalar.backward()?;
        let mut residues = queue.take();
        residues.extend(sums.dense_residues(&mut grads));
        drop(grads);
        wait_for(&scalar)?;
        let input_grad_seconds = start.elapsed().as_secs_f64();
        let residue_bytes = residues.iter().map(|residue| residue.bytes() as u64).sum();
        let start = Instant::now();
        residues.into_iter().try_for_each(|residue| sums.accumulate(residue))?;
        wait_for(&scalar)?;
        if pass >= config.warm_up {
            forward.push(forward_seconds);
            input_grad.push(input_grad_seconds);
            weight_grad.push(start.elapsed().as_secs_f64());
        }
        let outputs = outputs.iter().map(Tensor::detach).collect();
        measured = Some((outputs, activation_bytes, residue_bytes));
    }
    let Some((outputs, activation_bytes, residue_bytes)) = measured else {
        candle_core::bail!("no pass was made")
    };
    let median = |mut seconds: Vec<f64>| upper_median(&mut seconds).unwrap_or(0.0);
    Ok(Measured {
        outputs,
        forward_seconds: median(forward),
        input_grad_seconds: median(input_grad),
        weight_grad_seconds: median(weight_grad),
        activation_bytes,
        residue_bytes,
    })
}

/// What the layer before would hand over: a leaf that gets a gradient, if it is a float.
fn leaf(tensor: &Tensor) -> candle_core::Result<Tensor> {
    if tensor.dtype().is_float() {
        Ok(Var::from_tensor(tensor)?.into_inner())
    } else {
        Ok(tensor.clone())
    }
}

/// A scalar that depends on every element of every float output.
fn probe(outputs: &[Tensor]) -> candle_core::Result<Tensor> {
    let sums = outputs.iter().filter(|t| t.dtype().is_float()).map(Tensor::sum_all);
    sums.reduce(|a, b| a? + b?)
        .unwrap_or_else(|| candle_core::bail!("a layer returned no float tensor"))
}

/// Device kernels run behind our back; a value on the host proves that they are done.
fn wait_for(scalar: &Tensor) -> candle_core::Result<()> {
    scalar.device().synchronize()
}

fn bytes(tensors: &[Tensor]) -> u64 {
    tensors.iter().map(|t| (t.elem_count() * t.dtype().size_in_bytes()) as u64).sum()
}
