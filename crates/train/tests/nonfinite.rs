//! Trainings that go wrong: steps that are not finite, and spikes. Each policy, what it saves, and
//! what it says.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use pp_nn::{LearningRate, LearningRateCurve, Linear, OptimizerKind};
use pp_partition::{Cut, LayerStack, single};
use pp_telemetry::{Alarm, EVENTS_FILE, End, Event, Line, Model, Recorder};
use pp_train::checkpoint::newest;
use pp_train::{
    BoxError, CheckpointOptions, Config, DataSet, Every, Finished, Job, KernelChoice, MeanSquare,
    Notice, OnNonfinite, OnSpike, PlanSource, Prepared, ResultFile, Resume, Run, RunFolder,
    RunOptions, Samples, ScheduleName, Stopped, Topology, TrainError, WeightsError, Workload,
    causes,
};

/// What is wrong with a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Poison {
    /// Its inputs are not numbers.
    Nan,
    /// A product in the forward of the third layer is above the largest number.
    Forward,
    /// The same in the backward of the third layer. The loss is finite.
    Backward,
    /// Its targets are far away, and everything is finite.
    Far,
}

/// Numbers whose targets are the inputs. The steps from `from` to `to` are poisoned; the steps
/// behind them have the batches that they would have without.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    poison: Option<(Poison, u64, u64)>,
}

impl DataSet for Numbers {
    fn batch(&self, step: u64, size: usize) -> Result<Samples> {
        let batch = |step: u64| {
            let x = Tensor::arange(0.0_f32, 4.0 * size as f32, &Device::Cpu)?;
            (x.reshape((size, 4))? + 0.1 * step as f64)? / 100.0
        };
        let Some((poison, from, to)) = self.poison.filter(|&(_, from, _)| step >= from) else {
            let x = batch(step)?;
            return Ok((vec![x.clone()], x));
        };
        if step > to {
            let x = batch(step - (to - from + 1))?;
            return Ok((vec![x.clone()], x));
        }
        let x = batch(step)?;
        let times = |factor: f64| &x * factor;
        let (inputs, targets) = match poison {
            Poison::Nan => (times(f64::NAN)?, x),
            Poison::Forward => (times(1e11)?, x),
            Poison::Backward => (x.clone(), times(1e12)?),
            Poison::Far => (x.clone(), times(50.0)?),
        };
        Ok((vec![inputs], targets))
    }
}

/// Four layers, of which the third overflows when its input or its gradient is large.
impl Workload for Numbers {
    fn name(&self) -> &'static str {
        "numbers"
    }

    fn layers(&self) -> Option<usize> {
        Some(4)
    }

    fn job(&self, _: u64, _: &Topology) -> std::result::Result<Job, BoxError> {
        let mut stack = LayerStack::default();
        for i in 0..4 {
            let name = format!("layers.{i}");
            stack.push(name.clone(), move |builder| {
                let linear = Linear::new(4, 4, builder.pp(&name))?;
                Ok(single(move |x, context| {
                    let y = linear.forward(x, context)?;
                    if i != 2 {
                        return Ok(y);
                    }
                    // The factors cancel out, unless a product overflows: the first pair's in the
                    // forward, the second pair's in the backward.
                    let y = ((y * 1e30)? * 1e-30)?;
                    (y * 1e-30)? * 1e30
                }))
            });
        }
        Ok(Job::new(stack, MeanSquare, *self))
    }
}

fn numbers(poison: Option<(Poison, u64, u64)>, steps: u64) -> Config {
    Config {
        pp: Some(4),
        steps,
        batch_size: Some(8),
        micro_batches: 4,
        rate: LearningRate { peak: 1e-3, curve: LearningRateCurve::Constant, warmup: 0 },
        optimizer: OptimizerKind::Adam,
        cut: Cut::Uniform,
        kernels: KernelChoice::Rule,
        ..Config::new(Arc::new(Numbers { poison }))
    }
}

/// A run that has ended.
struct Ended {
    dir: PathBuf,
    result: std::result::Result<Finished, Stopped>,
    /// The bits of the losses, and whether each step was skipped.
    steps: Vec<(u32, bool)>,
    alarms: Vec<String>,
    warnings: Vec<String>,
    events: Vec<Event>,
}

impl Ended {
    fn end(&self) -> &End {
        match self.events.last().unwrap() {
            Event::End(end) => end,
            last => panic!("the last event is {last:?}"),
        }
    }

    fn hash(&self) -> &str {
        &self.result.as_ref().unwrap().weights_hash
    }

