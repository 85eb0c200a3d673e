//! Profiles your own model, and cuts it into three stages by each method.
//!
//! `cargo run -p pp-examples --example cut_model`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use candle_core::{DType, Device, Result, Tensor};
use pp_nn::{ForwardContext, Linear, cross_entropy, relu};
use pp_partition::{Cut, LayerStack, Objective, ProfileConfig, profile, single};

struct Classes;

impl Objective for Classes {
    fn loss(&self, outputs: &[Tensor], targets: &Tensor, _: &ForwardContext) -> Result<Tensor> {
        cross_entropy(&outputs[0], targets)
    }
}

fn main() -> anyhow::Result<()> {
    let widths = [32, 1024, 256, 256, 512, 64, 10];
    let mut stack = LayerStack::default();
    for i in 0..widths.len() - 1 {
        stack.push(format!("layers.{i}"), move |builder| {
            let linear = Linear::new(widths[i], widths[i + 1], builder.pp(format!("layers.{i}")))?;
            Ok(single(move |x, context| relu(&linear.forward(x, context)?)))
        });
    }
    let x = Tensor::ones((64, 32), DType::F32, &Device::Cpu)?;
    let y = Tensor::zeros(64, DType::U32, &Device::Cpu)?;
    let found = profile(&stack, &Classes, &[x], &y, &Device::Cpu, ProfileConfig::default())?;
    println!("layer      parameters   forward us  backward us   boundary bytes");
    for layer in &found.layers {
        let (forward, backward) = (1e6 * layer.forward_seconds, 1e6 * layer.backward_seconds());
        println!(
            "{:<10} {:>10} {forward:>12.1} {backward:>12.1} {:>16}",
            layer.name, layer.parameters, layer.boundary_bytes
        );
    }
    for cut in [Cut::Uniform, Cut::Parameters, Cut::Time, Cut::Explicit(vec![1, 2, 3])] {
        println!("{cut}: {:?} layers", cut.solve(&stack, 3, Some(&found))?.sizes());
    }
    Ok(())
}
