//! A run that resumes from a checkpoint has the bits of the run that never stopped, whatever its
//! layout is.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use pp_models::{GptConfig, LlamaConfig, gpt, llama, seed_mlp};
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::Cut;
use pp_train::checkpoint::{Checkpoint, list};
use pp_train::{
    BoxError, CheckpointOptions, Config, Every, Job, KernelChoice, Notice, PlanSource, Prepared,
    Profiles, Recompute, Resume, Run, RunFolder, RunOptions, ScheduleName, Topology, Workload,
    causes,
};
use proptest::prelude::*;

/// A model of the tests.
#[derive(Clone, Copy, PartialEq)]
enum Model {
    /// Dropout, Adam, and a learning rate in steps.
    SeedMlp,
    /// Dropout, AdamW, and a learning rate along a cosine, after a warm-up.
    Gpt,
    /// Embedding and head are one parameter; the rest as above.
    Llama,
}

impl Workload for Model {
    fn name(&self) -> &str {
        match self {
            Self::SeedMlp => "seed-mlp",
            Self::Gpt => "gpt",
            Self::Llama => "llama",
        }
    }

    fn layers(&self) -> Option<usize> {
        Some(8)
    }

    fn job(&self, seed: u64, _: &Topology) -> Result<Job, BoxError> {
        let config = GptConfig { layers: 6, width: 32, heads: 2, context: 16, dropout: 0.1 };
        match self {
            Self::SeedMlp => Ok(seed_mlp(None, seed)?),
            Self::Gpt => Ok(gpt(config, None, seed)?),
            Self::Llama => {
                let config = LlamaConfig {
                    width: 32,
                    ffn: 48,
                    heads: 2,
                    key_value_heads: 1,
                    head_width: 16,
                    context: 16,
                    is_tied: true,
                    ..LlamaConfig::default()
                };
                Ok(llama(config, None, seed)?)
            }
        }
    }
}

impl Model {
    fn config(self, steps: u64) -> Config {
        let (optimizer, rate) = match self {
            Self::SeedMlp => (
                OptimizerKind::Adam,
                LearningRate {
                    peak: 1e-3,
                    curve: LearningRateCurve::Step { every: 2, gamma: 0.5 },
                    warmup: 0,
                },
            ),
            Self::Gpt | Self::Llama => (
                OptimizerKind::AdamW { weight_decay: 0.01 },
                LearningRate { peak: 1e-3, curve: LearningRateCurve::Cosine, warmup: 2 },
            ),
        };
        Config {
            steps,
            batch_size: Some(16),
            micro_batches: 8,
            optimizer,
            rate,
            clip_norm: Some(1.0),
            seed: 3,
            kernels: KernelChoice::Rule,
            cut: Cut::Uniform,
            ..Config::new(Arc::new(self))
        }
    }
}

/// How the model lies on the ranks.
#[derive(Clone, Debug)]
struct Layout {
    schedule: ScheduleName,
    pp: u32,
    dp: u32,
    cut: Cut,
    recompute: Recompute,
}

impl Layout {
    fn new(schedule: ScheduleName, pp: u32) -> Self {
        Self { schedule, pp, dp: 1, cut: Cut::Uniform, recompute: Recompute::Never }
    }

    fn on(&self, config: Config) -> Config {
        // At one number of samples in each micro-batch, whatever the number of replicas.
        let micro_batches = config.micro_batches / self.dp;
        Config {
            plan: PlanSource::Named(self.schedule),
            pp: Some(self.pp),
            dp: self.dp,
            micro_batches,
            cut: self.cut.clone(),
            recompute: self.recompute.clone(),
            ..config
        }
    }
}

/// The bits of the loss of each step, and the hash of the final weights.
type Trace = (Vec<(u64, u32)>, String);

fn train(config: Config, run: &Path, every: Option<u64>) -> Result<Trace, String> {
    let mut losses = Vec::new();
    let options = RunOptions {
        checkpoints: CheckpointOptions {
            every: every.map(Every::Steps),
            keep: Some(usize::MAX),
            ..CheckpointOptions::default()
        },
        ..RunOptions::default()
    };
    let id = run.file_name().unwrap().to_str().unwrap().to_owned();
    let mut observer = |notice: &Notice<'_>| {
        if let Notice::Stepped(outcome) = notice {
            losses.push((outcome.step, outcome.loss.to_bits()));
        }
    };
    let prepared = Prepared::new(config).map_err(|error| causes(&error))?;
    let folder = RunFolder::at(id, run.to_owned()).unwrap();
    let started = Run::start(prepared, folder, options, &mut observer);
    let finished = started.map_err(|error| causes(&error))?.finish();
    let hash = finished.map_err(|stopped| causes(&stopped))?.weights_hash;
    Ok((losses, hash))
}

