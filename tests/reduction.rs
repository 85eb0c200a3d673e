//! The mean of the gradients while ops run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use pp_executor::{BUCKET_BYTES, RankConfig};
use pp_hybrid::{Trainer, TrainerConfig, weights_hash};
use pp_models::{GptConfig, gpt};
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::Cut;
use pp_schedule::{ScheduleName, Sizes};
use pp_telemetry::{Span, SpanKind};

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
