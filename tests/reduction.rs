//! The mean of the gradients while ops run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use candle_nn::Module as _;
use pp_executor::{BUCKET_BYTES, RankConfig};
use pp_hybrid::{Trainer, TrainerConfig, weights_hash};
use pp_models::{GptConfig, gpt};
use pp_nn::{ForwardContext, LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::{Cut, LayerStack, single};
use pp_schedule::{ScheduleName, Sizes};
use pp_telemetry::{Span, SpanKind};
use pp_train::MeanSquare;

const STEPS: u64 = 3;
const MICRO_BATCHES: u32 = 4;

/// What every step shows, the hash of the weights behind the last, and the spans of the last.
fn train(
    schedule: ScheduleName,
    replicas: u32,
    bucket_bytes: usize,
) -> (Vec<(u32, u64)>, String, Vec<Span>) {
    let config = GptConfig { layers: 6, width: 16, heads: 2, context: 8, dropout: 0.1 };
    let job = gpt(config, None, 5).unwrap();
    let sizes = Sizes {
        n_ranks: 2,
        n_micro_batches: MICRO_BATCHES,
        n_virtual_stages: schedule.default_virtual_stages(),
        interleave_group: None,
    };
    let plan = schedule.generate(&sizes).unwrap();
    let cut = Cut::Uniform.solve(&job.stack, plan.n_stages() as usize, None).unwrap();
    let (stack, objective) = (job.stack.clone(), job.objective.clone());
    let mut ranks = RankConfig::new(plan, cut, stack, objective, OptimizerKind::Adam);
    ranks.n_replicas = replicas;
    ranks.bucket_bytes = bucket_bytes;
    let rate = LearningRate { peak: 1e-3, curve: LearningRateCurve::Constant, warmup: 0 };
    let config = TrainerConfig { ranks, clip_norm: Some(1.0), rate, steps: STEPS };
    let mut trainer = Trainer::new(config).unwrap();
    let (mut shown, mut spans) = (Vec::new(), Vec::new());
    for step in 1..=STEPS {
        let outcome = trainer.step(step, || job.data.batch(step, 24)).unwrap();
        shown.push((outcome.loss.to_bits(), outcome.grad_norm.to_bits()));
        spans = outcome.spans;
    }
    (shown, weights_hash(&trainer.weights().unwrap()).unwrap(), spans)
}

#[test]
fn buckets_change_no_bit() {
    for (schedule, replicas) in [
        (ScheduleName::OneFOneB, 2),
        (ScheduleName::InterleavedOneFOneB, 3),
        (ScheduleName::ZbH1, 2),
        (ScheduleName::ZbV, 2),
        (ScheduleName::Chimera, 1),
        (ScheduleName::Chimera, 2),
    ] {
        let (shown, weights, _) = train(schedule, replicas, usize::MAX);
        for bucket_bytes in [BUCKET_BYTES, 1000, 0] {
            let (also, hash, _) = train(schedule, replicas, bucket_bytes);
            assert_eq!((&also, &hash), (&shown, &weights), "{schedule}, {bucket_bytes}");
        }
    }
}

/// The spans of the mean by replica and rank, and the last end of compute.
fn means(spans: &[Span]) -> BTreeMap<(u32, u32), (Vec<Span>, u64)> {
    let mut found: BTreeMap<(u32, u32), (Vec<Span>, u64)> = BTreeMap::new();
    for span in spans {
        let (means, last_end) = found.entry((span.replica, span.rank)).or_default();
        if span.op == SpanKind::AllReduce {
            means.push(*span);
        } else if span.op.is_compute() {
            *last_end = span.end_ns().max(*last_end);
        }
    }
    found
}

#[test]
fn a_bucket_leaves_before_the_last_op_ends() {
    let (_, _, spans) = train(ScheduleName::OneFOneB, 2, 0);
    for ((replica, rank), (means, last_end)) in means(&spans) {
        let parameters: BTreeMap<u32, u64> =
            means.iter().map(|span| (span.mb, span.bytes)).collect();
        assert_eq!(parameters.len(), means.len(), "each has a number");
        assert!(means.len() > 10, "{replica}.{rank}: {} parameters", means.len());
        // The last layer to be summed may be the last thing that its op does.
        let early = means.iter().filter(|span| span.start_ns < last_end).count();
        assert!(2 * early > means.len(), "{replica}.{rank}: {early} of {}", means.len());
    }
    let whole = |spans: &[Span]| {
        let bytes = means(spans)
            .into_values()
            .map(|(means, _)| means.iter().map(|span| span.bytes).sum::<u64>());
        bytes.collect::<Vec<_>>()
    };
    let (_, _, in_one) = train(ScheduleName::OneFOneB, 2, usize::MAX);
    assert!(means(&in_one).values().all(|(means, _)| means.len() == 1));
    assert_eq!(whole(&in_one), whole(&spans), "the same gradients");
}

/// With several stages on a rank, the mean of the first that is done does not wait for the others.
#[test]
fn a_stage_that_is_done_does_not_wait_for_the_others_of_its_rank() {
    let (_, _, spans) = train(ScheduleName::InterleavedOneFOneB, 2, usize::MAX);
    for ((replica, rank), (means, last_end)) in means(&spans) {
        assert_eq!(means.len(), 2, "{replica}.{rank}");
        let first = means.iter().map(|span| span.start_ns).min().unwrap();
        let behind = spans.iter().filter(|span| {
            (span.replica, span.rank) == (replica, rank)
                && span.op.is_compute()
                && span.start_ns > first
        });
        assert!(behind.count() > 0 && first < last_end, "{replica}.{rank}: ops follow");
    }
}

/// A router and two experts of one shape. A sample goes to the first if its first number is not
/// negative, and then the second has no gradient at all.
fn experts(bucket_bytes: usize) -> Trainer {
    let mut stack = LayerStack::default();
    stack.push("experts", |vb| {
        let linear = |name: &str| candle_nn::linear_no_bias(4, 4, vb.pp(name));
        let (first, router, second) = (linear("first")?, linear("router")?, linear("second")?);
        Ok(single(move |x: &Tensor, _: &ForwardContext| {
            let is_first = x.flatten_all()?.to_vec1::<f32>()?[0] >= 0.0;
            router.forward(x)? + if is_first { &first } else { &second }.forward(x)?
        }))
    });
    let sizes =
        Sizes { n_ranks: 1, n_micro_batches: 1, n_virtual_stages: 1, interleave_group: None };
    let plan = ScheduleName::OneFOneB.generate(&sizes).unwrap();
    let cut = Cut::Uniform.solve(&stack, 1, None).unwrap();
    let mut ranks = RankConfig::new(plan, cut, stack, Arc::new(MeanSquare), OptimizerKind::Sgd);
    ranks.n_replicas = 2;
    ranks.bucket_bytes = bucket_bytes;
    ranks.deadline = Some(Duration::from_secs(20));
    let rate = LearningRate { peak: 0.1, curve: LearningRateCurve::Constant, warmup: 0 };
    Trainer::new(TrainerConfig { ranks, clip_norm: None, rate, steps: 1 }).unwrap()
}

/// The gradients of two samples, one for each replica, with these first numbers.
fn gradients(bucket_bytes: usize, firsts: [f32; 2]) -> BTreeMap<String, Vec<f32>> {
    let mut trainer = experts(bucket_bytes);
    let x: Vec<f32> = firsts.into_iter().flat_map(|first| [first, 1.0, 2.0, 3.0]).collect();
    let x = Tensor::from_vec(x, (2, 4), &Device::Cpu).unwrap();
    let y = Tensor::zeros((2, 4), DType::F32, &Device::Cpu).unwrap();
    trainer.step(1, || Ok((vec![x], y))).unwrap();
    let named = trainer.gradients().unwrap().into_iter();
    named.map(|(name, t)| (name, t.flatten_all().unwrap().to_vec1().unwrap())).collect()
}

/// What a copy uses of its parameters may depend on its data; the mean is of each parameter all the
/// same.
#[test]
fn copies_that_use_other_parameters_average_each_with_itself() {
    for bucket_bytes in [usize::MAX, 64, 0] {
        // Each replica uses another expert, in both orders.
        for firsts in [[1.0, -1.0], [-1.0, 1.0]] {
            let mixed = gradients(bucket_bytes, firsts);
            let [first, second] = firsts.map(|first| gradients(usize::MAX, [first; 2]));
            for (name, found) in &mixed {
                let half = |of: &BTreeMap<String, Vec<f32>>, at: usize| of[name][at] / 2.0;
                for (at, found) in found.iter().enumerate() {
                    let wanted = half(&first, at) + half(&second, at);
                    let what = format!("{bucket_bytes}, {firsts:?}, {name}");
                    assert!((found - wanted).abs() < 1e-6, "{what}: {found} for {wanted}");
                }
            }
            let is_used = |of: &Vec<f32>| of.iter().any(|gradient| *gradient != 0.0);
            assert!(mixed.len() == 3 && mixed.values().all(is_used), "{firsts:?}: {mixed:?}");
        }
    }
}
