//! From a job's description to a trainer that runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use pp_executor::{DeviceSpec, Pace, PlannedMemory, RankConfig, rehearse};
use pp_hybrid::{DeviceKind, Mesh, Trainer, TrainerConfig};
use pp_models::{Job, ModelError, SleepConfig, gpt, seed_mlp, sleep, wine_mlp};
use pp_nn::Kernels;
use pp_partition::{Cut, LayerProfile, Partition, PartitionError, ProfileConfig};
use pp_schedule::{
    Costs, Op, Phase, Pipe, Rank, RankShare, Replica, ScheduleName, Sizes, ValidPlan, closed_form,
    simulate,
};
use pp_telemetry::{PlannedMem, Recorder};

use super::super::CliError;
use super::super::devices;
use super::super::kernels::Chosen;
use super::super::learned::Goal;
use super::super::refusal::excerpt;
use super::args::DeviceArg;
use super::limits;
use super::profiles::{Initial, Profiles};
use super::spec::{ModelSpec, Spec};
use super::synthesis::{self, Promise};
use super::weights;

/// Cores that this process may use, by affinity and by the limits of its groups.
pub(crate) fn cores() -> u32 {
    pp_telemetry::cores()
}

/// What is done between a job that can be started and one that is ready: with how much of it, and
/// of how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preparing {
    /// So many of so many layers are measured.
    Profiling(usize, usize),
    /// A plan and a cut are looked for.
    Cutting,
}

/// A job that can be started: what can be told without measuring anything has been found right.
pub(crate) struct Prepared {
    spec: Spec,
    job: Job,
    plan: ValidPlan,
    batch_size: u64,
    mesh: Mesh,
    initial: Option<Initial>,
}

/// A job that is ready to start: everything that can be wrong with its flags has been found.
pub(crate) struct Session {
    pub(crate) spec: Spec,
    pub(crate) job: Job,
    pub(crate) plan: ValidPlan,
    pub(crate) partition: Partition,
    pub(crate) batch_size: u64,
    pub(super) mesh: Mesh,
    /// Of a plan that follows from costs.
    pub(crate) promise: Option<Promise>,
    /// What each layer was measured to take for a micro-batch, where it was.
    pub(super) layer_seconds: Vec<f64>,
    /// What multiplies matrices; nothing where layers sleep, or compute on GPUs.
    pub(crate) chosen: Option<Chosen>,
    /// Until the ranks have them.
    initial: Option<Initial>,
}

impl Prepared {
    /// Looks at everything that does not have to be measured: sizes, plan, files. Nothing is
    /// written anywhere.
    ///
    /// # Errors
    /// [`CliError::Usage`] for everything that the flags or the files that they name get wrong.
    pub(crate) fn new(spec: Spec) -> Result<Self, CliError> {
        let usage = |text: String| CliError::Usage(text);
        let plan = spec.plan()?;
        let batch_size = spec.batch_size(&plan)?;
        limits::threads(plan.n_ranks(), spec.dp)?;
        spec.refuse_absent_rank(&plan)?;
        let sleeps = matches!(spec.model, ModelSpec::Sleep { .. });
        let kind = match spec.device {
            DeviceArg::Cpu => DeviceKind::Cpu,
            DeviceArg::Auto if sleeps => DeviceKind::Cpu,
            DeviceArg::Cuda if sleeps => {
                return Err(usage(
                    "--model sleep sleeps on the CPU, --device is cuda; use --device auto or cpu"
                        .to_owned(),
                ));
            }
            DeviceArg::Auto => {
                devices::cuda().map_or(DeviceKind::Cpu, |n| DeviceKind::Cuda { devices: n })
            }
            DeviceArg::Cuda => {
                let devices = devices::cuda().map_err(|no| {
                    usage(format!("--device cuda: {no}; use --device auto or cpu"))
                })?;
                DeviceKind::Cuda { devices }
            }
        };
        let mesh = Mesh::new(plan.n_ranks(), spec.dp, kind).map_err(|e| usage(e.to_string()))?;
        let job = build(&spec, &plan)?;
        spec.refuse_too_many_stages(plan.n_ranks(), plan.n_virtual_stages(), job.stack.len())?;
        let counts = job.stack.parameter_counts().map_err(|e| CliError::Failed(chain(&e)))?;
        let n_copies = spec.dp.saturating_mul(plan.n_pipes());
        limits::parameters(counts.iter().map(|&n| u128::from(n)).sum(), n_copies)?;
        limits::batch(batch_size, spec.bytes_per_sample())?;
        if matches!(spec.model, ModelSpec::SeedMlp) {
            limits::batch_of_noise(batch_size)?;
        }
        if let ModelSpec::Gpt { config, .. } = &spec.model {
            limits::activations_of_gpt(config, rows(batch_size, spec.dp, &plan) as u64)?;
        }
        let initial = spec.init.as_deref().map(|path| load(path, &job)).transpose()?.map(Arc::new);
        if spec.synthesised().is_some() {
            synthesis::refuse_wrong_sizes(&spec, &plan, &job)?;
        } else {
            spec.refuse_absent_stages(plan.n_stages())?;
            let n_stages = plan.n_stages() as usize;
            // What needs no profile can be refused without one.
            if spec.cut != Cut::Time {
                spec.cut
                    .solve(&job.stack, n_stages, None)
                    .map_err(|e| refused_cut(&e, &job, n_stages))?;
            }
        }
        spec.refuse_too_few_cores(plan.n_ranks())?;
        Ok(Self { spec, job, plan, batch_size, mesh, initial })
    }

