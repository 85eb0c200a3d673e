//! Trains a workload that is not part of the project, and reads its log again.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor};
use pp_nn::{Linear, relu};
use pp_partition::{Cut, LayerStack, single};
use pp_telemetry::{EVENTS_FILE, End, Event, Line, Recorder};
use pp_train::{
    BoxError, Config, DataSet, Defaults, Job, KernelChoice, KnownCosts, MeanSquare, Notice,
    PlanSource, Prepared, Profiles, ResultError, Run, RunFolder, RunOptions, Samples, ScheduleName,
    Session, Stopped, Topology, TrainError, WeightsError, Workload, causes,
};

use common::Numbers;

/// A folder for a run, which is removed with its test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("run")
    }

    fn of_run(&self) -> RunFolder {
        RunFolder::at("test".to_owned(), self.dir()).unwrap()
    }

    fn events(&self) -> Vec<Event> {
        let log = std::fs::read(self.dir().join(EVENTS_FILE)).unwrap();
        let lines = log.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let event = |line| match Event::parse(line).unwrap() {
            Line::Event(event) => Some(event),
            Line::Unknown => None,
        };
        lines.filter_map(event).collect()
    }

    fn end(&self) -> End {
        let last = self.events().pop().unwrap();
        let Event::End(end) = last else { panic!("the last event is {last:?}") };
        end
    }
}

fn stack(n_layers: usize) -> LayerStack {
    let mut stack = LayerStack::default();
    for i in 0..n_layers {
        let name = format!("layers.{i}");
        stack.push(name.clone(), move |builder| {
            let linear = Linear::new(4, 4, builder.pp(&name))?;
            Ok(single(move |x, context| relu(&linear.forward(x, context)?)))
        });
    }
    stack
}

/// Three layers that compute.
struct Own;

impl Workload for Own {
    fn name(&self) -> &'static str {
        "own"
    }

    fn layers(&self) -> Option<usize> {
        Some(3)
    }

    fn job(&self, _: u64, _: &Topology) -> std::result::Result<Job, BoxError> {
        Ok(Job::new(stack(3), MeanSquare, Numbers))
    }
}

fn small() -> Config {
    Config { pp: Some(2), steps: 3, cut: Cut::Uniform, ..Config::new(Arc::new(Own)) }
}

#[test]
fn a_run_is_recorded_from_its_hello_to_its_end_and_told_alike() {
    let folder = Folder::new();
    let (mut told, mut opening) = (Vec::new(), String::new());
    let mut observer = |notice: &Notice<'_>| match notice {
        Notice::Event(event) => told.push(Event::clone(event)),
        Notice::Ready(ready) => ready.opening.clone_into(&mut opening),
        _ => {}
    };
    let prepared = Prepared::new(small()).unwrap();
    let run = Run::start(prepared, folder.of_run(), RunOptions::default(), &mut observer).unwrap();
    let finished = run.finish().unwrap();
    assert_eq!(finished.steps, 3);
    assert!(opening.starts_with("own: "), "{opening}");
    let events = folder.events();
    let of_kinds = |event: &&Event| {
        matches!(event, Event::Hello(_) | Event::Step(_) | Event::Eval(_) | Event::End(_))
    };
    let recorded: Vec<_> = events.iter().filter(of_kinds).map(Event::to_json).collect();
    let recorded: Vec<String> = recorded.into_iter().map(|json| json.unwrap()).collect();
    let told: Vec<String> =
        told.iter().filter(of_kinds).map(|event| event.to_json().unwrap()).collect();
    assert_eq!((recorded.len(), &recorded), (5, &told));
    let Some(Event::Hello(hello)) = events.iter().find(|event| matches!(event, Event::Hello(_)))
    else {
        panic!("there is no hello")
    };
    assert_eq!((hello.model.as_str(), hello.pp, hello.parameters), ("own", 2, 3 * 20));
    let end = folder.end();
    assert_eq!((end.code, end.weights_hash), (0, Some(finished.weights_hash)));
}

#[test]
fn a_configuration_is_refused_with_its_numbers() {
    let refused = |config| Prepared::new(config).unwrap_err();
    let error = refused(Config { pp: Some(4), ..small() });
    assert!(error.is_refusal());
    assert!(
        matches!(error, TrainError::TooManyStages { ranks: 4, chunks: 1, layers: 3, .. }),
        "{error:?}"
    );
    let error = refused(Config { batch_size: Some(9), micro_batches: 8, ..small() });
    assert!(matches!(error, TrainError::Uneven { batch: 9, micro_batches: 8, .. }), "{error:?}");
    let error = refused(Config { cut: Cut::Explicit(vec![1, 1]), ..small() });
    assert!(matches!(error, TrainError::Cut { stages: 2, layers: 3, .. }), "{error:?}");
    assert_eq!(
        causes(&error),
        "the model cannot be cut into 2 stages: the cut [1, 1] sums to 2, but the model has 3 layers; give parts that sum to 3"
    );
    let plan = PlanSource::Named(ScheduleName::ForwardOnly);
    let error = refused(Config { plan, ..small() });
    assert!(matches!(error, TrainError::ForwardOnly { .. }), "{error:?}");
}

