//! What waits between I and W: counted by the executor as the simulator predicts it, in and out of
//! the order of micro-batches, for layers that put their weight gradient off and for one that
//! cannot.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::Init;
use pp_executor::RankConfig;
use pp_hybrid::{Trainer, TrainerConfig};
use pp_nn::{ForwardContext, LearningRate, LearningRateCurve, Linear, OptimizerKind};
use pp_partition::{Cut, LayerStack, Objective, single};
use pp_schedule::{Costs, Draft, ScheduleName, Sizes, ValidPlan, simulate};

const WIDTH: usize = 8;
const ROWS: usize = 2;
const MICRO_BATCHES: u32 = 8;
const FLOAT: usize = size_of::<f32>();

struct MeanSquare;

impl Objective for MeanSquare {
    fn loss(&self, outputs: &[Tensor], targets: &Tensor, _: &ForwardContext) -> Result<Tensor> {
        (&outputs[0] - targets)?.sqr()?.mean_all()
    }
}

/// Stages of one layer each, and the bytes that one micro-batch leaves behind after I.
fn stack(n_stages: u32, puts_off: bool) -> (LayerStack, usize) {
    let mut stack = LayerStack::default();
    for stage in 0..n_stages {
        let name = format!("layers.{stage}");
        if puts_off {
            stack.push(name.clone(), move |builder| {
                let linear = Linear::new(WIDTH, WIDTH, builder.pp(&name))?;
                Ok(single(move |x, context| linear.forward(x, context)))
            });
        } else {
            // candle's own product: its backward computes the gradient of the weight at once.
            stack.push(name.clone(), move |builder| {
                let init = Init::Randn { mean: 0.0, stdev: 0.3 };
                let weight = builder.pp(&name).get_with_hints((WIDTH, WIDTH), "weight", init)?;
                Ok(single(move |x, _| x.matmul(&weight)))
            });
        }
    }
    // Input and gradient of the output, or a whole gradient.
    let residue = if puts_off { 2 * ROWS * WIDTH * FLOAT } else { WIDTH * WIDTH * FLOAT };
    (stack, residue)
}

fn check(plan: ValidPlan, puts_off: bool) {
    let (stack, residue) = stack(plan.n_stages(), puts_off);
    let name = plan.name().to_owned();
    // Activations are left out: what a rank holds in this simulation are residues.
    let costs = Costs {
        activation: vec![0.0; plan.n_stages() as usize],
        residue: vec![residue as f64; plan.n_stages() as usize],
        ..Costs::uniform(plan.n_stages(), 1.0, 1.0, 1.0, 0.0)
    };
    let predicted = simulate(&plan, &costs).unwrap().peak_memory;
    let partition = Cut::Uniform.solve(&stack, plan.n_stages() as usize, None).unwrap();
    let ranks = RankConfig::new(plan, partition, stack, Arc::new(MeanSquare), OptimizerKind::Sgd);
    let rate = LearningRate { peak: 0.1, curve: LearningRateCurve::Constant, warmup: 0 };
    let mut trainer =
        Trainer::new(TrainerConfig { ranks, clip_norm: None, rate, steps: 2 }).unwrap();
    let rows = ROWS * MICRO_BATCHES as usize;
    let batch = || Tensor::ones((rows, WIDTH), DType::F32, &Device::Cpu);
    for step in 1..=2 {
        let outcome = trainer.step(step, || Ok((vec![batch()?], batch()?))).unwrap();
        let counted: Vec<f64> = outcome.residue_peaks.iter().map(|&bytes| bytes as f64).collect();
        assert_eq!(counted, predicted, "{name}, puts off: {puts_off}, step {step}");
    }
}

fn plan(name: ScheduleName, n_ranks: u32) -> ValidPlan {
    let n_virtual_stages = name.default_virtual_stages();
    let n_micro_batches = MICRO_BATCHES;
    name.generate(&Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group: None })
        .unwrap()
}

#[test]
fn every_schedule_keeps_as_much_as_predicted() {
    for name in ScheduleName::ALL.into_iter().filter(|name| name.trains()) {
        for puts_off in [true, false] {
            check(plan(name, 2), puts_off);
        }
    }
}

/// Backwards that come in reversed order wait until it's their turn to be summed.
#[test]
fn a_reversed_plan_keeps_all_but_one() {
    let mut draft: Draft = plan(ScheduleName::Gpipe, 2).into_draft();
    for row in &mut draft.rows {
        row[MICRO_BATCHES as usize..].reverse();
    }
    for puts_off in [true, false] {
        check(draft.clone().validate().unwrap(), puts_off);
    }
}
