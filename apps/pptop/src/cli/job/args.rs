//! The flags of a job, and their parsers.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::ValueEnum as _;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use pp_models::{LLAMA, MODELS, Model, Preset, SEED_PRESET};
use pp_schedule::{ScheduleName, did_you_mean};
use pp_train::{DeviceChoice, KernelChoice};

use super::super::CliError;
use super::super::help::headings;
use super::super::kernels::kernels;
use super::super::refusal::choice;
use super::super::sizes::{self, count, natural};
use super::defaults;
use super::options::{OwnOptions, SharedOptions, positive};

/// A whole number above zero.
fn whole(text: &str) -> Result<u64, String> {
    let number = text.parse::<u64>().ok().filter(|n| *n > 0);
    number.ok_or_else(|| format!("use a whole number from 1 to {}", u64::MAX))
}

/// What `--model` names.
#[derive(Clone, Debug)]
pub(crate) enum ModelArg {
    /// A model by its name.
    Named(&'static Model),
    /// The folder of a model.
    Folder(PathBuf),
}

impl ModelArg {
    /// The model, and the folder that it is read from.
    pub(crate) fn parts(&self) -> (&'static Model, Option<&Path>) {
        match self {
            Self::Named(model) => (model, None),
            Self::Folder(folder) => (&LLAMA, Some(folder)),
        }
    }
}

/// Whether the value of `--model` is a folder: a path says so by itself, a name by what is there.
pub(super) fn is_folder(value: &OsStr) -> bool {
    let is_name = value.to_str().is_some_and(|name| pp_models::model(name).is_some());
    !is_name && (value.as_encoded_bytes().contains(&b'/') || Path::new(value).is_dir())
}

/// The names of models.
fn names() -> impl Iterator<Item = PossibleValue> {
    MODELS.into_iter().map(|model| PossibleValue::new(model.name).help(model.about))
}

/// A model by its name, or by its folder.
#[derive(Clone)]
struct ModelParser;

impl TypedValueParser for ModelParser {
    type Value = ModelArg;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<ModelArg, clap::Error> {
        if is_folder(value) {
            return Ok(ModelArg::Folder(pp_models::model_folder(Path::new(value))));
        }
        PossibleValuesParser::new(names())
            .try_map(|name| pp_models::model(&name).ok_or("use a model that is listed"))
            .map(ModelArg::Named)
            .parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(names()))
    }
}

fn optimizer(text: &str) -> Result<pp_nn::OptimizerKind, String> {
    text.parse().map_err(|_| choice(text, &["sgd", "adam", "adamw"]))
}

fn cut(text: &str) -> Result<pp_partition::Cut, String> {
    text.parse().map_err(|_| {
        let meant = did_you_mean(text, ["uniform", "parameters", "time"]);
        let all = "uniform, parameters, time, or layers per stage such as 3,5";
        meant.map_or_else(|| format!("use {all}"), |meant| format!("{meant} Use {all}"))
    })
}

fn recompute(text: &str) -> Result<pp_train::Recompute, String> {
    if text == "all" {
        return Ok(pp_train::Recompute::Always);
    }
    let stages = text.split(',').map(str::parse).collect::<Result<_, _>>();
    let refused = |_| "use all, or stages such as 0,1".to_owned();
    stages.map(pp_train::Recompute::Stages).map_err(refused)
}

fn spans(text: &str) -> Result<pp_telemetry::SpanPolicy, String> {
    match text {
        "all" => Ok(pp_telemetry::SpanPolicy::All),
        "auto" => Ok(pp_telemetry::SpanPolicy::Auto),
        _ => whole(text)
            .map(pp_telemetry::SpanPolicy::Every)
            .map_err(|_| "use all, auto, or a number of steps".to_owned()),
    }
}

/// A number above zero, with K, M, G, T or P behind it for thousands, millions and so on.
fn flops(text: &str) -> Result<f64, String> {
    let (digits, factor) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'M')) => (&text[..at], 1e6),
        Some((at, 'G')) => (&text[..at], 1e9),
        Some((at, 'T')) => (&text[..at], 1e12),
        Some((at, 'P')) => (&text[..at], 1e15),
        _ => (text, 1.0),
    };
    let number = positive(digits).map(|number| number * factor).ok().filter(|n| n.is_finite());
    number.ok_or_else(|| "use a number above 0, such as 1.5e11, 150G or 67T".to_owned())
}

