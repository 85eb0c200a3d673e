//! What is to be trained, and how: every size that is left open has a default.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(feature = "fault-injection")]
use pp_executor::Fault;
use pp_executor::Recompute;
use pp_nn::{LearningRate, OptimizerKind};
use pp_partition::{Cut, Profile};
use pp_schedule::{ScheduleName, Sizes, ValidPlan};
use pp_telemetry::{SpanPolicy, cores};

use crate::error::TrainError;
use crate::kernels::KernelChoice;
use crate::limits;
use crate::workload::{Defaults, Workload};

/// Where the plan comes from.
#[derive(Clone, Debug)]
pub enum PlanSource {
    /// A schedule by name. One that follows from costs is made when they are measured.
    Named(ScheduleName),
    /// A plan that is there already, with its own sizes.
    Given(Arc<ValidPlan>),
}

/// Where ranks compute.
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

/// What is to be trained, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// The model, its loss and its data.
    pub workload: Arc<dyn Workload>,
    /// Where the plan comes from.
    pub plan: PlanSource,
    /// Ranks along the pipeline; `None` takes as many as there are cores, at most four, and no more
    /// than the model has layers for.
    pub pp: Option<u32>,
    /// Data-parallel replicas of the pipeline.
    pub dp: u32,
    /// Stages on each rank; `None` leaves that to the schedule.
    pub virtual_stages: Option<u32>,
    /// Micro-batches that pass through one chunk before the next chunk runs.
    pub interleave_group: Option<u32>,
    /// What a rank may hold, in activations of one micro-batch on all its stages, for a schedule
    /// that follows from costs.
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
    /// Which stages run their forward again instead of keeping what it made.
    pub recompute: Recompute,
    /// Whether the thread of each rank stays on a core of its own.
    pub pinned: bool,
    /// What multiplies matrices.
    pub kernels: KernelChoice,
    /// Whether ranks keep packed copies of their weights: faster, about twice their bytes, same
    /// bits.
    pub packs_weights: bool,
    /// Where ranks compute.
    pub device: DeviceChoice,
    /// How the model is cut into stages.
    pub cut: Cut,
    /// Steps between evaluations on what is held out; the last step is always followed by one.
    pub eval_every: Option<u64>,
    /// Steps whose spans are recorded.
    pub spans: SpanPolicy,
    /// FLOP/s that the device of one rank has at its peak, where somebody said so.
    pub peak_flops: Option<f64>,
    /// A file with initial weights, by name.
    pub init: Option<PathBuf>,
    /// A rank to fail on purpose, for tests.
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
            #[cfg(feature = "fault-injection")]
            fault: None,
        }
    }

    /// The schedule, where it has a name.
    pub fn named(&self) -> Option<ScheduleName> {
        match self.plan {
            PlanSource::Named(name) => Some(name),
            PlanSource::Given(_) => None,
        }
    }

    /// The schedule, if its plan follows from costs: it is made when they are known.
    pub fn synthesised(&self) -> Option<ScheduleName> {
        self.named().filter(|name| name.is_synthesised())
    }

    /// The number of ranks where none is given and the schedule has a name: as many as there are
    /// cores, at most four, and no more than the model has layers for.
    pub fn default_pp(&self) -> Option<u32> {
        let name = self.named()?;
        let v = self.chunks(name);
        let layers = self.workload.layers();
        let fits = layers.map_or(u32::MAX, |layers| (layers as u32 / v).max(1));
        let pp = cores().min(4).min(fits);
        // Two pipelines meet on pairs of ranks.
        Some(if name == ScheduleName::Chimera { (pp / 2 * 2).max(2) } else { pp })
    }

    /// The stages that each rank holds at least.
    fn chunks(&self, name: ScheduleName) -> u32 {
        let unless_given = if name.is_synthesised() { 1 } else { name.default_virtual_stages() };
        self.virtual_stages.unwrap_or(unless_given)
    }

    /// The sizes that a schedule by name is asked for.
    fn sizes(&self, name: ScheduleName) -> Sizes {
        Sizes {
            n_ranks: self.pp.or_else(|| self.default_pp()).unwrap_or(1),
            n_micro_batches: self.micro_batches,
            n_virtual_stages: self.chunks(name),
            interleave_group: self.interleave_group,
        }
    }

    /// The schedule and the sizes of the first plan; `None` for a plan that is given. A schedule
    /// that follows from costs begins with another one's plan of the same sizes.
    pub fn outline(&self) -> Option<(ScheduleName, Sizes)> {
        let name = self.named()?;
        Some((outline(name), self.sizes(name)))
    }

    /// Looks at everything that can be told before a plan is made.
    ///
    /// # Errors
    /// More stages than layers, more ranks than threads, sizes that the schedule does not take.
    pub fn check(&self) -> Result<(), TrainError> {
        if let (Some(name), Some(ranks), Some(layers)) =
            (self.named(), self.pp, self.workload.layers())
        {
            self.refuse_too_many_stages(ranks, self.chunks(name), layers)?;
        }
        limits::threads(self.pp.or_else(|| self.default_pp()).unwrap_or(1), self.dp)?;
        let Some(name) = self.named() else { return Ok(()) };
        let sizes = self.sizes(name);
        if name.is_synthesised() && self.interleave_group.is_some() {
            name.check(&sizes)?;
        }
        let checked = outline(name).check(&sizes).map(drop);
        checked.map_err(|source| TrainError::Sizes { name, sizes, source: Box::new(source) })
    }

    /// The plan, validated; of a schedule that follows from costs one of the same sizes.
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

    /// What a cut by time balances: a layer that runs its forward again takes as much longer. Which
    /// layers these are is open before the cut where stages are named.
    pub(crate) fn profile_to_cut<'a>(&self, profile: &'a Profile) -> Cow<'a, Profile> {
        let mut profile = Cow::Borrowed(profile);
        if self.recompute == Recompute::Always {
            for layer in &mut profile.to_mut().layers {
                layer.input_grad_seconds += layer.forward_seconds;
            }
        }
        profile
    }

    /// Threads that are to have a core each need as many.
    pub(crate) fn refuse_too_few_cores(&self, n_ranks: u32) -> Result<(), TrainError> {
        let (ranks, cores) = (n_ranks * self.dp, cores());
        if self.pinned && ranks > cores {
            return Err(TrainError::Cores { ranks, cores });
        }
        Ok(())
    }

    /// A stage that is to run its forward again has to exist.
    pub(crate) fn refuse_absent_stages(&self, stages: u32) -> Result<(), TrainError> {
        let Recompute::Stages(named) = &self.recompute else { return Ok(()) };
        match named.iter().find(|&&stage| stage >= stages) {
            None => Ok(()),
            Some(&stage) => Err(TrainError::AbsentStage { stage, stages }),
        }
    }

    /// Each stage needs a layer.
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

    /// A rank that is to be slow, or to fail, has to be there.
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

/// The schedule whose plan stands for one that is made when costs are known.
fn outline(name: ScheduleName) -> ScheduleName {
    if name.is_synthesised() { ScheduleName::LoopedBfs } else { name }
}
