//! The configuration of a training run. Every size that is left open has a default.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(feature = "fault-injection")]
use pp_executor::Fault;
use pp_executor::{BUCKET_BYTES, InWorld, Recompute};
use pp_hybrid::DeviceKind;
use pp_nn::{LearningRate, OptimizerKind};
use pp_partition::{Cut, Profile};
use pp_schedule::{ScheduleName, Sizes, ValidPlan};
use pp_telemetry::{SpanPolicy, cores};

use crate::continuing::{JobRecord, Resume};
use crate::devices::cuda_devices;
use crate::error::TrainError;
use crate::kernels::KernelChoice;
use crate::limits;
use crate::workload::{Defaults, Workload};

/// The source of the plan.
#[derive(Clone, Debug)]
pub enum PlanSource {
    /// A schedule by name. A plan that follows from costs is made once they are measured.
    Named(ScheduleName),
    /// A finished plan, with its own sizes.
    Given(Arc<ValidPlan>),
}

/// The kind of device that ranks compute on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// CUDA where it can be used, else the CPU.
    #[default]
    Auto,
    /// Each rank is a thread.
    Cpu,
    /// CUDA devices.
    Cuda,
}

/// The configuration of a training run.
#[expect(clippy::struct_excessive_bools, reason = "none depends on the others")]
#[derive(Clone, Debug)]
pub struct Config {
    /// The model, its loss and its data.
    pub workload: Arc<dyn Workload>,
    /// The source of the plan.
    pub plan: PlanSource,
    /// Ranks along the pipeline; `None` takes as many as there are GPUs for each replica, or cores,
    /// at most four, where no GPU is used; and no more than the model has layers for.
    pub pp: Option<u32>,
    /// Data-parallel replicas of the pipeline.
    pub dp: u32,
    /// Whether each replica keeps the optimizer's state for its share of the parameters alone. That
    /// changes no bit of a result.
    pub shards_optimizer: bool,
    /// The bytes of gradients that are sent together to the other copies of a stage, at least; with 0
    /// each parameter is sent alone. That changes no bit of a result.
    pub bucket_bytes: usize,
    /// Stages on each rank; `None` leaves the number to the schedule.
    pub virtual_stages: Option<u32>,
    /// Micro-batches that pass through one chunk before the next chunk runs.
    pub interleave_group: Option<u32>,
    /// The memory limit of a rank, for a schedule that follows from costs. The unit is the
    /// activations of one micro-batch on all stages of the rank.
    pub memory_limit: Option<f64>,
    /// Micro-batches of each replica, for a schedule by name.
    pub micro_batches: u32,
    /// Samples of a step, over all replicas; `None` takes one for each micro-batch.
    pub batch_size: Option<u64>,
    /// Steps to train.
    pub steps: u64,
    /// The seed of weights, dropout and data.
    pub seed: u64,
    /// The learning rate of every step.
    pub rate: LearningRate,
    /// The optimizer.
    pub optimizer: OptimizerKind,
    /// The largest norm of the gradient of the whole model.
    pub clip_norm: Option<f64>,
    /// The stages that recompute their activations in the backward instead of keeping them.
    pub recompute: Recompute,
    /// Whether the thread of each rank stays on a core of its own.
    pub pinned: bool,
    /// The matrix kernels.
    pub kernels: KernelChoice,
    /// Whether ranks keep packed copies of their weights. The copies make products faster, take
    /// about twice the bytes of the weights, and change no bit of a result.
    pub packs_weights: bool,
    /// The kind of device that ranks compute on.
    pub device: DeviceChoice,
    /// How the model is cut into stages.
    pub cut: Cut,
    /// Steps between evaluations on the held-out part. The last step is always followed by an
    /// evaluation.
    pub eval_every: Option<u64>,
    /// Steps whose spans are recorded.
    pub spans: SpanPolicy,
    /// Peak FLOP/s of the device of one rank, if known.
    pub peak_flops: Option<f64>,
    /// A safetensors file with initial weights, by name.
    pub init: Option<PathBuf>,
    /// Whether `init` may have weights that are not finite.
    pub takes_nonfinite: bool,
    /// The checkpoint that the run resumes from. Its weights take the place of `init`.
    pub resume: Option<Resume>,
    /// The processes of the run, if its ranks are processes; else they are threads of this one.
    pub world: Option<InWorld>,
    /// A fault to inject, for tests.
    #[cfg(feature = "fault-injection")]
    pub fault: Option<Fault>,
}