    /// Measures what has to be measured, and cuts the model. `on_progress` is told what goes on.
    ///
    /// # Errors
    /// As [`Prepared::new`], where a flag turns out wrong with what was measured;
    /// [`CliError::Failed`] where measuring fails.
    pub(crate) fn cut(
        self,
        profiles: &mut Profiles,
        mut on_progress: impl FnMut(Preparing),
    ) -> Result<Session, CliError> {
        let Self { spec, mut job, plan, batch_size, mesh, initial } = self;
        let sleeps = matches!(spec.model, ModelSpec::Sleep { .. });
        let n_stages = plan.n_stages() as usize;
        let rows = rows(batch_size, spec.dp, &plan);
        let synthesised = spec.synthesised();
        let wants_profile = (spec.cut == Cut::Time && n_stages > 1) || synthesised.is_some();
        let multiplies = !sleeps && is_on_cpu(&mesh);
        let chosen = multiplies.then(|| profiles.kernels(spec.kernels));
        let kernels = chosen.as_ref().map(|chosen| chosen.kernels).unwrap_or_default();
        let profile = if wants_profile && !sleeps {
            // On the kind of device that will train.
            let place = mesh.device(Rank(0), Replica(0));
            let n_layers = job.stack.len();
            let on_layer = |done| on_progress(Preparing::Profiling(done, n_layers));
            // As the ranks do: a single micro-batch gains nothing.
            let packs_weights = spec.packs_weights && plan.n_micro_batches() > plan.n_pipes();
            let config = ProfileConfig { kernels, packs_weights, ..ProfileConfig::default() };
            Some(profiles.measured(&job, rows, place, config, on_layer)?)
        } else {
            None
        };
        on_progress(Preparing::Cutting);
        let (mut plan, mut made_for, mut promise) = (plan, None, None);
        if let Some(name) = synthesised {
            let made = synthesis::make(&spec, name, &plan, &job, profile)?;
            (plan, made_for, promise) = (made.plan, made.partition, Some(made.promise));
            if sleeps {
                // A layer of this model sleeps as long as its rank takes.
                job = build(&spec, &plan)?;
            }
        }
        let n_stages = plan.n_stages() as usize;
        spec.refuse_absent_stages(plan.n_stages())?;
        spec.refuse_too_few_cores(plan.n_ranks())?;
        let profile = profile.map(|profile| spec.profile_to_cut(profile));
        let layer_seconds = profile.as_ref().map_or_else(Vec::new, |profile| {
            let whole = |layer: &LayerProfile| layer.forward_seconds + layer.backward_seconds();
            profile.layers.iter().map(whole).collect()
        });
        let cut = if n_stages == 1 && spec.cut == Cut::Time { &Cut::Uniform } else { &spec.cut };
        let partition = match made_for {
            Some(partition) => partition,
            None => cut
                .solve(&job.stack, n_stages, profile.as_deref())
                .map_err(|e| refused_cut(&e, &job, n_stages))?,
        };
        Ok(Session {
            spec,
            job,
            plan,
            partition,
            batch_size,
            mesh,
            promise,
            layer_seconds,
            chosen,
            initial,
        })
    }
}

