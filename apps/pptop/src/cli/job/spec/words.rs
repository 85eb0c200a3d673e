//! The refusals of a job in the words of the command line: the flag, and what to write instead.

use pp_models::{ModelError, Options};
use pp_partition::{Cut, PartitionError};
use pp_schedule::{ScheduleError, Sizes, clean};
use pp_train::checkpoint::CheckpointError;
use pp_train::{NoCuda, ResumeError, SampleLength, TrainError, WeightsError, causes};

use super::super::super::CliError;
use super::super::super::devices::why_no_cuda;
use super::super::super::refusal::excerpt;
use super::super::fitting::{near_divisors, near_micro_batches, near_multiples, with_batch};
use super::Spec;

/// Options of a model that do not fit each other.
pub(super) fn of_model(error: &ModelError, options: &Options) -> CliError {
    let &ModelError::Heads { width, heads } = error else {
        return CliError::Usage(of_data(error));
    };
    let (width, heads) = (width as u64, heads as u64);
    let near = near_divisors(width, heads, |_| true).filter(|_| options.is_given("heads"));
    CliError::Usage(match near {
        Some(near) => format!("--heads {heads} does not divide --width {width}; use {near}"),
        None => format!(
            "--width {width} is not a multiple of --heads {heads}; use {}",
            near_multiples(heads, width)
        ),
    })
}

/// A job that cannot be started.
pub(super) fn of_job(error: &TrainError, spec: &Spec) -> CliError {
    match error {
        TrainError::Tensor(error) => CliError::Failed(error.to_string()),
        error if error.is_refusal() => CliError::Usage(refusal(error, spec)),
        error => CliError::Failed(causes(error)),
    }
}

fn refusal(error: &TrainError, spec: &Spec) -> String {
    match error {
        TrainError::Sizes { name, sizes, source } => {
            let (batch, dp) = (spec.config.batch_size, spec.config.dp);
            with_batch(ScheduleError::clone(source), *name, sizes, batch, dp).to_string()
        }
        TrainError::Processes { ranks, replicas, processes } => format!(
            "--pp {ranks} and --dp {replicas} are {} ranks, but there are {processes} processes, and each has one rank; use mpirun -np {}, or another --pp or --dp",
            u64::from(*ranks) * u64::from(*replicas),
            u64::from(*ranks) * u64::from(*replicas)
        ),
        TrainError::ForwardOnly { .. } => {
            format!("the plan {} has no backward; use a plan that trains", excerpt(&spec.schedule))
        }
        TrainError::TooManyStages { ranks, chunks, layers, model } => {
            too_many_stages(*ranks, *chunks, *layers as u64, model)
        }
        TrainError::TooManyRanks { ranks, layers, model } => format!(
            "{ranks} ranks need {ranks} layers, but the model {model} has {layers}; use --pp {layers} or less"
        ),
        TrainError::Threads { ranks, replicas, most } => format!(
            "{ranks} ranks on {replicas} replicas need {} threads, but this system has {most}; use a --pp times --dp of {most} or less",
            u64::from(*ranks) * u64::from(*replicas)
        ),
        TrainError::Cores { ranks, cores } => format!(
            "--pin needs {ranks} cores for {ranks} ranks, but there are {cores}; use at most {cores} ranks, or leave --pin out"
        ),
        TrainError::AbsentStage { stage, stages } => format!(
            "--recompute names stage {stage}, but the plan has {stages} stages; use stages from 0 to {}, or all",
            stages - 1
        ),
        TrainError::AbsentSlowRank { rank, ranks } => {
            absent_rank("--sleep-slow-rank", *rank, *ranks)
        }
        #[cfg(feature = "fault-injection")]
        TrainError::AbsentFault { rank, ranks } => absent_rank("--inject-fault", *rank, *ranks),
        TrainError::SharedStages { .. } => format!(
            "--sleep-slow-rank: {} runs every stage on two ranks, and a stage is equally slow on both; use another schedule",
            excerpt(&spec.schedule)
        ),
        &TrainError::Uneven { batch, micro_batches, replicas, ranks, virtual_stages } => {
            let sizes = Sizes {
                n_ranks: ranks,
                n_micro_batches: micro_batches,
                n_virtual_stages: virtual_stages,
                interleave_group: spec.config.interleave_group,
            };
            uneven_batch(spec, &sizes, batch, u64::from(replicas))
        }
        TrainError::Cuda(no) => no_cuda(no),
        TrainError::WaitsOnCpu { model } => {
            format!(
                "--model {model} runs only on the CPU, but --device is cuda; use --device auto or cpu"
            )
        }
        TrainError::Workload(error) => match error.downcast_ref::<ModelError>() {
            Some(error) => of_data(error),
            None => causes(error.as_ref()),
        },
        TrainError::TooManyParameters { most, .. } => {
            format!("{error}; use at most {most} parameters in all")
        }
        TrainError::BatchTooLarge { most, .. } => {
            format!("{error}; use --batch-size {most} or less")
        }
        TrainError::TooManySamples { model, samples, most } => format!(
            "--batch-size {samples} is too large, because {model} generates at most {most} samples for a step; use --batch-size {most} or less"
        ),
        TrainError::ActivationsTooLarge { samples, needed, free, most } => {
            let (each, shorter) = match spec.config.workload.sample_length() {
                Some(SampleLength { length, unit, option }) => {
                    (format!(" of {length} {unit}"), format!(", or a smaller --{option}"))
                }
                None => (String::new(), String::new()),
            };
            format!(
                "a micro-batch of {samples} samples{each} needs about {} MiB of activations, but {} MiB are free; use at most {most} samples{shorter}",
                needed >> 20,
                free >> 20
            )
        }
        TrainError::Cut { source, stages, layers } => refused_cut(source, *stages, *layers),
        TrainError::Initial { .. } | TrainError::Resume { .. } | TrainError::Checkpoints(_) => {
            of_kept(error)
        }
        // The text of such an error has its causes.
        other => other.to_string(),
    }
}

