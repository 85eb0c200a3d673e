//! What the flags of a job mean together: every size known, every contradiction refused.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(feature = "fault-injection")]
use pp_executor::Fault;
use pp_executor::Recompute;
use pp_models::GptConfig;
use pp_nn::{LearningRate, LearningRateCurve, OptimizerKind};
use pp_partition::{Cut, Profile};
use pp_schedule::{ScheduleName, Sizes, ValidPlan};
use pp_telemetry::SpanPolicy;

use super::super::CliError;
use super::super::costs::CostSource;
use super::super::kernels::KernelsArg;
use super::super::refusal::excerpt;
use super::super::sizes::{PlanArgs, PlanError};
use super::args::{CurveArg, DeviceArg, JobArgs, Preset};
use super::defaults::{Defaults, ModelName};
use super::fitting::{near_divisors, near_micro_batches, near_multiples, with_batch};
use super::limits;
use super::session::cores;

/// The model and its own sizes.
#[derive(Clone, Debug)]
pub(crate) enum ModelSpec {
    SeedMlp,
    WineMlp,
    Gpt {
        config: GptConfig,
        data: Option<PathBuf>,
    },
    Sleep {
        forward: Duration,
        input_grad: Duration,
        weight_grad: Duration,
        slow_rank: Option<(u32, f64)>,
        link: Duration,
    },
}

impl ModelSpec {
    /// Layers that sleep take so many times as long.
    pub(crate) fn sleep_longer(&mut self, factor: f64) {
        if let Self::Sleep { forward, input_grad, weight_grad, .. } = self {
            for time in [forward, input_grad, weight_grad] {
                *time = time.mul_f64(factor);
            }
        }
    }
}

/// A schedule as it is named in messages, and the file where it is one.
fn plan_of(schedule: &OsStr) -> (String, Option<PathBuf>) {
    let name = schedule.to_string_lossy().into_owned();
    let file = name.parse::<ScheduleName>().is_err().then(|| PathBuf::from(schedule));
    (name, file)
}

/// A job with nothing left open but the plan.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: ModelName,
    pub(crate) model: ModelSpec,
    pub(crate) schedule: String,
    /// The plan that is read, where it is no name.
    pub(crate) plan_file: Option<PathBuf>,
    /// Where not given, the default.
    pub(crate) pp: Option<u32>,
    pub(crate) dp: u32,
    pub(crate) virtual_stages: Option<u32>,
    pub(crate) interleave_group: Option<u32>,
    /// What a rank may hold, for a schedule that follows from costs.
    pub(crate) memory_limit: Option<f64>,
    pub(crate) micro_batches: Option<u32>,
    pub(crate) default_micro_batches: u32,
    /// Samples of a step; `None` takes one of each micro-batch.
    pub(crate) batch_size: Option<u64>,
    pub(crate) steps: u64,
    pub(crate) seed: u64,
    pub(crate) rate: LearningRate,
    pub(crate) optimizer: OptimizerKind,
    pub(crate) clip_norm: Option<f64>,
    pub(crate) dropout: Option<f64>,
    pub(crate) recompute: Recompute,
    pub(crate) pinned: bool,
    pub(crate) kernels: KernelsArg,
    pub(crate) packs_weights: bool,
    pub(crate) device: DeviceArg,
    pub(crate) cut: Cut,
    pub(crate) eval_every: Option<u64>,
    pub(crate) spans: SpanPolicy,
    /// What the device of one rank can do in a second, where somebody said so.
    pub(crate) peak_flops: Option<f64>,
    pub(crate) init: Option<PathBuf>,
    #[cfg(feature = "fault-injection")]
    pub(crate) fault: Option<Fault>,
    /// A plain line every so many steps.
    pub(crate) log_every: u64,
    /// It is the notebook's job.
    pub(crate) is_seed: bool,
}

