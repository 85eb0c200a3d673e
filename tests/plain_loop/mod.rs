//! Training without a pipeline: one thread, one graph for the whole model, one micro-batch after
//! another. It uses the layers and the optimizer of `pp-nn` and nothing of the executor, its
//! stages, stash or links: what the pipeline must equal, bit by bit.

use candle_core::{DType, Device, Tensor};
use pp_models::Job;
use pp_nn::{
    ForwardContext, Gradients, Kernels, LearningRate, LearningRateCurve, Optimizer, OptimizerKind,
    ParameterStore, ResidueQueue, clip_factor, global_norm,
};

/// The sizes of a run.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) steps: u64,
    pub(crate) batch: usize,
    pub(crate) micro_batches: usize,
}

/// The recipe that all runs of these tests share.
pub(crate) const OPTIMIZER: OptimizerKind = OptimizerKind::Adam;
pub(crate) const CLIP: Option<f64> = Some(1.0);

pub(crate) fn rate() -> LearningRate {
    LearningRate { peak: 1e-3, curve: LearningRateCurve::Step { every: 2, gamma: 0.5 }, warmup: 1 }
}

/// The bits of every step's loss, and the final weights in layer order.
pub(crate) type Trace = (Vec<u32>, Vec<(String, Tensor)>);

pub(crate) fn train(job: &Job, run: Run) -> Trace {
    train_by(Kernels::default(), job, run)
}

/// The same with other kernels. Weights are never kept in their order here.
pub(crate) fn train_by(kernels: Kernels, job: &Job, run: Run) -> Trace {
    let store = ParameterStore::seeded(run.seed);
    let ties = job.stack.ties();
    let builder = store.tied_builder(DType::F32, &Device::Cpu, ties.clone());
    let layers: Vec<_> =
        (0..job.stack.len()).map(|i| job.stack.build(i, builder.clone()).unwrap()).collect();
    let mut gradients = Gradients::new(store.parameters()).unwrap().with_kernels(kernels);
    let mut optimizer = Optimizer::new(OPTIMIZER);
    let queue = ResidueQueue::default();
    let rows = run.batch / run.micro_batches;
    let mut bits = Vec::new();
    for step in 1..=run.steps {
        let (inputs, targets) = job.data.batch(step, run.batch).unwrap();
        gradients.clear();
        let mut losses = Vec::new();
        let part = |j: usize| targets.narrow(0, j * rows, rows).unwrap();
        let weights: Option<f64> =
            (0..run.micro_batches).map(|j| job.objective.weight(&part(j)).unwrap()).sum();
        let divisor = weights.unwrap_or(run.micro_batches as f64);
        for j in 0..run.micro_batches {
            let context = ForwardContext::training(run.seed, step)
                .with_first_sample((j * rows) as u64)
                .with_residues(queue.clone())
                .with_kernels(kernels);
            let mut tensors: Vec<Tensor> =
                inputs.iter().map(|t| t.narrow(0, j * rows, rows).unwrap()).collect();
            for (i, layer) in layers.iter().enumerate() {
                tensors = layer.forward(&tensors, &context.for_layer(i as u32)).unwrap();
            }
            let loss = job.objective.loss(&tensors, &part(j), &context).unwrap();
            losses.push(f64::from(loss.to_scalar::<f32>().unwrap()));
            let mut store = (loss * (1.0 / divisor)).unwrap().backward().unwrap();
            for residue in queue.take().into_iter().chain(gradients.dense_residues(&mut store)) {
                gradients.accumulate(residue).unwrap();
            }
        }
        let parameters = store.parameters();
        let place = |name: &String| parameters.iter().position(|p| p.name == *name).unwrap();
        for (second, first) in ties.iter() {
            let (first, second) = (place(first), place(second));
            let of_first = gradients.finish(first).unwrap().clone();
            let sum = (of_first + gradients.finish(second).unwrap()).unwrap();
            gradients.replace(first, sum.copy().unwrap()).unwrap();
            gradients.replace(second, sum).unwrap();
        }
        let squares = gradients.square_sums().unwrap().into_iter().zip(&parameters);
        let norm =
            global_norm(squares.filter(|(_, p)| !ties.contains_key(&p.name)).map(|(sum, _)| sum));
        optimizer
            .step(&mut gradients, rate().at(step, run.steps), clip_factor(norm, CLIP))
            .unwrap();
        bits.push(((losses.iter().sum::<f64>() / divisor) as f32).to_bits());
    }
    let firsts = store.parameters().into_iter().filter(|p| !ties.contains_key(&p.name));
    (bits, firsts.map(|p| (p.name, p.var.as_tensor().clone())).collect())
}