    /// The names of the checkpoints.
    fn checkpoints(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.join("checkpoints")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    fn checkpoint(&self) -> Resume {
        let checkpoint = newest(&self.dir.join("checkpoints")).unwrap().checkpoint.unwrap();
        Resume { checkpoint, takes_other_data: false }
    }

    /// The alarm that a reader of the log sees.
    fn alarm(&self) -> Option<Alarm> {
        let mut model = Model::new();
        self.events.iter().for_each(|event| model.apply(event));
        model.alarm()
    }
}

fn train(config: Config, dir: &Path, options: RunOptions) -> Ended {
    let (mut steps, mut alarms, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    let mut observer = |notice: &Notice<'_>| match notice {
        Notice::Stepped(outcome) => steps.push((outcome.loss.to_bits(), outcome.is_skipped)),
        Notice::Alarm(text) => alarms.push((*text).to_owned()),
        Notice::Warning(text) => warnings.push((*text).to_owned()),
        _ => {}
    };
    let folder = RunFolder::at("test".to_owned(), dir.to_owned()).unwrap();
    let prepared = Prepared::new(config).unwrap();
    let run = Run::start(prepared, folder, options, &mut observer).unwrap();
    let result = run.finish();
    let log = std::fs::read(dir.join(EVENTS_FILE)).unwrap();
    let lines = log.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let event = |line| match Event::parse(line).unwrap() {
        Line::Event(event) => Some(event),
        Line::Unknown => None,
    };
    let events = lines.filter_map(event).collect();
    Ended { dir: dir.to_owned(), result, steps, alarms, warnings, events }
}

/// A checkpoint every `n` steps, of which all stay.
fn every(n: u64) -> CheckpointOptions {
    let (every, keep) = (Some(Every::Steps(n)), Some(usize::MAX));
    CheckpointOptions { every, keep, ..CheckpointOptions::default() }
}

fn with(on_nonfinite: OnNonfinite) -> RunOptions {
    RunOptions { on_nonfinite, checkpoints: every(1), ..RunOptions::default() }
}

const BAD: [Poison; 3] = [Poison::Nan, Poison::Forward, Poison::Backward];

#[test]
fn a_step_that_is_not_finite_ends_the_run_and_the_last_good_checkpoint_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let calm = train(numbers(None, 6), &dir.path().join("calm"), RunOptions::default());
    for poison in BAD {
        let run = dir.path().join(format!("{poison:?}"));
        let ended = train(numbers(Some((poison, 4, 4)), 6), &run, with(OnNonfinite::Stop));
        let Err(Stopped::NotFinite(found)) = &ended.result else { panic!("{:?}", ended.result) };
        let (outcome, end) = (&found.outcome, ended.end());
        assert_eq!((outcome.step, outcome.is_skipped, found.in_a_row), (4, true, 1));
        assert_eq!(outcome.loss.is_finite(), poison == Poison::Backward, "{poison:?}: {outcome:?}");
        assert!(!outcome.grad_norm.is_finite());
        let reason = format!(
            "step 4 is not applied: its loss is {}, its gradient norm {}",
            outcome.loss, outcome.grad_norm
        );
        assert_eq!((end.code, end.steps, &end.reason), (1, 3, &reason));
        assert_eq!(end.weights_hash, None);
        // The log has the step, so that whoever reads it sees what is wrong.
        assert_eq!(ended.steps.len(), 4);
        let alarm = ended.alarm().unwrap();
        let kinds = if poison == Poison::Backward { "norm_not_finite" } else { "loss_not_finite" };
        assert_eq!((alarm.kind(), alarm.step()), (kinds, 4));
        assert_eq!(ended.alarms, [alarm.to_string()]);
        // No checkpoint has it.
        let names: Vec<String> = (1..=3).map(|step| format!("step-{step:08}")).collect();
        assert_eq!(ended.checkpoints(), names);
        let resume = ended.checkpoint();
        let saved = end.saved.as_ref().unwrap();
        let path = resume.checkpoint.path().display().to_string();
        assert!(saved.contains("last good checkpoint is that of step 3"), "{saved}");
        assert!(saved.ends_with(&path), "{saved}");
        assert_eq!(ended.warnings, [saved.as_str()]);
        // It is as good as if nothing had happened.
        let again = Config { resume: Some(resume), ..numbers(None, 6) };
        let again =
            train(again, &dir.path().join(format!("{poison:?}-again")), with(OnNonfinite::Stop));
        assert_eq!(again.hash(), calm.hash(), "{poison:?}");
    }
}

