//! Ranks that are processes have the bits of ranks that are threads.
//!
//! The processes are threads here, with a world of channels between them, whose messages overtake
//! each other. `tests/mpi` does the same over MPI.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::thread;

use pp_executor::{InWorld, RankConfig, World, threads_as_processes};
use pp_hybrid::{Trainer, TrainerConfig, weights_hash};
use pp_models::{GptConfig, Job, gpt};
use pp_partition::Cut;
use pp_schedule::{ScheduleName, Sizes, ValidPlan};

#[expect(dead_code, reason = "other tests train with the loop itself")]
mod plain_loop;
use plain_loop::{CLIP, OPTIMIZER, Run, rate};

const RUN: Run = Run { seed: 5, steps: 3, batch: 16, micro_batches: 4 };

fn job() -> Job {
    gpt(GptConfig { layers: 6, width: 16, heads: 2, context: 8, dropout: 0.1 }, None, 5).unwrap()
}

fn plan(schedule: ScheduleName, pp: u32) -> Option<ValidPlan> {
    let sizes = Sizes {
        n_ranks: pp,
        n_micro_batches: RUN.micro_batches as u32,
        n_virtual_stages: schedule.default_virtual_stages(),
        interleave_group: None,
    };
    schedule.generate(&sizes).ok()
}

/// What a training shows, and what it leaves.
#[derive(Debug, PartialEq)]
struct Trained {
    losses: Vec<u32>,
    norms: Vec<u64>,
    evaluated: Vec<u64>,
    /// Of process 0 alone.
    weights: Option<String>,
    n_spans: Option<usize>,
    state: Option<u64>,
}

fn train(plan: &ValidPlan, replicas: u32, world: Option<Arc<dyn World>>) -> Trained {
    let job = job();
    let is_first = world.as_ref().is_none_or(|world| world.index() == 0);
    let cut = Cut::Uniform.solve(&job.stack, plan.n_stages() as usize, None).unwrap();
    let (stack, objective) = (job.stack.clone(), job.objective.clone());
    let mut ranks = RankConfig::new(plan.clone(), cut, stack, objective, OPTIMIZER);
    ranks.seed = RUN.seed;
    ranks.n_replicas = replicas;
    ranks.world = world.map(InWorld);
    let config = TrainerConfig { ranks, clip_norm: CLIP, rate: rate(), steps: RUN.steps };
    let mut trainer = Trainer::new(config).unwrap();
    let held_out = job.data.validation(4).unwrap();
    let (mut losses, mut norms, mut evaluated) = (Vec::new(), Vec::new(), Vec::new());
    let mut n_spans = 0;
    for step in 1..=RUN.steps {
        let outcome = trainer.step(step, || job.data.batch(step, RUN.batch)).unwrap();
        losses.push(outcome.loss.to_bits());
        norms.push(outcome.grad_norm.to_bits());
        n_spans += outcome.spans.iter().filter(|span| span.op.is_compute()).count();
        if !held_out.is_empty() {
            evaluated.push(trainer.evaluate(&held_out).unwrap().loss.to_bits());
        }
    }
    let state = trainer.snapshot().unwrap();
    let weights = weights_hash(&trainer.weights().unwrap()).unwrap();
    Trained {
        losses,
        norms,
        evaluated,
        weights: is_first.then_some(weights),
        n_spans: is_first.then_some(n_spans),
        state: is_first.then(|| state.n_bytes()),
    }
}

#[test]
fn processes_have_the_bits_of_threads_under_every_schedule_and_layout() {
    let mut n = 0;
    for schedule in ScheduleName::ALL.into_iter().filter(|schedule| schedule.trains()) {
        for (pp, dp) in [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)] {
            let Some(plan) = plan(schedule, pp) else { continue };
            let want = train(&plan, dp, None);
            let worlds = threads_as_processes(pp * dp);
            let processes: Vec<_> = worlds
                .into_iter()
                .map(|world| {
                    let plan = plan.clone();
                    thread::spawn(move || train(&plan, dp, Some(world)))
                })
                .collect();
            for (index, process) in processes.into_iter().enumerate() {
                let got = process.join().unwrap();
                let what = format!("{schedule} pp={pp} dp={dp}, process {index}");
                assert_eq!((&got.losses, &got.norms), (&want.losses, &want.norms), "{what}");
                assert_eq!(got.evaluated, want.evaluated, "{what}");
                if index == 0 {
                    assert_eq!(got, want, "{what}");
                }
            }
            n += 1;
        }
    }
    assert!(n >= 60, "only {n} combinations were run");
}
