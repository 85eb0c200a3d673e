//! Each layer, forward and backward, in single precision on the device and in double precision on
//! the processor.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::Init;
use pp_nn::{
    Activation, CausalSelfAttention, Chain, Dropout, Embedding, ForwardContext, Gradients, Linear,
    Norm, ParameterStore, ResidueQueue, Rotary, RotaryFrequencies, SideBySide, SwiGlu,
    cross_entropy,
};
use pp_partition::{LayerStack, Stage, single};

use crate::place;

/// The largest difference that is accepted, as a share of the largest number of the tensor. Sums of
/// some hundred products in single precision differ by less.
const TOLERANCE: f64 = 2e-5;

/// What a pass gives: the output, the gradient of the input if it is a float, and the gradients of
/// the weights by name.
struct Pass {
    output: Vec<f64>,
    input_gradient: Option<Vec<f64>>,
    gradients: BTreeMap<String, Vec<f64>>,
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    flat.flatten_all().unwrap().to_vec1().unwrap()
}

/// Numbers between -1 and 1 that look random, and are the same everywhere.
fn random(shape: &[usize], seed: u64) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| 2.0 * pp_nn::uniform(seed, i as u64) as f32 - 1.0;
    Tensor::from_vec((0..n).map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

/// The gradient of `Σ output · weights` for numbers that differ from place to place.
fn pass(
    stack: &LayerStack,
    input: &Tensor,
    weigh: impl Fn(&Tensor) -> Result<Tensor>,
    dtype: DType,
    device: &Device,
) -> Result<Pass> {
    let stage =
        Stage::build(stack, 0..stack.len(), &ParameterStore::seeded(3), dtype, device).unwrap();
    let queue = ResidueQueue::default();
    let context = ForwardContext::training(5, 2).with_first_sample(7).with_residues(queue.clone());
    let input = input.to_device(device)?;
    let is_float = input.dtype().is_float();
    let leaf =
        if is_float { Var::from_tensor(&input.to_dtype(dtype)?)?.into_inner() } else { input };
    let outputs = stage.forward(std::slice::from_ref(&leaf), &context)?;
    let mut store = weigh(&outputs[0])?.backward()?;
    let mut sums = Gradients::new(stage.parameters().to_vec())?;
    let residues = sums.dense_residues(&mut store);
    for residue in queue.take().into_iter().chain(residues) {
        sums.accumulate(residue)?;
    }
    let of_sums = sums.finished()?.map(|(p, sum)| (p.name.clone(), numbers(sum)));
    Ok(Pass {
        output: numbers(&outputs[0]),
        input_gradient: store.get(&leaf).map(numbers),
        gradients: of_sums.collect(),
    })
}

#[track_caller]
fn close(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-3f64, |most, value| most.max(value.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs() / largest;
        // A number that is not finite is no close one.
        assert!(difference < TOLERANCE, "{what}, element {at}: {found} for {expected}");
    }
}

/// Compares all that a pass gives.
#[track_caller]
fn check(
    name: &str,
    stack: &LayerStack,
    input: &Tensor,
    weigh: impl Fn(&Tensor) -> Result<Tensor>,
) {
    let device = place().make().unwrap();
    let found = pass(stack, input, &weigh, DType::F32, &device).unwrap();
    let expected = pass(stack, input, &weigh, DType::F64, &Device::Cpu).unwrap();
    close(&format!("{name}: output"), &found.output, &expected.output);
    assert_eq!(found.input_gradient.is_some(), expected.input_gradient.is_some(), "{name}");
    if let (Some(found), Some(expected)) = (&found.input_gradient, &expected.input_gradient) {
        close(&format!("{name}: gradient of the input"), found, expected);
    }
    assert!(found.gradients.keys().eq(expected.gradients.keys()), "{name}");
    for (parameter, expected) in &expected.gradients {
        assert!(expected.iter().any(|&value| value != 0.0), "{name}: {parameter} has no gradient");
        close(&format!("{name}: {parameter}"), &found.gradients[parameter], expected);
    }
}

fn weighted(output: &Tensor) -> Result<Tensor> {
    let weights = random(output.dims(), 11);
    let weights = weights.to_device(output.device())?.to_dtype(output.dtype())?;
    (output * weights)?.sum_all()
}

/// A stack of one layer.
fn one(
    make: impl Fn(candle_nn::VarBuilder<'_>) -> Result<Box<dyn pp_partition::Layer>>
    + Send
    + Sync
    + 'static,
) -> LayerStack {
    let mut stack = LayerStack::default();
    stack.push("layer", move |builder| make(builder.pp("layer")));
    stack
}

pub(crate) fn linear() {
    for (rows, inputs, outputs) in [(1, 5, 3), (33, 17, 65), (64, 256, 128)] {
        for has_bias in [false, true] {
            let stack = one(move |vb| {
                let init = Init::Randn { mean: 0.0, stdev: 0.1 };
                let linear = Linear::with_init(inputs, outputs, has_bias, init, vb)?;
                Ok(single(move |x, c| linear.forward(x, c)))
            });
            check("linear", &stack, &random(&[rows, inputs], 1), weighted);
            check("linear, 3 dimensions", &stack, &random(&[2, rows, inputs], 2), weighted);
        }
    }
}

pub(crate) fn layer_norm() {
    for (rows, features) in [(1, 3), (7, 33), (40, 256)] {
        let stack = one(move |vb| {
            let norm = Norm::layer(features, vb)?;
            Ok(single(move |x, c| norm.forward(x, c)))
        });
        check("layer norm", &stack, &random(&[2, rows, features], 3), weighted);
    }
}

pub(crate) fn rms_norm() {
    for (rows, features) in [(1, 3), (7, 33), (40, 256)] {
        let stack = one(move |vb| {
            let norm = Norm::rms(features, 1e-5, vb)?;
            Ok(single(move |x, c| norm.forward(x, c)))
        });
        check("RMS norm", &stack, &random(&[2, rows, features], 3), weighted);
    }
}

pub(crate) fn a_block_of_llama() {
    let stack = one(|vb| {
        let linear = |inputs, outputs, name: &str| {
            let init = Init::Randn { mean: 0.0, stdev: 0.2 };
            Linear::with_init(inputs, outputs, false, init, vb.pp(name))
        };
        let frequencies = RotaryFrequencies { theta: 100.0, scaling: None };
        let qkv = vec![linear(24, 24, "q")?, linear(24, 12, "k")?, linear(24, 12, "v")?];
        let attention = Chain::new()
            .then(Norm::rms(24, 1e-5, vb.pp("ln1"))?)
            .then(SideBySide::new(qkv)?)
            .then(Rotary::new(6, 6, 10, frequencies)?)
            .then(CausalSelfAttention::grouped(4, 2)?)
            .then(linear(24, 24, "o")?);
        let mlp = Chain::new()
            .then(Norm::rms(24, 1e-5, vb.pp("ln2"))?)
            .then(SideBySide::new(vec![linear(24, 40, "gate")?, linear(24, 40, "up")?])?)
            .then(SwiGlu)
            .then(linear(40, 24, "down")?);
        let block = Chain::new().residual(attention).residual(mlp);
        Ok(single(move |x, c| block.forward(x, c)))
    });
    check("block of llama", &stack, &random(&[3, 10, 24], 8), weighted);
}

pub(crate) fn activations() {
    for activation in [Activation::Relu, Activation::Gelu] {
        let stack =
            one(move |_| Ok(single(move |x, c| pp_nn::ChainLayer::forward(&activation, x, c))));
        check("activation", &stack, &random(&[5, 77], 4), |y| weighted(&(y * 3.0)?));
    }
}

pub(crate) fn dropout_drops_the_same_elements() {
    // A small one and one of more than 4 KiB: candle treats their uploads differently.
    for features in [3, 2049] {
        let stack = one(move |_| {
            let dropout = Dropout::new(0.4, 1)?;
            Ok(single(move |x, c| dropout.forward(x, c)))
        });
        check("dropout", &stack, &random(&[4, features], 5), weighted);
    }
}

pub(crate) fn attention() {
    for (b, t, heads, width) in [(1, 1, 1, 2), (2, 13, 3, 12), (1, 65, 4, 64)] {
        let stack = one(move |_| {
            let attention = CausalSelfAttention::new(heads);
            Ok(single(move |x, c| attention.forward(x, c)))
        });
        check("attention", &stack, &random(&[b, t, 3 * width], 6), weighted);
    }
}

pub(crate) fn embedding() {
    let stack = one(|vb| {
        let init = Init::Randn { mean: 0.0, stdev: 1.0 };
        let embedding = Embedding::new(11, 7, init, vb)?;
        Ok(single(move |x, c| embedding.forward(x, c)))
    });
    let ids = Tensor::new(&[[3u32, 1, 10, 3], [0, 3, 7, 7]], &Device::Cpu).unwrap();
    check("embedding", &stack, &ids, weighted);
}

pub(crate) fn loss() {
    let stack = one(|vb| {
        let linear = Linear::new(6, 9, vb)?;
        Ok(single(move |x, c| linear.forward(x, c)))
    });
    check("cross-entropy", &stack, &random(&[10, 6], 7), |logits| {
        let targets: Vec<u32> = (0..10).map(|i| (i * 7) % 9).collect();
        cross_entropy(logits, &Tensor::new(targets, logits.device())?)
    });
}

pub(crate) fn a_block_of_a_transformer() {
    let stack = one(|vb| {
        let linear = |inputs, outputs, name: &str| {
            let init = Init::Randn { mean: 0.0, stdev: 0.2 };
            Linear::with_init(inputs, outputs, true, init, vb.pp(name))
        };
        let attention = Chain::new()
            .then(Norm::layer(24, vb.pp("ln1"))?)
            .then(linear(24, 72, "qkv")?)
            .then(CausalSelfAttention::new(4))
            .then(linear(24, 24, "proj")?);
        let mlp = Chain::new()
            .then(Norm::layer(24, vb.pp("ln2"))?)
            .then(linear(24, 96, "fc")?)
            .then(Activation::Gelu)
            .then(linear(96, 24, "out")?)
            .then(Dropout::new(0.1, 0)?);
        let block = Chain::new().residual(attention).residual(mlp);
        Ok(single(move |x, c| block.forward(x, c)))
    });
    check("block", &stack, &random(&[3, 10, 24], 8), weighted);
}
