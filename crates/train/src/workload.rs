//! Workloads: models with their losses and their data.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use candle_core::Result as TensorResult;
use pp_executor::Pace;
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::{Cut, Stage};
use pp_schedule::{Op, Phase, Rank, Topology};

use crate::job::Job;

/// The error of a workload, of any type. Its text becomes a part of one line.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A model with its loss and its data, and what is known of them before they are built.
///
/// [`Workload::name`], [`Workload::layers`] and [`Workload::job`] are enough to train. The other
/// methods have defaults. They make refusals come earlier, or screens show more.
pub trait Workload: Send + Sync {
    /// The name: in the log, on screens, and in the id of a run.
    fn name(&self) -> &str;

    /// The defaults of a run of this workload.
    fn defaults(&self) -> Defaults {
        Defaults::default()
    }

    /// The number of layers of the stack; `None` if the stack has one for each stage of the plan.
    fn layers(&self) -> Option<usize>;

    /// Layers, loss and data. The same seed gives the same data. Only a workload whose layers
    /// follow from the plan looks at `topology`, the stages and their ranks.
    ///
    /// # Errors
    /// The job cannot be built: a file cannot be read, or sizes do not fit each other.
    fn job(&self, seed: u64, topology: &Topology) -> Result<Job, BoxError>;

    /// The number of parameters, where it is known without building a layer. A model that is too
    /// large for the machine is then refused before its layers are listed.
    fn parameters(&self) -> Option<u128> {
        None
    }

    /// Bytes of one sample with its targets; 0 where that is not known.
    fn bytes_per_sample(&self) -> u64 {
        0
    }

    /// Bytes that training on one sample needs beside the parameters, where that is known.
    fn activation_bytes_per_sample(&self) -> Option<u128> {
        None
    }

    /// The length of a sample, where an option sets it. A refusal of too large a micro-batch names
    /// both.
    fn sample_length(&self) -> Option<SampleLength> {
        None
    }

    /// The largest batch that makes sense, where there is one.
    fn samples_max(&self) -> Option<u64> {
        None
    }

    /// The times of its ops, if they are known without measuring. Such a workload waits instead of
    /// computing: it needs no kernels, and its ranks are on CPUs.
    fn known_costs(&self) -> Option<KnownCosts> {
        None
    }

    /// The same workload with other costs; `None` unless its costs are known.
    fn with_costs(&self, costs: KnownCosts) -> Option<Arc<dyn Workload>> {
        let _ = costs;
        None
    }

    /// Whether [`Workload::sample`] generates text.
    fn makes_samples(&self) -> bool {
        false
    }

    /// Generates about `bytes` bytes of text with the trained `model`, the whole stack as one
    /// stage. `goes_on` gets the number of bytes so far, and returns whether to continue.
    ///
    /// # Errors
    /// Errors of candle. The default method always fails: the workload makes no samples.
    fn sample(
        &self,
        model: &Stage,
        bytes: usize,
        seed: u64,
        goes_on: &mut dyn FnMut(usize) -> bool,
    ) -> TensorResult<Vec<u8>> {
        let _ = (model, bytes, seed, goes_on);
        candle_core::bail!("{} makes no samples", self.name())
    }

    /// The files that belong beside the weights, so that other programs can load the model: their
    /// names and contents. They are written where the weights are saved as `model.safetensors`.
    ///
    /// # Errors
    /// A file cannot be read.
    fn companions(&self) -> Result<Vec<(String, Vec<u8>)>, BoxError> {
        Ok(Vec::new())
    }

    /// The facts that another program needs to repeat a step of this model, by name. They go into
    /// the file with the tensors of the first step.
    fn facts(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

impl fmt::Debug for dyn Workload + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Workload").field(&self.name()).finish()
    }
}

/// The length of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleLength {
    /// The length.
    pub length: usize,
    /// Its unit, in the plural.
    pub unit: &'static str,
    /// The name of the option that sets it.
    pub option: &'static str,
}

/// The defaults of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// Steps to train.
    pub steps: u64,
    /// Samples of a step, over all replicas; `None` takes one for each micro-batch.
    pub batch_size: Option<u64>,
    /// Micro-batches of each replica.
    pub micro_batches: u32,
    /// The learning rate of every step.
    pub rate: LearningRate,
    /// The optimizer.
    pub optimizer: OptimizerKind,
    /// The largest norm of the gradient of the whole model.
    pub clip_norm: Option<f64>,
    /// Steps between evaluations; `None` if nothing is held out.
    pub eval_every: Option<u64>,
    /// How the model is cut into stages.
    pub cut: Cut,
}

impl Default for Defaults {
    /// 100 steps of Adam at a constant rate of 1e-3, on 32 samples in 8 micro-batches, cut by
    /// measured times.
    fn default() -> Self {
        Self {
            steps: 100,
            batch_size: Some(32),
            micro_batches: 8,
            rate: LearningRate { peak: 1e-3, curve: LearningRateCurve::Constant, warmup: 0 },
            optimizer: OptimizerKind::Adam,
            clip_norm: None,
            eval_every: None,
            cut: Cut::Time,
        }
    }
}

/// The times of a workload's ops, known without measuring. They are those of a rank's share of one
/// micro-batch, however many stages the rank has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnownCosts {
    /// F, the forward.
    pub forward: Duration,
    /// I, the gradient of the input.
    pub input_grad: Duration,
    /// W, the gradient of the weights.
    pub weight_grad: Duration,
    /// The latency of each message.
    pub link: Duration,
    /// A slow rank, and the factor of its times.
    pub slow_rank: Option<(u32, f64)>,
}

impl KnownCosts {
    /// Multiplies the times of all ops. Messages keep their latency.
    #[must_use]
    pub fn longer(self, factor: f64) -> Self {
        let [forward, input_grad, weight_grad] =
            [self.forward, self.input_grad, self.weight_grad].map(|time| time.mul_f64(factor));
        Self { forward, input_grad, weight_grad, ..self }
    }

    /// The pace of the executor for ops, with `n_virtual_stages` stages on each rank.
    pub(crate) fn pace(self, n_virtual_stages: u32) -> Pace {
        Arc::new(move |rank: Rank, op: Op| {
            let share = match op.phase {
                Phase::Forward => self.forward,
                Phase::Backward => self.input_grad.saturating_add(self.weight_grad),
                Phase::InputGrad => self.input_grad,
                Phase::WeightGrad => self.weight_grad,
            };
            let slow = self.slow_rank.filter(|&(slow, _)| slow == rank.0);
            share.mul_f64(slow.map_or(1.0, |(_, factor)| factor) / f64::from(n_virtual_stages))
        })
    }
}
