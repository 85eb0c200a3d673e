//! A rank that errors or panics ends the step everywhere, with its rank and op, in time.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::Init;
use pp_executor::{
    Batch, Doing, ExecError, Fault, FaultKind, RankConfig, RankProgress, Ranks, What,
};
use pp_hybrid::{Trainer, TrainerConfig};
use pp_models::{SleepConfig, sleep};
use pp_nn::{
    ForwardContext, LearningRate, LearningRateCurve, Linear, OptimizerKind, ParameterStore,
};
use pp_partition::{Cut, LayerStack, Objective, single};
use pp_schedule::{MicroBatch, Op, Phase, Rank, Replica, ScheduleName, Sizes, Stage};
use pp_telemetry::SpanKind;

fn fail(kind: FaultKind, rank: u32, op: &str, replicas: u32) -> (String, Duration) {
    let ms = Duration::from_millis(1);
    let config = SleepConfig {
        ranks: vec![0, 1, 2],
        layers: 1,
        virtual_stages: 1,
        forward: ms,
        input_grad: ms,
        weight_grad: ms,
        slow_rank: None,
    };
    let job = sleep(&config).unwrap();
    let sizes =
        Sizes { n_ranks: 3, n_micro_batches: 6, n_virtual_stages: 1, interleave_group: None };
    let plan = ScheduleName::OneFOneB.generate(&sizes).unwrap();
    let partition = Cut::Uniform.solve(&job.stack, 3, None).unwrap();
    let mut ranks = RankConfig::new(
        plan,
        partition,
        job.stack.clone(),
        job.objective.clone(),
        OptimizerKind::Sgd,
    );
    ranks.fault =
        Some(Fault { rank: Rank(rank), replica: None, step: 2, at: op.parse().unwrap(), kind });
    ranks.n_replicas = replicas;
    let rate = LearningRate { peak: 0.1, curve: LearningRateCurve::Constant, warmup: 0 };
    let mut trainer =
        Trainer::new(TrainerConfig { ranks, clip_norm: None, rate, steps: 2 }).unwrap();
    let batch = 6 * replicas as usize;
    trainer.step(1, || job.data.batch(1, batch)).unwrap();
    let start = Instant::now();
    let error = trainer.step(2, || job.data.batch(2, batch)).unwrap_err();
    drop(trainer);
    (chain(&error).join(": "), start.elapsed())
}

/// The texts of an error and of its causes, each in its first line.
fn chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let first_line = |text: String| text.lines().next().unwrap().to_owned();
    let errors = std::iter::successors(Some(error), |error| error.source());
    errors.map(|error| first_line(error.to_string())).collect()
}

#[test]
fn errors_and_panics_in_every_phase() {
    for (kind, word) in
        [(FaultKind::Error, "on request"), (FaultKind::Panic, "panicked: a test asked")]
    {
        for (rank, op) in [(0, "0F3"), (1, "1B2"), (2, "2F0"), (0, "0B5"), (2, "2B5")] {
            for replicas in [1, 2] {
                let (text, took) = fail(kind, rank, op, replicas);
                assert!(
                    text.contains(&format!("rank {rank}")) && text.contains(&format!("op {op}")),
                    "{text}"
                );
                assert!(text.contains("step 2") && text.contains(word), "{text}");
                assert!(took < Duration::from_secs(5), "{op} took {took:?}");
            }
        }
    }
}

/// A linear stack of two layers, each on a rank of its own, with four micro-batches.
fn on_two_ranks() -> RankConfig {
    let mut stack = LayerStack::default();
    for name in ["a", "b"] {
        stack.push(name, move |vb| {
            let linear = Linear::new(2, 2, vb.pp(name))?;
            Ok(single(move |x, c| linear.forward(x, c)))
        });
    }
    of_two_layers(stack)
}