impl Session {
    /// What the losses of this job can show.
    pub(crate) fn goal(&self) -> Goal {
        match self.job.data.blind_loss() {
            _ if self.spec.is_seed => Goal::BelowOne,
            None => Goal::None,
            Some(blind) if self.job.data.is_learnable() => Goal::Below(blind),
            Some(least) => Goal::Noise(least),
        }
    }

    /// Sets up one of several jobs with one model: what one of them has measured the others take as
    /// it is, so that they are cut alike.
    ///
    /// # Errors
    /// As [`Prepared::new`] and [`Prepared::cut`].
    pub(crate) fn with_profiles(spec: Spec, profiles: &mut Profiles) -> Result<Self, CliError> {
        let mut prepared = Prepared::new(spec)?;
        prepared.initial = prepared.initial.map(|initial| profiles.shared(initial));
        prepared.cut(profiles, |_| {})
    }

    /// What each rank will hold; nothing where it is not counted, or the gradients of several copies of the model pass through.
    ///
    /// # Errors
    /// [`CliError::Failed`] if a stage cannot be built or run.
    pub(crate) fn memory_plan(&self) -> Result<Vec<PlannedMem>, CliError> {
        let on_cpu = is_on_cpu(&self.mesh);
        let has_copies = self.spec.dp > 1 || self.plan.n_pipes() > 1;
        if !on_cpu || has_copies || matches!(self.spec.model, ModelSpec::Sleep { .. }) {
            return Ok(Vec::new());
        }
        let failed = |e: candle_core::Error| CliError::Failed(e.to_string());
        let (inputs, targets) = self.job.data.batch(1, self.rows()).map_err(failed)?;
        let config = self.ranks(Recorder::disabled(), Instant::now());
        let planned =
            rehearse(&config, &inputs, &targets).map_err(|e| CliError::Failed(chain(&e)))?;
        let of_rank = |(rank, planned): (usize, PlannedMemory)| PlannedMem {
            rank: rank as u32,
            peak_bytes: planned.peak_bytes(),
            parameter_bytes: planned.parameter_bytes,
            gradient_bytes: planned.gradient_bytes,
            optimizer_bytes: planned.optimizer_bytes,
            packed_bytes: planned.packed_bytes,
            stash_bytes: planned.stash_bytes,
            temporary_bytes: planned.temporary_bytes,
        };
        Ok(planned.unwrap_or_default().into_iter().enumerate().map(of_rank).collect())
    }

    /// Starts the ranks. Initial weights go to them: a second call starts from the seed.
    ///
    /// # Errors
    /// [`CliError::Failed`] if a rank cannot start.
    pub(crate) fn trainer(
        &mut self,
        recorder: Recorder,
        origin: Instant,
    ) -> Result<Trainer, CliError> {
        let initial = self.initial.take();
        let config = TrainerConfig {
            ranks: RankConfig { initial, ..self.ranks(recorder, origin) },
            clip_norm: self.spec.clip_norm,
            rate: self.spec.rate,
            steps: self.spec.steps,
        };
        Trainer::new(config).map_err(|e| CliError::Failed(chain(&e)))
    }

