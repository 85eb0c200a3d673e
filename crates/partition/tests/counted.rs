//! A profile in a program that counts its bytes. A device with memory of its own has another meter,
//! which the same code reads.

use std::alloc::System;

use candle_core::{DType, Device, Result, Tensor};
use pp_nn::memory::{CountingAllocator, Meter};
use pp_nn::{ForwardContext, Linear, relu};
use pp_partition::{LayerStack, Objective, ProfileConfig, profile, single};

#[global_allocator]
static ALLOCATOR: CountingAllocator<System> = CountingAllocator(System);

struct Sum;

impl Objective for Sum {
    fn loss(&self, outputs: &[Tensor], _: &Tensor, _: &ForwardContext) -> Result<Tensor> {
        outputs[0].sum_all()
    }
}

#[test]
fn activations_are_what_lives_between_forward_and_backward() {
    assert!(Meter::of(&Device::Cpu).is_counted());
    let mut stack = LayerStack::default();
    for name in ["linear", "linear and relu", "last"] {
        stack.push(name, move |builder| {
            let linear = Linear::new(256, 256, builder.pp(name))?;
            let has_relu = name == "linear and relu";
            Ok(single(move |x, context| {
                let y = linear.forward(x, context)?;
                if has_relu { relu(&y) } else { Ok(y) }
            }))
        });
    }
    let x = Tensor::ones((64, 256), DType::F32, &Device::Cpu).unwrap();
    let y = Tensor::zeros(64, DType::U32, &Device::Cpu).unwrap();
    let found = profile(&stack, &Sum, &[x], &y, &Device::Cpu, ProfileConfig::default()).unwrap();
    let tensor = 64 * 256 * 4;
    // A linear layer has made its output; with ReLU there are two tensors.
    assert_eq!(found.layers[0].activation_bytes, tensor);
    assert_eq!(found.layers[1].activation_bytes, 2 * tensor);
}
