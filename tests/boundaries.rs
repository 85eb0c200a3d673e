//! A boundary may carry several tensors: a skip connection over two stages, and a mask of integers
//! that needs no gradient.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use pp_executor::RankConfig;
use pp_hybrid::{Trainer, TrainerConfig, weights_hash};
use pp_nn::{ForwardContext, LearningRate, LearningRateCurve, Linear, OptimizerKind, relu};
use pp_partition::{Cut, Layer, LayerStack, Objective};
use pp_schedule::{ScheduleName, Sizes};

/// `(x)` → `(relu(linear(x)), x, mask)`.
struct Fork(Linear);

/// `(h, x, mask)` → `(relu(linear(h)), x, mask)`: the skip passes a layer that does not look at it.
struct Middle(Linear);

/// `(h, x, mask)` → `(linear(h) + x) · mask`.
struct Join(Linear);

impl Layer for Fork {
    fn forward(&self, inputs: &[Tensor], context: &ForwardContext) -> Result<Vec<Tensor>> {
        let x = &inputs[0];
        let mask = Tensor::new(&[1u8, 0, 1, 1], x.device())?;
        Ok(vec![relu(&self.0.forward(x, context)?)?, x.clone(), mask])
    }
}

impl Layer for Middle {
    fn forward(&self, inputs: &[Tensor], context: &ForwardContext) -> Result<Vec<Tensor>> {
        // The gradient of a square is made with the leaf itself; it must not drag this graph along.
        let h = self.0.forward(&inputs[0].sqr()?, context)?;
        Ok(vec![relu(&h)?, inputs[1].clone(), inputs[2].clone()])
    }
}

impl Layer for Join {
    fn forward(&self, inputs: &[Tensor], context: &ForwardContext) -> Result<Vec<Tensor>> {
        let sum = (self.0.forward(&inputs[0], context)? + &inputs[1])?;
        Ok(vec![sum.broadcast_mul(&inputs[2].to_dtype(DType::F32)?)?])
    }
}

struct MeanSquare;

impl Objective for MeanSquare {
    fn loss(&self, outputs: &[Tensor], targets: &Tensor, _: &ForwardContext) -> Result<Tensor> {
        (&outputs[0] - targets)?.sqr()?.mean_all()
    }
}

fn stack() -> LayerStack {
    let mut stack = LayerStack::default();
    // Something to learn below the fork, so that the skip's gradient has somewhere to go.
    stack.push("below", |vb| {
        let linear = Linear::new(4, 4, vb.pp("below"))?;
        Ok(pp_partition::single(move |x, c| linear.forward(x, c)))
    });
    stack.push("fork", |vb| Ok(Box::new(Fork(Linear::new(4, 4, vb.pp("fork"))?))));
    stack.push("middle", |vb| Ok(Box::new(Middle(Linear::new(4, 4, vb.pp("middle"))?))));
    stack.push("join", |vb| Ok(Box::new(Join(Linear::new(4, 4, vb.pp("join"))?))));
    stack
}

/// A first stage that only reshapes has nothing to train, and nothing for its backward to do.
#[test]
fn a_stage_without_parameters_trains_the_others() {
    let stack = || {
        let mut stack = LayerStack::default();
        stack.push("flatten", |_| Ok(pp_partition::single(|x, _| relu(&x.flatten_from(1)?))));
        stack.push("linear", |vb| {
            let linear = Linear::new(4, 4, vb.pp("linear"))?;
            Ok(pp_partition::single(move |x, c| linear.forward(x, c)))
        });
        stack
    };
    let run = |pp: u32| {
        let sizes =
            Sizes { n_ranks: pp, n_micro_batches: 2, n_virtual_stages: 1, interleave_group: None };
        let plan = ScheduleName::Gpipe.generate(&sizes).unwrap();
        let partition = Cut::Uniform.solve(&stack(), pp as usize, None).unwrap();
        let ranks =
            RankConfig::new(plan, partition, stack(), Arc::new(MeanSquare), OptimizerKind::Sgd);
        let rate = LearningRate { peak: 0.1, curve: LearningRateCurve::Constant, warmup: 0 };
        let mut trainer =
            Trainer::new(TrainerConfig { ranks, clip_norm: None, rate, steps: 3 }).unwrap();
        let (x, y) = (
            Tensor::ones((4, 2, 2), DType::F32, &Device::Cpu).unwrap(),
            Tensor::zeros((4, 4), DType::F32, &Device::Cpu).unwrap(),
        );
        let mut step = |n| trainer.step(n, || Ok((vec![x.clone()], y.clone()))).unwrap().loss;
        [step(1), step(2), step(3)]
    };
    assert_eq!(run(1).map(f32::to_bits), run(2).map(f32::to_bits));
    assert!(run(2)[2] < run(2)[0]);
}

fn train(pp: u32, cut: &Cut) -> (Vec<u32>, String) {
    let sizes =
        Sizes { n_ranks: pp, n_micro_batches: 3, n_virtual_stages: 1, interleave_group: None };
    let plan = ScheduleName::OneFOneB.generate(&sizes).unwrap();
    let partition = cut.solve(&stack(), pp as usize, None).unwrap();
    let ranks = RankConfig::new(plan, partition, stack(), Arc::new(MeanSquare), OptimizerKind::Sgd);
    let rate = LearningRate { peak: 0.1, curve: LearningRateCurve::Constant, warmup: 0 };
    let mut trainer =
        Trainer::new(TrainerConfig { ranks, clip_norm: None, rate, steps: 4 }).unwrap();
    let values: Vec<f32> = (0..24u8).map(|i| f32::from(i % 7) / 7.0).collect();
    let x = Tensor::from_vec(values, (6, 4), &Device::Cpu).unwrap();
    let y = Tensor::full(0.5f32, (6, 4), &Device::Cpu).unwrap();
    let losses: Vec<f32> = (1..=4)
        .map(|step| trainer.step(step, || Ok((vec![x.clone()], y.clone()))).unwrap().loss)
        .collect();
    assert!(losses[3] < losses[0], "{losses:?}");
    // Every parameter took part: below the fork too, through both paths.
    for (name, gradient) in trainer.gradients().unwrap() {
        let largest = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(largest > 0.0, "{name} got no gradient");
    }
    let evaluated = trainer.evaluate(&[(vec![x.clone()], y.clone())]).unwrap();
    assert!(evaluated.loss < f64::from(losses[0]));
    let bits = losses.iter().map(|loss| loss.to_bits()).collect();
    (bits, weights_hash(&trainer.weights().unwrap()).unwrap())
}

#[test]
fn skips_and_masks_cross_every_boundary() {
    let whole = train(1, &Cut::Uniform);
    for cut in [vec![2, 2], vec![1, 3], vec![3, 1], vec![1, 1, 2], vec![1, 1, 1, 1]] {
        let pp = cut.len() as u32;
        assert_eq!(train(pp, &Cut::Explicit(cut.clone())), whole, "cut {cut:?}");
    }
}