/// Six layers of 20 parameters, with one of 4 before and after them.
struct Tapered;

impl Workload for Tapered {
    fn name(&self) -> &'static str {
        "tapered"
    }

    fn layers(&self) -> Option<usize> {
        Some(8)
    }

    fn job(&self, _: u64, _: &Topology) -> std::result::Result<Job, BoxError> {
        let mut tapered = LayerStack::default();
        for i in 0..8 {
            tapered.push(format!("layers.{i}"), move |builder| {
                if (1..7).contains(&i) {
                    let linear = Linear::new(4, 4, builder.pp(format!("layers.{i}")))?;
                    return Ok(single(move |x, context| linear.forward(x, context)));
                }
                let scale = builder.get(4, &format!("scale.{i}"))?;
                Ok(single(move |x, _| x.broadcast_mul(&scale)))
            });
        }
        Ok(Job::new(tapered, MeanSquare, Numbers))
    }
}

#[test]
fn stages_that_share_a_rank_are_balanced_together() {
    let costs = [4, 20, 20, 20, 20, 20, 20, 4];
    let plans = [
        (ScheduleName::OneFOneB, None, [64, 64]),
        (ScheduleName::InterleavedOneFOneB, Some(2), [64, 64]),
        // To and fro, both outer stages lie on rank 0. Cut evenly, it would have 48.
        (ScheduleName::ZbV, Some(2), [68, 60]),
        (ScheduleName::Chimera, None, [64, 64]),
    ];
    for (name, virtual_stages, wanted) in plans {
        let plan = PlanSource::Named(name);
        let config = Config {
            pp: Some(2),
            plan,
            virtual_stages,
            cut: Cut::Parameters,
            ..Config::new(Arc::new(Tapered))
        };
        let session = Session::with_profiles(config, &mut Profiles::default()).unwrap();
        let (partition, topology) = (session.partition(), session.plan().topology());
        let mut loads = [0, 0];
        for pipe in topology.pipes() {
            for (stage, rank) in topology.ranks(pipe).iter().enumerate() {
                let cost: i32 = costs[partition.layers(stage)].iter().sum();
                loads[rank.idx()] += cost / topology.n_pipes() as i32;
            }
        }
        assert_eq!(loads, wanted, "{name}: {partition}");
    }
}

/// A workload with a layer for each stage and known times. It counts how often it is built.
#[derive(Default)]
struct Waits {
    n_built: AtomicU32,
    fails: bool,
}

impl Workload for Waits {
    fn name(&self) -> &'static str {
        "waits"
    }

    fn defaults(&self) -> Defaults {
        Defaults { steps: 1, batch_size: None, ..Defaults::default() }
    }

    fn layers(&self) -> Option<usize> {
        None
    }

    fn job(&self, _: u64, topology: &Topology) -> std::result::Result<Job, BoxError> {
        self.n_built.fetch_add(1, Ordering::Relaxed);
        if self.fails {
            return Err("there is no data".into());
        }
        Ok(Job::new(stack(topology.n_stages() as usize), MeanSquare, Numbers))
    }

    fn known_costs(&self) -> Option<KnownCosts> {
        let [forward, input_grad, weight_grad] = [3, 1, 2].map(Duration::from_millis);
        let link = Duration::ZERO;
        Some(KnownCosts { forward, input_grad, weight_grad, link, slow_rank: None })
    }
}

#[test]
fn a_job_whose_layers_follow_from_the_plan_is_built_once() {
    for name in [ScheduleName::OneFOneB, ScheduleName::ZbAuto, ScheduleName::Auto] {
        let workload = Arc::new(Waits::default());
        let as_workload: Arc<dyn Workload> = workload.clone();
        let plan = PlanSource::Named(name);
        let config = Config { pp: Some(2), plan, ..Config::new(as_workload) };
        let session = Session::with_profiles(config, &mut Profiles::default()).unwrap();
        assert_eq!(workload.n_built.load(Ordering::Relaxed), 1, "{name}");
        assert_eq!(session.job().stack.len(), session.plan().n_stages() as usize, "{name}");
        assert_eq!(session.promise().is_some(), name != ScheduleName::OneFOneB, "{name}");
    }
}

#[test]
fn a_run_that_does_not_start_says_why_in_its_log() {
    for (words, wanted) in [(false, (2, "there is no data")), (true, (7, "no data, no run"))] {
        let folder = Folder::new();
        let workload = Arc::new(Waits { fails: true, ..Waits::default() });
        let plan = PlanSource::Named(ScheduleName::ZbAuto);
        let config = Config { pp: Some(2), plan, ..Config::new(workload) };
        // Its layers follow from a plan that is not made yet.
        let prepared = Prepared::new(config).unwrap();
        let options = RunOptions {
            words: words
                .then(|| -> pp_train::Words { Box::new(|_| (7, "no data, no run".to_owned())) }),
            ..RunOptions::default()
        };
        let mut n_told = 0;
        let mut observer = |_: &Notice<'_>| n_told += 1;
        let error = Run::start(prepared, folder.of_run(), options, &mut observer).err().unwrap();
        assert_eq!(error.to_string(), "there is no data");
        let end = folder.end();
        assert_eq!((end.code, end.reason.as_str()), wanted);
        assert_eq!(n_told, 1, "the end alone");
    }
}

