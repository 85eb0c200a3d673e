//! `seed-mlp` in 1F1B on two ranks, from candle's own layers, backward and optimizer: what pptop's would be without `pp-nn`.
//!
//! Prints `{"seconds": […], "loss": …}`. Threads, allocator, links (a channel each way), micro-batches and cut are those of pptop.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use candle_core::{DType, Device, Tensor, TensorId, Var};
use candle_nn::{
    AdamW, Dropout, Linear, Module as _, Optimizer as _, ParamsAdamW, VarBuilder, VarMap, linear,
    loss,
};

#[global_allocator]
static ALLOCATOR: pp_nn::memory::CountingAllocator<mimalloc::MiMalloc> =
    pp_nn::memory::CountingAllocator(mimalloc::MiMalloc);

const BATCH: usize = 256;
const MICRO_BATCHES: usize = 32;
const WIDTHS: [usize; 9] = [100, 1024, 1024, 2048, 2048, 1024, 1024, 512, 10];
const RATES: [f32; 8] = [0.0, 0.3, 0.0, 0.4, 0.0, 0.3, 0.2, 0.0];
const CLIP_NORM: f64 = 1.0;

struct Stage {
    layers: Vec<(usize, Linear)>,
    variables: Vec<Var>,
}

impl Stage {
    fn new(layers: std::ops::Range<usize>) -> candle_core::Result<Self> {
        let map = VarMap::new();
        let builder = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
        let layers = layers
            .map(|i| Ok((i, linear(WIDTHS[i], WIDTHS[i + 1], builder.pp(i.to_string()))?)))
            .collect::<candle_core::Result<_>>()?;
        Ok(Self { layers, variables: map.all_vars() })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = x.clone();
        for (i, layer) in &self.layers {
            x = layer.forward(&x)?;
            if i + 2 < WIDTHS.len() {
                x = x.relu()?;
            }
            if RATES[*i] > 0.0 {
                x = Dropout::new(RATES[*i]).forward(&x, true)?;
            }
        }
        Ok(x)
    }
}

/// What a rank needs for a run.
struct Rank {
    stage: Stage,
    inbox: Receiver<Tensor>,
    outbox: Sender<Tensor>,
    norms: (Sender<f64>, Receiver<f64>),
    barrier: Arc<Barrier>,
}

type Sums = HashMap<TensorId, Tensor>;

impl Rank {
    /// Starts from `scalar`, adds the weights' gradients to `sums`.
    fn backward(
        &self,
        scalar: &Tensor,
        leaf: Option<&Var>,
        sums: &mut Sums,
    ) -> candle_core::Result<Option<Tensor>> {
        let mut store = scalar.backward()?;
        for variable in &self.stage.variables {
            if let Some(gradient) = store.remove(variable) {
                let sum = match sums.get(&variable.id()) {
                    Some(sum) => (sum + gradient.detach())?,
                    None => gradient.detach(),
                };
                sums.insert(variable.id(), sum);
            }
        }
        Ok(leaf.and_then(|leaf| store.remove(leaf.as_tensor())).map(|g| g.detach()))
    }

