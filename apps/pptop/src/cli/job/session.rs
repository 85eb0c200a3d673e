//! From a job's description to a trainer that runs, and what a log says about it first.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use candle_core::{Device, Tensor};
use pp_executor::{DeviceSpec, PlannedMemory, RankConfig, rehearse};
use pp_hybrid::{DeviceKind, Mesh, Trainer, TrainerConfig};
use pp_models::{Job, ModelError, SleepConfig, gpt, seed_mlp, sleep, wine_mlp};
use pp_nn::Kernels;
use pp_partition::{
    Cut, LayerProfile, Partition, PartitionError, Profile, ProfileConfig, profile_with,
};
use pp_schedule::{
    Costs, Pipe, Rank, RankShare, Replica, ScheduleName, Sizes, ValidPlan, closed_form, simulate,
};
use pp_telemetry::{DeviceMapEntry, Hello, LogSize, PlannedMem, Recorder, SCHEMA, StageInfo};

use super::super::CliError;
use super::super::devices;
use super::super::gpus::{GpuName, gpu_name};
use super::super::kernels::{self, Chosen, KernelsArg};
use super::super::learned::Goal;
use super::super::refusal::excerpt;
use super::args::DeviceArg;
use super::limits;
use super::spec::{ModelSpec, Spec};
use super::synthesis::{self, Promise};
use super::weights;

/// Cores that this process may use, by affinity and by the limits of its groups.
pub(crate) fn cores() -> u32 {
    pp_telemetry::cores()
}

/// Samples that a micro-batch of a profile has at most: of several passes nobody waits for more.
const PROFILE_ROWS_MAX: usize = 1024;

/// What so many times as many samples cost.
fn scale(profile: &mut Profile, times: f64) {
    if times <= 1.0 {
        return;
    }
    #[expect(clippy::cast_sign_loss, reason = "a count times a positive factor")]
    let scaled = |bytes: u64| (bytes as f64 * times) as u64;
    for layer in &mut profile.layers {
        layer.forward_seconds *= times;
        layer.input_grad_seconds *= times;
        layer.weight_grad_seconds *= times;
        layer.activation_bytes = scaled(layer.activation_bytes);
        layer.residue_bytes = scaled(layer.residue_bytes);
        layer.boundary_bytes = scaled(layer.boundary_bytes);
    }
}

/// What several jobs with one model need once: its profiles, by the samples of a micro-batch, and
/// its initial weights from a file.
#[derive(Default)]
pub(crate) struct Profiles {
    by_rows: BTreeMap<usize, Profile>,
    kernels: Option<Chosen>,
    initial: Option<Initial>,
}

/// Initial weights by name.
type Initial = Arc<BTreeMap<String, Tensor>>;

impl Profiles {
    /// One copy for all jobs, which all begin from the same file: the first.
    fn shared(&mut self, initial: Initial) -> Initial {
        Arc::clone(self.initial.get_or_insert(initial))
    }

    /// One choice for all jobs: the first.
    fn kernels(&mut self, wanted: KernelsArg) -> Chosen {
        self.kernels.get_or_insert_with(|| kernels::choose(wanted)).clone()
    }