/// A workload with a layer for each stage. Nothing is known of their times.
#[derive(Default)]
struct Follows(Waits);

impl Workload for Follows {
    fn name(&self) -> &'static str {
        "follows"
    }

    fn layers(&self) -> Option<usize> {
        None
    }

    fn job(&self, seed: u64, topology: &Topology) -> std::result::Result<Job, BoxError> {
        self.0.job(seed, topology)
    }
}

#[test]
fn a_plan_by_times_that_nobody_knows_is_refused_before_anything_is_built() {
    for name in [ScheduleName::ZbAuto, ScheduleName::Auto] {
        let workload = Arc::new(Follows::default());
        let as_workload: Arc<dyn Workload> = workload.clone();
        let plan = PlanSource::Named(name);
        let config = Config { pp: Some(2), plan, ..Config::new(as_workload) };
        let refused = config.check().unwrap_err();
        assert!(matches!(refused, TrainError::UnknownCosts { .. }) && refused.is_refusal());
        let refused = Prepared::new(config).unwrap_err().to_string();
        assert!(refused.contains("such as 1f1b, or implement Workload::known_costs"), "{refused}");
        assert_eq!(workload.0.n_built.load(Ordering::Relaxed), 0, "{name}");
    }
}

#[test]
fn initial_weights_are_read_at_the_first_cut_and_only_there() {
    let folder = Folder::new();
    let path = folder.0.path().join("weights.safetensors");
    let write = |value: f64| {
        let tensor = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu)? * value;
        let layer = |i: u32| {
            let weight = (format!("layers.{i}.weight"), tensor(&[4, 4]).unwrap());
            [weight, (format!("layers.{i}.bias"), tensor(&[4]).unwrap())]
        };
        let tensors: HashMap<String, Tensor> = (0..3).flat_map(layer).collect();
        candle_core::safetensors::save(&tensors, &path).unwrap();
    };
    let config = || Config { init: Some(path.clone()), kernels: KernelChoice::Rule, ..small() };
    write(0.25);
    let prepared = Prepared::new(config()).unwrap();
    let mut profiles = Profiles::default();
    let first = Session::with_profiles(config(), &mut profiles).unwrap();
    write(0.5);
    let second = Session::with_profiles(config(), &mut profiles).unwrap();
    for mut session in [first, second] {
        let mut trainer = session.trainer(Recorder::disabled(), Instant::now()).unwrap();
        for (name, values) in trainer.weights().unwrap() {
            let values: Vec<f32> = values.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(values, vec![0.25; values.len()], "{name}");
        }
    }
    std::fs::remove_file(&path).unwrap();
    let refused = prepared.cut(&mut Profiles::default(), |_| {}).unwrap_err();
    let TrainError::Initial { source, .. } = &refused else { panic!("{refused:?}") };
    assert!(matches!(**source, WeightsError::Tensors(_)), "{source:?}");
    let refused = Prepared::new(config()).unwrap_err();
    let TrainError::Initial { source, .. } = &refused else { panic!("{refused:?}") };
    let WeightsError::Read(source) = &**source else { panic!("{source:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
    assert!(causes(&refused).ends_with(&source.to_string()), "{refused}");
}

/// Numbers whose held-out part cannot be made.
struct Broken;

impl DataSet for Broken {
    fn batch(&self, step: u64, size: usize) -> Result<Samples> {
        Numbers.batch(step, size)
    }

    fn validation(&self, _: usize) -> Result<Vec<Samples>> {
        candle_core::bail!("it is gone")
    }
}

impl Workload for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn layers(&self) -> Option<usize> {
        Some(3)
    }

    fn job(&self, _: u64, _: &Topology) -> std::result::Result<Job, BoxError> {
        Ok(Job::new(stack(3), MeanSquare, Broken))
    }
}

#[test]
fn a_result_that_is_missing_has_its_cause() {
    let folder = Folder::new();
    let config = Config { workload: Arc::new(Broken), ..small() };
    let prepared = Prepared::new(config).unwrap();
    let mut observer = |_: &Notice<'_>| {};
    let run = Run::start(prepared, folder.of_run(), RunOptions::default(), &mut observer).unwrap();
    let stopped = run.finish().unwrap_err();
    assert!(matches!(stopped, Stopped::Result(ResultError::HeldOut(_))), "{stopped:?}");
    let end = folder.end();
    assert_eq!(
        (end.code, end.reason.as_str()),
        (1, "cannot make the held-out samples: it is gone")
    );
}