impl Spec {
    /// Reads the flags together.
    ///
    /// # Errors
    /// [`CliError::Usage`] where two contradict each other.
    pub(crate) fn new(args: &JobArgs, schedule: impl AsRef<OsStr>) -> Result<Self, CliError> {
        let (schedule, plan_file) = plan_of(schedule.as_ref());
        let preset = args.preset == Some(Preset::Seed);
        let name = args.model.unwrap_or(if preset { ModelName::SeedMlp } else { ModelName::Gpt });
        let defaults = Defaults::of(name);
        if preset && name != ModelName::SeedMlp {
            let message = format!(
                "--preset seed is a job of seed-mlp, the model is {}; use --model seed-mlp, or leave --preset out",
                name.as_str()
            );
            return Err(CliError::Usage(message));
        }
        refuse_foreign(args, name)?;
        let steps = args.steps.unwrap_or(defaults.steps);
        Ok(Self {
            name,
            model: model(args, name)?,
            schedule,
            plan_file,
            pp: args.pp,
            dp: args.dp.unwrap_or(1),
            virtual_stages: args.virtual_stages,
            interleave_group: args.interleave_group,
            memory_limit: args.memory_limit,
            micro_batches: args.micro_batches,
            default_micro_batches: defaults.micro_batches,
            batch_size: args
                .batch_size
                .or((defaults.batch_size > 0).then_some(defaults.batch_size)),
            steps,
            seed: args.seed.unwrap_or(0),
            rate: rate(args, &defaults, preset)?,
            optimizer: args.optimizer.unwrap_or(defaults.optimizer),
            clip_norm: args.clip_norm.or(defaults.clip_norm).or(preset.then_some(1.0)),
            dropout: args.dropout,
            recompute: args.recompute.clone().unwrap_or_default(),
            pinned: args.pin,
            kernels: args.kernels.unwrap_or_default(),
            packs_weights: !args.no_packed_weights,
            device: args.device.unwrap_or(DeviceArg::Auto),
            cut: args.partition.clone().unwrap_or(if name == ModelName::Sleep {
                Cut::Uniform
            } else {
                Cut::Time
            }),
            eval_every: args.eval_every.or(defaults.eval_every),
            spans: args.spans.unwrap_or_default(),
            peak_flops: args.peak_flops,
            init: args.init.clone(),
            #[cfg(feature = "fault-injection")]
            fault: args.inject_fault,
            log_every: if preset { 10 } else { 1 },
            is_seed: preset,
        })
    }

    /// What a cut by time balances: a layer that runs its forward again takes as much longer. Which layers these are is open before the
    /// cut where stages are named.
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
    ///
    /// # Errors
    /// [`CliError::Usage`].
    pub(crate) fn refuse_too_few_cores(&self, n_ranks: u32) -> Result<(), CliError> {
        let (threads, cores) = (n_ranks * self.dp, cores());
        if !self.pinned || threads <= cores {
            return Ok(());
        }
        Err(CliError::Usage(format!(
            "--pin wants a core for each of {threads} ranks, there are {cores}; use at most {cores} ranks, or leave --pin out"
        )))
    }

    /// A stage that is to run its forward again has to exist.
    ///
    /// # Errors
    /// [`CliError::Usage`].
    pub(crate) fn refuse_absent_stages(&self, n_stages: u32) -> Result<(), CliError> {
        let Recompute::Stages(stages) = &self.recompute else { return Ok(()) };
        match stages.iter().find(|&&stage| stage >= n_stages) {
            None => Ok(()),
            Some(stage) => Err(CliError::Usage(format!(
                "--recompute names stage {stage}, the plan has {n_stages}; use stages from 0 to {}, or all",
                n_stages - 1
            ))),
        }
    }

    /// Whether the model makes text.
    pub(crate) fn is_gpt(&self) -> bool {
        matches!(self.model, ModelSpec::Gpt { .. })
    }

    /// The layers that can be cut: one for each stage where the model has as many as are asked for.
    pub(crate) fn layers(&self) -> Option<usize> {
        match &self.model {
            ModelSpec::SeedMlp => Some(8),
            ModelSpec::WineMlp => Some(4),
            ModelSpec::Gpt { config, .. } => Some(config.layers + 2),
            ModelSpec::Sleep { .. } => None,
        }
    }

    /// The number of ranks where none is given and the schedule has a name: as many as there are
    /// cores, at most four, and no more than the model has layers for.
    pub(crate) fn default_pp(&self) -> Option<u32> {
        let name = self.schedule.parse::<ScheduleName>().ok()?;
        let v = self.chunks(name);
        let fits = self.layers().map_or(u32::MAX, |layers| (layers as u32 / v).max(1));
        let pp = cores().min(4).min(fits);
        // Two pipelines meet on pairs of ranks.
        Some(if name == ScheduleName::Chimera { (pp / 2 * 2).max(2) } else { pp })
    }

    /// The stages that each rank holds at least.
    fn chunks(&self, name: ScheduleName) -> u32 {
        let unless_given = if name.is_synthesised() { 1 } else { name.default_virtual_stages() };
        self.virtual_stages.unwrap_or(unless_given)
    }

