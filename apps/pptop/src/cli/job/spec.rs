//! The flags of a job taken together. Contradictions are refused.

mod words;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use pp_models::{GPT, GptConfig, MODELS, Model, Options, SEED_MLP};
use pp_nn::{LearningRate, LearningRateCurve};
use pp_partition::Cut;
use pp_schedule::ScheduleName;
use pp_train::{Config, PlanSource, Prepared, Profiles, Session, TrainError, limits};

use super::super::CliError;
use super::super::costs::CostSource;
use super::super::sizes::{PlanArgs, PlanError, fits_in_memory};
use super::args::{CurveArg, JobArgs, Preset};

/// The name of a schedule in messages, and its file if it is one.
fn plan_of(schedule: &OsStr) -> (String, Option<PathBuf>) {
    let name = schedule.to_string_lossy().into_owned();
    let file = name.parse::<ScheduleName>().is_err().then(|| PathBuf::from(schedule));
    (name, file)
}

/// A complete job. Only a plan in a file is still to be read.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// The configuration. With a `plan_file`, its plan is not used.
    pub(crate) config: Config,
    /// The schedule as the flag names it.
    pub(crate) schedule: String,
    /// The file of the plan; `None` if the schedule has a name.
    pub(crate) plan_file: Option<PathBuf>,
    /// The value of `--micro-batches`.
    pub(crate) micro_batches: Option<u32>,
    /// Tokens of a sample, if the model has `--context`.
    pub(crate) context: Option<usize>,
    /// Steps between two plain lines.
    pub(crate) log_every: u64,
    /// Whether this is the notebook's job.
    pub(crate) is_seed: bool,
}

impl Spec {
    /// Reads the flags together.
    ///
    /// # Errors
    /// [`CliError::Usage`] if two contradict each other.
    pub(crate) fn new(args: &JobArgs, schedule: impl AsRef<OsStr>) -> Result<Self, CliError> {
        let preset = args.preset == Some(Preset::Seed);
        let model = args.model.unwrap_or(if preset { &SEED_MLP } else { &GPT });
        if preset && model.name != SEED_MLP.name {
            let message = format!(
                "--preset seed is a job of seed-mlp, the model is {}; use --model seed-mlp, or leave --preset out",
                model.name
            );
            return Err(CliError::Usage(message));
        }
        let mut options = args.shared_options.0.clone();
        options.extend(&args.own_options.0);
        refuse_foreign(args, model, &options)?;
        let workload = (model.make)(&options).map_err(|e| words::of_model(&e, &options))?;
        if workload.known_costs().is_some() && args.partition == Some(Cut::Time) {
            let message = format!(
                "--partition time: the layers of --model {} take the times of their flags, nothing is measured; use uniform, or layers per stage such as 3,5",
                model.name
            );
            return Err(CliError::Usage(message));
        }
        let rate = rate(args, model.defaults.rate, preset)?;
        let default = Config::new(workload);
        let (name, plan_file) = plan_of(schedule.as_ref());
        let spec = Self {
            config: Config {
                pp: args.pp,
                dp: args.dp.unwrap_or(1),
                virtual_stages: args.virtual_stages,
                interleave_group: args.interleave_group,
                memory_limit: args.memory_limit,
                micro_batches: args.micro_batches.unwrap_or(default.micro_batches),
                batch_size: args.batch_size.or(default.batch_size),
                steps: args.steps.unwrap_or(default.steps),
                seed: args.seed.unwrap_or(0),
                rate,
                optimizer: args.optimizer.unwrap_or(default.optimizer),
                clip_norm: args.clip_norm.or(default.clip_norm).or(preset.then_some(1.0)),
                recompute: args.recompute.clone().unwrap_or_default(),
                pinned: args.pin,
                kernels: args.kernels.unwrap_or_default(),
                packs_weights: !args.no_packed_weights,
                device: args.device.map(Into::into).unwrap_or_default(),
                cut: args.partition.clone().unwrap_or(default.cut),
                eval_every: args.eval_every.or(default.eval_every),
                spans: args.spans.unwrap_or_default(),
                peak_flops: args.peak_flops,
                init: args.init.clone(),
                #[cfg(feature = "fault-injection")]
                fault: args.inject_fault,
                ..default
            },
            schedule: String::new(),
            plan_file: None,
            micro_batches: args.micro_batches,
            context: has(model, "context")
                .then(|| options.count("context").unwrap_or(GptConfig::default().context)),
            log_every: if preset { 10 } else { 1 },
            is_seed: preset,
        };
        Ok(spec.under(name, plan_file))
    }

    fn under(mut self, schedule: String, plan_file: Option<PathBuf>) -> Self {
        if let Ok(name) = schedule.parse() {
            self.config.plan = PlanSource::Named(name);
        }
        Self { schedule, plan_file, ..self }
    }

