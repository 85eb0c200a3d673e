//! A small training on threads or in a world, for comparison.

use std::collections::BTreeMap;
use std::sync::Arc;

use pp_executor::{InWorld, RankConfig, StageState, World};
use pp_hybrid::{ModelState, Trainer, TrainerConfig, weights_hash};
use pp_models::{GptConfig, Job, LlamaConfig, gpt, llama};
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::Cut;
use pp_schedule::{ScheduleName, Sizes, ValidPlan};

const STEPS: u64 = 3;
const BATCH: usize = 48;
const MICRO_BATCHES: u32 = 4;

/// Layouts of up to four ranks: ranks of the pipeline, and replicas.
pub(crate) const LAYOUTS: [(u32, u32); 8] =
    [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)];

/// A model with dropout, or one whose embedding and head are one parameter.
fn job(pp: u32, dp: u32) -> Job {
    if matches!((pp, dp), (1, 2) | (2, 1 | 2) | (4, 1)) {
        let config = LlamaConfig {
            layers: 6,
            width: 16,
            ffn: 24,
            heads: 2,
            key_value_heads: 1,
            head_width: 8,
            context: 8,
            is_tied: true,
            ..LlamaConfig::default()
        };
        return llama(config, None, 5).unwrap();
    }
    gpt(GptConfig { layers: 6, width: 16, heads: 2, context: 8, dropout: 0.1 }, None, 5).unwrap()
}

pub(crate) fn plan(schedule: ScheduleName, pp: u32) -> Option<ValidPlan> {
    let sizes = Sizes {
        n_ranks: pp,
        n_micro_batches: MICRO_BATCHES,
        n_virtual_stages: schedule.default_virtual_stages(),
        interleave_group: None,
    };
    schedule.generate(&sizes).ok()
}

/// The hash of weights and moments of each stage.
fn state_hashes(state: &ModelState) -> BTreeMap<u32, String> {
    let of_stage = |of: &StageState| {
        let moments = of.moments.clone().into_iter();
        let moments = moments.flat_map(|(name, [m, v])| [(name.clone(), m), (name, v)]);
        let all: Vec<_> = of.weights.clone().into_iter().chain(moments).collect();
        (of.stage.0, weights_hash(&all).unwrap())
    };
    state.ranks.iter().flatten().map(of_stage).collect()
}

/// What a training shows, and what it leaves.
#[derive(Debug, PartialEq)]
pub(crate) struct Trained {
    pub(crate) losses: Vec<u32>,
    pub(crate) norms: Vec<u64>,
    pub(crate) evaluated: Vec<u64>,
    /// Of process 0 alone.
    pub(crate) weights: Option<String>,
    pub(crate) n_spans: Option<usize>,
    /// Of the stages of which this process has the first copy.
    pub(crate) state: BTreeMap<u32, String>,
}

pub(crate) fn train(
    plan: &ValidPlan,
    replicas: u32,
    shards_optimizer: bool,
    world: Option<Arc<dyn World>>,
) -> Trained {
    let job = job(plan.n_ranks(), replicas);
    let is_first = world.as_ref().is_none_or(|world| world.index() == 0);
    let cut = Cut::Uniform.solve(&job.stack, plan.n_stages() as usize, None).unwrap();
    let (stack, objective) = (job.stack.clone(), job.objective.clone());
    let mut ranks = RankConfig::new(plan.clone(), cut, stack, objective, OptimizerKind::Adam);
    ranks.seed = 5;
    ranks.n_replicas = replicas;
    ranks.shards_optimizer = shards_optimizer;
    // Threads send a stage at once, processes send it in many parts.
    ranks.bucket_bytes = if world.is_some() { 600 } else { usize::MAX };
    ranks.world = world.map(InWorld);
    let curve = LearningRateCurve::Step { every: 2, gamma: 0.5 };
    let rate = LearningRate { peak: 1e-3, curve, warmup: 1 };
    let config = TrainerConfig { ranks, clip_norm: Some(1.0), rate, steps: STEPS };
    let mut trainer = Trainer::new(config).unwrap();
    let held_out = job.data.validation(4).unwrap();
    let (mut losses, mut norms, mut evaluated) = (Vec::new(), Vec::new(), Vec::new());
    let mut n_spans = 0;
    for step in 1..=STEPS {
        let outcome = trainer.step(step, || job.data.batch(step, BATCH)).unwrap();
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
        state: state_hashes(&state),
    }
}