/// The most characters of the reason why weights cannot be used.
const WHY_CHARS_MAX: usize = 140;

/// Weights or checkpoints that cannot be used.
fn of_kept(error: &TrainError) -> String {
    match error {
        TrainError::Initial { path, source }
            if matches!(**source, WeightsError::NotFinite { .. }) =>
        {
            format!(
                "cannot load initial weights from {}: {source}; name another file, or let pptop train read it with --allow-nonfinite",
                excerpt(&path.display().to_string())
            )
        }
        TrainError::Initial { source, .. } if matches!(**source, WeightsError::Checkpoint(_)) => {
            let why = causes(source);
            let why = clean(&why);
            format!("cannot load initial weights from a checkpoint: {why}; name one that is whole")
        }
        TrainError::Initial { path, source } => {
            // A file may have names of any length.
            let why: String = clean(&causes(source)).chars().take(WHY_CHARS_MAX).collect();
            format!(
                "cannot load initial weights from {}: {why}; name a file that --save wrote, a checkpoint, or the folder of a model, for this model",
                excerpt(&path.display().to_string())
            )
        }
        TrainError::Resume { path, source } => {
            let advice = match **source {
                ResumeError::OtherData => "; name the other data with --data to train on them",
                ResumeError::NoSteps { .. } => "; use a larger --steps",
                _ => "",
            };
            let why = match &**source {
                // The path is said already.
                ResumeError::Checkpoint(CheckpointError::Broken { path: of, why })
                    if of == path =>
                {
                    why.clone()
                }
                other => causes(other),
            };
            let path = excerpt(&path.display().to_string());
            format!("cannot resume from {path}: {}{advice}", clean(&why))
        }
        TrainError::Checkpoints(source) => causes(source),
        other => causes(other),
    }
}