fn checkpoints(run: &Path) -> Vec<Checkpoint> {
    let found = list(&run.join("checkpoints")).unwrap();
    found.into_iter().map(|found| found.checkpoint.unwrap()).collect()
}

fn resume(config: Config, checkpoint: &Checkpoint) -> Config {
    let resume = Resume { checkpoint: checkpoint.clone(), takes_other_data: false };
    Config { resume: Some(resume), ..config }
}

/// The part of a trace after `step`.
fn after(trace: &Trace, step: u64) -> Trace {
    let losses = trace.0.iter().copied().filter(|(at, _)| *at > step);
    (losses.collect(), trace.1.clone())
}

/// Resumes at every checkpoint of a calm run, each time under another layout.
fn check(model: Model, steps: u64, layouts: &[Layout]) {
    let dir = tempfile::tempdir().unwrap();
    let first = Layout { cut: Cut::Explicit(vec![3, 5]), ..Layout::new(ScheduleName::OneFOneB, 2) };
    let calm_dir = dir.path().join("calm");
    let calm = train(first.on(model.config(steps)), &calm_dir, Some(1)).unwrap();
    let never = train(first.on(model.config(steps)), &dir.path().join("never"), None).unwrap();
    assert_eq!(calm, never, "checkpoints change nothing");
    let checkpoints = checkpoints(&calm_dir);
    let made: Vec<u64> = checkpoints.iter().map(|checkpoint| checkpoint.manifest().step).collect();
    assert_eq!(made, (1..=steps).collect::<Vec<_>>());
    for (i, layout) in layouts.iter().enumerate() {
        // The last one has nothing left to do.
        let checkpoint = &checkpoints[i % (checkpoints.len() - 1)];
        let step = checkpoint.manifest().step;
        let config = resume(layout.on(model.config(steps)), checkpoint);
        let run = dir.path().join(format!("run-{i}"));
        let found = train(config, &run, None).unwrap_or_else(|why| panic!("{layout:?}: {why}"));
        assert_eq!(found, after(&calm, step), "{layout:?} after step {step}");
        std::fs::remove_dir_all(run).unwrap();
    }
    let spent = resume(first.on(model.config(steps)), checkpoints.last().unwrap());
    let refused = train(spent, &dir.path().join("spent"), None).unwrap_err();
    assert!(refused.contains(&format!("has {steps} steps")), "{refused}");
}

fn layouts() -> Vec<Layout> {
    let mut all: Vec<Layout> = Vec::new();
    for schedule in ScheduleName::ALL {
        // Chimera has the bits of two replicas, and synthesised plans need a profile.
        if !schedule.trains() || schedule == ScheduleName::Chimera || schedule.is_synthesised() {
            continue;
        }
        for pp in [1, 2, 3, 4] {
            let stages = pp * schedule.default_virtual_stages();
            let sizes = pp_schedule::Sizes {
                n_ranks: pp,
                n_micro_batches: 8,
                n_virtual_stages: schedule.default_virtual_stages(),
                interleave_group: None,
            };
            if stages <= 8 && schedule.check(&sizes).is_ok() {
                all.push(Layout::new(schedule, pp));
            }
        }
    }
    all.push(Layout { recompute: Recompute::Always, ..Layout::new(ScheduleName::OneFOneB, 3) });
    all.push(Layout {
        cut: Cut::Explicit(vec![1, 1, 1, 5]),
        recompute: Recompute::Stages([0, 2].into()),
        ..Layout::new(ScheduleName::ZbH1, 4)
    });
    all
}

#[test]
fn gpt_goes_on_with_the_same_bits_under_every_layout() {
    let layouts = layouts();
    assert!(layouts.len() > 30, "{}", layouts.len());
    check(Model::Gpt, 6, &layouts);
}

#[test]
fn tied_llama_goes_on_with_the_same_bits_under_every_layout() {
    check(Model::Llama, 4, &layouts());
}

#[test]
fn seed_mlp_goes_on_with_the_same_bits_under_other_layouts() {
    let layouts = [
        Layout::new(ScheduleName::Gpipe, 1),
        Layout::new(ScheduleName::ZbV, 4),
        Layout::new(ScheduleName::InterleavedOneFOneB, 2),
        Layout { recompute: Recompute::Always, ..Layout::new(ScheduleName::ZbH2, 3) },
    ];
    check(Model::SeedMlp, 4, &layouts);
}

