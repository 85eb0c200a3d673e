//! From a job's description to a trainer that runs.

mod continued;
mod places;
mod told;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pp_executor::{InWorld, OptimizerState, PlannedMemory, RankConfig, rehearse};
use pp_hybrid::{Mesh, Trainer, TrainerConfig};
use pp_nn::Kernels;
use pp_partition::{Cut, LayerProfile, Partition, ProfileConfig};
use pp_schedule::{
    Costs, Rank, RankShare, Replica, ScheduleName, Sizes, Topology, ValidPlan, closed_form,
    simulate,
};
use pp_telemetry::{PlannedMem, Recorder, cores};

use crate::config::Config;
use crate::cutting::{ranks_of, solve};
use crate::error::TrainError;
use crate::job::Job;
use crate::kernels::Chosen;
use crate::limits;
use crate::profiles::{Initial, Profiles};
use crate::synthesis::{self, Promise};
use crate::weights::{self, WeightsError};

pub use places::RankPlace;

/// A phase of the preparation of a job, with its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preparing {
    /// Layers are measured: the number so far, and the number in all.
    Profiling(usize, usize),
    /// The plan and the cut are made.
    Cutting,
}

/// A checked job: everything that can be checked without measuring is right.
#[derive(Debug)]
pub struct Prepared {
    config: Config,
    /// `None` if the layers follow from a plan that is still to be made.
    job: Option<Job>,
    plan: ValidPlan,
    batch_size: u64,
    mesh: Mesh,
}

/// A job that is ready to start: its configuration has passed all checks.
#[derive(Debug)]
pub struct Session {
    pub(crate) config: Config,
    pub(crate) job: Job,
    pub(crate) plan: ValidPlan,
    pub(crate) partition: Partition,
    pub(crate) batch_size: u64,
    pub(crate) mesh: Mesh,
    pub(crate) promise: Option<Promise>,
    /// The measured seconds of each layer for a micro-batch; empty if nothing was measured.
    pub(crate) layer_seconds: Vec<f64>,
    pub(crate) chosen: Option<Chosen>,
    /// Initial weights, until the ranks take them.
    initial: Option<Initial>,
    /// The state of the optimizer to resume from, until the ranks take it.
    resumed: Option<Arc<OptimizerState>>,
    /// What differs from the job of the checkpoint, a line each.
    changes: Vec<String>,
}

impl Prepared {
    /// Checks everything that needs no measuring: sizes, plan, files. Writes nothing.
    ///
    /// # Errors
    /// The configuration, or a file that it names, is wrong.
    pub fn new(config: Config) -> Result<Self, TrainError> {
        let config = config.with_kept_choices();
        let plan = config.plan()?;
        let batch_size = config.samples(&plan)?;
        limits::threads(plan.n_ranks(), config.dp)?;
        config.refuse_absent_rank(&plan)?;
        let mesh = Mesh::new(plan.n_ranks(), config.dp, config.device_kind()?)?;
        if let Some(InWorld(world)) = &config.world {
            let (ranks, replicas, processes) = (plan.n_ranks(), config.dp, world.size());
            if ranks.checked_mul(replicas) != Some(processes) {
                return Err(TrainError::Processes { ranks, replicas, processes });
            }
        }
        let mut prepared = Self { config, job: None, plan, batch_size, mesh };
        let config = &prepared.config;
        let follows = config.workload.layers().is_none() && config.synthesised().is_some();
        if !follows {
            let job = build(config, prepared.plan.topology())?;
            prepared.check(&job)?;
            prepared.job = Some(job);
        }
        let (config, plan) = (&prepared.config, &prepared.plan);
        if config.synthesised().is_some() {
            synthesis::refuse_wrong_sizes(config, plan, prepared.job.as_ref())?;
        } else {
            config.refuse_absent_stages(plan.n_stages())?;
            // What needs no profile can be refused without one.
            if let Some(job) = prepared.job.as_ref().filter(|_| config.cut != Cut::Time) {
                let ranks = ranks_of(plan.topology(), plan.n_micro_batches());
                solve(&config.cut, &job.stack, ranks, None)?;
            }
        }
        config.refuse_too_few_cores(plan.n_ranks())?;
        Ok(prepared)
    }

    /// The processes of the run.
    pub(crate) fn world(&self) -> Option<&InWorld> {
        self.config.world.as_ref()
    }