/// Data that a model cannot be trained on.
pub(crate) fn of_data(error: &ModelError) -> String {
    match error {
        ModelError::TooShort { name, bytes, context, needed } => {
            let shorter = match bytes / 10 {
                0 | 1 => String::new(),
                tenth => format!(", or --context at most {}", tenth - 1),
            };
            format!(
                "{} has {bytes} bytes, but a context of {context} needs {needed}: one window in the nine tenths for training \
                 and one in the held-out tenth; use a longer text{shorter}",
                excerpt(name)
            )
        }
        ModelError::Read { path, source } => format!(
            "cannot read the data file {}: {source}; name a text file that can be read",
            excerpt(&path.display().to_string())
        ),
        ModelError::Config(_) => {
            with_advice(causes(error), "use the config.json of a model of Llama, Qwen 2 or Qwen 3")
        }
        ModelError::Folder { .. } => {
            with_advice(causes(error), "use a folder with config.json, tokenizer.json and weights")
        }
        ModelError::Convert { .. } => with_advice(causes(error), "use another file or folder"),
        other => causes(other),
    }
}

/// A refusal with what to do, unless it says so already.
fn with_advice(text: String, advice: &str) -> String {
    if text.contains("; ") { text } else { format!("{text}; {advice}") }
}

fn no_cuda(no: &NoCuda) -> String {
    format!("--device cuda: {}; use --device auto or cpu", why_no_cuda(no))
}

fn absent_rank(flag: &str, rank: u32, ranks: u32) -> String {
    let last = ranks - 1;
    format!("{flag} names rank {rank}, but the plan has {ranks} ranks; use a rank from 0 to {last}")
}

/// More stages than layers, with the flags that make fewer.
fn too_many_stages(ranks: u32, chunks: u32, layers: u64, model: &str) -> String {
    let stages = u64::from(ranks) * u64::from(chunks);
    let mut fits = Vec::new();
    if layers >= u64::from(chunks) {
        fits.push(format!("--pp {}", layers / u64::from(chunks)));
    }
    if chunks > 1 && layers >= u64::from(ranks) {
        fits.push(format!("--virtual-stages {}", layers / u64::from(ranks)));
    }
    if fits.is_empty() {
        fits.push(format!("{layers} for --pp times --virtual-stages"));
    }
    format!(
        "{ranks} ranks of {chunks} stages need {stages} layers, but the model {model} has {layers}; use at most {}",
        fits.join(" or ")
    )
}

/// A batch that does not divide, with the flag that was given and sizes that fit.
fn uneven_batch(spec: &Spec, sizes: &Sizes, batch: u64, dp: u64) -> String {
    let m = sizes.n_micro_batches;
    let multiples = near_multiples(dp * u64::from(m), batch);
    let replicas = if dp > 1 { format!(" over {dp} replicas") } else { String::new() };
    if !batch.is_multiple_of(dp) {
        let fits = near_divisors(batch, dp, |_| true);
        let fits = fits.map_or_else(String::new, |dp| format!("--dp {dp}, or "));
        return format!(
            "--dp {dp} does not divide a batch of {batch}; use {fits}--batch-size {multiples}"
        );
    }
    let named = spec.config.named().filter(|_| spec.micro_batches.is_some());
    let near = named.and_then(|name| near_micro_batches(name, sizes, Some(batch), spec.config.dp));
    match near {
        Some(near) => {
            format!("--micro-batches {m}{replicas} does not divide a batch of {batch}; use {near}")
        }
        None => format!(
            "a batch of {batch} does not divide into {m} micro-batches{replicas}; use --batch-size {multiples}"
        ),
    }
}

/// A cut that does not fit.
fn refused_cut(refused: &PartitionError, stages: usize, layers: usize) -> String {
    let (sizes, why) = match refused {
        PartitionError::EmptyStage { stage, sizes } => {
            (sizes, format!("gives stage {stage} no layer"))
        }
        PartitionError::WrongCount { sizes, stages } => {
            (sizes, format!("has {} parts, but the plan has {stages} stages", sizes.len()))
        }
        PartitionError::WrongSum { sizes, layers } => {
            let sum: u128 = sizes.iter().map(|&size| size as u128).sum();
            (sizes, format!("sums to {sum}, but the model has {layers} layers"))
        }
        other => return causes(other),
    };
    format!(
        "--partition {} {why}; write {stages} numbers that sum to {layers}, or uniform, parameters or time",
        excerpt(&Cut::Explicit(sizes.clone()).to_string())
    )
}
