//! A rank that errors or panics ends the step everywhere, with its rank and op, in time.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor, Var};
use pp_executor::{Batch, Command, ExecError, Fault, FaultKind, RankConfig, Ranks, Reply, What};
use pp_hybrid::{Trainer, TrainerConfig};
use pp_models::{SleepConfig, sleep};
use pp_nn::{LearningRate, LearningRateCurve, Linear, OptimizerKind, ParameterStore};
use pp_partition::{Cut, LayerStack, Objective, single};
use pp_schedule::{Rank, ScheduleName, Sizes};

fn fail(kind: FaultKind, rank: u32, op: &str, replicas: u32) -> (String, Duration) {
    let ms = Duration::from_millis(1);
    let config = SleepConfig {
        ranks: vec![0, 1, 2],
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
    ranks.fault = Some(Fault { rank: Rank(rank), step: 2, op: op.parse().unwrap(), kind });
    ranks.n_replicas = replicas;
    let rate = LearningRate { peak: 0.1, curve: LearningRateCurve::Constant, warmup: 0 };
    let mut trainer =
        Trainer::new(TrainerConfig { ranks, clip_norm: None, rate, steps: 2 }).unwrap();
    let batch = 6 * replicas as usize;
    trainer.step(1, || job.data.batch(1, batch)).unwrap();
    let start = Instant::now();
    let error = trainer.step(2, || job.data.batch(2, batch)).unwrap_err();
    drop(trainer);
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    (text, start.elapsed())
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

/// A linear stack of two layers on two ranks, ready for whatever goes wrong.
fn two_ranks() -> Ranks {
    let mut stack = LayerStack::default();
    for name in ["a", "b"] {
        stack.push(name, move |vb| {
            let linear = Linear::new(2, 2, vb.pp(name))?;
            Ok(single(move |x, c| linear.forward(x, c)))
        });
    }
    let sizes =
        Sizes { n_ranks: 2, n_micro_batches: 4, n_virtual_stages: 1, interleave_group: None };
    let plan = ScheduleName::OneFOneB.generate(&sizes).unwrap();
    let partition = Cut::Uniform.solve(&stack, 2, None).unwrap();
    let config = RankConfig::new(plan, partition, stack, Arc::new(MeanSquare), OptimizerKind::Sgd);
    Ranks::spawn(&config).unwrap()
}

struct MeanSquare;

impl Objective for MeanSquare {
    fn loss(&self, outputs: &[Tensor], targets: &Tensor) -> Result<Tensor> {
        (&outputs[0] - targets)?.sqr()?.mean_all()
    }
}

fn ones(rows: usize, columns: usize) -> Tensor {
    Tensor::ones((rows, columns), DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn a_batch_of_another_size_is_refused_before_any_rank_sees_it() {
    let mut ranks = two_ranks();
    for parts in [2, 8] {
        let batch = Arc::new(Batch::split(&[ones(8, 2)], &ones(8, 2), parts, 0).unwrap());
        let plan = ranks.evaluation_plan(3).unwrap();
        let step = ranks.all(|_, _| Command::Step { step: 1, batch: Arc::clone(&batch) });
        assert_eq!(
            step.unwrap_err().to_string(),
            format!("the batch has {parts} micro-batches, the plan 4")
        );
        let evaluated = ranks
            .all(|_, _| Command::Evaluate { batch: Arc::clone(&batch), plan: Arc::clone(&plan) });
        assert!(evaluated.unwrap_err().to_string().ends_with("the plan 3"));
    }
    let batch = Arc::new(Batch::split(&[ones(8, 2)], &ones(8, 2), 4, 0).unwrap());
    assert!(ranks.all(|_, _| Command::Step { step: 1, batch: Arc::clone(&batch) }).is_ok());
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
fn after_the_first_error_nothing_pretends_to_work() {
    let mut ranks = two_ranks();
    // Three features where the layer has two.
    let batch = Arc::new(Batch::split(&[ones(4, 3)], &ones(4, 2), 4, 0).unwrap());
    let error = ranks.all(|_, _| Command::Step { step: 1, batch: Arc::clone(&batch) }).unwrap_err();
    assert_eq!(error.to_string(), "rank 0, step 1, op 0F0");
    let after = ranks.all(|_, _| Command::Collect(What::Values)).unwrap_err();
    assert!(matches!(after, ExecError::Ended), "{after}");
}

/// Some ranks once got their command before the commander gave up, and then waited for the others for ever. Now no rank hears
/// of a command that not all of them get: the next step is a whole one.
#[test]
fn a_commander_that_panics_leaves_every_rank_as_it_was() {
    let mut ranks = two_ranks();
    let batch = Arc::new(Batch::split(&[ones(4, 2)], &ones(4, 2), 4, 0).unwrap());
    let step = || Command::Step { step: 1, batch: Arc::clone(&batch) };
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = ranks.all(|_, rank| {
            assert_eq!(rank, Rank(0), "the commander gives up at the second rank");
            step()
        });
    }));
    assert!(panicked.is_err());
    let replies = ranks.all(|_, _| step()).unwrap();
    let reports = replies.iter().filter(|reply| matches!(reply, Reply::Stepped(_)));
    assert_eq!(reports.count(), 2);
    // Not one step behind: what is answered is what was asked.
    let values = ranks.all(|_, _| Command::Collect(What::Values)).unwrap();
    assert!(values.iter().all(|reply| matches!(reply, Reply::Tensors(_))));
}

#[test]
fn given_values_are_copied_not_shared() {
    let own = Var::from_tensor(&ones(2, 2)).unwrap();
    let store = ParameterStore::given(BTreeMap::from([("w".to_owned(), own.as_tensor().clone())]));
    store.builder(DType::F32, &Device::Cpu).get((2, 2), "w").unwrap();
    let parameter = &store.parameters()[0].var;
    parameter.set(&(ones(2, 2) * 5.0).unwrap()).unwrap();
    assert_eq!(own.to_vec2::<f32>().unwrap(), [[1.0, 1.0], [1.0, 1.0]]);
}
