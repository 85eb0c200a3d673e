//! A training step that has seen its sizes asks the allocator for no large block.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;

use pp_executor::RankConfig;
use pp_hybrid::{Trainer, TrainerConfig};
use pp_models::{GptConfig, Job, gpt, seed_mlp};
use pp_nn::memory::CountingAllocator;
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::Cut;
use pp_schedule::{ScheduleName, Sizes};

#[global_allocator]
static ALLOCATOR: CountingAllocator<System> = CountingAllocator(System);

/// The large blocks that all ranks fetched, step by step.
fn fresh_blocks(
    job: &Job,
    (schedule, pp): (ScheduleName, u32),
    batch: usize,
    steps: u64,
) -> Vec<u64> {
    let sizes = Sizes {
        n_ranks: pp,
        n_micro_batches: 8,
        n_virtual_stages: schedule.default_virtual_stages(),
        interleave_group: None,
    };
    let plan = schedule.generate(&sizes).unwrap();
    let partition = Cut::Uniform.solve(&job.stack, plan.n_stages() as usize, None).unwrap();
    let ranks = RankConfig::new(
        plan,
        partition,
        job.stack.clone(),
        job.objective.clone(),
        OptimizerKind::Adam,
    );
    let rate = LearningRate { peak: 1e-3, curve: LearningRateCurve::Constant, warmup: 0 };
    let config = TrainerConfig { ranks, clip_norm: Some(1.0), rate, steps };
    let mut trainer = Trainer::new(config).unwrap();
    (1..=steps)
        .map(|step| {
            let outcome = trainer.step(step, || job.data.batch(step, batch)).unwrap();
            outcome.memory.iter().map(|memory| memory.fresh_blocks).sum()
        })
        .collect()
}

#[test]
fn a_step_of_known_sizes_reuses_what_the_last_one_freed() {
    let small = GptConfig { layers: 2, width: 128, heads: 4, context: 64, dropout: 0.1 };
    for (name, job, batch) in
        [("seed-mlp", seed_mlp(None, 1).unwrap(), 128), ("gpt", gpt(small, None, 1).unwrap(), 32)]
    {
        // One rank does the same in each step; of two, now one is ahead and now the other, and so more or fewer blocks are alive at once.
        let alone = fresh_blocks(&job, (ScheduleName::OneFOneB, 1), batch, 6);
        assert!(alone[0] > 0, "{name}: the first step fetches what it needs");
        assert_eq!(alone[2..], [0; 4], "{name}: blocks fetched by step: {alone:?}");
        for schedule in
            [ScheduleName::OneFOneB, ScheduleName::ZbH1, ScheduleName::InterleavedOneFOneB]
        {
            let fresh = fresh_blocks(&job, (schedule, 2), batch, 12);
            let late: u64 = fresh[6..].iter().sum();
            assert!(late <= fresh[0] / 5, "{name}, {schedule}: blocks fetched by step: {fresh:?}");
        }
    }
}
