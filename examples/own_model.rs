//! Trains your own model on two ranks, and records the run.
//!
//! `cargo run --release --example own_model`; meanwhile `pptop attach`.
//! Afterwards `pptop replay latest`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use pp_nn::{Linear, relu};
use pp_partition::{LayerStack, single};
use pp_train::{BoxError, Config, DataSet, Job, MeanSquare, Samples, Topology, Workload};
use pp_train::{Notice, RunOptions, Signals};

/// Three layers that learn a sine wave.
struct Sine;

impl DataSet for Sine {
    fn batch(&self, _step: u64, size: usize) -> Result<Samples> {
        let x = Tensor::arange(0f32, size as f32, &Device::Cpu)?.reshape((size, 1))?;
        let x = ((x * (6.4 / size as f64))? - 3.2)?;
        Ok((vec![x.clone()], x.sin()?))
    }
}

impl Workload for Sine {
    fn name(&self) -> &'static str {
        "sine"
    }
    fn layers(&self) -> Option<usize> {
        Some(3)
    }
    fn job(&self, _seed: u64, _topology: &Topology) -> std::result::Result<Job, BoxError> {
        let mut stack = LayerStack::default();
        for (i, (inputs, outputs)) in [(1, 64), (64, 64), (64, 1)].into_iter().enumerate() {
            stack.push(format!("layers.{i}"), move |builder| {
                let linear = Linear::new(inputs, outputs, builder.pp(format!("layers.{i}")))?;
                Ok(single(move |x, context| {
                    let y = linear.forward(x, context)?;
                    if outputs > 1 { relu(&y) } else { Ok(y) }
                }))
            });
        }
        Ok(Job::new(stack, MeanSquare, Sine))
    }
}

fn main() -> anyhow::Result<()> {
    pp_train::init()?;
    let config = Config { pp: Some(2), steps: 2000, ..Config::new(Arc::new(Sine)) };
    let options = RunOptions { signals: Some(Signals::listen()?), ..RunOptions::default() };
    pp_train::train(config, options, &mut |notice: &Notice<'_>| match notice {
        Notice::Ready(ready) => println!("{}\n{}", ready.opening, ready.dir.display()),
        Notice::Stepped(step) if step.step % 500 == 0 => println!("loss {:.5}", step.loss),
        _ => {}
    })?;
    Ok(())
}