    /// The schedule, if its plan follows from costs: it is made when they are measured.
    pub(crate) fn synthesised(&self) -> Option<ScheduleName> {
        self.schedule.parse().ok().filter(|name: &ScheduleName| name.is_synthesised())
    }

    /// The plan of this job, validated; of a schedule that follows from costs one of the same sizes.
    ///
    /// # Errors
    /// [`CliError::Usage`] if the schedule does not take the sizes, or a file does not hold a plan
    /// that trains.
    pub(crate) fn plan(&self) -> Result<ValidPlan, CliError> {
        let named = self.schedule.parse::<ScheduleName>().ok();
        if let (Some(name), Some(ranks), Some(layers)) = (named, self.pp, self.layers()) {
            let chunks = self.chunks(name);
            self.refuse_too_many_stages(ranks, chunks, layers)?;
        }
        let pp = self.pp.or_else(|| self.default_pp());
        // Before a plan for as many ranks is made.
        limits::threads(pp.unwrap_or(1), self.dp)?;
        let is_made_later = self.synthesised().is_some();
        if let (Some(name), Some(_)) = (self.synthesised(), self.interleave_group) {
            let sizes = Sizes {
                n_ranks: pp.unwrap_or(1),
                n_micro_batches: self.micro_batches.unwrap_or(self.default_micro_batches),
                n_virtual_stages: self.virtual_stages.unwrap_or(1),
                interleave_group: self.interleave_group,
            };
            name.check(&sizes).map_err(|refused| CliError::Usage(refused.to_string()))?;
        }
        let outline = ScheduleName::LoopedBfs.to_string();
        let plan = PlanArgs {
            plan: match &self.plan_file {
                _ if is_made_later => outline.into(),
                Some(path) => path.clone().into_os_string(),
                None => self.schedule.clone().into(),
            },
            pp,
            micro_batches: self.micro_batches.or_else(|| named.map(|_| self.default_micro_batches)),
            virtual_stages: self.virtual_stages.or(is_made_later.then_some(1)),
            interleave_group: self.interleave_group,
        };
        let plan = plan.load(&CostSource::default()).map_err(|error| match (error, named) {
            (PlanError::Refused(refused), Some(name)) => {
                let sizes = Sizes {
                    n_ranks: plan.pp.unwrap_or(1),
                    n_micro_batches: plan.micro_batches.unwrap_or(1),
                    n_virtual_stages: self.chunks(name),
                    interleave_group: self.interleave_group,
                };
                with_batch(refused, name, &sizes, self.batch_size, self.dp).into()
            }
            (PlanError::Refused(refused), None) => plan.told(&refused),
            (PlanError::Input(failed), _) => failed,
        })?;
        if plan.is_forward_only() {
            let message = format!(
                "the plan {} has no backward; use a plan that trains",
                excerpt(&self.schedule)
            );
            return Err(CliError::Usage(message));
        }
        Ok(plan)
    }

    /// Each stage needs a layer.
    ///
    /// # Errors
    /// [`CliError::Usage`] with both numbers.
    pub(crate) fn refuse_too_many_stages(
        &self,
        ranks: u32,
        chunks: u32,
        layers: usize,
    ) -> Result<(), CliError> {
        let stages = u64::from(ranks) * u64::from(chunks);
        if stages <= layers as u64 {
            return Ok(());
        }
        let layers = layers as u64;
        let mut fits = Vec::new();
        if layers >= u64::from(chunks) {
            fits.push(format!("--pp {}", layers / u64::from(chunks)));
        }
        if chunks > 1 && layers >= u64::from(ranks) {
            fits.push(format!("--virtual-stages {}", layers / u64::from(ranks)));
        }
        if fits.is_empty() {
            fits.push(format!("a --pp times --virtual-stages of {layers}"));
        }
        Err(CliError::Usage(format!(
            "{ranks} ranks of {chunks} stages need {stages} layers, the model {} has {layers}; use {} at most",
            self.name.as_str(),
            fits.join(" or ")
        )))
    }

    /// The same job under another schedule.
    pub(crate) fn with_schedule(&self, schedule: &str) -> Self {
        let name = schedule.parse::<ScheduleName>().ok();
        // Only a schedule of chunks takes their number, and only one their order.
        let takes_chunks = name.is_none_or(|name| name.default_virtual_stages() > 1);
        let takes_group = name.is_none_or(|name| name == ScheduleName::InterleavedOneFOneB);
        let virtual_stages = self.virtual_stages.filter(|_| takes_chunks);
        let interleave_group = self.interleave_group.filter(|_| takes_group);
        let (schedule, plan_file) = plan_of(schedule.as_ref());
        Self { schedule, plan_file, virtual_stages, interleave_group, ..self.clone() }
    }

