//! A rank that errors or panics ends the step everywhere, with its rank and op, in time.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use pp_executor::{Fault, FaultKind, RankConfig};
use pp_hybrid::{Trainer, TrainerConfig};
use pp_models::{SleepConfig, sleep};
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::Cut;
use pp_schedule::{Rank, ScheduleName, Sizes};

fn fail(kind: FaultKind, rank: u32, op: &str, replicas: u32) -> (String, Duration) {
    let ms = Duration::from_millis(1);
    let config = SleepConfig {
        ranks: vec![0, 1, 2],
        virtual_stages: 1,
        forward: ms,
        input_grad: ms,
        weight_grad: ms,
        slow_rank: None,
    };
    let job = sleep(&config).unwrap();
    let sizes =
        Sizes { n_ranks: 3, n_micro_batches: 6, n_virtual_stages: 1, interleave_group: None };
    let plan = ScheduleName::OneFOneB.generate(&sizes).unwrap();
    let partition = Cut::Uniform.solve(&job.stack, 3, None).unwrap();
    let mut ranks = RankConfig::new(
        plan,
        partition,
        job.stack.clone(),
        job.objective.clone(),
        OptimizerKind::Sgd,
    );
    ranks.fault = Some(Fault { rank: Rank(rank), step: 2, op: op.parse().unwrap(), kind });
    ranks.n_replicas = replicas;
    let rate = LearningRate { peak: 0.1, curve: LearningRateCurve::Constant, warmup: 0 };
    let mut trainer =
        Trainer::new(TrainerConfig { ranks, clip_norm: None, rate, steps: 2 }).unwrap();
    let batch = 6 * replicas as usize;
    trainer.step(1, || job.data.batch(1, batch)).unwrap();
    let start = Instant::now();
    let error = trainer.step(2, || job.data.batch(2, batch)).unwrap_err();
    drop(trainer);
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    (text, start.elapsed())
}

#[test]
fn errors_and_panics_in_every_phase() {
    for (kind, word) in
        [(FaultKind::Error, "on request"), (FaultKind::Panic, "panicked: a test asked")]
    {
        for (rank, op) in [(0, "0F3"), (1, "1B2"), (2, "2F0"), (0, "0B5"), (2, "2B5")] {
            for replicas in [1, 2] {
                let (text, took) = fail(kind, rank, op, replicas);
                assert!(
                    text.contains(&format!("rank {rank}")) && text.contains(&format!("op {op}")),
                    "{text}"
                );
                assert!(text.contains("step 2") && text.contains(word), "{text}");
                assert!(took < Duration::from_secs(5), "{op} took {took:?}");
            }
        }
    }
}