#[test]
fn a_skipped_step_leaves_weights_and_moments_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let schedules =
        [(ScheduleName::OneFOneB, 4, 1), (ScheduleName::ZbV, 2, 1), (ScheduleName::Gpipe, 2, 2)];
    for (schedule, pp, dp) in schedules {
        let on = |config: Config| Config {
            plan: PlanSource::Named(schedule),
            pp: Some(pp),
            dp,
            micro_batches: 4 / dp,
            ..config
        };
        let run = |name: String| dir.path().join(name);
        let calm = run(format!("calm-{schedule}"));
        let calm = train(on(numbers(None, 6)), &calm, RunOptions::default());
        for poison in BAD {
            let run = run(format!("{schedule}-{poison:?}"));
            let policy = OnNonfinite::Skip { most: 3 };
            let ended = train(on(numbers(Some((poison, 3, 4)), 8)), &run, with(policy));
            assert_eq!(ended.hash(), calm.hash(), "{schedule}, {poison:?}");
            let skipped: Vec<bool> =
                ended.steps.iter().map(|(_, is_skipped)| *is_skipped).collect();
            assert_eq!(skipped, [false, false, true, true, false, false, false, false]);
            let mut applied = ended.steps.clone();
            applied.retain(|(_, is_skipped)| !is_skipped);
            assert_eq!(applied, calm.steps);
            assert_eq!((ended.end().code, ended.end().steps), (0, 8));
            // One alarm, and a line for each step.
            assert_eq!(ended.alarms.len(), 3, "{:?}", ended.alarms);
            assert!(ended.alarms[1].contains("of step 3 is "), "{:?}", ended.alarms);
            assert!(ended.alarms[2].ends_with("(2 skipped so far)"), "{:?}", ended.alarms);
            // A checkpoint waits for a step that is applied; the optimizer has made fewer steps.
            let names = [1, 2, 5, 6, 7, 8].map(|step| format!("step-{step:08}"));
            assert_eq!(ended.checkpoints(), names);
            let resume = ended.checkpoint();
            let manifest = resume.checkpoint.manifest();
            assert_eq!((manifest.step, manifest.optimizer_steps), (8, 6));
            assert_eq!(ended.warnings, Vec::<String>::new());
        }
    }
}

#[test]
fn a_checkpoint_that_is_due_after_a_skipped_step_is_written_after_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let options = RunOptions { checkpoints: every(4), ..with(OnNonfinite::Skip { most: 3 }) };
    let run = dir.path().join("run");
    let ended = train(numbers(Some((Poison::Nan, 4, 5)), 9), &run, options);
    assert_eq!(ended.checkpoints(), [6, 8].map(|step| format!("step-{step:08}")));
}

#[test]
fn too_many_skipped_steps_in_a_row_end_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let policy = OnNonfinite::Skip { most: 3 };
    let ended = train(numbers(Some((Poison::Nan, 3, 100)), 20), &run, with(policy));
    let Err(Stopped::NotFinite(found)) = &ended.result else { panic!("{:?}", ended.result) };
    assert_eq!((found.outcome.step, found.in_a_row), (5, 3));
    let end = ended.end();
    assert_eq!((end.code, end.steps), (1, 4));
    let reason = "step 5 is not applied, nor are the 2 before it: its loss is NaN";
    assert!(end.reason.starts_with(reason), "{}", end.reason);
    assert!(end.saved.as_ref().unwrap().contains("that of step 2 in"), "{:?}", end.saved);
    assert_eq!(ended.checkpoints(), [1, 2].map(|step| format!("step-{step:08}")));
}

