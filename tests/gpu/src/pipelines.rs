//! Whole pipelines on the device: the bits of one rank, and nearly the numbers of the processor.

use std::sync::Arc;

use pp_executor::{DeviceSpec, RankConfig};
use pp_hybrid::{Trainer, TrainerConfig, weights_hash};
use pp_models::{GptConfig, Job, gpt, seed_mlp};
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::Cut;
use pp_schedule::{ScheduleName, Sizes};

use crate::place;

fn small_gpt() -> Job {
    let config = GptConfig { layers: 4, width: 32, heads: 2, context: 16, ..GptConfig::default() };
    gpt(config, None, 1).unwrap()
}

/// Losses and the hash of the weights after `steps` steps.
fn trained(
    job: &Job,
    schedule: ScheduleName,
    pp: u32,
    dp: u32,
    steps: u64,
    place: DeviceSpec,
) -> (Vec<f32>, String) {
    let n_virtual_stages = if pp == 1 { 1 } else { schedule.default_virtual_stages() };
    let schedule = if pp == 1 { ScheduleName::Gpipe } else { schedule };
    let sizes = Sizes { n_ranks: pp, n_micro_batches: 8, n_virtual_stages, interleave_group: None };
    let plan = schedule.generate(&sizes).unwrap();
    let partition = Cut::Uniform.solve(&job.stack, plan.n_stages() as usize, None).unwrap();
    let ranks = RankConfig {
        seed: 9,
        n_replicas: dp,
        devices: Arc::new(move |_, _| place),
        ..RankConfig::new(
            plan,
            partition,
            job.stack.clone(),
            job.objective.clone(),
            OptimizerKind::Adam,
        )
    };
    let rate = LearningRate { peak: 1e-3, curve: LearningRateCurve::Constant, warmup: 0 };
    let config = TrainerConfig { ranks, clip_norm: Some(1.0), rate, steps };
    let mut trainer = Trainer::new(config).unwrap();
    let losses = (1..=steps)
        .map(|step| trainer.step(step, || job.data.batch(step, 16)).unwrap().loss)
        .collect();
    let hash = weights_hash(&trainer.weights().unwrap()).unwrap();
    (losses, hash)
}

pub(crate) fn every_schedule_has_the_bits_of_one_rank() {
    for job in [small_gpt(), seed_mlp(Some(0.1), 1).unwrap()] {
        let one = trained(&job, ScheduleName::Gpipe, 1, 1, 3, place());
        for schedule in [
            ScheduleName::Gpipe,
            ScheduleName::OneFOneB,
            ScheduleName::InterleavedOneFOneB,
            ScheduleName::ZbH1,
            ScheduleName::ZbV,
            ScheduleName::DualPipeV,
        ] {
            assert_eq!(trained(&job, schedule, 2, 1, 3, place()), one, "{schedule}");
        }
    }
}

pub(crate) fn the_numbers_are_nearly_those_of_the_processor() {
    let job = small_gpt();
    let cpu = DeviceSpec::Cpu { index: 0 };
    for (pp, dp) in [(1, 1), (2, 1), (2, 2)] {
        let (found, _) = trained(&job, ScheduleName::OneFOneB, pp, dp, 30, place());
        let (expected, _) = trained(&job, ScheduleName::OneFOneB, pp, dp, 30, cpu);
        let off = |at: usize| (found[at] - expected[at]).abs() / expected[at];
        assert!(off(0) < 1e-5, "first loss: {} for {}", found[0], expected[0]);
        assert!(off(29) < 1e-2, "last loss: {} for {}", found[29], expected[29]);
    }
}

/// Many small messages between the streams of many ranks, again and again: a copy that came too
/// early, or memory that was freed too early, would change bits.
pub(crate) fn streams_under_stress() {
    let job = small_gpt();
    let one = trained(&job, ScheduleName::Gpipe, 1, 1, 6, place());
    for round in 0..3 {
        for (schedule, pp) in [(ScheduleName::OneFOneB, 6), (ScheduleName::ZbV, 3)] {
            assert_eq!(
                trained(&job, schedule, pp, 1, 6, place()),
                one,
                "round {round}, {schedule}"
            );
        }
    }
    let two = trained(&job, ScheduleName::OneFOneB, 2, 2, 4, place());
    assert_eq!(trained(&job, ScheduleName::ZbH1, 3, 2, 4, place()), two);
}
