//! Layers that only sleep: they exercise the real runtime, with times that are known, at any
//! number of ranks on any number of cores.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Result, Shape, Tensor};
use candle_nn::Init;
use pp_nn::{
    ForwardContext, LearningRate, LearningRateCurve, OptimizerKind, Residue, ResidueQueue,
};
use pp_partition::{Cut, LayerStack, Objective, single};
use pp_schedule::Pipe;
use pp_train::{BoxError, DataSet, Defaults, Job, KnownCosts, Samples, Topology, Workload};

use crate::error::ModelError;
use crate::model::{Group, Kind, Model, ModelOption, Options};

/// The default milliseconds of each op of a rank's share.
const SLEEPS_MS: u64 = 4;

const fn time(name: &'static str, help: &'static str) -> ModelOption {
    ModelOption { name, value_name: "MS", help, kind: Kind::Milliseconds, group: OWN }
}

const OWN: Group = Group::Own("The model sleep");

/// Layers that only sleep, as a model with a name.
pub static SLEEP: Model = Model {
    name: "sleep",
    about: "Layers that only sleep, to see the runtime itself",
    defaults: Defaults {
        steps: 20,
        batch_size: None,
        micro_batches: 16,
        rate: LearningRate { peak: 0.01, curve: LearningRateCurve::Constant, warmup: 0 },
        optimizer: OptimizerKind::Sgd,
        clip_norm: None,
        eval_every: None,
        cut: Cut::Uniform,
    },
    options: &[
        time("sleep-forward-ms", "Milliseconds of F, per rank share"),
        time("sleep-input-grad-ms", "Milliseconds of I, per rank share"),
        time("sleep-weight-grad-ms", "Milliseconds of W, per rank share"),
        ModelOption {
            name: "sleep-slow-rank",
            value_name: "R:FACTOR",
            help: "Make rank R slower by FACTOR",
            kind: Kind::RankFactor,
            group: OWN,
        },
        time("sleep-link-ms", "Latency of each message in milliseconds"),
        ModelOption {
            name: "sleep-layers",
            value_name: "N",
            help: "Layers of each stage, which share its times",
            kind: Kind::Count,
            group: OWN,
        },
    ],
    own_defaults: || format!("{SLEEPS_MS} ms for each of F, I, W; 1 layer a stage"),
    make: |options| Ok(Arc::new(Sleep::new(options))),
};

/// Layers that sleep, as many on each stage.
#[derive(Clone, Copy, Debug)]
pub struct Sleep {
    /// The times of its ops.
    pub costs: KnownCosts,
    /// Layers of each stage.
    pub layers: usize,
}

impl Sleep {
    fn new(options: &Options) -> Self {
        let time = |name| options.time(name).unwrap_or(Duration::from_millis(SLEEPS_MS));
        Self {
            costs: KnownCosts {
                forward: time("sleep-forward-ms"),
                input_grad: time("sleep-input-grad-ms"),
                weight_grad: time("sleep-weight-grad-ms"),
                link: options.time("sleep-link-ms").unwrap_or_default(),
                slow_rank: options.rank_factor("sleep-slow-rank"),
            },
            layers: options.count("sleep-layers").unwrap_or(1),
        }
    }
}

impl Workload for Sleep {
    fn name(&self) -> &str {
        SLEEP.name
    }

    fn defaults(&self) -> Defaults {
        SLEEP.defaults.clone()
    }

    fn layers(&self) -> Option<usize> {
        None
    }

    fn job(&self, _: u64, topology: &Topology) -> std::result::Result<Job, BoxError> {
        let KnownCosts { forward, input_grad, weight_grad, slow_rank, .. } = self.costs;
        Ok(sleep(&SleepConfig {
            ranks: topology.ranks(Pipe(0)).iter().map(|rank| rank.0).collect(),
            virtual_stages: topology.n_virtual_stages(),
            layers: self.layers,
            forward,
            input_grad,
            weight_grad,
            slow_rank,
        })?)
    }

    fn bytes_per_sample(&self) -> u64 {
        // Four numbers and a target.
        4 * (4 + 1)
    }

    fn known_costs(&self) -> Option<KnownCosts> {
        Some(self.costs)
    }

    fn with_costs(&self, costs: KnownCosts) -> Option<Arc<dyn Workload>> {
        Some(Arc::new(Self { costs, ..*self }))
    }
}