fn of_two_layers(stack: LayerStack) -> RankConfig {
    let sizes =
        Sizes { n_ranks: 2, n_micro_batches: 4, n_virtual_stages: 1, interleave_group: None };
    let plan = ScheduleName::OneFOneB.generate(&sizes).unwrap();
    let partition = Cut::Uniform.solve(&stack, 2, None).unwrap();
    RankConfig::new(plan, partition, stack, Arc::new(MeanSquare), OptimizerKind::Sgd)
}

fn two_ranks() -> Ranks {
    Ranks::spawn(&on_two_ranks()).unwrap()
}

struct MeanSquare;

impl Objective for MeanSquare {
    fn loss(&self, outputs: &[Tensor], targets: &Tensor, _: &ForwardContext) -> Result<Tensor> {
        (&outputs[0] - targets)?.sqr()?.mean_all()
    }
}

fn ones(rows: usize, columns: usize) -> Tensor {
    Tensor::ones((rows, columns), DType::F32, &Device::Cpu).unwrap()
}

fn batch(samples: usize, columns: usize, parts: usize) -> Arc<Batch> {
    let (inputs, targets) = (ones(samples, columns), ones(samples, 2));
    Arc::new(Batch::split(&[inputs], &targets, parts, 0).unwrap())
}

#[test]
fn a_batch_of_another_size_is_refused_before_any_rank_sees_it() {
    let mut ranks = two_ranks();
    for parts in [2, 8] {
        let refused = ranks.step(1, &[batch(8, 2, parts)]).unwrap_err();
        assert_eq!(refused.to_string(), format!("the batch has {parts} micro-batches, the plan 4"));
    }
    for batches in [vec![], vec![batch(8, 2, 4); 2]] {
        let text = format!("{} batches were given, there are 1 replicas", batches.len());
        assert_eq!(ranks.step(1, &batches).unwrap_err().to_string(), text);
        assert_eq!(ranks.evaluate(&batches).unwrap_err().to_string(), text);
    }
    assert!(ranks.step(1, &[batch(8, 2, 4)]).is_ok());
    let refused = Batch::split(&[ones(12, 2)], &ones(8, 2), 4, 0).unwrap_err().to_string();
    assert_eq!(refused, "input 0 has 12 samples, the targets 8");
    assert!(
        Batch::split(&[ones(9, 2)], &ones(9, 2), 4, 0)
            .unwrap_err()
            .to_string()
            .contains("9 samples")
    );
}

#[test]
fn an_evaluation_takes_any_number_of_micro_batches() {
    let mut ranks = two_ranks();
    for parts in [1, 3, 8] {
        let found = ranks.evaluate(&[batch(24, 2, parts)]).unwrap();
        let losses: Vec<usize> = found.as_slice().iter().map(|found| found.losses.len()).collect();
        assert_eq!(losses, [0, parts]);
        assert!(found.as_slice()[1].losses.iter().all(|loss| loss.is_finite()));
    }
    let nothing = Arc::new(Batch { micro_batches: Vec::new(), first_sample: 0, weight: None });
    let found = ranks.evaluate(&[nothing]).unwrap();
    assert!(found.as_slice().iter().all(|found| found.losses.is_empty()));
}

#[test]
fn after_the_first_error_nothing_pretends_to_work() {
    let mut ranks = two_ranks();
    // Three features where the layer has two.
    let error = ranks.step(1, &[batch(4, 3, 4)]).unwrap_err();
    assert_eq!(error.to_string(), "rank 0, step 1, op 0F0");
    let after = ranks.collect(What::Values).unwrap_err();
    assert!(matches!(after, ExecError::Ended), "{after}");
}

/// candle puts the layer on a line before the cause. A reader that takes the first line of each
/// error has both.
#[test]
fn an_error_in_a_layer_has_the_layer_and_the_cause() {
    let mut ranks = two_ranks();
    let error = ranks.step(1, &[batch(4, 3, 4)]).unwrap_err();
    let texts = chain(&error);
    let expected = ["rank 0, step 1, op 0F0", "layer 0", "a tensor operation failed"];
    assert_eq!(texts[..3], expected);
    assert!(texts.len() == 4 && texts[3].contains("[1, 3]"), "{texts:?}");
}

