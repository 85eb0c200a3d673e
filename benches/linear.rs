//! What does one linear layer cost, with the weight gradient added in place, and as candle does it?

use candle_core::{DType, Device, Tensor, Var};
use divan::Bencher;
use pp_nn::{ForwardContext, Gradients, Linear, ParameterStore, ResidueQueue};

#[global_allocator]
static ALLOCATOR: pp_nn::memory::CountingAllocator<std::alloc::System> =
    pp_nn::memory::CountingAllocator(std::alloc::System);

fn main() {
    divan::main();
}

const ROWS: [usize; 3] = [8, 64, 256];
const WIDTH: usize = 1024;

fn input(rows: usize) -> Tensor {
    let x =
        Tensor::ones((rows, WIDTH), DType::F32, &Device::Cpu).and_then(|x| Var::from_tensor(&x));
    x.unwrap_or_else(|e| panic!("{e}")).into_inner()
}

#[divan::bench(args = ROWS)]
fn ours(bencher: Bencher<'_, '_>, rows: usize) {
    let store = ParameterStore::seeded(1);
    let layer = Linear::new(WIDTH, WIDTH, store.builder(DType::F32, &Device::Cpu))
        .unwrap_or_else(|e| panic!("{e}"));
    let queue = ResidueQueue::default();
    let context = ForwardContext::training(1, 1).with_residues(queue.clone());
    let mut gradients = Gradients::new(store.parameters()).unwrap_or_else(|e| panic!("{e}"));
    let x = input(rows);
    bencher.bench_local(|| -> candle_core::Result<()> {
        let y = layer.forward(&x, &context)?;
        y.sum_all()?.backward()?;
        queue.take().into_iter().try_for_each(|r| gradients.accumulate(r))
    });
}

#[divan::bench(args = ROWS)]
fn candles(bencher: Bencher<'_, '_>, rows: usize) {
    let store = ParameterStore::seeded(1);
    Linear::new(WIDTH, WIDTH, store.builder(DType::F32, &Device::Cpu))
        .unwrap_or_else(|e| panic!("{e}"));
    let parameters = store.parameters();
    let (weight, bias) = (parameters[0].var.as_tensor(), parameters[1].var.as_tensor());
    let x = input(rows);
    let mut sum = weight.zeros_like().unwrap_or_else(|e| panic!("{e}"));
    bencher.bench_local(|| -> candle_core::Result<()> {
        let y = x.matmul(&weight.t()?)?.broadcast_add(bias)?;
        let grads = y.sum_all()?.backward()?;
        if let Some(gradient) = grads.get(weight) {
            sum = (&sum + gradient)?;
        }
        Ok(())
    });
}

/// The price of counting: an allocation that is counted, and its release.
#[divan::bench]
fn counted_allocation() -> Vec<u8> {
    divan::black_box(Vec::with_capacity(divan::black_box(4096)))
}