/// The times of the layers, per rank share of one micro-batch.
#[derive(Clone, Debug)]
pub struct SleepConfig {
    /// The rank of each stage.
    pub ranks: Vec<u32>,
    /// Layers of each stage; each sleeps its part of the stage's times.
    pub layers: usize,
    /// Stages on each rank; each sleeps its part of the rank's share.
    pub virtual_stages: u32,
    /// Forward.
    pub forward: Duration,
    /// Gradient of the input.
    pub input_grad: Duration,
    /// Gradient of the weights.
    pub weight_grad: Duration,
    /// A slow rank, and the factor of its times.
    pub slow_rank: Option<(u32, f64)>,
}

/// As many sleeping layers for each stage. Each trains one number, so that nothing about it is special
/// to the runtime: `y = w·x`, and the loss is the mean square of the last `y`.
///
/// # Errors
/// If there is no stage or no layer, or the slow rank's factor is not a positive number.
pub fn sleep(config: &SleepConfig) -> std::result::Result<Job, ModelError> {
    if config.ranks.is_empty() || config.virtual_stages == 0 || config.layers == 0 {
        return Err(ModelError::Size(
            "a sleep model of 0 stages or layers: at least 1 is needed".to_owned(),
        ));
    }
    let factor = |rank| match config.slow_rank {
        Some((slow, factor)) if slow == rank => factor,
        _ => 1.0,
    };
    let mut stack = LayerStack::default();
    let ranks = config.ranks.iter().flat_map(|&rank| std::iter::repeat_n(rank, config.layers));
    for (i, rank) in ranks.enumerate() {
        let factor = factor(rank) / f64::from(config.virtual_stages) / config.layers as f64;
        if !factor.is_finite() || factor <= 0.0 {
            return Err(ModelError::Size(format!(
                "rank {rank} slowed {factor} times: a positive number is needed"
            )));
        }
        let [f, g, w] =
            [config.forward, config.input_grad, config.weight_grad].map(|d| d.mul_f64(factor));
        let name = format!("layers.{i}");
        stack.push(name.clone(), move |builder| {
            let weight = builder.get_with_hints((), &format!("{name}.weight"), Init::Const(1.0))?;
            Ok(single(move |x, context| {
                let op = SleepOp {
                    forward: f,
                    input_grad: g,
                    weight_grad: w,
                    queue: context.residues().cloned(),
                };
                x.contiguous()?.apply_op2(&weight, op)
            }))
        });
    }
    Ok(Job { stack, objective: Arc::new(OutputSquare), data: Box::new(Ones), flops_per_sample: 0 })
}

/// The most that a thread catches up. A process that was stopped for seconds still sleeps
/// afterwards.
const CATCH_UP: Duration = Duration::from_millis(5);

/// Sleeps for `duration`, less the time by which earlier sleeps of this thread were too long. The
/// system wakes a thread about 0.1 ms late. Over the layers of a step this would add up, and
/// differently in each replica.
fn rest(duration: Duration) {
    thread_local! {
        static LATE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }
    let begun = Instant::now();
    let late = LATE.get();
    std::thread::sleep(duration.saturating_sub(late));
    let late = (late + begun.elapsed()).saturating_sub(duration);
    LATE.set(late.min(CATCH_UP));
}

struct SleepOp {
    forward: Duration,
    input_grad: Duration,
    weight_grad: Duration,
    queue: Option<ResidueQueue>,
}

impl CustomOp2 for SleepOp {
    fn name(&self) -> &'static str {
        "sleep"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        rest(self.forward);
        let w = w.as_slice::<f32>()?[wl.start_offset()];
        let x = &x.as_slice::<f32>()?[xl.start_offset()..];
        let y = x[..xl.shape().elem_count()].iter().map(|v| v * w).collect();
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        rest(self.input_grad);
        let gx = x.track_op().then(|| gy.broadcast_mul(&w.detach())).transpose()?;
        let gw = (x.detach() * gy)?.sum_all()?;
        let Some(queue) = &self.queue else {
            rest(self.weight_grad);
            return Ok((gx, Some(gw)));
        };
        let (parameter, duration) = (w.id(), self.weight_grad);
        queue.push(Residue::deferred(4, vec![parameter], move || {
            rest(duration);
            Ok(vec![Residue::dense(parameter, gw)])
        }));
        Ok((gx, None))
    }
}

/// The mean square of the output. The targets play no part in it.
struct OutputSquare;

impl Objective for OutputSquare {
    fn loss(&self, outputs: &[Tensor], _: &Tensor, _: &ForwardContext) -> Result<Tensor> {
        outputs[0].sqr()?.mean_all()
    }
}

struct Ones;

impl DataSet for Ones {
    fn batch(&self, _: u64, size: usize) -> Result<Samples> {
        let x = Tensor::ones((size, 4), DType::F32, &Device::Cpu)?;
        Ok((vec![x], Tensor::zeros(size, DType::U32, &Device::Cpu)?))
    }
}