impl Config {
    /// The workload's own defaults, under 1F1B.
    pub fn new(workload: Arc<dyn Workload>) -> Self {
        let defaults = workload.defaults();
        let Defaults { steps, batch_size, micro_batches, rate, optimizer, .. } = defaults;
        Self {
            workload,
            plan: PlanSource::Named(ScheduleName::OneFOneB),
            pp: None,
            dp: 1,
            shards_optimizer: false,
            bucket_bytes: BUCKET_BYTES,
            virtual_stages: None,
            interleave_group: None,
            memory_limit: None,
            micro_batches,
            batch_size,
            steps,
            seed: 0,
            rate,
            optimizer,
            clip_norm: defaults.clip_norm,
            recompute: Recompute::default(),
            pinned: false,
            kernels: KernelChoice::default(),
            packs_weights: true,
            device: DeviceChoice::default(),
            cut: defaults.cut,
            eval_every: defaults.eval_every,
            spans: SpanPolicy::default(),
            peak_flops: None,
            init: None,
            takes_nonfinite: false,
            resume: None,
            world: None,
            #[cfg(feature = "fault-injection")]
            fault: None,
        }
    }

    /// The same, with the kernels of the checkpoint that it resumes from, unless it names others or
    /// this machine lacks them: with others the losses have other bits.
    #[must_use]
    pub(crate) fn with_kept_choices(mut self) -> Self {
        let record = self.resume.as_ref().map(|resume| JobRecord::read(&resume.checkpoint));
        if self.kernels == KernelChoice::Auto
            && let Some(Ok(record)) = record
            && let Some(kernels) = record.kernels()
        {
            self.kernels = kernels;
        }
        self
    }

    /// The schedule, if the plan comes from one by name.
    pub fn named(&self) -> Option<ScheduleName> {
        match self.plan {
            PlanSource::Named(name) => Some(name),
            PlanSource::Given(_) => None,
        }
    }

    /// The schedule, if its plan follows from costs. Such a plan is made once they are known.
    pub fn synthesised(&self) -> Option<ScheduleName> {
        self.named().filter(|name| name.is_synthesised())
    }

    /// The devices of all ranks.
    ///
    /// # Errors
    /// CUDA is asked for and cannot be used, or the model runs on the processor only.
    pub(crate) fn device_kind(&self) -> Result<DeviceKind, TrainError> {
        let waits = self.workload.known_costs().is_some();
        match self.device {
            DeviceChoice::Cpu => Ok(DeviceKind::Cpu),
            DeviceChoice::Auto if waits => Ok(DeviceKind::Cpu),
            DeviceChoice::Cuda if waits => {
                Err(TrainError::WaitsOnCpu { model: self.workload.name().to_owned() })
            }
            DeviceChoice::Auto => {
                Ok(cuda_devices().map_or(DeviceKind::Cpu, |n| DeviceKind::Cuda { devices: n }))
            }
            DeviceChoice::Cuda => Ok(DeviceKind::Cuda { devices: cuda_devices()? }),
        }
    }

    /// The default number of ranks of a schedule by name: the number of GPUs for each replica, or of
    /// cores, at most four; and no more than the model has layers for.
    pub fn default_pp(&self) -> Option<u32> {
        let name = self.named()?;
        let v = self.chunks(name);
        if let Some(InWorld(world)) = &self.world {
            return Some((world.size() / self.dp.max(1)).max(1));
        }
        let layers = self.workload.layers();
        let fits = layers.map_or(u32::MAX, |layers| (layers as u32 / v).max(1));
        let pp = match self.device_kind() {
            Ok(DeviceKind::Cuda { devices }) => (devices / self.dp.max(1)).max(1),
            // What is wrong with the device is said when it is needed.
            _ => cores().min(4),
        };
        let pp = pp.min(fits);
        // Two pipelines meet on pairs of ranks.
        Some(if name == ScheduleName::Chimera { (pp / 2 * 2).max(2) } else { pp })
    }

    /// The smallest number of stages on each rank.
    fn chunks(&self, name: ScheduleName) -> u32 {
        let unless_given = if name.is_synthesised() { 1 } else { name.default_virtual_stages() };
        self.virtual_stages.unwrap_or(unless_given)
    }

    /// The sizes of a plan by this schedule.
    fn sizes(&self, name: ScheduleName) -> Sizes {
        Sizes {
            n_ranks: self.pp.or_else(|| self.default_pp()).unwrap_or(1),
            n_micro_batches: self.micro_batches,
            n_virtual_stages: self.chunks(name),
            interleave_group: self.interleave_group,
        }
    }

    /// The schedule and the sizes of the first plan; `None` for a plan that is given. A schedule
    /// that follows from costs begins with another schedule's plan of the same sizes.
    pub fn outline(&self) -> Option<(ScheduleName, Sizes)> {
        let name = self.named()?;
        Some((outline(name), self.sizes(name)))
    }

    /// Checks everything that can be checked before a plan is made.
    ///
    /// # Errors
    /// More stages than layers, more ranks than threads, unknown costs, sizes that the schedule does
    /// not take.
    pub fn check(&self) -> Result<(), TrainError> {
        if let (Some(name), Some(ranks), Some(layers)) =
            (self.named(), self.pp, self.workload.layers())
        {
            self.refuse_too_many_stages(ranks, self.chunks(name), layers)?;
        }
        limits::threads(self.pp.or_else(|| self.default_pp()).unwrap_or(1), self.dp)?;
        let Some(name) = self.named() else { return Ok(()) };
        // Layers that follow from the plan cannot be measured before it.
        let (layers, known) = (self.workload.layers(), self.workload.known_costs());
        if name.is_synthesised() && layers.is_none() && known.is_none() {
            return Err(self.unknown_costs(name));
        }
        let sizes = self.sizes(name);
        if name.is_synthesised() && self.interleave_group.is_some() {
            name.check(&sizes)?;
        }
        let checked = outline(name).check(&sizes).map(drop);
        checked.map_err(|source| TrainError::Sizes { name, sizes, source: Box::new(source) })
    }