    fn ranks(&self, recorder: Recorder, origin: Instant) -> RankConfig {
        let mesh = self.mesh;
        let link =
            if let ModelSpec::Sleep { link, .. } = self.spec.model { link } else { Duration::ZERO };
        RankConfig {
            seed: self.spec.seed,
            n_replicas: self.spec.dp,
            devices: Arc::new(move |rank, replica| mesh.device(rank, replica)),
            kernels: self.kernels(),
            packs_weights: self.spec.packs_weights,
            recompute: self.spec.recompute.clone(),
            pinned: self.spec.pinned,
            link_delay: link,
            pace: self.pace(),
            recorder,
            origin,
            #[cfg(feature = "fault-injection")]
            fault: self.spec.fault,
            ..RankConfig::new(
                self.plan.clone(),
                self.partition.clone(),
                self.job.stack.clone(),
                Arc::clone(&self.job.objective),
                self.spec.optimizer,
            )
        }
    }

    /// How long ops last at least. The layers of a model that sleeps take as long by themselves.
    fn pace(&self) -> Option<Pace> {
        let ModelSpec::Sleep { forward, input_grad, weight_grad, slow_rank, .. } = self.spec.model
        else {
            return None;
        };
        let n_chunks = f64::from(self.plan.n_virtual_stages());
        Some(Arc::new(move |rank: Rank, op: Op| {
            let share = match op.phase {
                Phase::Forward => forward,
                Phase::Backward => input_grad.saturating_add(weight_grad),
                Phase::InputGrad => input_grad,
                Phase::WeightGrad => weight_grad,
            };
            let factor = slow_rank.filter(|&(slow, _)| slow == rank.0).map_or(1.0, |(_, f)| f);
            share.mul_f64(factor / n_chunks)
        }))
    }

    /// Parameters of all copies of the model.
    pub(crate) fn parameters(&self) -> Result<u128, CliError> {
        let counts = self.job.stack.parameter_counts().map_err(|e| CliError::Failed(chain(&e)))?;
        Ok(counts.iter().map(|&n| u128::from(n)).sum::<u128>()
            * u128::from(self.spec.dp)
            * u128::from(self.plan.n_pipes()))
    }

    fn kernels(&self) -> Kernels {
        self.chosen.as_ref().map(|chosen| chosen.kernels).unwrap_or_default()
    }

    /// Samples of one micro-batch.
    pub(crate) fn rows(&self) -> usize {
        rows(self.batch_size, self.spec.dp, &self.plan)
    }

    /// How many devices compute at once: ranks on the processor have no more of them than there are
    /// cores.
    pub(super) fn n_devices(&self) -> f64 {
        let n_ranks = u64::from(self.plan.n_ranks()) * u64::from(self.spec.dp);
        let on_cpu = is_on_cpu(&self.mesh);
        let n_devices = if on_cpu { n_ranks.min(u64::from(cores())) } else { n_ranks };
        n_devices as f64
    }

    /// The sizes of the schedule, where it has a name.
    pub(crate) fn named(&self) -> Option<(ScheduleName, Sizes)> {
        let sizes = Sizes {
            n_ranks: self.plan.n_ranks(),
            n_micro_batches: self.plan.n_micro_batches(),
            n_virtual_stages: self.plan.n_virtual_stages(),
            interleave_group: self.spec.interleave_group,
        };
        self.spec.schedule.parse().ok().map(|name| (name, sizes))
    }