/// A fault for a test. With `:again` at its end, it also strikes a run that `--restarts` starts.
#[cfg(feature = "fault-injection")]
fn fault(text: &str) -> Result<pp_train::Fault, String> {
    let refused = || {
        "use RANK[.REPLICA]:STEP:POINT:error|panic|kill|stop|hang[:again] with an op, reduce, optimizer, copy or write, for example 1:2:1F3:panic".to_owned()
    };
    let parts: Vec<&str> = text.split(':').collect();
    let [rank, step, at, kind] = parts.strip_suffix(&["again"]).unwrap_or(&parts)[..] else {
        return Err(refused());
    };
    let kind = match kind {
        "error" => pp_train::FaultKind::Error,
        "panic" => pp_train::FaultKind::Panic,
        "kill" => pp_train::FaultKind::Kill,
        "stop" => pp_train::FaultKind::Stop,
        "hang" => pp_train::FaultKind::Hang,
        _ => return Err(refused()),
    };
    let (rank, replica) = match rank.split_once('.') {
        Some((rank, replica)) => {
            (rank, Some(pp_schedule::Replica(replica.parse().map_err(|_| refused())?)))
        }
        None => (rank, None),
    };
    let rank = pp_schedule::Rank(rank.parse().map_err(|_| refused())?);
    let (step, at) = (step.parse().map_err(|_| refused())?, at.parse().map_err(|_| refused())?);
    Ok(pp_train::Fault { rank, replica, step, at, kind })
}

/// A job that is known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PresetArg {
    /// The notebook's experiment
    Seed,
}

impl PresetArg {
    pub(super) fn preset(self) -> &'static Preset {
        match self {
            Self::Seed => &SEED_PRESET,
        }
    }
}

/// Where ranks compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DeviceArg {
    /// CUDA where it can be used, else the CPU
    Auto,
    /// Each rank is a thread
    Cpu,
    /// CUDA devices
    Cuda,
}

/// The environment variable that stands for `--device` where the flag is not given.
const DEVICE_VARIABLE: &str = "PPTOP_DEVICE";

impl JobArgs {
    /// The device that is asked for, by the flag or by `PPTOP_DEVICE`.
    ///
    /// # Errors
    /// If the variable names none.
    pub(super) fn device(&self) -> Result<Option<DeviceArg>, CliError> {
        let given = std::env::var_os(DEVICE_VARIABLE).filter(|text| !text.is_empty());
        match (self.device, given) {
            (None, Some(text)) => match DeviceArg::from_str(&text.to_string_lossy(), false) {
                Ok(device) => Ok(Some(device)),
                Err(_) => Err(CliError::Usage(format!(
                    "{DEVICE_VARIABLE} is '{}'; set it to auto, cpu or cuda",
                    text.to_string_lossy()
                ))),
            },
            (device, _) => Ok(device),
        }
    }
}

impl From<DeviceArg> for DeviceChoice {
    fn from(arg: DeviceArg) -> Self {
        match arg {
            DeviceArg::Auto => Self::Auto,
            DeviceArg::Cpu => Self::Cpu,
            DeviceArg::Cuda => Self::Cuda,
        }
    }
}

/// How the learning rate changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CurveArg {
    /// No change after the warm-up
    Constant,
    /// Multiplied by --lr-gamma every --lr-step steps
    Step,
    /// Half a cosine, down to a tenth of the peak
    Cosine,
}