#[test]
fn a_run_that_continues_replaces_no_good_weights() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.safetensors");
    let save = |dir: &Path| {
        let file = ResultFile { path: path.clone(), called: "--save".to_owned() };
        let options = RunOptions { save: Some(file), force: true, ..with(OnNonfinite::Continue) };
        (dir.to_owned(), options)
    };
    let (run, options) = save(&dir.path().join("calm"));
    let calm = train(numbers(None, 5), &run, options);
    assert_eq!((calm.warnings.len(), calm.checkpoints().len()), (0, 5));
    let good = std::fs::read(&path).unwrap();
    let (run, options) = save(&dir.path().join("run"));
    let ended = train(numbers(Some((Poison::Nan, 3, 3)), 5), &run, options);
    assert_eq!((ended.end().code, ended.end().steps), (0, 5));
    assert!(ended.steps.iter().all(|(_, is_skipped)| !is_skipped));
    assert_eq!(ended.checkpoints(), [1, 2].map(|step| format!("step-{step:08}")));
    let refused = "no checkpoint of step 3: its loss or its gradient norm is not finite";
    assert!(ended.warnings.iter().any(|warning| warning == refused), "{:?}", ended.warnings);
    assert_eq!(std::fs::read(&path).unwrap(), good, "the good weights stay");
    let said = ended.warnings.iter().find(|warning| warning.contains("replace no other file"));
    assert!(said.is_some(), "{:?}", ended.warnings);
    let others = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut others = others.filter(|other| other.is_file() && *other != path);
    let (bad, none) = (others.next().unwrap(), others.next());
    assert_eq!(none, None);
    // Such weights are the beginning of a run only if it is told so.
    let config = |init: &Path, takes_nonfinite| {
        let prepared = Prepared::new(Config {
            init: Some(init.to_owned()),
            takes_nonfinite,
            ..numbers(None, 5)
        });
        let session = prepared.unwrap().cut(&mut pp_train::Profiles::default(), |_| {});
        let mut session = session.map_err(Box::new)?;
        session.trainer(Recorder::disabled(), Instant::now()).map_err(Box::new)
    };
    let refused = config(&bad, false).err().unwrap();
    assert!(refused.is_refusal());
    let TrainError::Initial { source, .. } = &*refused else { panic!("{refused:?}") };
    assert!(matches!(**source, WeightsError::NotFinite { .. }), "{source:?}");
    assert!(causes(&refused).ends_with("is not finite there"), "{}", causes(&refused));
    config(&bad, true).unwrap();
    config(&path, false).unwrap();
}

#[test]
fn a_learning_rate_that_is_far_too_high_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let steep = |peak| {
        let rate = LearningRate { peak, curve: LearningRateCurve::Constant, warmup: 0 };
        Config { rate, optimizer: OptimizerKind::Sgd, ..numbers(None, 6) }
    };
    // The first step is finite, and so are the weights that it leaves.
    let ended = train(steep(1e30), &dir.path().join("high"), with(OnNonfinite::Stop));
    let Err(Stopped::NotFinite(found)) = &ended.result else { panic!("{:?}", ended.result) };
    assert_eq!((found.outcome.step, ended.end().code), (2, 1));
    assert_eq!(ended.checkpoints(), ["step-00000001"]);
    // Here the first step is finite, and the weights that it leaves are not.
    let ended = train(steep(1e300), &dir.path().join("higher"), with(OnNonfinite::Stop));
    assert!(matches!(ended.result, Err(Stopped::NotFinite(_))), "{:?}", ended.result);
    assert_eq!(ended.checkpoints(), Vec::<String>::new());
    let (first, last) = (&ended.warnings[0], &ended.warnings[1]);
    assert!(first.starts_with("no checkpoint of step 1: layers.0."), "{first}");
    assert!(first.ends_with(" is not finite"), "{first}");
    assert_eq!(last, "step 2 is not saved, and there is no checkpoint to resume from");
}

#[test]
fn a_spike_is_told_and_ends_the_run_if_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let spiky = || numbers(Some((Poison::Far, 30, 30)), 40);
    let with = |on_spike| RunOptions { on_spike, ..with(OnNonfinite::Stop) };
    let calm = train(numbers(None, 40), &dir.path().join("calm"), with(OnSpike::Stop));
    assert_eq!((calm.end().code, calm.alarms.len()), (0, 0));
    let warned = train(spiky(), &dir.path().join("warned"), with(OnSpike::Warn));
    assert_eq!((warned.end().code, warned.end().steps), (0, 40));
    assert_eq!(warned.checkpoints().len(), 40);
    assert!(!warned.alarms.is_empty());
    let ended = train(spiky(), &dir.path().join("ended"), with(OnSpike::Stop));
    let Err(Stopped::Spike { alarm, steps: 30 }) = &ended.result else {
        panic!("{:?}", ended.result)
    };
    assert_eq!((alarm.step(), ended.alarm()), (30, Some(*alarm)));
    assert_eq!(ended.alarms, [alarm.to_string()]);
    let end = ended.end();
    assert_eq!((end.code, &end.reason), (1, &format!("stopped after step 30: {alarm}")));
    assert_eq!(ended.checkpoints().last().unwrap(), "step-00000029");
    assert_eq!(ended.warnings, [end.saved.clone().unwrap()]);
    assert!(ended.warnings[0].contains("that of step 29 in"), "{:?}", ended.warnings);
    // What is saved is from before the spike.
    let again = Config { resume: Some(ended.checkpoint()), ..numbers(None, 40) };
    let again = train(again, &dir.path().join("again"), RunOptions::default());
    assert_eq!(again.hash(), calm.hash());
}
