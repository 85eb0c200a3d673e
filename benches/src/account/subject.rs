//! The two jobs, on two ranks.

use pp_executor::RankConfig;
use pp_hybrid::{StepOutcome, Trainer, TrainerConfig};
use pp_models::{GptConfig, Job, gpt, seed_mlp};
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::Cut;
use pp_schedule::{Costs, ScheduleName, Sizes, ValidPlan, simulate};
use pp_telemetry::{Recorder, SpanKind};

use crate::products::Product;

pub(crate) const RANKS: u32 = 2;
/// Of each run the first steps find their sizes.
const WARM_UP: u64 = 2;

/// A job, and what of it is multiplied where.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) job: Job,
    pub(crate) batch: usize,
    pub(crate) micro_batches: usize,
    /// Layers of each rank.
    pub(crate) cut: [usize; 2],
    /// The products of each rank.
    pub(crate) products: [Vec<Product>; 2],
    pub(crate) clip: Option<f64>,
}

pub(crate) fn subjects() -> anyhow::Result<Vec<Subject>> {
    let widths = [100, 1024, 1024, 2048, 2048, 1024, 1024, 512, 10];
    let dense = |layers: std::ops::Range<usize>| {
        layers.map(|i| Product::new(8, widths[i], widths[i + 1])).collect::<Vec<_>>()
    };
    let config = GptConfig { layers: 8, width: 256, heads: 8, context: 128, dropout: 0.0 };
    let rows = 2 * config.context;
    let block = || {
        let (w, t, d) = (config.width, config.context, config.width / config.heads);
        let heads = 2 * config.heads;
        vec![
            Product::new(rows, w, 3 * w),
            Product { rows: t, inputs: d, outputs: t, times: heads, has_weight: false },
            Product { rows: t, inputs: t, outputs: d, times: heads, has_weight: false },
            Product::new(rows, w, w),
            Product::new(rows, w, 4 * w),
            Product::new(rows, 4 * w, w),
        ]
    };
    let blocks = || (0..4).flat_map(|_| block()).collect::<Vec<_>>();
    let mut second = blocks();
    second.push(Product::new(rows, config.width, 256));
    Ok(vec![
        Subject {
            name: "seed-mlp",
            job: seed_mlp(None, 1)?,
            batch: 256,
            micro_batches: 32,
            cut: [4, 4],
            products: [dense(0..4), dense(4..8)],
            clip: Some(1.0),
        },
        Subject {
            name: "gpt",
            job: gpt(config, None, 1)?,
            batch: 16,
            micro_batches: 8,
            cut: [5, 5],
            products: [blocks(), second],
            clip: None,
        },
    ])
}

/// A trainer, and the step that comes next.
pub(crate) struct Run<'a> {
    subject: &'a Subject,
    plan: ValidPlan,
    trainer: Trainer,
    step: u64,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        subject: &'a Subject,
        recorder: Recorder,
        pinned: bool,
    ) -> anyhow::Result<Self> {
        let sizes = Sizes {
            n_ranks: RANKS,
            n_micro_batches: subject.micro_batches as u32,
            n_virtual_stages: 1,
            interleave_group: None,
        };
        let plan = ScheduleName::ZbH1.generate(&sizes)?;
        let cut = Cut::Explicit(subject.cut.to_vec());
        let partition = cut.solve(&subject.job.stack, RANKS as usize, None)?;
        let mut ranks = RankConfig::new(
            plan.clone(),
            partition,
            subject.job.stack.clone(),
            subject.job.objective.clone(),
            OptimizerKind::Adam,
        );
        ranks.recorder = recorder;
        ranks.pinned = pinned;
        let rate = LearningRate { peak: 1e-3, curve: LearningRateCurve::Constant, warmup: 0 };
        let config = TrainerConfig { ranks, clip_norm: subject.clip, rate, steps: 1_000 };
        let mut run = Self { subject, plan, trainer: Trainer::new(config)?, step: 0 };
        for _ in 0..WARM_UP {
            run.step()?;
        }
        Ok(run)
    }

    pub(crate) fn step(&mut self) -> anyhow::Result<StepOutcome> {
        self.step += 1;
        let Self { subject, trainer, step, .. } = self;
        Ok(trainer.step(*step, || subject.job.data.batch(*step, subject.batch))?)
    }

    /// The window that the simulator finds with this step's own mean times.
    pub(crate) fn simulated(&self, outcome: &StepOutcome) -> anyhow::Result<f64> {
        let mean = |op: SpanKind, stage: u32| {
            let of = outcome.spans.iter().filter(|s| s.op == op && s.stage == stage);
            let (mut sum, mut n) = (0.0, 0.0);
            for span in of {
                sum += span.dur_ns as f64 / 1e9;
                n += 1.0;
            }
            sum / f64::max(n, 1.0)
        };
        let mut costs = Costs::uniform(RANKS, 0.0, 0.0, 0.0, 0.0);
        costs.forward = (0..RANKS).map(|stage| mean(SpanKind::F, stage)).collect();
        costs.input_grad = (0..RANKS).map(|stage| mean(SpanKind::I, stage)).collect();
        costs.weight_grad = (0..RANKS).map(|stage| mean(SpanKind::W, stage)).collect();
        Ok(simulate(&self.plan, &costs)?.makespan)
    }
}