    /// The gradients are scaled by the norm over both ranks, then the optimizer steps.
    fn update(&self, mut sums: Sums, optimizer: &mut AdamW) -> anyhow::Result<()> {
        let mut square = 0.0;
        for sum in sums.values() {
            square += f64::from(sum.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        self.norms.0.send(square)?;
        let norm = (square + self.norms.1.recv()?).sqrt();
        let factor = CLIP_NORM / (norm + 1e-6);
        // candle's optimizer takes a store of gradients, and only a backward makes one.
        let mut store = Tensor::zeros((), DType::F32, &Device::Cpu)?.backward()?;
        for variable in &self.stage.variables {
            let sum = sums.remove(&variable.id()).context("a variable without a gradient")?;
            store.insert(variable, if factor < 1.0 { (sum * factor)? } else { sum });
        }
        Ok(optimizer.step(&store)?)
    }

    fn optimizer(&self) -> candle_core::Result<AdamW> {
        let parameters = ParamsAdamW { lr: 1e-3, weight_decay: 0.0, ..ParamsAdamW::default() };
        AdamW::new(self.stage.variables.clone(), parameters)
    }

    fn first(&self, steps: usize) -> anyhow::Result<Vec<f64>> {
        let mut optimizer = self.optimizer()?;
        let mut seconds = Vec::new();
        for _ in 0..steps {
            let batch = Tensor::randn(0f32, 1f32, (BATCH, WIDTHS[0]), &Device::Cpu)?;
            let rows = BATCH / MICRO_BATCHES;
            self.barrier.wait();
            let begun = Instant::now();
            let mut sums = HashMap::new();
            let mut saved = std::collections::VecDeque::new();
            for i in 0..=MICRO_BATCHES {
                if i < MICRO_BATCHES {
                    let y = self.stage.forward(&batch.narrow(0, i * rows, rows)?)?;
                    self.outbox.send(y.detach())?;
                    saved.push_back(y);
                }
                if i > 0 {
                    let y = saved.pop_front().context("no saved forward")?;
                    let scalar = (y * self.inbox.recv()?)?.sum_all()?;
                    self.backward(&scalar, None, &mut sums)?;
                }
            }
            self.update(sums, &mut optimizer)?;
            self.barrier.wait();
            seconds.push(begun.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }

    fn last(&self, steps: usize) -> anyhow::Result<f64> {
        let mut optimizer = self.optimizer()?;
        let mut mean = 0.0;
        for step in 0..steps {
            let rows = BATCH / MICRO_BATCHES;
            let targets: Vec<u32> =
                (0..BATCH).map(|i| ((i * 7919 + step * 104_729) % 10) as u32).collect();
            let targets = Tensor::from_vec(targets, BATCH, &Device::Cpu)?;
            self.barrier.wait();
            let mut sums = HashMap::new();
            mean = 0.0;
            for i in 0..MICRO_BATCHES {
                let leaf = Var::from_tensor(&self.inbox.recv()?)?;
                let logits = self.stage.forward(leaf.as_tensor())?;
                let loss = loss::cross_entropy(&logits, &targets.narrow(0, i * rows, rows)?)?;
                mean += f64::from(loss.to_scalar::<f32>()?) / MICRO_BATCHES as f64;
                let scalar = (loss / MICRO_BATCHES as f64)?;
                let back = self.backward(&scalar, Some(&leaf), &mut sums)?;
                self.outbox.send(back.context("the input has no gradient")?)?;
            }
            self.update(sums, &mut optimizer)?;
            self.barrier.wait();
        }
        Ok(mean)
    }
}

fn main() -> anyhow::Result<()> {
    ensure!(candle_core::utils::get_num_threads() == 1, "RAYON_NUM_THREADS must be 1");
    let mut numbers = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let steps = numbers.next().context("steps, layers of the first rank")??;
    let cut = numbers.next().context("layers of the first rank")??;
    let _keep = pp_nn::memory::KeepBlocks::new();
    let (activations, gradients) = (channel(), channel());
    let (up, down) = (channel(), channel());
    let barrier = Arc::new(Barrier::new(2));
    let first = Rank {
        stage: Stage::new(0..cut)?,
        inbox: gradients.1,
        outbox: activations.0,
        norms: (up.0, down.1),
        barrier: Arc::clone(&barrier),
    };
    let last = Rank {
        stage: Stage::new(cut..WIDTHS.len() - 1)?,
        inbox: activations.1,
        outbox: gradients.0,
        norms: (down.0, up.1),
        barrier,
    };
    let other = std::thread::spawn(move || last.last(steps));
    let seconds = first.first(steps)?;
    let loss = other.join().map_err(|_| anyhow::anyhow!("the last rank panicked"))??;
    println!("{}", serde_json::json!({"seconds": seconds, "loss": loss}));
    Ok(())
}
