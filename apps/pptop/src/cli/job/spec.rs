//! The flags of a job taken together. Contradictions are refused.

mod words;

pub(crate) use words::of_data;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use pp_models::{GPT, MODELS, Model, Options, Preset, SEED_PRESET};
use pp_nn::{LearningRate, LearningRateCurve};
use pp_partition::Cut;
use pp_schedule::{ScheduleName, ValidPlan};
use pp_train::{Config, PlanSource, Prepared, Profiles, Session, TrainError, limits};

use super::super::CliError;
use super::super::costs::CostSource;
use super::super::sizes::{PlanArgs, fits_in_memory};
use super::args::{CurveArg, JobArgs, PresetArg};

/// The file of a plan; `None` if `schedule` is the name of a schedule.
pub(crate) fn plan_file(schedule: &OsStr) -> Option<&Path> {
    let is_name = schedule.to_string_lossy().parse::<ScheduleName>().is_ok();
    (!is_name).then(|| Path::new(schedule))
}

/// A complete job.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// The configuration.
    pub(crate) config: Config,
    /// The schedule as the flag names it.
    pub(crate) schedule: String,
    /// The value of `--micro-batches`.
    pub(crate) micro_batches: Option<u32>,
    /// Steps between two plain lines.
    pub(crate) log_every: u64,
    /// Whether this is the notebook's job.
    pub(crate) is_seed: bool,
}

impl Spec {
    /// A job without flags of its own, under 1F1B.
    pub(crate) fn of(config: Config) -> Self {
        let schedule = ScheduleName::OneFOneB.to_string();
        Self { config, schedule, micro_batches: None, log_every: 1, is_seed: false }
    }

