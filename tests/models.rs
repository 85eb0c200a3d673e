//! Every model trains all of itself.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use candle_core::{DType, Device};
use pp_models::{GptConfig, Job, SleepConfig, gpt, sample, seed_mlp, sleep, wine_mlp};
use pp_nn::{ForwardContext, Gradients, ParameterStore, ResidueQueue};
use pp_partition::Stage;

fn jobs() -> Vec<(&'static str, Job)> {
    let nap = Duration::from_micros(10);
    let config = SleepConfig {
        ranks: vec![0, 1, 1, 0],
        layers: 1,
        virtual_stages: 2,
        forward: nap,
        input_grad: nap,
        weight_grad: nap,
        slow_rank: Some((1, 1.5)),
    };
    let small = GptConfig { layers: 2, width: 32, heads: 4, context: 16, dropout: 0.1 };
    vec![
        ("seed-mlp", seed_mlp(None, 1).unwrap()),
        ("wine-mlp", wine_mlp(None, 1).unwrap()),
        ("gpt", gpt(small, None, 1).unwrap()),
        ("sleep", sleep(&config).unwrap()),
    ]
}

#[test]
fn every_parameter_of_every_model_receives_a_gradient() {
    for (name, job) in jobs() {
        let store = ParameterStore::seeded(1);
        let model =
            Stage::build(&job.stack, 0..job.stack.len(), &store, DType::F32, &Device::Cpu).unwrap();
        let (inputs, targets) = job.data.batch(1, 8).unwrap();
        let queue = ResidueQueue::default();
        let context = ForwardContext::training(1, 1).with_residues(queue.clone());
        let outputs = model.forward(&inputs, &context).unwrap();
        let mut store =
            job.objective.loss(&outputs, &targets, &context).unwrap().backward().unwrap();
        let mut gradients = Gradients::new(model.parameters().to_vec()).unwrap();
        for residue in queue.take().into_iter().chain(gradients.dense_residues(&mut store)) {
            gradients.accumulate(residue).unwrap();
        }
        assert_eq!(gradients.missing(), Vec::<&str>::new(), "{name}");
        for (parameter, sum) in gradients.finished().unwrap() {
            let largest = sum
                .abs()
                .unwrap()
                .flatten_all()
                .unwrap()
                .max(0)
                .unwrap()
                .to_scalar::<f32>()
                .unwrap();
            assert!(
                largest > 0.0 && largest.is_finite(),
                "{name}: {} has gradient {largest}",
                parameter.name
            );
        }
    }
}

#[test]
fn the_seed_model_has_the_notebooks_layers() {
    let job = seed_mlp(None, 1).unwrap();
    let total: u64 = job.stack.parameter_counts().unwrap().iter().sum();
    let widths = [100u64, 1024, 1024, 2048, 2048, 1024, 1024, 512, 10];
    assert_eq!(total, widths.windows(2).map(|w| w[0] * w[1] + w[1]).sum::<u64>());
    assert_eq!(job.stack.len(), 8);
}

#[test]
fn a_model_continues_a_text() {
    let config = GptConfig { layers: 1, width: 16, heads: 2, context: 8, dropout: 0.0 };
    let job = gpt(config, None, 1).unwrap();
    let store = ParameterStore::seeded(1);
    let model = Stage::build(&job.stack, 0..3, &store, DType::F32, &Device::Cpu).unwrap();
    let text = sample(&model, 8, b"Sed ut ", 20, 1).unwrap();
    assert_eq!(text.len(), 20);
    assert_eq!(text, sample(&model, 8, b"Sed ut ", 20, 1).unwrap());
    assert_ne!(text, sample(&model, 8, b"Sed ut ", 20, 2).unwrap());
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let config =
        |layers, width, heads, context| GptConfig { layers, width, heads, context, dropout: 0.0 };
    let message = |c| gpt(c, None, 1).unwrap_err().to_string();
    assert!(message(config(0, 8, 2, 8)).contains("at least 1"));
    assert!(message(config(1, 9, 2, 8)).contains("width 9 is not a multiple of 2 heads"));
    assert!(message(config(1, 8, 2, 100_000)).contains("embedded text"));
    assert!(seed_mlp(Some(1.0), 1).is_err());
}
