//! `seed-mlp` or `gpt` in 1F1B on two ranks, on the processor or both on one GPU. It uses candle's own
//! layers, backward and optimizer: what pptop's would be without `pp-nn`.
//!
//! Prints `{"seconds": […], "loss": …}`. Threads, allocator, links (a channel each way),
//! micro-batches and cut are those of pptop.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

mod model;

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use candle_core::{DType, Device, Tensor, TensorId, Var};
use candle_nn::{AdamW, Optimizer as _, ParamsAdamW, loss};
use model::{Job, Stage};

#[global_allocator]
static ALLOCATOR: pp_nn::memory::CountingAllocator<mimalloc::MiMalloc> =
    pp_nn::memory::CountingAllocator(mimalloc::MiMalloc);

/// What a rank needs for a run.
struct Rank {
    job: Arc<Job>,
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
        let factor = self.job.clip_norm.map_or(1.0, |most| most / (norm + 1e-6));
        // candle's optimizer takes a store of gradients, and only a backward makes one.
        let mut store = Tensor::zeros((), DType::F32, &self.job.device)?.backward()?;
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
        let micro_batches = self.job.micro_batches;
        let rows = self.job.batch / micro_batches;
        for step in 0..steps {
            let batch = self.job.inputs(step)?;
            self.barrier.wait();
            let begun = Instant::now();
            let mut sums = HashMap::new();
            let mut saved = VecDeque::new();
            for i in 0..=micro_batches {
                if i < micro_batches {
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
            self.job.device.synchronize()?;
            self.barrier.wait();
            seconds.push(begun.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }

    fn last(&self, steps: usize) -> anyhow::Result<f64> {
        let mut optimizer = self.optimizer()?;
        let mut mean = 0.0;
        let micro_batches = self.job.micro_batches;
        let rows = self.job.batch / micro_batches;
        for step in 0..steps {
            let targets = self.job.targets(step)?;
            self.barrier.wait();
            let mut sums = HashMap::new();
            mean = 0.0;
            for i in 0..micro_batches {
                let leaf = Var::from_tensor(&self.inbox.recv()?)?;
                let logits = self.stage.forward(leaf.as_tensor())?;
                let targets = targets.narrow(0, i * rows, rows)?.flatten_all()?;
                let logits = logits.flatten_to(logits.rank() - 2)?;
                let loss = loss::cross_entropy(&logits, &targets)?;
                mean += f64::from(loss.to_scalar::<f32>()?) / micro_batches as f64;
                let scalar = (loss / micro_batches as f64)?;
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
    let mut args = std::env::args().skip(1);
    let mut next =
        || args.next().context("wanted: seed-mlp or gpt, steps, layers of the first rank");
    let mut job = Job::of(&next()?).context("accepted: seed-mlp, gpt")?;
    let steps = next()?.parse()?;
    let cut = next()?.parse()?;
    job.device = match args.next().as_deref() {
        None | Some("cpu") => Device::Cpu,
        Some("cuda") => Device::new_cuda(0)?,
        Some(other) => bail!("a device is cpu or cuda, not {other}"),
    };
    let job = Arc::new(job);
    let (activations, gradients) = (channel(), channel());
    let (up, down) = (channel(), channel());
    let barrier = Arc::new(Barrier::new(2));
    let first = Rank {
        job: Arc::clone(&job),
        stage: Stage::new(&job, 0..cut)?,
        inbox: gradients.1,
        outbox: activations.0,
        norms: (up.0, down.1),
        barrier: Arc::clone(&barrier),
    };
    let last = Rank {
        stage: Stage::new(&job, cut..job.layers)?,
        job,
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
