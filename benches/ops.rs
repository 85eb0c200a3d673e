//! What does each op of `pp-nn` cost, forward and backward, beside the same from candle's own
//! operations? At the sizes of `gpt`, at those of `seed-mlp`, and at some that fit neither.

use candle_core::{DType, Device, Result, Tensor, Var};
use divan::Bencher;
use pp_nn::memory::CountingAllocator;
use pp_nn::{
    CausalSelfAttention, Dropout, ForwardContext, Gradients, Linear, Norm, Optimizer,
    OptimizerKind, ParameterStore, ResidueQueue, cross_entropy, gelu,
};

#[global_allocator]
static ALLOCATOR: CountingAllocator<mimalloc::MiMalloc> = CountingAllocator(mimalloc::MiMalloc);

fn main() {
    divan::main();
}

/// Rows and features.
const SIZES: [(usize, usize); 3] = [(8, 2048), (256, 1024), (100, 777)];

fn input(shape: impl Into<candle_core::Shape>) -> Var {
    let x = Tensor::rand(-1f32, 1f32, shape, &Device::Cpu).and_then(|x| Var::from_tensor(&x));
    x.unwrap_or_else(|e| panic!("{e}"))
}

/// Times `f` and its backward from a gradient of ones.
fn both_ways(bencher: Bencher<'_, '_>, x: &Var, f: impl Fn(&Tensor) -> Result<Tensor>) {
    bencher.bench_local(|| f(x.as_tensor())?.sum_all()?.backward());
}

#[divan::bench_group]
mod gelu_of {
    use super::{Bencher, SIZES, Tensor, both_ways, gelu, input};

    #[divan::bench(args = SIZES)]
    fn ours(bencher: Bencher<'_, '_>, size: (usize, usize)) {
        both_ways(bencher, &input(size), gelu);
    }

    #[divan::bench(args = SIZES)]
    fn candles(bencher: Bencher<'_, '_>, size: (usize, usize)) {
        both_ways(bencher, &input(size), Tensor::gelu);
    }
}

#[divan::bench_group]
mod relu_and_dropout {
    use super::{Bencher, Dropout, ForwardContext, SIZES, both_ways, input};

    #[divan::bench(args = SIZES)]
    fn ours(bencher: Bencher<'_, '_>, size: (usize, usize)) {
        let dropout = Dropout::new(0.3, 0).unwrap_or_else(|e| panic!("{e}"));
        let context = ForwardContext::training(1, 1);
        both_ways(bencher, &input(size), |x| dropout.after_relu().forward(x, &context));
    }

    #[divan::bench(args = SIZES)]
    fn candles(bencher: Bencher<'_, '_>, size: (usize, usize)) {
        let dropout = candle_nn::Dropout::new(0.3);
        both_ways(bencher, &input(size), |x| dropout.forward(&x.relu()?, true));
    }
}

#[divan::bench_group]
mod layer_norm_of {
    use super::{
        Bencher, DType, Device, ForwardContext, Norm, ParameterStore, SIZES, both_ways, input,
    };

    fn layer(width: usize) -> Norm {
        let store = ParameterStore::seeded(1);
        Norm::layer(width, store.builder(DType::F32, &Device::Cpu))
            .unwrap_or_else(|e| panic!("{e}"))
    }

    #[divan::bench(args = SIZES)]
    fn ours(bencher: Bencher<'_, '_>, size: (usize, usize)) {
        let (layer, context) = (layer(size.1), ForwardContext::training(1, 1));
        both_ways(bencher, &input(size), |x| layer.forward(x, &context));
    }

    #[divan::bench(args = SIZES)]
    fn candles(bencher: Bencher<'_, '_>, size: (usize, usize)) {
        let layer = layer(size.1);
        both_ways(bencher, &input(size), |x| layer.forward_composed(x));
    }
}

#[divan::bench_group]
mod attention {
    use super::{Bencher, CausalSelfAttention, ForwardContext, both_ways, input};

    /// Samples, positions, heads, features of a head.
    const HEADS: [(usize, usize, usize, usize); 3] =
        [(2, 128, 8, 32), (1, 512, 8, 64), (3, 100, 5, 40)];

    #[divan::bench(args = HEADS)]
    fn ours(bencher: Bencher<'_, '_>, (b, t, h, d): (usize, usize, usize, usize)) {
        let attention = CausalSelfAttention::new(h);
        let context = ForwardContext::training(1, 1);
        both_ways(bencher, &input((b, t, 3 * h * d)), |x| attention.forward(x, &context));
    }

    #[divan::bench(args = HEADS)]
    fn candles(bencher: Bencher<'_, '_>, (b, t, h, d): (usize, usize, usize, usize)) {
        let attention = CausalSelfAttention::new(h);
        both_ways(bencher, &input((b, t, 3 * h * d)), |x| attention.forward_composed(x, None));
    }
}

