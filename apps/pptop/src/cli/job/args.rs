//! The flags of a job, as they are typed.

use std::path::PathBuf;

use pp_schedule::ScheduleName;

use super::super::sizes::{self, count};
use super::defaults::{ModelName, TABLE};

/// A finite number above zero.
fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    number.ok_or_else(|| "accepted: a finite number above 0".to_owned())
}

/// A whole number above zero.
fn whole(text: &str) -> Result<u64, String> {
    let number = text.parse::<u64>().ok().filter(|n| *n > 0);
    number.ok_or_else(|| format!("accepted: a whole number from 1 to {}", u64::MAX))
}

/// A whole number, zero included.
fn natural(text: &str) -> Result<u64, String> {
    text.parse::<u64>().map_err(|_| format!("accepted: a whole number from 0 to {}", u64::MAX))
}

fn optimizer(text: &str) -> Result<pp_nn::OptimizerKind, String> {
    text.parse().map_err(|_| "accepted: sgd, adam, adamw".to_owned())
}

fn cut(text: &str) -> Result<pp_partition::Cut, String> {
    let refused =
        |_| "accepted: uniform, parameters, time, or layers per stage such as 3,5".to_owned();
    text.parse().map_err(refused)
}

fn recompute(text: &str) -> Result<pp_executor::Recompute, String> {
    if text == "all" {
        return Ok(pp_executor::Recompute::Always);
    }
    let stages = text.split(',').map(str::parse).collect::<Result<_, _>>();
    let refused = |_| "accepted: all, or stages such as 0,1".to_owned();
    stages.map(pp_executor::Recompute::Stages).map_err(refused)
}

/// A rate in `[0, 1)`.
fn rate(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| (0.0..1.0).contains(n));
    number.ok_or_else(|| "accepted: a number from 0 to below 1".to_owned())
}

/// Milliseconds, zero included.
fn ms(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| (0.0..=3.6e6).contains(n));
    number.ok_or_else(|| "accepted: milliseconds from 0 to 3600000".to_owned())
}

fn slow_rank(text: &str) -> Result<(u32, f64), String> {
    const FACTOR_MAX: f64 = 1e6;
    let refused = || {
        format!(
            "accepted: RANK:FACTOR with a factor above 0, at most {FACTOR_MAX}, for example 1:1.5"
        )
    };
    let (rank, factor) = text.split_once(':').ok_or_else(refused)?;
    let factor = positive(factor).ok().filter(|&factor| factor <= FACTOR_MAX);
    Ok((rank.parse().map_err(|_| refused())?, factor.ok_or_else(refused)?))
}

