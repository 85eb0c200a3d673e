//! A loss over tokens: micro-batches and replicas of which different numbers of tokens count train
//! as one large batch does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use pp_executor::{Fault, FaultKind, RankConfig};
use pp_hybrid::{Trainer, TrainerConfig, TrainerError};
use pp_models::Job;
use pp_nn::{IGNORED, LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::Cut;
use pp_schedule::{Rank, ScheduleName, Sizes};
use pp_telemetry::SpanKind;

mod uneven;
use uneven::small_llama;

const BATCH: usize = 8;

fn trainer(job: &Job, n_micro_batches: u32, n_replicas: u32) -> Trainer {
    trainer_with(job, n_micro_batches, n_replicas, None)
}

fn trainer_with(job: &Job, n_micro_batches: u32, n_replicas: u32, fault: Option<Fault>) -> Trainer {
    let sizes = Sizes { n_ranks: 2, n_micro_batches, n_virtual_stages: 1, interleave_group: None };
    let plan = ScheduleName::OneFOneB.generate(&sizes).unwrap();
    let partition = Cut::Uniform.solve(&job.stack, 2, None).unwrap();
    let objective = job.objective.clone();
    let ranks = RankConfig {
        seed: 1,
        n_replicas,
        fault,
        ..RankConfig::new(plan, partition, job.stack.clone(), objective, OptimizerKind::Sgd)
    };
    let rate = LearningRate { peak: 1e-3, curve: LearningRateCurve::Constant, warmup: 0 };
    Trainer::new(TrainerConfig { ranks, clip_norm: None, rate, steps: 1 }).unwrap()
}

/// The other rank has run its row by then, and waits for the gradient of the embedding.
#[test]
fn a_rank_that_fails_does_not_leave_the_other_place_of_a_tied_parameter_waiting() {
    for (rank, op) in [(0, "0B3"), (1, "1B3")] {
        for replicas in [1, 2] {
            let job = small_llama(true, false);
            let (at, kind) = (op.parse().unwrap(), FaultKind::Error);
            let fault = Fault { rank: Rank(rank), replica: None, step: 2, at, kind };
            let mut trainer = trainer_with(&job, 4, replicas, Some(fault));
            trainer.step(1, || job.data.batch(1, BATCH)).unwrap();
            let begun = Instant::now();
            let error = trainer.step(2, || job.data.batch(2, BATCH)).unwrap_err().to_string();
            drop(trainer);
            let place = format!("step 2, op {op}");
            assert!(error.contains(&format!("rank {rank}")) && error.contains(&place), "{error}");
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        }
    }
}

fn norm(t: &Tensor) -> f64 {
    f64::from(t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt()
}

#[test]
fn uneven_micro_batches_and_replicas_have_the_gradient_of_one_batch() {
    for (is_tied, is_packed) in [(false, false), (true, true)] {
        let job = small_llama(is_tied, is_packed);
        let (_, targets) = job.data.batch(1, BATCH).unwrap();
        let counts: Vec<usize> = targets
            .to_vec2::<u32>()
            .unwrap()
            .iter()
            .map(|row| row.iter().filter(|target| **target != IGNORED).count())
            .collect();
        assert!(counts.contains(&0) && counts.contains(&12), "{counts:?}");
        let of = |micro_batches: u32, replicas: u32| {
            let mut trainer = trainer(&job, micro_batches, replicas);
            let outcome = trainer.step(1, || job.data.batch(1, BATCH)).unwrap();
            (f64::from(outcome.loss), trainer.gradients().unwrap())
        };
        let (loss, gradients) = of(1, 1);
        let global = gradients.iter().map(|(_, g)| norm(g).powi(2)).sum::<f64>().sqrt();
        for (micro_batches, replicas) in [(8, 1), (2, 1), (4, 2), (1, 2), (2, 4)] {
            let what = format!("{micro_batches} micro-batches on {replicas} replicas");
            let (found, of_parts) = of(micro_batches, replicas);
            assert!((found - loss).abs() <= 1e-6 * loss, "{what}: loss {found}, not {loss}");
            for ((name, want), (_, got)) in gradients.iter().zip(&of_parts) {
                let error = norm(&(got - want).unwrap());
                let most = 1e-6 * norm(want).max(1e-3 * global);
                assert!(error <= most, "{what}: {name} is off by {error}, of {}", norm(want));
            }
        }
    }
}

#[test]
fn what_both_places_of_a_tied_parameter_exchange_has_a_span() {
    let exchanged = |is_tied: bool, replicas: u32| {
        let job = small_llama(is_tied, false);
        let mut trainer = trainer(&job, 4, replicas);
        let spans = trainer.step(1, || job.data.batch(1, BATCH)).unwrap().spans;
        let all = spans.iter().filter(|span| span.op == SpanKind::AllReduce);
        all.map(|span| (span.replica, span.rank, span.stage, span.bytes)).collect::<Vec<_>>()
    };
    assert_eq!(exchanged(false, 1), []);
    // 37 tokens of 24 numbers.
    let bytes = 37 * 24 * 4;
    assert_eq!(exchanged(true, 1), [(0, 0, 0, bytes), (0, 1, 1, bytes)]);
    let (tied, plain) = (exchanged(true, 2), exchanged(false, 2));
    assert_eq!(tied.len(), plain.len() + 4);
}

#[test]
fn an_evaluation_is_a_mean_over_tokens() {
    let job = small_llama(false, false);
    let mut trainer = trainer(&job, 2, 1);
    let (inputs, targets) = job.data.batch(1, BATCH).unwrap();
    let whole = trainer.evaluate(&[(inputs.clone(), targets.clone())]).unwrap();
    let pieces: Vec<_> = (0..BATCH)
        .map(|i| (vec![inputs[0].narrow(0, i, 1).unwrap()], targets.narrow(0, i, 1).unwrap()))
        .collect();
    let found = trainer.evaluate(&pieces).unwrap();
    assert_eq!(found.weight.to_bits(), whole.weight.to_bits());
    assert!((found.loss - whole.loss).abs() <= 1e-6 * whole.loss, "{found:?}, {whole:?}");
}

#[test]
fn a_batch_of_which_nothing_counts_is_refused() {
    let job = small_llama(false, false);
    let mut trainer = trainer(&job, 2, 1);
    let (inputs, targets) = job.data.batch(1, BATCH).unwrap();
    let nothing = Tensor::full(IGNORED, targets.shape(), &Device::Cpu).unwrap();
    let refused = trainer.step(1, || Ok((inputs, nothing.clone()))).unwrap_err();
    assert!(matches!(refused, TrainerError::NothingCounts { step: 1 }), "{refused}");
    assert!(refused.to_string().contains("nothing counts in the batch of step 1"), "{refused}");
    // The trainer is as it was.
    trainer.step(1, || job.data.batch(1, BATCH)).unwrap();
}
