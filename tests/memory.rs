//! What a rank will hold is known before the run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;

use pp_executor::{BUCKET_BYTES, PlannedMemory, RankConfig, RankMemory, Recompute, rehearse};
use pp_hybrid::{Trainer, TrainerConfig};
use pp_models::{GptConfig, Job, LlamaConfig, gpt, llama, seed_mlp};
use pp_nn::memory::CountingAllocator;
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::Cut;
use pp_schedule::{ScheduleName, Sizes};

#[global_allocator]
static ALLOCATOR: CountingAllocator<System> = CountingAllocator(System);

const SCHEDULES: [ScheduleName; 4] = [
    ScheduleName::OneFOneB,
    ScheduleName::Gpipe,
    ScheduleName::ZbH1,
    ScheduleName::InterleavedOneFOneB,
];

/// What is planned for each rank, and what it held in the third step.
fn planned_and_held(
    job: &Job,
    schedule: ScheduleName,
    batch: usize,
    recompute: Recompute,
    packs_weights: bool,
) -> Vec<(PlannedMemory, RankMemory)> {
    of_replicas(job, schedule, batch, |ranks| {
        ranks.recompute = recompute;
        ranks.packs_weights = packs_weights;
    })
}

/// The same with another configuration; each rank of each replica with the plan of its rank.
fn of_replicas(
    job: &Job,
    schedule: ScheduleName,
    batch: usize,
    configure: impl FnOnce(&mut RankConfig),
) -> Vec<(PlannedMemory, RankMemory)> {
    const MICRO_BATCHES: usize = 8;
    let sizes = Sizes {
        n_ranks: 2,
        n_micro_batches: MICRO_BATCHES as u32,
        n_virtual_stages: schedule.default_virtual_stages(),
        interleave_group: None,
    };
    let plan = schedule.generate(&sizes).unwrap();
    let partition = Cut::Uniform.solve(&job.stack, plan.n_stages() as usize, None).unwrap();
    let mut ranks = RankConfig::new(
        plan,
        partition,
        job.stack.clone(),
        job.objective.clone(),
        OptimizerKind::Adam,
    );
    configure(&mut ranks);
    let rows = batch / MICRO_BATCHES / ranks.n_replicas as usize;
    let (inputs, targets) = job.data.batch(1, rows).unwrap();
    let planned = rehearse(&ranks, &inputs, &targets).unwrap().unwrap();
    let rate = LearningRate { peak: 1e-3, curve: LearningRateCurve::Constant, warmup: 0 };
    let config = TrainerConfig { ranks, clip_norm: Some(1.0), rate, steps: 3 };
    let mut trainer = Trainer::new(config).unwrap();
    let mut held = Vec::new();
    for step in 1..=3 {
        held = trainer.step(step, || job.data.batch(step, batch)).unwrap().memory;
        // Of more rows than the plan knows of; it leaves nothing behind.
        trainer.evaluate(&[job.data.batch(1, batch).unwrap()]).unwrap();
    }
    let of_rank = |(index, held)| (planned[index % planned.len()], held);
    held.into_iter().enumerate().map(of_rank).collect()
}