fn spans(text: &str) -> Result<pp_telemetry::SpanPolicy, String> {
    match text {
        "all" => Ok(pp_telemetry::SpanPolicy::All),
        "auto" => Ok(pp_telemetry::SpanPolicy::Auto),
        _ => whole(text)
            .map(pp_telemetry::SpanPolicy::Every)
            .map_err(|_| "accepted: all, auto, or a number of steps".to_owned()),
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

fn fault(text: &str) -> Result<pp_executor::Fault, String> {
    let refused = || "accepted: RANK:STEP:OP:error|panic, for example 1:2:1F3:panic".to_owned();
    let parts: Vec<&str> = text.split(':').collect();
    let [rank, step, op, kind] = parts[..] else { return Err(refused()) };
    let kind = match kind {
        "error" => pp_executor::FaultKind::Error,
        "panic" => pp_executor::FaultKind::Panic,
        _ => return Err(refused()),
    };
    let rank = pp_schedule::Rank(rank.parse().map_err(|_| refused())?);
    let (step, op) = (step.parse().map_err(|_| refused())?, op.parse().map_err(|_| refused())?);
    Ok(pp_executor::Fault { rank, step, op, kind })
}

/// A job that is known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Preset {
    /// The notebook's experiment
    Seed,
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

/// How the learning rate changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CurveArg {
    /// It does not
    Constant,
    /// Times --lr-gamma every --lr-step steps
    Step,
    /// Half a cosine down to a tenth
    Cosine,
}

/// What to train, how it is cut, and how long.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = format!("{TABLE}\n\n{}", sizes::list(ScheduleName::trains)))]
pub(crate) struct JobArgs {
    /// A job that is known by name; other flags change it
    #[arg(long, value_enum)]
    pub(crate) preset: Option<Preset>,
    /// The model [default: gpt]
    #[arg(long, value_enum)]
    pub(crate) model: Option<ModelName>,
    /// A text for gpt to learn [default: a book that the program carries]
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    /// Transformer blocks of gpt
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) layers: Option<u32>,
    /// Features of a token of gpt
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) width: Option<u32>,
    /// Attention heads of gpt; they divide the width
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) heads: Option<u32>,
    /// Bytes that gpt looks at
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) context: Option<u32>,
    /// Ranks along the pipeline
    #[arg(long, visible_aliases = ["stages", "ranks"], value_name = "P", value_parser = count)]
    pub(crate) pp: Option<u32>,
    /// Replicas of the pipeline
    #[arg(long, value_name = "D", value_parser = count)]
    pub(crate) dp: Option<u32>,
    /// Stages on each rank
    #[arg(long, value_name = "V", value_parser = count)]
    pub(crate) virtual_stages: Option<u32>,
    /// Samples of a step, over all replicas
    #[arg(long, value_name = "B", value_parser = whole)]
    pub(crate) batch_size: Option<u64>,
    /// Micro-batches of each replica in a step
    #[arg(long, value_name = "M", value_parser = count)]
    pub(crate) micro_batches: Option<u32>,
    /// Steps
    #[arg(long, value_name = "N", value_parser = whole)]
    pub(crate) steps: Option<u64>,
    /// Decides initial weights, dropout and the order of the data
    #[arg(long, value_name = "S", value_parser = natural)]
    pub(crate) seed: Option<u64>,
    /// The highest learning rate
    #[arg(long, value_name = "RATE", value_parser = positive)]
    pub(crate) lr: Option<f64>,
    /// How the learning rate changes
    #[arg(long, value_enum)]
    pub(crate) lr_schedule: Option<CurveArg>,
    /// Steps between changes, with --lr-schedule step [default: 20]
    #[arg(long, value_name = "N", value_parser = whole)]
    pub(crate) lr_step: Option<u64>,
    /// The factor of a change, with --lr-schedule step [default: 0.5]
    #[arg(long, value_name = "FACTOR", value_parser = positive)]
    pub(crate) lr_gamma: Option<f64>,
    /// Steps of linear growth of the learning rate
    #[arg(long, value_name = "N", value_parser = natural)]
    pub(crate) warmup: Option<u64>,
    /// sgd, adam or adamw
    #[arg(long, value_name = "NAME", value_parser = optimizer)]
    pub(crate) optimizer: Option<pp_nn::OptimizerKind>,
    /// The largest norm of the gradient of the whole model
    #[arg(long, value_name = "NORM", value_parser = positive)]
    pub(crate) clip_norm: Option<f64>,
    /// Stages that run their forward again in the backward instead of keeping what it made: all, or those that are named (0,1)
    #[arg(long, value_name = "STAGES", num_args = 0..=1, require_equals = true, default_missing_value = "all", value_parser = recompute)]
    pub(crate) recompute: Option<pp_executor::Recompute>,
    /// Keep each rank's thread on a core of its own; there must be as many, and two runs at once would share the first
    #[arg(long)]
    pub(crate) pin: bool,
    /// Replaces every dropout rate of the model
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) dropout: Option<f64>,
    /// Where ranks compute [default: auto]
    #[arg(long, value_enum)]
    pub(crate) device: Option<DeviceArg>,
    /// uniform, parameters, time, or layers per stage such as 3,5
    #[arg(long, value_name = "CUT", value_parser = cut)]
    pub(crate) partition: Option<pp_partition::Cut>,
    /// Micro-batches that pass through one chunk before the next has its turn
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) interleave_group: Option<u32>,
    /// zb-auto and auto: the most that a rank may hold, in activations of one micro-batch on all its stages [default: P]
    #[arg(long, value_name = "L", value_parser = positive)]
    pub(crate) memory_limit: Option<f64>,
    /// Steps between evaluations on the held-out part
    #[arg(long, value_name = "N", value_parser = whole)]
    pub(crate) eval_every: Option<u64>,
    /// sleep: milliseconds of F, per rank share
    #[arg(long, value_name = "MS", value_parser = ms)]
    pub(crate) sleep_forward_ms: Option<f64>,
    /// sleep: milliseconds of I, per rank share
    #[arg(long, value_name = "MS", value_parser = ms)]
    pub(crate) sleep_input_grad_ms: Option<f64>,
    /// sleep: milliseconds of W, per rank share
    #[arg(long, value_name = "MS", value_parser = ms)]
    pub(crate) sleep_weight_grad_ms: Option<f64>,
    /// sleep: a rank that takes so many times as long
    #[arg(long, value_name = "R:FACTOR", value_parser = slow_rank)]
    pub(crate) sleep_slow_rank: Option<(u32, f64)>,
    /// sleep: milliseconds that every message takes
    #[arg(long, value_name = "MS", value_parser = ms)]
    pub(crate) sleep_link_ms: Option<f64>,
    /// Which steps have their spans recorded: all, auto (a log under 256 MB), or every N-th [default: auto]
    #[arg(long, value_name = "WHICH", value_parser = spans)]
    pub(crate) spans: Option<pp_telemetry::SpanPolicy>,
    /// Floating-point operations a second that the device of one rank can do at most, such as 1.5e11 or 67T: for the MFU
    #[arg(long, value_name = "FLOPS", value_parser = flops)]
    pub(crate) peak_flops: Option<f64>,
    /// Initial weights by name
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) init: Option<PathBuf>,
    /// Lets a rank fail: for tests.
    #[arg(long, hide = true, value_parser = fault)]
    pub(crate) inject_fault: Option<pp_executor::Fault>,
}