    fn measured(
        &mut self,
        spec: &Spec,
        kernels: Kernels,
        job: &Job,
        rows: usize,
        place: DeviceSpec,
        on_layer: impl FnMut(usize),
    ) -> Result<&Profile, CliError> {
        match self.by_rows.entry(rows) {
            Entry::Occupied(found) => Ok(found.into_mut()),
            Entry::Vacant(absent) => {
                let failed = |e: candle_core::Error| CliError::Failed(e.to_string());
                // What more rows take is known from fewer.
                let n_measured = rows.min(PROFILE_ROWS_MAX);
                let (inputs, targets) = job.data.batch(1, n_measured).map_err(failed)?;
                let device = place.make().map_err(failed)?;
                let packs_weights = spec.packs_weights;
                let config = ProfileConfig { kernels, packs_weights, ..ProfileConfig::default() };
                let objective = job.objective.as_ref();
                let found = profile_with(
                    &job.stack, objective, &inputs, &targets, &device, config, on_layer,
                );
                let mut found = found.map_err(|e| CliError::Failed(chain(&e)))?;
                scale(&mut found, rows as f64 / n_measured as f64);
                Ok(absent.insert(found))
            }
        }
    }
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
    mesh: Mesh,
    /// Of a plan that follows from costs.
    pub(crate) promise: Option<Promise>,
    /// What each layer was measured to take for a micro-batch, where it was.
    layer_seconds: Vec<f64>,
    /// What multiplies matrices.
    pub(crate) chosen: Chosen,
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
        // Nothing is multiplied by layers that sleep.
        let wanted = if sleeps { KernelsArg::Rule } else { spec.kernels };
        let chosen = profiles.kernels(wanted);
        let profile = if wants_profile && !sleeps {
            // On the kind of device that will train.
            let place = mesh.device(Rank(0), Replica(0));
            let n_layers = job.stack.len();
            let on_layer = |done| on_progress(Preparing::Profiling(done, n_layers));
            Some(profiles.measured(&spec, chosen.kernels, &job, rows, place, on_layer)?)
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
        let on_cpu = self.mesh.places().all(|place| matches!(place.device, DeviceSpec::Cpu { .. }));
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
            kernels: self.chosen.kernels,
            packs_weights: self.spec.packs_weights,
            recompute: self.spec.recompute.clone(),
            pinned: self.spec.pinned,
            link_delay: link,
            sleeps: matches!(self.spec.model, ModelSpec::Sleep { .. }),
            recorder,
            origin,
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

    /// Parameters of all copies of the model.
    pub(crate) fn parameters(&self) -> Result<u128, CliError> {
        let counts = self.job.stack.parameter_counts().map_err(|e| CliError::Failed(chain(&e)))?;
        Ok(counts.iter().map(|&n| u128::from(n)).sum::<u128>()
            * u128::from(self.spec.dp)
            * u128::from(self.plan.n_pipes()))
    }

    /// Samples of one micro-batch.
    pub(crate) fn rows(&self) -> usize {
        rows(self.batch_size, self.spec.dp, &self.plan)
    }

    /// How many devices compute at once: ranks on the processor have no more of them than there are
    /// cores.
    fn n_devices(&self) -> f64 {
        let on_gpus =
            self.mesh.places().any(|place| !matches!(place.device, DeviceSpec::Cpu { .. }));
        let n_ranks = u64::from(self.plan.n_ranks()) * u64::from(self.spec.dp);
        let n_devices = if on_gpus { n_ranks } else { n_ranks.min(u64::from(cores())) };
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

    /// The first event of the run. It also decides which steps have their spans recorded.
    pub(crate) fn hello(
        &self,
        trainer: &Trainer,
        recorder: &Recorder,
        run: &str,
        socket: Option<&Path>,
        memory_plan: Vec<PlannedMem>,
        started: SystemTime,
    ) -> Hello {
        let plan = &self.plan;
        let stages: Vec<StageInfo> = trainer
            .stages()
            .into_iter()
            .map(|of| {
                let layers = self.partition.layers(of.stage.idx());
                StageInfo {
                    stage: of.stage.0,
                    copy: of.pipe.0,
                    rank: of.rank.0,
                    layers: [layers.start as u32, layers.end as u32 - 1],
                    parameters: of.parameters,
                    parameter_bytes: of.bytes,
                }
            })
            .collect();
        let places: Vec<_> = self.mesh.places().collect();
        let device_map = stages
            .iter()
            .flat_map(|stage| {
                // Places go rank by rank.
                let n_here = self.spec.dp as usize;
                let here = places.iter().skip(stage.rank as usize * n_here).take(n_here);
                here.map(move |place| {
                    let GpuName { uuid, pci } = match place.device {
                        DeviceSpec::Cpu { .. } => GpuName::default(),
                        DeviceSpec::Cuda { ordinal } => gpu_name(ordinal),
                    };
                    DeviceMapEntry {
                        stage: stage.stage,
                        rank: stage.rank,
                        replica: place.replica.0,
                        device: place.device.to_string(),
                        uuid,
                        pci,
                    }
                })
            })
            .collect();
        let n_ranks = u64::from(plan.n_ranks()) * u64::from(self.spec.dp);
        // An op, its two messages, and the waits before them.
        let n_spans_per_step = plan.n_ops() as u64 * u64::from(self.spec.dp) * 4;
        let size = LogSize { n_steps: self.spec.steps, n_spans_per_step, n_ranks };
        Hello {
            schema: SCHEMA,
            run: run.to_owned(),
            pid: std::process::id(),
            // The log is UTF-8: bytes of an argument that are not become replacement characters.
            argv: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
            model: self.spec.name.as_str().to_owned(),
            schedule: plan.name().to_owned(),
            pp: plan.n_ranks(),
            dp: self.spec.dp,
            virtual_stages: plan.n_virtual_stages(),
            micro_batches: plan.n_micro_batches(),
            batch_size: self.batch_size,
            steps: self.spec.steps,
            eval_every: self.spec.eval_every.unwrap_or(0),
            cores: cores(),
            host: pp_telemetry::host_name(),
            host_memory_bytes: pp_telemetry::host_memory_bytes().unwrap_or(0),
            socket: socket.map(|path| path.display().to_string()),
            omitted: None,
            seed: self.spec.seed,
            parameters: stages.iter().filter(|s| s.copy == 0).map(|s| s.parameters).sum(),
            device_map,
            stages,
            plan: plan.to_text_rows(),
            started_unix_ms: started.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64),
            clock: "host".to_owned(),
            tokens_per_sample: if matches!(self.spec.model, ModelSpec::Gpt { .. }) {
                self.job.data.tokens_per_sample()
            } else {
                0
            },
            theory: self.theory(),
            span_every: recorder.set_span_policy(self.spec.spans, size),
            memory_plan,
            partition: self.spec.cut.to_string(),
            kernels: self.chosen.kernels.to_string(),
            layer_seconds: self.layer_seconds.clone(),
            flops_per_sample: self.job.flops_per_sample,
            peak_flops: self.spec.peak_flops.map(|of_one| of_one * self.n_devices()),
        }
    }
}

/// `stage 0: cpu:0, cpu:1 · stage 1: cpu:2, cpu:3`: which devices serve which stage.
pub(crate) fn devices_line(hello: &Hello) -> String {
    let mut names: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for entry in &hello.device_map {
        names.entry(entry.stage).or_default().push(&entry.device);
    }
    let of = |stage: u32| names.get(&stage).map(|names| names.join(", ")).unwrap_or_default();
    let stages = hello
        .stages
        .iter()
        .filter(|s| s.copy == 0)
        .map(|s| format!("stage {}: {}", s.stage, of(s.stage)));
    stages.collect::<Vec<_>>().join(" · ")
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