    /// Bytes of one sample with its targets.
    pub(crate) fn bytes_per_sample(&self) -> u64 {
        const NUMBER: u64 = 4;
        NUMBER
            * match &self.model {
                ModelSpec::SeedMlp => 100 + 1,
                ModelSpec::WineMlp => 11 + 1,
                ModelSpec::Gpt { config, .. } => 2 * config.context as u64,
                ModelSpec::Sleep { .. } => 4 + 1,
            }
    }

    /// A rank that is to be slow, or to fail, has to be there.
    ///
    /// # Errors
    /// [`CliError::Usage`] with its number and those that are there.
    pub(crate) fn refuse_absent_rank(&self, plan: &ValidPlan) -> Result<(), CliError> {
        let slow = match &self.model {
            ModelSpec::Sleep { slow_rank: Some((rank, _)), .. } => Some(*rank),
            _ => None,
        };
        if slow.is_some() && plan.n_pipes() > 1 {
            let message = format!(
                "--sleep-slow-rank: {} runs every stage on two ranks, and a stage is as slow on both; use another schedule",
                excerpt(&self.schedule)
            );
            return Err(CliError::Usage(message));
        }
        let named = [
            ("--sleep-slow-rank", slow),
            #[cfg(feature = "fault-injection")]
            ("--inject-fault", self.fault.map(|fault| fault.rank.0)),
        ];
        for (flag, rank) in named {
            if let Some(rank) = rank.filter(|&rank| rank >= plan.n_ranks()) {
                let (ranks, last) = (plan.n_ranks(), plan.n_ranks() - 1);
                return Err(CliError::Usage(format!(
                    "{flag} names rank {rank}, the plan has {ranks}; use a rank from 0 to {last}"
                )));
            }
        }
        Ok(())
    }

    /// Samples of a step, checked against the plan.
    ///
    /// # Errors
    /// [`CliError::Usage`] if they do not divide.
    pub(crate) fn batch_size(&self, plan: &ValidPlan) -> Result<u64, CliError> {
        let parts = u64::from(self.dp) * u64::from(plan.n_micro_batches());
        let batch = self.batch_size.unwrap_or(parts);
        if batch.is_multiple_of(parts) {
            return Ok(batch);
        }
        Err(CliError::Usage(self.uneven_batch(plan, batch)))
    }

    /// The refusal of a batch that does not divide: the flag that was given, and sizes that fit.
    fn uneven_batch(&self, plan: &ValidPlan, batch: u64) -> String {
        let (m, dp) = (plan.n_micro_batches(), u64::from(self.dp));
        let parts = dp * u64::from(m);
        let multiples = near_multiples(parts, batch);
        let replicas = if dp > 1 { format!(" over {dp} replicas") } else { String::new() };
        let named = self.schedule.parse::<ScheduleName>().ok();
        if !batch.is_multiple_of(dp) {
            let fits = near_divisors(batch, dp, |_| true);
            let fits = fits.map_or_else(String::new, |dp| format!("--dp {dp}, or "));
            return format!(
                "--dp {dp} does not divide a batch of {batch}; use {fits}--batch-size {multiples}"
            );
        }
        let near = named.filter(|_| self.micro_batches.is_some()).and_then(|name| {
            let sizes = Sizes {
                n_ranks: plan.n_ranks(),
                n_micro_batches: m,
                n_virtual_stages: plan.n_virtual_stages(),
                interleave_group: self.interleave_group,
            };
            near_micro_batches(name, &sizes, Some(batch), self.dp)
        });
        match near {
            Some(near) => {
                format!(
                    "--micro-batches {m}{replicas} does not divide a batch of {batch}; use {near}"
                )
            }
            None => format!(
                "a batch of {batch} does not divide into {m} micro-batches{replicas}; use --batch-size {multiples}"
            ),
        }
    }
}