#[test]
fn an_error_in_an_evaluation_says_so() {
    let (good, bad) = (batch(4, 2, 4), batch(4, 3, 4));
    let mut ranks = two_ranks();
    let error = ranks.evaluate(&[Arc::clone(&bad)]).unwrap_err();
    assert_eq!(error.to_string(), "rank 0, evaluation before the first step, op 0F0");

    let mut ranks = two_ranks();
    ranks.step(1, &[Arc::clone(&good)]).unwrap();
    let error = ranks.evaluate(&[Arc::clone(&bad)]).unwrap_err();
    assert_eq!(error.to_string(), "rank 0, evaluation after step 1, op 0F0");

    // An evaluation that ended well leaves no trace.
    let mut ranks = two_ranks();
    ranks.step(1, &[Arc::clone(&good)]).unwrap();
    ranks.evaluate(&[good]).unwrap();
    let error = ranks.step(2, &[bad]).unwrap_err();
    assert_eq!(error.to_string(), "rank 0, step 2, op 0F0");
}

/// An optimizer with moments has no kernel for numbers that are not floats.
#[test]
fn an_error_in_the_update_says_so() {
    let mut stack = LayerStack::default();
    for name in ["a", "b"] {
        stack.push(name, move |vb| {
            let linear = Linear::new(2, 2, vb.pp(name))?;
            if name == "b" {
                vb.pp(name).get_with_hints_dtype(3, "counts", Init::Const(1.0), DType::I64)?;
            }
            Ok(single(move |x, c| linear.forward(x, c)))
        });
    }
    let mut config = of_two_layers(stack);
    config.optimizer = OptimizerKind::Adam;
    let mut ranks = Ranks::spawn(&config).unwrap();
    ranks.step(1, &[batch(4, 2, 4)]).unwrap();
    let error = ranks.update(0.1, 1.0).unwrap_err();
    assert_eq!(error.to_string(), "rank 1, step 1, while it updates its weights");
}

/// Two replicas whose models differ in the shape of a parameter.
#[test]
fn an_error_in_the_gradient_mean_says_so() {
    let n_built = AtomicU32::new(0);
    let mut stack = LayerStack::default();
    stack.push("a", move |vb| {
        let linear = Linear::new(2, 2, vb.pp("a"))?;
        let n = n_built.fetch_add(1, Ordering::Relaxed) as usize + 1;
        vb.pp("a").get(n, "odd")?;
        Ok(single(move |x, c| linear.forward(x, c)))
    });
    stack.push("b", |vb| {
        let linear = Linear::new(2, 2, vb.pp("b"))?;
        Ok(single(move |x, c| linear.forward(x, c)))
    });
    let mut config = of_two_layers(stack);
    config.n_replicas = 2;
    let mut ranks = Ranks::spawn(&config).unwrap();
    let error = ranks.step(1, &[batch(4, 2, 4), batch(4, 2, 4)]).unwrap_err();
    assert!(matches!(error, ExecError::Rank { rank: Rank(0), doing: Doing::Averaging, .. }));
    assert!(error.to_string().ends_with(", step 1, while it averages gradients"), "{error}");
}

/// A part of a layer that takes long to free.
struct Slow(Arc<AtomicU32>);

impl Drop for Slow {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(100));
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn after_an_error_the_ranks_that_answered_are_gone() {
    let n_freed = Arc::new(AtomicU32::new(0));
    let mut stack = LayerStack::default();
    for name in ["a", "b"] {
        let n_freed = Arc::clone(&n_freed);
        stack.push(name, move |vb| {
            let (linear, slow) = (Linear::new(2, 2, vb.pp(name))?, Slow(Arc::clone(&n_freed)));
            Ok(single(move |x, c| {
                let _part = &slow;
                linear.forward(x, c)
            }))
        });
    }
    let mut ranks = Ranks::spawn(&of_two_layers(stack)).unwrap();
    // The cut has built each layer once to see its parameters.
    let n_before = n_freed.load(Ordering::Relaxed);
    assert!(ranks.step(1, &[batch(4, 3, 4)]).is_err());
    assert_eq!(n_freed.load(Ordering::Relaxed) - n_before, 2);
}