    /// Checks that this machine can hold the job, and that the initial weights are the model's.
    fn check(&self, job: &Job) -> Result<(), TrainError> {
        let Self { config, plan, batch_size, .. } = self;
        let workload = &config.workload;
        config.refuse_too_many_stages(plan.n_ranks(), plan.n_virtual_stages(), job.stack.len())?;
        let counts = job.stack.parameter_counts()?;
        let n_copies = config.dp.saturating_mul(plan.n_pipes());
        limits::parameters(counts.iter().map(|&n| u128::from(n)).sum(), n_copies)?;
        limits::batch(*batch_size, workload.bytes_per_sample())?;
        if let Some(most) = workload.samples_max().filter(|most| batch_size > most) {
            let (model, samples) = (workload.name().to_owned(), *batch_size);
            return Err(TrainError::TooManySamples { model, samples, most });
        }
        if let Some(bytes) = workload.activation_bytes_per_sample() {
            limits::activations(bytes, rows(*batch_size, config.dp, plan) as u64)?;
        }
        if let Some(path) = &config.init {
            let known = job.stack.shapes()?;
            weights::check(path, &known, job.stack.ties()).map_err(|why| unusable(path, why))?;
        }
        Ok(())
    }

    /// Measures the layers if necessary, cuts the model, and loads the initial weights.
    /// `on_progress` gets each phase.
    ///
    /// # Errors
    /// As [`Prepared::new`], if the measured costs do not allow a plan or a cut. Measuring itself
    /// may fail as well.
    pub fn cut(
        mut self,
        profiles: &mut Profiles,
        mut on_progress: impl FnMut(Preparing),
    ) -> Result<Session, TrainError> {
        let world = self.config.world.clone();
        if let Some(world) = world.as_ref().filter(|world| world.0.index() > 0) {
            return self.follow(world, profiles);
        }
        let config = &self.config;
        let waits = config.workload.known_costs().is_some();
        let n_stages = self.plan.n_stages() as usize;
        let rows = rows(self.batch_size, config.dp, &self.plan);
        let synthesised = config.synthesised();
        let wants_profile = (config.cut == Cut::Time && n_stages > 1) || synthesised.is_some();
        let multiplies = !waits && self.mesh.is_on_cpu();
        let chosen = multiplies.then(|| profiles.kernels(config.kernels));
        let kernels = chosen.as_ref().map(|chosen| chosen.kernels).unwrap_or_default();
        let profile = match &self.job {
            Some(job) if wants_profile && !waits => {
                // On the kind of device that will train.
                let place = self.mesh.device(Rank(0), Replica(0));
                let n_layers = job.stack.len();
                let on_layer = |done| on_progress(Preparing::Profiling(done, n_layers));
                // As the ranks do: a single micro-batch gains nothing.
                let packs_weights =
                    config.packs_weights && self.plan.n_micro_batches() > self.plan.n_pipes();
                let measure = ProfileConfig { kernels, packs_weights, ..ProfileConfig::default() };
                Some(profiles.measured(job, rows, place, measure, on_layer)?)
            }
            _ => None,
        };
        on_progress(Preparing::Cutting);
        let (mut made_for, mut promise) = (None, None);
        if let Some(name) = synthesised {
            let made = synthesis::make(config, name, &self.plan, self.job.as_ref(), profile)?;
            (self.plan, made_for, promise) = (made.plan, made.partition, Some(made.promise));
        }
        let job = if let Some(job) = self.job.take() {
            job
        } else {
            // Its layers follow from the plan, which is made now.
            let job = build(&self.config, self.plan.topology())?;
            self.check(&job)?;
            job
        };
        let Self { config, plan, batch_size, mesh, .. } = self;
        let n_stages = plan.n_stages() as usize;
        config.refuse_absent_stages(plan.n_stages())?;
        config.refuse_too_few_cores(plan.n_ranks())?;
        let profile = profile.map(|profile| config.profile_to_cut(profile));
        let layer_seconds = profile.as_ref().map_or_else(Vec::new, |profile| {
            let whole = |layer: &LayerProfile| layer.forward_seconds + layer.backward_seconds();
            profile.layers.iter().map(whole).collect()
        });
        // A single stage needs no profile. Layers that wait have none: they are alike.
        let is_uniform = config.cut == Cut::Time && (n_stages == 1 || waits);
        let cut = if is_uniform { &Cut::Uniform } else { &config.cut };
        let partition = if let Some(partition) = made_for {
            partition
        } else {
            let ranks = ranks_of(plan.topology(), plan.n_micro_batches());
            solve(cut, &job.stack, ranks, profile.as_deref())?
        };
        let initial = initial(&config, &job, profiles)?;
        let mut session = Session {
            config,
            job,
            plan,
            partition,
            batch_size,
            mesh,
            promise,
            layer_seconds,
            chosen,
            initial,
            resumed: None,
            changes: Vec::new(),
        };
        session.resume()?;
        if let Some(world) = &world {
            session.tell(world)?;
        }
        Ok(session)
    }
}