    /// The name of the model.
    pub(crate) fn model(&self) -> &str {
        self.config.workload.name()
    }

    /// Whether its ops wait for known times instead of computing.
    pub(crate) fn waits(&self) -> bool {
        self.config.workload.known_costs().is_some()
    }

    /// The schedule, if it has a name.
    pub(crate) fn named(&self) -> Option<ScheduleName> {
        self.config.named().filter(|_| self.plan_file.is_none())
    }

    /// The default number of ranks of a schedule by name.
    pub(crate) fn default_pp(&self) -> Option<u32> {
        self.named().and_then(|_| self.config.default_pp())
    }

    /// The schedule, if its plan follows from costs. Such a plan is made once they are measured.
    pub(crate) fn synthesised(&self) -> Option<ScheduleName> {
        self.named().filter(|name| name.is_synthesised())
    }

    /// Reads the plan, and checks everything that needs no measuring.
    ///
    /// # Errors
    /// [`CliError::Usage`] if the flags, or the files that they name, are wrong.
    pub(crate) fn prepare(&self) -> Result<Prepared, CliError> {
        Prepared::new(self.whole()?).map_err(|error| self.told(&error))
    }

    /// The session of one of several jobs with one model.
    ///
    /// # Errors
    /// As [`Spec::prepare`]; [`CliError::Failed`] if measuring fails.
    pub(crate) fn session(&self, profiles: &mut Profiles) -> Result<Session, CliError> {
        Session::with_profiles(self.whole()?, profiles).map_err(|error| self.told(&error))
    }

    /// The configuration, with the plan of the file.
    fn whole(&self) -> Result<Config, CliError> {
        let mut config = self.config.clone();
        let told = |error: TrainError| self.told(&error);
        let Some(path) = &self.plan_file else {
            config.check().map_err(told)?;
            if let Some((name, sizes)) = config.outline() {
                fits_in_memory(name, &sizes)?;
            }
            return Ok(config);
        };
        // Checked before a plan for so many ranks is read.
        limits::threads(config.pp.unwrap_or(1), config.dp).map_err(told)?;
        let plan = PlanArgs {
            plan: path.clone().into_os_string(),
            pp: config.pp,
            micro_batches: self.micro_batches,
            virtual_stages: config.virtual_stages,
            interleave_group: config.interleave_group,
        };
        let read = plan.load(&CostSource::default()).map_err(|error| match error {
            PlanError::Refused(refused) => plan.told(&refused),
            PlanError::Input(failed) => failed,
        })?;
        config.plan = PlanSource::Given(Arc::new(read));
        Ok(config)
    }

    /// The message of a job that is refused, or fails before its first step.
    pub(crate) fn told(&self, error: &TrainError) -> CliError {
        words::of_job(error, self)
    }

    /// The same job under another schedule.
    pub(crate) fn with_schedule(&self, schedule: &str) -> Self {
        let name = schedule.parse::<ScheduleName>().ok();
        // Only a schedule of chunks takes their number, and only one their order.
        let takes_chunks = name.is_none_or(|name| name.default_virtual_stages() > 1);
        let takes_group = name.is_none_or(|name| name == ScheduleName::InterleavedOneFOneB);
        let (schedule, plan_file) = plan_of(schedule.as_ref());
        let mut other = self.clone().under(schedule, plan_file);
        other.config.virtual_stages = self.config.virtual_stages.filter(|_| takes_chunks);
        other.config.interleave_group = self.config.interleave_group.filter(|_| takes_group);
        other
    }
}

/// Whether a model takes an option.
fn has(model: &Model, option: &str) -> bool {
    model.options.iter().any(|own| own.name == option)
}

/// Refuses a flag of another model, which would have no effect.
fn refuse_foreign(args: &JobArgs, model: &Model, options: &Options) -> Result<(), CliError> {
    let mut all = MODELS.into_iter().flat_map(|model| model.options).map(|option| option.name);
    if let Some(option) = all.find(|option| options.is_given(option) && !has(model, option)) {
        let owners: Vec<&Model> = MODELS.into_iter().filter(|other| has(other, option)).collect();
        return Err(CliError::Usage(match owners[..] {
            [owner] => format!(
                "--{option} belongs to --model {owner}, the model is {}; leave --{option} out, or use --model {owner}",
                model.name,
                owner = owner.name
            ),
            _ => format!("--model {} has no {option}; leave --{option} out", model.name),
        }));
    }
    if args.eval_every.is_some() && model.defaults.eval_every.is_none() {
        let message = format!(
            "--eval-every needs a held-out part, the model {} has none; leave --eval-every out",
            model.name
        );
        return Err(CliError::Usage(message));
    }
    Ok(())
}

fn rate(args: &JobArgs, defaults: LearningRate, preset: bool) -> Result<LearningRate, CliError> {
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
    Ok(LearningRate { peak: args.lr.unwrap_or(defaults.peak), curve, warmup })
}
