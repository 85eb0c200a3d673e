//! Steps that are alike hold alike, and what a step no longer needs goes back to the allocator.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};

use pp_executor::{RankConfig, RankMemory};
use pp_hybrid::{Trainer, TrainerConfig};
use pp_models::{GptConfig, Job, gpt, seed_mlp};
use pp_nn::memory::CountingAllocator;
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::Cut;
use pp_schedule::{ScheduleName, Sizes};

/// Below the allocator that counts: what the system has given, and not got back.
struct Given;

static GIVEN: AtomicI64 = AtomicI64::new(0);

// SAFETY: all blocks are the system's.
unsafe impl GlobalAlloc for Given {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        GIVEN.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        GIVEN.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        GIVEN.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator<Given> = CountingAllocator(Given);

fn trainer(job: &Job, (schedule, pp): (ScheduleName, u32), steps: u64) -> Trainer {
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
    Trainer::new(TrainerConfig { ranks, clip_norm: Some(1.0), rate, steps }).unwrap()
}

/// What the kernels of `gemm` keep for a thread, once it has made a product that wants it: 4 MiB,
/// and some change.
const OF_THREAD: i64 = 5 << 20;

/// One test, so that nobody else allocates meanwhile.
#[test]
fn a_step_holds_what_the_last_one_held_and_a_large_one_leaves_nothing_behind() {
    let small = GptConfig { layers: 2, width: 128, heads: 4, context: 64, dropout: 0.1 };
    for (name, job, batch) in
        [("seed-mlp", seed_mlp(None, 1).unwrap(), 128), ("gpt", gpt(small, None, 1).unwrap(), 32)]
    {
        for pipeline in [(ScheduleName::OneFOneB, 1), (ScheduleName::ZbH1, 2)] {
            let mut trainer = trainer(&job, pipeline, 8);
            let mut step = 0;
            let mut held_after = |batch: usize| -> (i64, Vec<RankMemory>) {
                step += 1;
                let outcome = trainer.step(step, || job.data.batch(step, batch)).unwrap();
                let memory = outcome.memory.clone();
                drop(outcome);
                (GIVEN.load(Ordering::Relaxed), memory)
            };
            let what = format!("{name}, {} on {}", pipeline.0, pipeline.1);
            held_after(batch);
            let (before, ranks_before) = held_after(batch);
            // Steps of another size, which will not come again.
            for factor in [4, 4] {
                held_after(factor * batch);
            }
            held_after(batch);
            let (after, ranks_after) = held_after(batch);
            assert!(
                (after - before).abs() < OF_THREAD * i64::from(pipeline.1),
                "{what}: the system had given {before} bytes, and {after} after larger steps"
            );
            for (one, other) in ranks_before.iter().zip(&ranks_after) {
                assert!(
                    one.live_bytes.abs_diff(other.live_bytes) < OF_THREAD as u64,
                    "{what}: {one:?}, then {other:?}"
                );
            }
        }
    }
}