fn jobs() -> [(&'static str, Job, usize); 3] {
    let config = GptConfig { layers: 6, width: 64, heads: 4, context: 64, dropout: 0.1 };
    // An embedding as large as the rest of the model, and a head that is the same parameter.
    let tied = LlamaConfig {
        vocabulary: 5000,
        width: 64,
        ffn: 160,
        head_width: 16,
        is_tied: true,
        ..LlamaConfig::default()
    };
    [
        // So many rows that activations matter beside 11 million parameters.
        ("seed-mlp", seed_mlp(None, 1).unwrap(), 1024),
        ("gpt", gpt(config, None, 1).unwrap(), 32),
        ("llama", llama(tied, None, 1).unwrap(), 32),
    ]
}

#[test]
fn the_measured_peak_is_within_5_percent_of_the_planned_one() {
    for (name, job, batch) in jobs() {
        for schedule in SCHEDULES {
            // A message is another's where the stage before runs again, and where this one does.
            for recompute in [
                Recompute::Never,
                Recompute::Always,
                Recompute::Stages([0].into()),
                Recompute::Stages([1].into()),
            ] {
                let ranks = planned_and_held(&job, schedule, batch, recompute.clone(), true);
                for (rank, (planned, held)) in ranks.into_iter().enumerate() {
                    let what = format!("{name}, {schedule}, {recompute:?}, rank {rank}");
                    let exact = (
                        held.parameter_bytes,
                        held.gradient_bytes,
                        held.optimizer_bytes,
                        held.packed_bytes,
                    );
                    let want = (
                        planned.parameter_bytes,
                        planned.gradient_bytes,
                        planned.optimizer_bytes,
                        planned.packed_bytes,
                    );
                    assert_eq!(exact, want, "{what}");
                    assert!(held.packed_bytes > 0, "{what}: so many rows are multiplied in panels");
                    let near = |got: u64, want: u64, of: u64| got.abs_diff(want) * 20 <= of;
                    let peak = planned.peak_bytes();
                    assert!(near(held.peak_bytes, peak, peak), "{what}: {held:?}, {planned:?}");
                    // The parts that the plan decides, of what it decides.
                    let beyond = planned.stash_bytes + planned.temporary_bytes;
                    let got = held.stash_bytes + held.temporary_bytes;
                    assert!(near(got, beyond, beyond), "{what}: {held:?}, {planned:?}");
                    assert!(
                        near(held.stash_bytes, planned.stash_bytes, beyond),
                        "{what}: {held:?}, {planned:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn recompute_lowers_the_peak_as_planned() {
    for (name, job, batch) in jobs() {
        let of = |recompute| planned_and_held(&job, ScheduleName::Gpipe, batch, recompute, true);
        for ((planned, held), (planned_again, held_again)) in
            of(Recompute::Never).into_iter().zip(of(Recompute::Always))
        {
            let saved = held.peak_bytes as f64 - held_again.peak_bytes as f64;
            let promised = planned.peak_bytes() as f64 - planned_again.peak_bytes() as f64;
            assert!(promised > 0.1 * held.stash_bytes as f64, "{name}: {planned:?}");
            assert!((saved / promised - 1.0).abs() < 0.05, "{name}: {saved} saved, {promised}");
        }
    }
}

#[test]
fn without_packed_weights_their_bytes_are_neither_planned_nor_held() {
    for (name, job, batch) in jobs() {
        let of = |packs| planned_and_held(&job, ScheduleName::ZbH1, batch, Recompute::Never, packs);
        for ((planned, held), (_, packed)) in of(false).into_iter().zip(of(true)) {
            assert_eq!((planned.packed_bytes, held.packed_bytes), (0, 0), "{name}");
            let saved = packed.peak_bytes.abs_diff(held.peak_bytes);
            let near = saved.abs_diff(packed.packed_bytes) * 20 <= packed.peak_bytes;
            assert!(near, "{name}: {saved} saved of {}", packed.packed_bytes);
        }
    }
}

#[test]
fn replicas_hold_what_is_planned_and_of_the_optimizer_their_share() {
    let config = GptConfig { layers: 6, width: 128, heads: 4, context: 32, dropout: 0.1 };
    let job = gpt(config, None, 1).unwrap();
    for (schedule, n_replicas, bucket_bytes) in [
        (ScheduleName::ZbH1, 2, BUCKET_BYTES),
        (ScheduleName::ZbH1, 2, 0),
        (ScheduleName::ZbV, 3, usize::MAX),
        // Two copies of the model in each replica.
        (ScheduleName::Chimera, 1, 0),
        (ScheduleName::Chimera, 2, BUCKET_BYTES),
    ] {
        let held = |shards_optimizer| {
            of_replicas(&job, schedule, 48, |ranks| {
                ranks.n_replicas = n_replicas;
                ranks.shards_optimizer = shards_optimizer;
                ranks.bucket_bytes = bucket_bytes;
            })
        };
        let (plain, shared) = (held(false), held(true));
        for (shards, ranks) in [(false, &plain), (true, &shared)] {
            for (index, (planned, held)) in ranks.iter().enumerate() {
                let what = format!("{schedule}, {n_replicas} replicas, shares {shards}, {index}");
                let peak = planned.peak_bytes();
                assert!(
                    held.peak_bytes.abs_diff(peak) * 20 <= peak,
                    "{what}: {held:?}, {planned:?}"
                );
                let optimizer = planned.optimizer_bytes;
                let off = held.optimizer_bytes.abs_diff(optimizer);
                assert!(off * 20 <= optimizer, "{what}: {held:?}, {planned:?}");
            }
        }
        let all = |ranks: &[(PlannedMemory, RankMemory)]| {
            ranks.iter().map(|(_, held)| held.optimizer_bytes).sum::<u64>()
        };
        let n_copies =
            u64::from(n_replicas) * if schedule == ScheduleName::Chimera { 2 } else { 1 };
        assert_eq!(all(&shared) * n_copies, all(&plain), "{schedule}: each number has one owner");
    }
}