    /// The validated plan. A schedule that follows from costs has a stand-in of the same sizes.
    ///
    /// # Errors
    /// As [`Config::check`], and for a plan that does not train.
    pub fn plan(&self) -> Result<ValidPlan, TrainError> {
        self.check()?;
        let plan = match &self.plan {
            PlanSource::Given(plan) => ValidPlan::clone(plan),
            &PlanSource::Named(name) => {
                let sizes = self.sizes(name);
                let made = outline(name).generate(&sizes);
                made.map_err(|source| TrainError::Sizes { name, sizes, source: Box::new(source) })?
            }
        };
        if plan.is_forward_only() {
            return Err(TrainError::ForwardOnly { plan: plan.name().to_owned() });
        }
        Ok(plan)
    }

    /// The profile that a cut by time balances. Recomputation on all stages adds the forward time
    /// to each layer. Recomputation on named stages adds nothing: their layers are not known before
    /// the cut.
    pub(crate) fn profile_to_cut<'a>(&self, profile: &'a Profile) -> Cow<'a, Profile> {
        let mut profile = Cow::Borrowed(profile);
        if self.recompute == Recompute::Always {
            for layer in &mut profile.to_mut().layers {
                layer.input_grad_seconds += layer.forward_seconds;
            }
        }
        profile
    }

    /// The refusal of a schedule that follows from costs, if they are unknown.
    pub(crate) fn unknown_costs(&self, schedule: ScheduleName) -> TrainError {
        TrainError::UnknownCosts { schedule, model: self.workload.name().to_owned() }
    }

    /// Refuses pinned ranks if there are fewer cores than ranks.
    pub(crate) fn refuse_too_few_cores(&self, n_ranks: u32) -> Result<(), TrainError> {
        let (ranks, cores) = (n_ranks * self.dp, cores());
        if self.pinned && ranks > cores {
            return Err(TrainError::Cores { ranks, cores });
        }
        Ok(())
    }

    /// Refuses recomputation on a stage that the plan does not have.
    pub(crate) fn refuse_absent_stages(&self, stages: u32) -> Result<(), TrainError> {
        let Recompute::Stages(named) = &self.recompute else { return Ok(()) };
        match named.iter().find(|&&stage| stage >= stages) {
            None => Ok(()),
            Some(&stage) => Err(TrainError::AbsentStage { stage, stages }),
        }
    }

    /// Refuses more stages than layers.
    pub(crate) fn refuse_too_many_stages(
        &self,
        ranks: u32,
        chunks: u32,
        layers: usize,
    ) -> Result<(), TrainError> {
        if u64::from(ranks) * u64::from(chunks) <= layers as u64 {
            return Ok(());
        }
        let model = self.workload.name().to_owned();
        Err(TrainError::TooManyStages { ranks, chunks, layers, model })
    }

    /// Refuses a slow rank, or a fault on a rank, that the plan does not have.
    pub(crate) fn refuse_absent_rank(&self, plan: &ValidPlan) -> Result<(), TrainError> {
        let slow = self.workload.known_costs().and_then(|costs| costs.slow_rank);
        if slow.is_some() && plan.n_pipes() > 1 {
            return Err(TrainError::SharedStages { plan: plan.name().to_owned() });
        }
        let ranks = plan.n_ranks();
        if let Some((rank, _)) = slow.filter(|&(rank, _)| rank >= ranks) {
            return Err(TrainError::AbsentSlowRank { rank, ranks });
        }
        #[cfg(feature = "fault-injection")]
        if let Some(rank) = self.fault.map(|fault| fault.rank.0).filter(|&rank| rank >= ranks) {
            return Err(TrainError::AbsentFault { rank, ranks });
        }
        Ok(())
    }

    /// Samples of a step, checked against the plan.
    pub(crate) fn samples(&self, plan: &ValidPlan) -> Result<u64, TrainError> {
        let parts = u64::from(self.dp) * u64::from(plan.n_micro_batches());
        let batch = self.batch_size.unwrap_or(parts);
        if batch.is_multiple_of(parts) {
            return Ok(batch);
        }
        Err(TrainError::Uneven {
            batch,
            micro_batches: plan.n_micro_batches(),
            replicas: self.dp,
            ranks: plan.n_ranks(),
            virtual_stages: plan.n_virtual_stages(),
        })
    }
}

/// The schedule whose plan is used until costs are known.
fn outline(name: ScheduleName) -> ScheduleName {
    if name.is_synthesised() { ScheduleName::LoopedBfs } else { name }
}