impl Session {
    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Layers, loss and data.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The plan of the ranks.
    pub fn plan(&self) -> &ValidPlan {
        &self.plan
    }

    /// The layers of each stage.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Samples of a step, over all replicas.
    pub fn batch_size(&self) -> u64 {
        self.batch_size
    }

    /// The prediction of a plan that follows from costs.
    pub fn promise(&self) -> Option<Promise> {
        self.promise
    }

    /// The matrix kernels; `None` if layers only wait, or compute on GPUs.
    pub fn kernels_chosen(&self) -> Option<&Chosen> {
        self.chosen.as_ref()
    }

    /// Sets up one of several jobs with one model. All of them take the same measurements, so that
    /// they are cut alike.
    ///
    /// # Errors
    /// As [`Prepared::new`] and [`Prepared::cut`].
    pub fn with_profiles(config: Config, profiles: &mut Profiles) -> Result<Self, TrainError> {
        Prepared::new(config)?.cut(profiles, |_| {})
    }

    /// The predicted memory of each rank; that of the replica which needs most. It is empty if memory
    /// is not counted, if layers only wait, and in a process that follows another one.
    ///
    /// # Errors
    /// If a stage cannot be built or run.
    pub fn memory_plan(&self) -> Result<Vec<PlannedMem>, TrainError> {
        let follows = self.config.world.as_ref().is_some_and(|world| world.0.index() > 0);
        if self.waits() || follows {
            return Ok(Vec::new());
        }
        let (inputs, targets) = self.job.data.batch(1, self.rows())?;
        // All ranks are rehearsed here, whichever process will have them.
        let config = self.ranks(Recorder::disabled(), Instant::now());
        let planned = rehearse(&config, &inputs, &targets)?;
        let of_rank = |(rank, planned): (usize, PlannedMemory)| PlannedMem {
            rank: rank as u32,
            peak_bytes: planned.peak_bytes(),
            parameter_bytes: planned.parameter_bytes,
            gradient_bytes: planned.gradient_bytes,
            optimizer_bytes: planned.optimizer_bytes,
            packed_bytes: planned.packed_bytes,
            stash_bytes: planned.stash_bytes,
            temporary_bytes: planned.temporary_bytes,
            checkpoint_bytes: planned.checkpoint_bytes(),
        };
        Ok(planned.unwrap_or_default().into_iter().enumerate().map(of_rank).collect())
    }

    /// Starts the ranks. Initial weights go to them: a second call starts from the seed.
    ///
    /// # Errors
    /// If a rank cannot start.
    pub fn trainer(&mut self, recorder: Recorder, origin: Instant) -> Result<Trainer, TrainError> {
        self.trainer_of(recorder, origin, None)
    }

    /// The same for a run, whose processes keep their files in `sheets`.
    pub(crate) fn trainer_of(
        &mut self,
        recorder: Recorder,
        origin: Instant,
        sheets: Option<PathBuf>,
    ) -> Result<Trainer, TrainError> {
        let (initial, resumed) = (self.initial.take(), self.resumed.take());
        let config = TrainerConfig {
            ranks: RankConfig { initial, resumed, sheets, ..self.ranks(recorder, origin) },
            clip_norm: self.config.clip_norm,
            rate: self.config.rate,
            steps: self.config.steps,
        };
        Ok(Trainer::new(config)?)
    }

    /// Whether the ranks wait for as long as an op takes, instead of computing.
    fn waits(&self) -> bool {
        self.config.workload.known_costs().is_some()
    }

