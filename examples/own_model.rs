//! Trains a model of one's own on two ranks.
//!
//! `cargo run --release --example own_model`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use pp_executor::RankConfig;
use pp_hybrid::{Trainer, TrainerConfig};
use pp_nn::{LearningRate, LearningRateCurve, Linear, OptimizerKind, relu};
use pp_partition::{Cut, LayerStack, Objective, single};
use pp_schedule::{ScheduleName, Sizes};

/// The mean square of the error.
struct MeanSquare;

impl Objective for MeanSquare {
    fn loss(&self, outputs: &[Tensor], targets: &Tensor) -> Result<Tensor> {
        (&outputs[0] - targets)?.sqr()?.mean_all()
    }
}

fn main() -> anyhow::Result<()> {
    // A model is a list of layers, each with a recipe for building it.
    let widths = [1, 64, 64, 1];
    let mut stack = LayerStack::default();
    for i in 0..3 {
        stack.push(format!("layers.{i}"), move |builder| {
            let linear = Linear::new(widths[i], widths[i + 1], builder.pp(format!("layers.{i}")))?;
            Ok(single(move |x, context| {
                let y = linear.forward(x, context)?;
                if i < 2 { relu(&y) } else { Ok(y) }
            }))
        });
    }
    // A schedule for two ranks and four micro-batches, and a cut of the model into its two stages.
    let sizes =
        Sizes { n_ranks: 2, n_micro_batches: 4, n_virtual_stages: 1, interleave_group: None };
    let plan = ScheduleName::OneFOneB.generate(&sizes)?;
    let partition = Cut::Parameters.solve(&stack, 2, None)?;
    let ranks = RankConfig::new(plan, partition, stack, Arc::new(MeanSquare), OptimizerKind::Adam);
    let rate = LearningRate { peak: 0.01, curve: LearningRateCurve::Cosine, warmup: 0 };
    let mut trainer = Trainer::new(TrainerConfig { ranks, clip_norm: None, rate, steps: 200 })?;
    // It learns a sine wave.
    let x: Vec<f32> = (0..64u8).map(|i| f32::from(i) / 10.0 - 3.2).collect();
    let y: Vec<f32> = x.iter().map(|x| x.sin()).collect();
    let (x, y) =
        (Tensor::from_vec(x, (64, 1), &Device::Cpu)?, Tensor::from_vec(y, (64, 1), &Device::Cpu)?);
    for step in 1..=200 {
        let outcome = trainer.step(step, || Ok((vec![x.clone()], y.clone())))?;
        if step % 50 == 0 {
            println!("step {step}: loss {:.5}", outcome.loss);
        }
    }
    Ok(())
}
