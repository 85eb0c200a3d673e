//! A profile sees what is there: parameters, bytes, and more time for more work.

use candle_core::{DType, Device, Result, Tensor};
use pp_nn::{ForwardContext, Linear, cross_entropy};
use pp_partition::{Cut, LayerStack, Objective, ProfileConfig, profile, single};

struct Classes;

impl Objective for Classes {
    fn loss(&self, outputs: &[Tensor], targets: &Tensor, _: &ForwardContext) -> Result<Tensor> {
        cross_entropy(&outputs[0], targets)
    }
}

#[test]
fn parameters_bytes_and_times() {
    let widths = [8, 16, 1024, 1024, 4];
    let mut stack = LayerStack::default();
    for i in 0..4 {
        stack.push(format!("layers.{i}"), move |builder| {
            let linear = Linear::new(widths[i], widths[i + 1], builder.pp(format!("layers.{i}")))?;
            Ok(single(move |x, context| linear.forward(x, context)))
        });
    }
    let x = Tensor::ones((32, 8), DType::F32, &Device::Cpu).unwrap();
    let y = Tensor::zeros(32, DType::U32, &Device::Cpu).unwrap();
    let found =
        profile(&stack, &Classes, &[x], &y, &Device::Cpu, ProfileConfig::default()).unwrap();
    assert_eq!(found.layers[0].parameters, 8 * 16 + 16);
    assert_eq!(found.layers[1].boundary_bytes, 32 * 1024 * 4);
    assert_eq!(found.layers[3].parameter_bytes, (1024 * 4 + 4) * 4);
    assert!(found.layers.iter().all(|l| l.forward_seconds > 0.0 && l.backward_seconds() > 0.0));
    assert!(found.layers.iter().all(|l| l.activation_bytes >= l.boundary_bytes));
    // A linear layer puts off its weight gradient: it keeps its input and the gradient of its
    // output.
    assert_eq!(found.layers[2].residue_bytes, 2 * 32 * 1024 * 4);
    assert!(found.layers[2].weight_grad_seconds > found.layers[0].weight_grad_seconds);
    // A million multiplications a row against 128: no noise turns that around.
    let partition = Cut::Time.solve(&stack, 2, Some(&found)).unwrap();
    assert!(partition.layers(0).len() >= 2, "{partition:?}");
}