    /// Reads the flags together, and the plan if it is in a file.
    ///
    /// # Errors
    /// [`CliError::Usage`] if two flags contradict each other, or the file is wrong.
    pub(crate) fn new(args: &JobArgs, schedule: impl AsRef<OsStr>) -> Result<Self, CliError> {
        let preset = args.preset.map(PresetArg::preset);
        let (model, folder) = match &args.model {
            Some(model) => model.parts(),
            None => (preset.map_or(&GPT, |preset| preset.model), None),
        };
        if preset.is_some_and(|preset| preset.model.name != model.name) {
            let message = format!(
                "--preset seed is a job of seed-mlp, the model is {}; use --model seed-mlp, or leave --preset out",
                model.name
            );
            return Err(CliError::Usage(message));
        }
        let mut options = args.shared_options.0.clone();
        options.extend(&args.own_options.0);
        if let Some(folder) = folder {
            refuse_sizes(folder, &options)?;
            options.set_folder(folder);
        }
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
        let schedule = schedule.as_ref();
        let mut spec = Self {
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
                clip_norm: args
                    .clip_norm
                    .or(preset.map(|preset| preset.clip_norm))
                    .or(default.clip_norm),
                recompute: args.recompute.clone().unwrap_or_default(),
                shards_optimizer: args.shard_optimizer,
                bucket_bytes: args.bucket_kib.map_or(default.bucket_bytes, |kib| {
                    usize::try_from(kib.saturating_mul(1024)).unwrap_or(usize::MAX)
                }),
                pinned: args.pin,
                kernels: args.kernels.unwrap_or_default(),
                packs_weights: !args.no_packed_weights,
                device: args.device()?.map(Into::into).unwrap_or_default(),
                cut: args.partition.clone().unwrap_or(default.cut),
                eval_every: args.eval_every.or(default.eval_every),
                spans: args.spans.unwrap_or_default(),
                peak_flops: args.peak_flops,
                init: args.init.clone().or(folder.map(Path::to_owned)),
                #[cfg(feature = "fault-injection")]
                fault: args.inject_fault,
                ..default
            },
            schedule: schedule.to_string_lossy().into_owned(),
            micro_batches: args.micro_batches,
            log_every: preset.map_or(1, |preset| preset.log_every),
            is_seed: preset.is_some(),
        };
        spec.config.plan = match spec.schedule.parse() {
            Ok(name) => PlanSource::Named(name),
            Err(_) => PlanSource::Given(Arc::new(spec.read(schedule)?)),
        };
        Ok(spec)
    }

    /// Reads the plan of a file.
    fn read(&self, file: &OsStr) -> Result<ValidPlan, CliError> {
        let config = &self.config;
        // Checked before a plan for so many ranks is read.
        limits::threads(config.pp.unwrap_or(1), config.dp).map_err(|error| self.told(&error))?;
        let plan = PlanArgs {
            plan: file.to_owned(),
            pp: config.pp,
            micro_batches: self.micro_batches,
            virtual_stages: config.virtual_stages,
            interleave_group: config.interleave_group,
        };
        plan.plan(&CostSource::default())
    }

    /// The name of the model.
    pub(crate) fn model(&self) -> &str {
        self.config.workload.name()
    }

    /// Whether its ops wait for known times instead of computing.
    pub(crate) fn waits(&self) -> bool {
        self.config.workload.known_costs().is_some()
    }

    /// Refuses to generate text with a model that makes none.
    ///
    /// # Errors
    /// [`CliError::Usage`] with the models that do.
    pub(crate) fn refuse_no_samples(&self) -> Result<(), CliError> {
        if self.config.workload.makes_samples() {
            return Ok(());
        }
        let makes = |model: &&Model| {
            (model.make)(&Options::default()).is_ok_and(|workload| workload.makes_samples())
        };
        let models: Vec<&str> = MODELS.into_iter().filter(makes).map(|model| model.name).collect();
        let models = models.join(" or ");
        let message = format!("--sample belongs to --model {models}; leave --sample out");
        Err(CliError::Usage(message))
    }

    /// Checks everything that needs no measuring.
    ///
    /// # Errors
    /// [`CliError::Usage`] if the flags, or the files that they name, are wrong.
    pub(crate) fn prepare(&self) -> Result<Prepared, CliError> {
        Prepared::new(self.checked()?).map_err(|error| self.told(&error))
    }

    /// The session of one of several jobs with one model.
    ///
    /// # Errors
    /// As [`Spec::prepare`]; [`CliError::Failed`] if measuring fails.
    pub(crate) fn session(&self, profiles: &mut Profiles) -> Result<Session, CliError> {
        Session::with_profiles(self.checked()?, profiles).map_err(|error| self.told(&error))
    }

    /// The configuration, once its plan is known to be possible.
    fn checked(&self) -> Result<Config, CliError> {
        self.config.check().map_err(|error| self.told(&error))?;
        if let Some((name, sizes)) = self.config.outline() {
            fits_in_memory(name, &sizes)?;
        }
        Ok(self.config.clone())
    }

    /// The message of a job that is refused, or fails before its first step.
    pub(crate) fn told(&self, error: &TrainError) -> CliError {
        words::of_job(error, self)
    }

    /// The same job under another schedule.
    pub(crate) fn with_schedule(&self, name: ScheduleName) -> Self {
        // Only a schedule of chunks takes their number, and only one their order.
        let takes_chunks = name.default_virtual_stages() > 1;
        let takes_group = name == ScheduleName::InterleavedOneFOneB;
        let mut other = Self { schedule: name.to_string(), ..self.clone() };
        let config = &mut other.config;
        config.plan = PlanSource::Named(name);
        config.virtual_stages = config.virtual_stages.filter(|_| takes_chunks);
        config.interleave_group = config.interleave_group.filter(|_| takes_group);
        other
    }
}

/// Whether a model takes an option.
fn has(model: &Model, option: &str) -> bool {
    model.options.iter().any(|own| own.name == option)
}

/// Refuses sizes beside a folder, which has its own.
fn refuse_sizes(folder: &Path, options: &Options) -> Result<(), CliError> {
    let sizes = ["layers", "width", "ffn", "heads", "kv-heads", "tied"];
    match sizes.iter().find(|size| options.is_given(size)) {
        None => Ok(()),
        Some(size) => Err(CliError::Usage(format!(
            "--{size} beside --model {}, which has its own sizes; leave --{size} out",
            folder.display()
        ))),
    }
}