/// What to train, how it is cut, and how long.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = format!("{}\n\n{}", defaults::table(), sizes::list(ScheduleName::trains)))]
pub(crate) struct JobArgs {
    /// Model to train, by name or by its folder [default: gpt]
    #[arg(long, value_parser = ModelParser, display_order = 1)]
    pub(crate) model: Option<ModelArg>,
    /// Ranks along the pipeline
    #[arg(long, visible_aliases = ["stages", "ranks"], value_name = "P", value_parser = count, display_order = 4)]
    pub(crate) pp: Option<u32>,
    /// Data-parallel replicas of the pipeline
    #[arg(long, value_name = "D", value_parser = count, display_order = 5)]
    pub(crate) dp: Option<u32>,
    /// Micro-batches of each replica in a step; must divide its batch
    #[arg(long, value_name = "M", value_parser = count, display_order = 6)]
    pub(crate) micro_batches: Option<u32>,
    /// Samples in a step, over all replicas
    #[arg(long, value_name = "B", value_parser = whole, display_order = 7)]
    pub(crate) batch_size: Option<u64>,
    /// Steps to train
    #[arg(long, value_name = "N", value_parser = whole, display_order = 8)]
    pub(crate) steps: Option<u64>,
    /// Peak learning rate
    #[arg(long, value_name = "RATE", value_parser = positive, display_order = 9)]
    pub(crate) lr: Option<f64>,
    /// Where ranks compute [default: auto]
    #[arg(long, value_enum, display_order = 10)]
    pub(crate) device: Option<DeviceArg>,
    /// Start from a named job; other flags override parts of it
    #[arg(long, value_enum, help_heading = headings::MODEL)]
    pub(crate) preset: Option<PresetArg>,
    #[command(flatten)]
    pub(crate) shared_options: SharedOptions,
    /// Read the initial weights from this file, or from a checkpoint, matched by name
    #[arg(long, value_name = "FILE.safetensors", help_heading = headings::MODEL)]
    pub(crate) init: Option<PathBuf>,
    /// Virtual stages on each rank
    #[arg(long, value_name = "V", value_parser = count, help_heading = headings::PIPELINE)]
    pub(crate) virtual_stages: Option<u32>,
    /// How the model is cut: uniform, parameters, time, or layers per stage such as 3,5
    #[arg(long, value_name = "CUT", value_parser = cut, help_heading = headings::PIPELINE)]
    pub(crate) partition: Option<pp_partition::Cut>,
    /// Micro-batches that pass through one chunk before the next chunk runs
    #[arg(long, value_name = "N", value_parser = count, help_heading = headings::PIPELINE)]
    pub(crate) interleave_group: Option<u32>,
    /// Memory limit of a rank under zb-auto and auto, in activations of one micro-batch on all its
    /// stages [default: P]
    #[arg(long, value_name = "L", value_parser = positive, help_heading = headings::PIPELINE)]
    pub(crate) memory_limit: Option<f64>,
    /// Recompute activations in the backward pass instead of keeping them, on all stages or on a
    /// list of stages such as 0,1
    #[arg(long, value_name = "STAGES", num_args = 0..=1, require_equals = true, default_missing_value = "all", value_parser = recompute, help_heading = headings::PIPELINE)]
    pub(crate) recompute: Option<pp_train::Recompute>,
    /// Let each replica keep the optimizer's state for its share of the parameters only; the results
    /// have the same bits
    #[arg(long, help_heading = headings::PIPELINE)]
    pub(crate) shard_optimizer: bool,
    #[arg(long, value_name = "KIB", value_parser = natural, help_heading = headings::PIPELINE, help = format!("Send gradients to the other replicas in buckets of KIB KiB, while the backward pass still runs; 0 sends each parameter alone; the results have the same bits [default: {}]", pp_train::BUCKET_BYTES / 1024))]
    pub(crate) bucket_kib: Option<u64>,
    /// Pin the thread of each rank to its own core; needs one core per rank, and two pinned runs
    /// use the same cores
    #[arg(long, help_heading = headings::PIPELINE)]
    pub(crate) pin: bool,
    /// Matrix kernels: auto (measured once per processor model), rule (chosen by CPU features), one
    /// of in-place, avx512, avx2, neon, gemm and blas, or three for each product; kernels may
    /// differ in the last bits of the results
    #[arg(long, value_name = "KERNELS", value_parser = kernels, help_heading = headings::PIPELINE)]
    pub(crate) kernels: Option<KernelChoice>,
    /// Do not keep packed copies of the weights: slower, saves about twice the bytes of the
    /// weights, same results
    #[arg(long, help_heading = headings::PIPELINE)]
    pub(crate) no_packed_weights: bool,
    /// Seed of initial weights, dropout and data order
    #[arg(long, value_name = "S", value_parser = natural, help_heading = headings::OPTIMIZER)]
    pub(crate) seed: Option<u64>,
    /// Optimizer: sgd, adam or adamw
    #[arg(long, value_name = "NAME", value_parser = optimizer, help_heading = headings::OPTIMIZER)]
    pub(crate) optimizer: Option<pp_nn::OptimizerKind>,
    /// How the learning rate changes
    #[arg(long, value_enum, help_heading = headings::OPTIMIZER)]
    pub(crate) lr_schedule: Option<CurveArg>,
    #[arg(long, value_name = "N", value_parser = whole, help_heading = headings::OPTIMIZER, help = format!("Steps between changes, with --lr-schedule step [default: {}]", SEED_PRESET.lr_step))]
    pub(crate) lr_step: Option<u64>,
    #[arg(long, value_name = "FACTOR", value_parser = positive, help_heading = headings::OPTIMIZER, help = format!("Factor of each change, with --lr-schedule step [default: {}]", SEED_PRESET.lr_gamma))]
    pub(crate) lr_gamma: Option<f64>,
    /// Warm-up steps of the learning rate
    #[arg(long, value_name = "N", value_parser = natural, help_heading = headings::OPTIMIZER)]
    pub(crate) warmup: Option<u64>,
    /// Clip the gradient norm of the whole model
    #[arg(long, value_name = "NORM", value_parser = positive, help_heading = headings::OPTIMIZER)]
    pub(crate) clip_norm: Option<f64>,
    /// Steps between evaluations on held-out data
    #[arg(long, value_name = "N", value_parser = whole, help_heading = headings::OPTIMIZER)]
    pub(crate) eval_every: Option<u64>,
    /// Steps whose spans are recorded: all, N for every N-th step, or auto (keeps the log under
    /// 256 MB) [default: auto]
    #[arg(long, value_name = "WHICH", value_parser = spans, help_heading = headings::RECORD)]
    pub(crate) spans: Option<pp_telemetry::SpanPolicy>,
    /// Peak FLOP/s of the device of one rank, such as 1.5e11 or 67T; shows the MFU
    #[arg(long, value_name = "FLOPS", value_parser = flops, help_heading = headings::RECORD)]
    pub(crate) peak_flops: Option<f64>,
    #[command(flatten)]
    pub(crate) own_options: OwnOptions,
    /// Lets a rank fail: for tests.
    #[cfg(feature = "fault-injection")]
    #[arg(long, hide = true, value_parser = fault)]
    pub(crate) inject_fault: Option<pp_train::Fault>,
}