/// A flag of another model would do nothing; that is said instead of ignored.
fn refuse_foreign(args: &JobArgs, name: ModelName) -> Result<(), CliError> {
    let gpt = [
        ("--data", args.data.is_some()),
        ("--layers", args.layers.is_some()),
        ("--width", args.width.is_some()),
        ("--heads", args.heads.is_some()),
        ("--context", args.context.is_some()),
    ];
    let sleep = [
        ("--sleep-forward-ms", args.sleep_forward_ms.is_some()),
        ("--sleep-input-grad-ms", args.sleep_input_grad_ms.is_some()),
        ("--sleep-weight-grad-ms", args.sleep_weight_grad_ms.is_some()),
        ("--sleep-slow-rank", args.sleep_slow_rank.is_some()),
        ("--sleep-link-ms", args.sleep_link_ms.is_some()),
    ];
    let gpt = gpt.iter().filter(|_| name != ModelName::Gpt).map(|f| (f, "gpt"));
    let sleep = sleep.iter().filter(|_| name != ModelName::Sleep).map(|f| (f, "sleep"));
    for ((flag, given), owner) in gpt.chain(sleep) {
        if *given {
            let message = format!(
                "{flag} belongs to --model {owner}, the model is {}; leave {flag} out, or use --model {owner}",
                name.as_str()
            );
            return Err(CliError::Usage(message));
        }
    }
    if args.eval_every.is_some() && Defaults::of(name).eval_every.is_none() {
        let message = format!(
            "--eval-every needs a held-out part, the model {} has none; leave --eval-every out",
            name.as_str()
        );
        return Err(CliError::Usage(message));
    }
    if name == ModelName::Sleep && args.dropout.is_some() {
        return Err(CliError::Usage(
            "--model sleep has no dropout; leave --dropout out".to_owned(),
        ));
    }
    if name == ModelName::Sleep && args.partition == Some(Cut::Time) {
        let message = "--partition time: the layers of --model sleep take the times of their flags, nothing is measured; use uniform, or layers per stage such as 3,5";
        return Err(CliError::Usage(message.to_owned()));
    }
    Ok(())
}

fn model(args: &JobArgs, name: ModelName) -> Result<ModelSpec, CliError> {
    let ms = |given: Option<f64>, default: f64| {
        Duration::from_secs_f64(given.unwrap_or(default) / 1000.0)
    };
    let size = |given: Option<u32>, default: usize| given.map_or(default, |n| n as usize);
    Ok(match name {
        ModelName::SeedMlp => ModelSpec::SeedMlp,
        ModelName::WineMlp => ModelSpec::WineMlp,
        ModelName::Gpt => {
            let config = GptConfig {
                layers: size(args.layers, 6),
                width: size(args.width, 128),
                heads: size(args.heads, 4),
                context: size(args.context, 64),
                dropout: args.dropout.unwrap_or(0.0),
            };
            if !config.width.is_multiple_of(config.heads) {
                let (width, heads) = (config.width, config.heads);
                let (width, heads) = (width as u64, heads as u64);
                let near = near_divisors(width, heads, |_| true).filter(|_| args.heads.is_some());
                return Err(CliError::Usage(match near {
                    Some(near) => {
                        format!("--heads {heads} does not divide --width {width}; use {near}")
                    }
                    None => format!(
                        "--width {width} is not a multiple of --heads {heads}; use {}",
                        near_multiples(heads, width)
                    ),
                }));
            }
            ModelSpec::Gpt { config, data: args.data.clone() }
        }
        ModelName::Sleep => ModelSpec::Sleep {
            forward: ms(args.sleep_forward_ms, 4.0),
            input_grad: ms(args.sleep_input_grad_ms, 4.0),
            weight_grad: ms(args.sleep_weight_grad_ms, 4.0),
            slow_rank: args.sleep_slow_rank,
            link: ms(args.sleep_link_ms, 0.0),
        },
    })
}

fn rate(args: &JobArgs, defaults: &Defaults, preset: bool) -> Result<LearningRate, CliError> {
    let step = LearningRateCurve::Step {
        every: args.lr_step.unwrap_or(20),
        gamma: args.lr_gamma.unwrap_or(0.5),
    };
    let curve = match args.lr_schedule {
        Some(CurveArg::Constant) => LearningRateCurve::Constant,
        Some(CurveArg::Step) => step,
        Some(CurveArg::Cosine) => LearningRateCurve::Cosine,
        None if preset => step,
        None => defaults.curve,
    };
    if curve != step && (args.lr_step.is_some() || args.lr_gamma.is_some()) {
        let message =
            "--lr-step and --lr-gamma belong to --lr-schedule step; add it, or leave them out";
        return Err(CliError::Usage(message.to_owned()));
    }
    let warmup = args.warmup.unwrap_or(if preset { 0 } else { defaults.warmup });
    Ok(LearningRate { peak: args.lr.unwrap_or(defaults.lr), curve, warmup })
}