#[divan::bench_group]
mod cross_entropy_of {
    use super::{Bencher, Device, SIZES, Tensor, both_ways, cross_entropy, input};

    fn targets(rows: usize, classes: usize) -> Tensor {
        let targets: Vec<u32> = (0..rows).map(|r| (r * 7 % classes) as u32).collect();
        Tensor::from_vec(targets, rows, &Device::Cpu).unwrap_or_else(|e| panic!("{e}"))
    }

    #[divan::bench(args = SIZES)]
    fn ours(bencher: Bencher<'_, '_>, size: (usize, usize)) {
        let targets = targets(size.0, size.1);
        both_ways(bencher, &input(size), |x| cross_entropy(x, &targets));
    }

    #[divan::bench(args = SIZES)]
    fn candles(bencher: Bencher<'_, '_>, size: (usize, usize)) {
        let targets = targets(size.0, size.1);
        both_ways(bencher, &input(size), |x| candle_nn::loss::cross_entropy(x, &targets));
    }
}

#[divan::bench_group]
mod adam {
    use super::{
        Bencher, DType, Device, Gradients, Linear, Optimizer, OptimizerKind, ParameterStore, input,
    };
    use candle_nn::Optimizer as _;

    const WIDTHS: [usize; 2] = [1024, 3000];

    #[divan::bench(args = WIDTHS)]
    fn ours(bencher: Bencher<'_, '_>, width: usize) {
        let store = ParameterStore::zeroed();
        Linear::new(width, width, store.builder(DType::F32, &Device::Cpu))
            .unwrap_or_else(|e| panic!("{e}"));
        let mut gradients = Gradients::new(store.parameters()).unwrap_or_else(|e| panic!("{e}"));
        let mut optimizer = Optimizer::new(OptimizerKind::Adam);
        bencher.bench_local(|| optimizer.step(&mut gradients, 1e-3, 0.5));
    }

    #[divan::bench(args = WIDTHS)]
    fn candles(bencher: Bencher<'_, '_>, width: usize) {
        let weight = input((width, width));
        let parameters = candle_nn::ParamsAdamW { weight_decay: 0.0, ..Default::default() };
        let gradients = weight.as_tensor().sum_all().and_then(|sum| sum.backward());
        let gradients = gradients.unwrap_or_else(|e| panic!("{e}"));
        let mut adam =
            candle_nn::AdamW::new(vec![weight], parameters).unwrap_or_else(|e| panic!("{e}"));
        bencher.bench_local(|| adam.step(&gradients));
    }
}

/// Forward, input gradient and weight gradient of a layer whose rows are few or many.
#[divan::bench_group]
mod linear {
    use super::{
        Bencher, DType, Device, ForwardContext, Gradients, Linear, ParameterStore, ResidueQueue,
        Result, Tensor, input,
    };

    /// Rows, inputs, outputs.
    const LAYERS: [(usize, usize, usize); 6] = [
        (1, 1024, 1024),
        (8, 1024, 2048),
        (12, 1000, 777),
        (64, 1024, 1024),
        (256, 256, 1024),
        (300, 500, 900),
    ];

    #[divan::bench(args = LAYERS)]
    fn ours(bencher: Bencher<'_, '_>, (rows, inputs, outputs): (usize, usize, usize)) {
        let store = ParameterStore::seeded(1);
        let layer = Linear::new(inputs, outputs, store.builder(DType::F32, &Device::Cpu))
            .unwrap_or_else(|e| panic!("{e}"));
        let queue = ResidueQueue::default();
        let context = ForwardContext::training(1, 1).with_residues(queue.clone());
        let mut gradients = Gradients::new(store.parameters()).unwrap_or_else(|e| panic!("{e}"));
        let x = input((rows, inputs));
        bencher.bench_local(|| -> Result<()> {
            layer.forward(x.as_tensor(), &context)?.sum_all()?.backward()?;
            queue.take().into_iter().try_for_each(|r| gradients.accumulate(r))
        });
    }

    #[divan::bench(args = LAYERS)]
    fn candles(bencher: Bencher<'_, '_>, (rows, inputs, outputs): (usize, usize, usize)) {
        let (weight, bias) = (input((outputs, inputs)), input(outputs));
        let x = input((rows, inputs));
        let mut sum = Tensor::zeros((outputs, inputs), DType::F32, &Device::Cpu)
            .unwrap_or_else(|e| panic!("{e}"));
        bencher.bench_local(|| -> Result<()> {
            let y = x.matmul(&weight.t()?)?.broadcast_add(bias.as_tensor())?;
            let gradients = y.sum_all()?.backward()?;
            if let Some(gradient) = gradients.get(weight.as_tensor()) {
                sum = (&sum + gradient)?;
            }
            Ok(())
        });
    }
}

/// The price of counting: an allocation that is counted, and its release.
#[divan::bench]
fn counted_allocation() -> Vec<u8> {
    divan::black_box(Vec::with_capacity(divan::black_box(4096)))
}
