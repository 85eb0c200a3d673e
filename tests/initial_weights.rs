//! Weights that a run starts from are in memory once: in the stages that train them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use candle_core::Tensor;
use pp_executor::RankConfig;
use pp_hybrid::{Trainer, TrainerConfig};
use pp_models::{Job, seed_mlp};
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind, Values};
use pp_partition::Cut;
use pp_schedule::{ScheduleName, Sizes};

/// Counts what the whole process holds: the copy was the driver's and every rank's at once.
struct Counting;

static HELD: AtomicI64 = AtomicI64::new(0);

// SAFETY: all blocks are the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn trainer(job: &Job, initial: Option<Arc<dyn Values>>) -> Trainer {
    let sizes =
        Sizes { n_ranks: 2, n_micro_batches: 4, n_virtual_stages: 2, interleave_group: None };
    let plan = ScheduleName::InterleavedOneFOneB.generate(&sizes).unwrap();
    let partition = Cut::Uniform.solve(&job.stack, plan.n_stages() as usize, None).unwrap();
    let ranks = RankConfig::new(
        plan,
        partition,
        job.stack.clone(),
        job.objective.clone(),
        OptimizerKind::Sgd,
    );
    let ranks = RankConfig { initial, ..ranks };
    let rate = LearningRate { peak: 0.1, curve: LearningRateCurve::Constant, warmup: 0 };
    Trainer::new(TrainerConfig { ranks, clip_norm: None, rate, steps: 1 }).unwrap()
}

#[test]
fn nobody_keeps_initial_weights_once_the_stages_are_built() {
    let job = seed_mlp(None, 1).unwrap();
    let mut other = trainer(&job, None);
    let copied = |(name, tensor): (String, Tensor)| (name, tensor.copy().unwrap());
    let weights: BTreeMap<String, Tensor> =
        other.weights().unwrap().into_iter().map(copied).collect();
    let want: Vec<Vec<f32>> =
        weights.values().map(|t| t.flatten_all().unwrap().to_vec1().unwrap()).collect();
    let bytes: i64 = want.iter().map(|values| 4 * values.len() as i64).sum();
    drop(other);

    let before = HELD.load(Ordering::Relaxed);
    let from_seed = trainer(&job, None);
    let alone = HELD.load(Ordering::Relaxed) - before;
    drop(from_seed);

    let initial = Arc::new(weights);
    let left = Arc::downgrade(&initial);
    let before = HELD.load(Ordering::Relaxed);
    let mut from_weights = trainer(&job, Some(initial));
    assert!(left.upgrade().is_none(), "somebody holds the weights that the run started from");
    // They were there before, and are not any more.
    let added = HELD.load(Ordering::Relaxed) - before + bytes;
    assert!(
        (added - alone).abs() < bytes / 10,
        "{added} bytes, {alone} from a seed; the weights have {bytes}"
    );
    let found: BTreeMap<String, Tensor> = from_weights.weights().unwrap().into_iter().collect();
    for (tensor, want) in found.values().zip(&want) {
        assert_eq!(&tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap(), want);
    }
}