    /// The bubble ratio that the schedule promises: by its formula, or by simulation of equal stages where it has none. A plan
    /// that follows from costs promises what it has with these.
    pub(crate) fn theory(&self) -> Option<f64> {
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

/// Whether every rank computes on the processor.
fn is_on_cpu(mesh: &Mesh) -> bool {
    mesh.places().all(|place| matches!(place.device, DeviceSpec::Cpu { .. }))
}

/// Samples of one micro-batch.
fn rows(batch_size: u64, replicas: u32, plan: &ValidPlan) -> usize {
    (batch_size / (u64::from(replicas) * u64::from(plan.n_micro_batches()))) as usize
}

fn build(spec: &Spec, plan: &ValidPlan) -> Result<Job, CliError> {
    let built = match &spec.model {
        ModelSpec::SeedMlp => seed_mlp(spec.dropout, spec.seed),
        ModelSpec::WineMlp => wine_mlp(spec.dropout, spec.seed),
        ModelSpec::Gpt { config, data } => {
            limits::parameters(limits::parameters_of_gpt(config), spec.dp)?;
            data.as_deref().map_or(Ok(()), limits::text)?;
            gpt(*config, data.as_deref(), spec.seed)
        }
        ModelSpec::Sleep { forward, input_grad, weight_grad, slow_rank, .. } => {
            sleep(&SleepConfig {
                ranks: plan.topology().ranks(Pipe(0)).iter().map(|rank| rank.0).collect(),
                virtual_stages: plan.n_virtual_stages(),
                forward: *forward,
                input_grad: *input_grad,
                weight_grad: *weight_grad,
                slow_rank: *slow_rank,
            })
        }
    };
    built.map_err(|refused| {
        CliError::Usage(match refused {
            ModelError::TooShort { name, bytes, context, needed } => {
                let shorter = match bytes / 10 {
                    0 | 1 => String::new(),
                    tenth => format!(", or --context at most {}", tenth - 1),
                };
                format!(
                    "{} has {bytes} bytes, a context of {context} needs {needed}: one window in the nine tenths that train and \
                     one in the tenth that is held out; use a longer text{shorter}",
                    excerpt(&name)
                )
            }
            other => chain(&other),
        })
    })
}

/// How a cut that does not fit is told.
pub(crate) fn refused_cut(refused: &PartitionError, job: &Job, n_stages: usize) -> CliError {
    let (sizes, why) = match refused {
        PartitionError::EmptyStage { stage, sizes } => {
            (sizes, format!("gives stage {stage} no layer"))
        }
        PartitionError::WrongCount { sizes, stages } => {
            (sizes, format!("has {} parts, the plan {stages} stages", sizes.len()))
        }
        PartitionError::WrongSum { sizes, layers } => {
            let sum: u128 = sizes.iter().map(|&size| size as u128).sum();
            (sizes, format!("sums to {sum}, the model has {layers} layers"))
        }
        other => return CliError::Usage(chain(other)),
    };
    CliError::Usage(format!(
        "--partition {} {why}; write {n_stages} numbers that sum to {}, or uniform, parameters or time",
        excerpt(&Cut::Explicit(sizes.clone()).to_string()),
        job.stack.len()
    ))
}

/// Initial weights from a file: those of the model, each and no other.
fn load(path: &Path, job: &Job) -> Result<BTreeMap<String, Tensor>, CliError> {
    let refused = |why: String| {
        CliError::Usage(format!(
            "cannot take initial weights from {}: {}; name a file that --save wrote for this model",
            excerpt(&path.display().to_string()),
            excerpt(&why)
        ))
    };
    let known = job.stack.parameters().map_err(|e| refused(chain(&e)))?;
    let known: BTreeMap<_, _> = known.into_iter().flatten().collect();
    // Before anything of it is read: a file may claim to hold anything.
    weights::check(path, &known).map_err(refused)?;
    let values = candle_core::safetensors::load(path, &Device::Cpu)
        .map_err(|e| refused(e.to_string().lines().next().unwrap_or_default().to_owned()))?;
    if let Some(unknown) = values.keys().filter(|name| !known.contains_key(*name)).min() {
        return Err(refused(format!("the model has no {unknown}")));
    }
    for (name, shape) in known {
        match values.get(&name) {
            None => return Err(refused(format!("it has no {name}"))),
            Some(value) if value.shape() != &shape => {
                return Err(refused(format!(
                    "{name} is {:?} there, {:?} in the model",
                    value.dims(),
                    shape.dims()
                )));
            }
            Some(value) if !value.dtype().is_float() => {
                return Err(refused(format!(
                    "{name} holds {} there, the model f32",
                    value.dtype().as_str()
                )));
            }
            Some(_) => {}
        }
    }
    Ok(values.into_iter().collect())
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let reason = cause.to_string().lines().next().unwrap_or_default().to_owned();
        // Some errors say the cause themselves.
        if !text.ends_with(&reason) {
            text = format!("{text}: {reason}");
        }
        source = cause.source();
    }
    text
}