/// A call with wrong data for one replica once reached some ranks before it was refused, and these
/// waited for the others for ever. Now a refused call reaches no rank, and the next step is
/// complete.
#[test]
fn a_call_that_is_refused_leaves_every_rank_as_it_was() {
    let mut config = on_two_ranks();
    config.n_replicas = 2;
    let mut ranks = Ranks::spawn(&config).unwrap();
    // The first replica's batch fits the plan, the second one's does not.
    assert!(ranks.step(1, &[batch(4, 2, 4), batch(4, 2, 2)]).is_err());
    assert!(ranks.evaluate(&[batch(4, 2, 4)]).is_err());
    assert!(ranks.progress().read().iter().all(|rank| (rank.step, rank.doing) == (0, Doing::Idle)));
    let reports = ranks.step(1, &[batch(4, 2, 4), batch(4, 2, 4)]).unwrap();
    let losses: Vec<usize> = reports.as_slice().iter().map(|report| report.losses.len()).collect();
    assert_eq!(losses, [0, 4, 0, 4]);
    // Each answer belongs to its call: no answer of an earlier call is left over.
    let values = ranks.collect(What::Values).unwrap();
    let names: Vec<&str> = values.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a.weight", "a.bias", "b.weight", "b.bias"]);
}

/// One replica fails in its last micro-batch. The ranks of the other one have run their rows by
/// then, and wait for its gradients.
#[test]
fn a_replica_that_fails_does_not_leave_the_others_in_the_mean() {
    for (bad, place) in [(0, "rank 1, step 1, op 1F3"), (1, "rank 1 of replica 1, step 1, op 1F3")]
    {
        let mut stack = LayerStack::default();
        stack.push("a", |vb| {
            let linear = Linear::new(2, 2, vb.pp("a"))?;
            Ok(single(move |x, c| linear.forward(x, c)))
        });
        stack.push("b", |vb| {
            let linear = Linear::new(2, 2, vb.pp("b"))?;
            Ok(single(move |x, c| {
                let y = linear.forward(x, c)?;
                if y.sum_all()?.to_scalar::<f32>()?.is_nan() {
                    // Long enough for the other replica to reach the mean.
                    std::thread::sleep(Duration::from_millis(200));
                    candle_core::bail!("not a number");
                }
                Ok(y)
            }))
        });
        let mut config = of_two_layers(stack);
        config.n_replicas = 2;
        let mut ranks = Ranks::spawn(&config).unwrap();
        let inputs = Tensor::cat(&[ones(3, 2), (ones(1, 2) * f64::NAN).unwrap()], 0).unwrap();
        let nan = Arc::new(Batch::split(&[inputs], &ones(4, 2), 4, 0).unwrap());
        let mut batches = [batch(4, 2, 4), batch(4, 2, 4)];
        batches[bad] = nan;
        let start = Instant::now();
        let error = ranks.step(1, &batches).unwrap_err();
        assert_eq!(error.to_string(), place);
        drop(ranks);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
}

/// A gate that blocks every forward from the third on, until the test opens it.
#[derive(Default)]
struct Gate {
    forwards: AtomicU32,
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        if self.forwards.fetch_add(1, Ordering::Relaxed) >= 2 {
            let mut is_open = self.is_open.lock().unwrap();
            while !*is_open {
                is_open = self.opened.wait(is_open).unwrap();
            }
        }
    }

    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

#[test]
fn a_rank_that_is_held_up_is_named_after_the_deadline() {
    let gate = Arc::new(Gate::default());
    let mut stack = LayerStack::default();
    stack.push("a", |vb| {
        let linear = Linear::new(2, 2, vb.pp("a"))?;
        Ok(single(move |x, c| linear.forward(x, c)))
    });
    let held = Arc::clone(&gate);
    stack.push("b", move |vb| {
        let (linear, gate) = (Linear::new(2, 2, vb.pp("b"))?, Arc::clone(&held));
        Ok(single(move |x, c| {
            gate.pass();
            linear.forward(x, c)
        }))
    });
    let mut config = of_two_layers(stack);
    let deadline = Duration::from_millis(500);
    config.deadline = Some(deadline);
    let mut ranks = Ranks::spawn(&config).unwrap();
    let progress = ranks.progress();
    let error = ranks.step(7, &[batch(4, 2, 4)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rank 1, step 7, op 1F2 gave no answer within 500ms: it computes"
    );
    assert!(
        matches!(error, ExecError::Deadline { rank: Rank(1), deadline: d, .. } if d == deadline)
    );
    // The other rank waited for it, and has been stopped.
    let op = |text: &str| text.parse().unwrap();
    let at = |rank, doing| {
        let (replica, rank, is_evaluating) = (Replica(0), Rank(rank), false);
        RankProgress { replica, rank, step: 7, is_evaluating, doing }
    };
    let expected = [at(0, Doing::Awaiting(op("0B2"))), at(1, Doing::Computing(op("1F2")))];
    assert_eq!(progress.read(), expected);
    assert!(matches!(ranks.collect(What::Values).unwrap_err(), ExecError::Ended));
    gate.open();
}

#[test]
fn a_call_within_its_deadline_is_as_any_other() {
    let mut config = on_two_ranks();
    config.deadline = Some(Duration::from_mins(1));
    let mut ranks = Ranks::spawn(&config).unwrap();
    let reports = ranks.step(1, &[batch(4, 2, 4)]).unwrap();
    assert_eq!(reports.as_slice()[1].losses.len(), 4);
    assert_eq!(ranks.update(0.1, 1.0).unwrap().as_slice().len(), 2);
    let done = |rank: &RankProgress| (rank.step, rank.doing) == (1, Doing::Idle);
    assert!(ranks.progress().read().iter().all(done));
}

/// Ops that last as long as the pace says, on any number of cores.
#[test]
fn a_pace_sets_the_least_time_of_each_op() {
    let mut config = on_two_ranks();
    let least = |rank: Rank, op: Op| {
        let ms = if op.phase == Phase::Forward { 2 } else { 4 };
        Duration::from_millis(ms * u64::from(rank.0 + 1))
    };
    config.pace = Some(Arc::new(least));
    let mut ranks = Ranks::spawn(&config).unwrap();
    let reports = ranks.step(1, &[batch(4, 2, 4)]).unwrap();
    let mut n_ops = 0;
    for ((_, rank), report) in reports.into_places() {
        for span in report.spans.iter().filter(|span| span.op.is_compute()) {
            let phase = if span.op == SpanKind::F { Phase::Forward } else { Phase::Backward };
            let op = Op::new(Stage(span.stage), phase, MicroBatch(span.mb));
            assert!(u128::from(span.dur_ns) >= least(rank, op).as_nanos(), "{span:?}");
            assert_eq!(span.starved_ns, 0, "{span:?}");
            n_ops += 1;
        }
    }
    assert_eq!(n_ops, 2 * 2 * 4);
}

#[test]
fn given_values_are_copied_not_shared() {
    let own = Var::from_tensor(&ones(2, 2)).unwrap();
    let store = ParameterStore::given(Arc::new(BTreeMap::from([(
        "w".to_owned(),
        own.as_tensor().clone(),
    )])));
    store.builder(DType::F32, &Device::Cpu).get((2, 2), "w").unwrap();
    let parameter = &store.parameters()[0].var;
    parameter.set(&(ones(2, 2) * 5.0).unwrap()).unwrap();
    assert_eq!(own.to_vec2::<f32>().unwrap(), [[1.0, 1.0], [1.0, 1.0]]);
}