/// Refuses a flag of another model, which would have no effect.
fn refuse_foreign(args: &JobArgs, model: &Model, options: &Options) -> Result<(), CliError> {
    let mut all = MODELS.into_iter().flat_map(|model| model.options).map(|option| option.name);
    if let Some(option) = all.find(|option| options.is_given(option) && !has(model, option)) {
        let owners: Vec<&Model> = MODELS.into_iter().filter(|other| has(other, option)).collect();
        let names: Vec<&str> = owners.iter().map(|owner| owner.name).collect();
        return Err(CliError::Usage(format!(
            "--{option} belongs to --model {owners}, but the model is {}; leave --{option} out, or use --model {owners}",
            model.name,
            owners = names.join(" or ")
        )));
    }
    if args.eval_every.is_some() && model.defaults.eval_every.is_none() {
        let message = format!(
            "--eval-every needs held-out data, but the model {} has none; leave --eval-every out",
            model.name
        );
        return Err(CliError::Usage(message));
    }
    Ok(())
}

fn rate(
    args: &JobArgs,
    defaults: LearningRate,
    preset: Option<&Preset>,
) -> Result<LearningRate, CliError> {
    let step = LearningRateCurve::Step {
        every: args.lr_step.unwrap_or(SEED_PRESET.lr_step),
        gamma: args.lr_gamma.unwrap_or(SEED_PRESET.lr_gamma),
    };
    let curve = match args.lr_schedule {
        Some(CurveArg::Constant) => LearningRateCurve::Constant,
        Some(CurveArg::Step) => step,
        Some(CurveArg::Cosine) => LearningRateCurve::Cosine,
        None if preset.is_some() => step,
        None => defaults.curve,
    };
    if curve != step && (args.lr_step.is_some() || args.lr_gamma.is_some()) {
        let message =
            "--lr-step and --lr-gamma belong to --lr-schedule step; add it, or leave them out";
        return Err(CliError::Usage(message.to_owned()));
    }
    let warmup = args.warmup.unwrap_or(defaults.warmup);
    Ok(LearningRate { peak: args.lr.unwrap_or(defaults.peak), curve, warmup })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        job: JobArgs,
    }

    fn spec(flags: &str, schedule: &OsStr) -> Result<Spec, CliError> {
        let words = ["train"].into_iter().chain(flags.split_whitespace());
        let command = <Command as clap::Parser>::try_parse_from(words).unwrap();
        Spec::new(&command.job, schedule)
    }

    #[test]
    fn the_configuration_has_the_plan_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plan.csv");
        std::fs::write(&file, "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n").unwrap();
        let from_file = spec("--virtual-stages 1", file.as_os_str()).unwrap();
        let PlanSource::Given(plan) = &from_file.config.plan else {
            panic!("{:?}", from_file.config.plan)
        };
        assert_eq!((plan.n_ranks(), plan.n_micro_batches()), (2, 2));
        assert_eq!((from_file.config.named(), from_file.config.default_pp()), (None, None));
        assert_eq!(plan_file(file.as_os_str()), Some(file.as_path()));

        let naive = from_file.with_schedule(ScheduleName::Naive);
        assert_eq!(naive.config.named(), Some(ScheduleName::Naive));
        assert_eq!((naive.schedule.as_str(), naive.config.virtual_stages), ("naive", None));
        assert_eq!(plan_file("naive".as_ref()), None);
        assert!(matches!(spec("--pp 3", file.as_os_str()), Err(CliError::Usage(_))));
    }

    #[test]
    fn only_a_model_with_a_context_is_advised_to_shorten_it() {
        let told = |flags| {
            let spec = spec(flags, "1f1b".as_ref()).unwrap();
            let refused =
                TrainError::ActivationsTooLarge { samples: 4, needed: 2 << 20, free: 0, most: 1 };
            let CliError::Usage(text) = spec.told(&refused) else { panic!("{refused}") };
            text
        };
        let gpt = told("--context 99");
        assert!(gpt.contains("4 samples of 99 bytes") && gpt.contains("--context"), "{gpt}");
        let wine = told("--model wine-mlp");
        assert!(wine.ends_with("use at most 1 samples"), "{wine}");
    }
}