    fn ranks(&self, recorder: Recorder, origin: Instant) -> RankConfig {
        let config = &self.config;
        let known = config.workload.known_costs();
        RankConfig {
            seed: config.seed,
            n_replicas: config.dp,
            shards_optimizer: config.shards_optimizer,
            bucket_bytes: config.bucket_bytes,
            devices: self.devices(),
            world: config.world.clone(),
            kernels: self.kernels(),
            packs_weights: config.packs_weights,
            recompute: config.recompute.clone(),
            pinned: config.pinned,
            link_delay: known.map_or(Duration::ZERO, |costs| costs.link),
            pace: known.map(|costs| costs.pace(self.plan.n_virtual_stages())),
            recorder,
            origin,
            #[cfg(feature = "fault-injection")]
            fault: config.fault,
            ..RankConfig::new(
                self.plan.clone(),
                self.partition.clone(),
                self.job.stack.clone(),
                Arc::clone(&self.job.objective),
                config.optimizer,
            )
        }
    }

    /// Parameters of all copies of the model.
    ///
    /// # Errors
    /// If a layer cannot be built.
    pub fn parameters(&self) -> Result<u128, TrainError> {
        let counts = self.job.stack.parameter_counts()?;
        Ok(counts.iter().map(|&n| u128::from(n)).sum::<u128>()
            * u128::from(self.config.dp)
            * u128::from(self.plan.n_pipes()))
    }

    fn kernels(&self) -> Kernels {
        self.chosen.as_ref().map(|chosen| chosen.kernels).unwrap_or_default()
    }

    /// Samples of one micro-batch.
    pub fn rows(&self) -> usize {
        rows(self.batch_size, self.config.dp, &self.plan)
    }

    /// The number of devices that compute at once. For ranks on the processor it is at most the
    /// number of cores.
    pub(crate) fn n_devices(&self) -> f64 {
        let n_ranks = u64::from(self.plan.n_ranks()) * u64::from(self.config.dp);
        let on_cpu = self.mesh.is_on_cpu();
        let n_devices = if on_cpu { n_ranks.min(u64::from(self.cores())) } else { n_ranks };
        n_devices as f64
    }

    /// The cores that the ranks may use, on all hosts.
    pub(crate) fn cores(&self) -> u32 {
        self.config.world.as_ref().map_or_else(cores, |world| world.0.cores())
    }

    /// The schedule and its sizes, if the plan comes from one by name.
    pub fn named(&self) -> Option<(ScheduleName, Sizes)> {
        let sizes = Sizes {
            n_ranks: self.plan.n_ranks(),
            n_micro_batches: self.plan.n_micro_batches(),
            n_virtual_stages: self.plan.n_virtual_stages(),
            interleave_group: self.config.interleave_group,
        };
        self.config.named().map(|name| (name, sizes))
    }

    /// The predicted bubble ratio of the schedule: by its formula, or by simulation of equal stages
    /// if it has none. For a plan that follows from costs it is the ratio with these costs.
    pub fn theory(&self) -> Option<f64> {
        let share = RankShare::default();
        let formula = || {
            let (name, sizes) = self.named()?;
            closed_form(name, &sizes, &share).map(|form| form.bubble_ratio)
        };
        let simulated = || {
            let costs = Costs::per_rank_share(self.plan.topology(), &share);
            simulate(&self.plan, &costs).ok().map(|simulation| simulation.bubble_ratio)
        };
        let promised = self.promise.map(|promise| promise.bubble_ratio);
        promised.or_else(formula).or_else(simulated)
    }
}

/// Samples of one micro-batch.
fn rows(batch_size: u64, replicas: u32, plan: &ValidPlan) -> usize {
    (batch_size / (u64::from(replicas) * u64::from(plan.n_micro_batches()))) as usize
}

fn build(config: &Config, topology: &Topology) -> Result<Job, TrainError> {
    if let Some(parameters) = config.workload.parameters() {
        limits::parameters(parameters, config.dp)?;
    }
    config.workload.job(config.seed, topology).map_err(TrainError::Workload)
}

/// The initial weights that the configuration names.
fn initial(
    config: &Config,
    job: &Job,
    profiles: &mut Profiles,
) -> Result<Option<Initial>, TrainError> {
    let load = |path: &Path| {
        let known = job.stack.shapes()?;
        let loaded = profiles.initial(path, &known, job.stack.ties(), config.takes_nonfinite);
        loaded.map_err(|why| unusable(path, why))
    };
    config.init.as_deref().map(load).transpose()
}

/// The refusal of a file with initial weights.
fn unusable(path: &Path, why: WeightsError) -> TrainError {
    TrainError::Initial { path: path.to_owned(), source: Box::new(why) }
}