/// Replicas sum in another order: not the same bits, but the same training.
#[test]
fn from_one_replica_to_two_and_back_the_losses_stay() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::Gpt;
    let steps = 15;
    let one = Layout::new(ScheduleName::OneFOneB, 2);
    let two = Layout { dp: 2, ..one.clone() };
    let calm_dir = dir.path().join("calm");
    let calm = train(one.on(model.config(steps)), &calm_dir, Some(5)).unwrap();
    let close = |found: &Trace, from: u64| {
        for ((step, found), (_, calm)) in found.0.iter().zip(&after(&calm, from).0).take(5) {
            let (found, calm) = (f32::from_bits(*found), f32::from_bits(*calm));
            assert!((found - calm).abs() <= 1e-6, "step {step}: {found}, {calm}");
        }
    };
    let from = checkpoints(&calm_dir).remove(0);
    let config = resume(two.on(model.config(steps)), &from);
    let twice_dir = dir.path().join("twice");
    close(&train(config, &twice_dir, Some(5)).unwrap(), 5);
    let from = checkpoints(&twice_dir).remove(0);
    assert_eq!(from.manifest().step, 10);
    let config = resume(one.on(model.config(steps)), &from);
    close(&train(config, &dir.path().join("back"), None).unwrap(), 10);
}

#[test]
fn another_model_or_optimizer_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(ScheduleName::OneFOneB, 2);
    let run = dir.path().join("calm");
    train(layout.on(Model::Gpt.config(3)), &run, Some(2)).unwrap();
    let checkpoint = checkpoints(&run).remove(0);
    let refused = |config: Config, path: &str| {
        train(resume(layout.on(config), &checkpoint), &dir.path().join(path), None).unwrap_err()
    };
    let other = refused(Model::SeedMlp.config(3), "a");
    assert!(other.contains("the model gpt, this run seed-mlp"), "{other}");
    let sgd = Config { optimizer: OptimizerKind::Sgd, ..Model::Gpt.config(3) };
    let other = refused(sgd, "b");
    assert!(other.contains("the optimizer adamw with decay 0.01, this run sgd"), "{other}");
}

#[test]
fn what_differs_is_told_line_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(ScheduleName::OneFOneB, 2);
    let run = dir.path().join("calm");
    train(layout.on(Model::Gpt.config(4)), &run, Some(2)).unwrap();
    let checkpoint = checkpoints(&run).remove(0);
    let changed = Config { steps: 9, batch_size: Some(32), ..Model::Gpt.config(4) };
    let changed =
        Layout { recompute: Recompute::Always, ..Layout::new(ScheduleName::ZbV, 2) }.on(changed);
    let prepared = Prepared::new(resume(changed, &checkpoint)).unwrap();
    let session = prepared.cut(&mut Profiles::default(), |_| {}).unwrap();
    let expected = [
        "schedule: zb-v instead of 1f1b",
        "stages on each rank: 2 instead of 1",
        "layers of the stages: 2,2,2,2 instead of 4,4",
        "recomputation: all instead of none",
        "batch: 32 instead of 16; the losses will differ",
        "steps: 9 instead of 4; the learning rate follows from it",
    ];
    assert_eq!(session.changes(), expected);
}

/// A schedule, ranks, a cut and recomputation for one of the numbers of replicas.
fn any_layout(dp: u32) -> impl Strategy<Value = Layout> {
    let schedules: Vec<(ScheduleName, u32)> = layouts()
        .into_iter()
        .filter(|layout| layout.pp * dp <= 8)
        .map(|layout| (layout.schedule, layout.pp))
        .filter(|&(schedule, pp)| {
            let sizes = pp_schedule::Sizes {
                n_ranks: pp,
                n_micro_batches: 8 / dp,
                n_virtual_stages: schedule.default_virtual_stages(),
                interleave_group: None,
            };
            schedule.check(&sizes).is_ok()
        })
        .collect();
    let cut = prop_oneof![Just(Cut::Uniform), Just(Cut::Parameters)];
    let recompute = prop_oneof![
        Just(Recompute::Never),
        Just(Recompute::Always),
        Just(Recompute::Stages([0].into())),
    ];
    (prop::sample::select(schedules), cut, recompute).prop_map(
        move |((schedule, pp), cut, recompute)| Layout { schedule, pp, dp, cut, recompute },
    )
}

fn two_layouts() -> impl Strategy<Value = (Layout, Layout, u64)> {
    let of = |dp| (any_layout(dp), any_layout(dp), 1..5_u64);
    prop_oneof![of(1), of(2), of(4), of(8)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any layout of at most 8 ranks resumes from any other with as many replicas.
    #[test]
    fn any_layout_goes_on_from_any_other((before, now, step) in two_layouts()) {
        let dir = tempfile::tempdir().unwrap();
        let config = || Model::Gpt.config(5);
        let calm_dir = dir.path().join("calm");
        let calm = train(before.on(config()), &calm_dir, Some(step)).unwrap();
        let checkpoint = checkpoints(&calm_dir).remove(0);
        let resumed = train(resume(now.on(config()), &checkpoint), &dir.path().join("now"), None);
        prop_assert_eq!(resumed.unwrap(), after(&calm, step));
    }
}
