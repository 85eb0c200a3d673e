//! What this machine can hold: sizes that it cannot are refused with both numbers, before anything of them is built.

use std::path::Path;

use pp_models::GptConfig;

use super::super::CliError;
use super::super::refusal::excerpt;
use super::super::sizes::memory_available;

/// Value, gradient and two moments, four bytes each.
const BYTES_A_PARAMETER: u128 = 16;
/// The text itself, and its two parts.
const COPIES_OF_A_TEXT: u64 = 3;

/// Parameters of a gpt by its sizes alone: building even an empty one of a billion layers would take the memory that is
/// asked about.
pub(crate) fn parameters_of_gpt(config: &GptConfig) -> u128 {
    const VOCABULARY: u128 = 256;
    let [layers, width, context] = [config.layers, config.width, config.context].map(|n| n as u128);
    let embedding = (VOCABULARY + context) * width;
    // Attention 4w² + 4w, MLP 8w² + 5w, two norms 4w.
    let block = 12 * width * width + 13 * width;
    let head = 2 * width + VOCABULARY * width;
    embedding + layers * block + head
}

/// Refuses a model whose training does not fit into the memory that is free.
pub(crate) fn parameters(parameters: u128, replicas: u32) -> Result<(), CliError> {
    let needed = parameters * BYTES_A_PARAMETER * u128::from(replicas);
    match memory_available() {
        Some(free) if needed > u128::from(free) => Err(CliError::Usage(format!(
            "{parameters} parameters on {replicas} replicas need about {} MiB to train; {} MiB are free; use at most {} \
             parameters in all",
            needed >> 20,
            free >> 20,
            u128::from(free) / BYTES_A_PARAMETER
        ))),
        _ => Ok(()),
    }
}

/// Refuses a gpt whose activations do not fit into the memory that is free, for one micro-batch of `rows` samples: the
/// attention weights of every block, and about thirty tensors of its width.
pub(crate) fn activations_of_gpt(config: &GptConfig, rows: u64) -> Result<(), CliError> {
    let GptConfig { layers, width, heads, context, .. } = *config;
    let [layers, width, heads, context] = [layers, width, heads, context].map(|n| n as u128);
    let a_row = 4 * layers * (heads * context * context + 30 * context * width);
    let needed = a_row.saturating_mul(u128::from(rows));
    match memory_available() {
        Some(free) if needed > u128::from(free) => Err(CliError::Usage(format!(
            "a micro-batch of {rows} samples of {context} bytes needs about {} MiB of activations; {} MiB are free; use at \
             most {} samples, or a smaller --context",
            needed >> 20,
            free >> 20,
            u128::from(free) / a_row.max(1)
        ))),
        _ => Ok(()),
    }
}

/// Refuses a batch whose samples alone do not fit into the memory that is free.
pub(crate) fn batch(samples: u64, bytes_a_sample: u64) -> Result<(), CliError> {
    // As the data set makes them, and as the ranks get them.
    let each = 2 * bytes_a_sample.max(1);
    match memory_available() {
        Some(free) if samples > free / each => Err(CliError::Usage(format!(
            "a batch of {samples} samples needs about {} MiB; {} MiB are free; use --batch-size {} or less",
            (u128::from(samples) * u128::from(each)) >> 20,
            free >> 20,
            free / each
        ))),
        _ => Ok(()),
    }
}

/// Refuses a batch of more samples than anybody needs who makes them up: each of them costs time
/// and shows nothing new.
pub(crate) fn batch_of_noise(samples: u64) -> Result<(), CliError> {
    const SAMPLES_MAX: u64 = 65_536;
    if samples <= SAMPLES_MAX {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "--batch-size {samples} is more than seed-mlp makes up for a step, {SAMPLES_MAX} samples; use --batch-size {SAMPLES_MAX} or \
         less"
    )))
}

/// Refuses more ranks than the system has threads for.
pub(crate) fn threads(ranks: u32, replicas: u32) -> Result<(), CliError> {
    /// The program's own threads, and room for the rest of the system.
    const OTHERS: u64 = 64;
    let wanted = u64::from(ranks) * u64::from(replicas);
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let system = [
        number("/proc/sys/kernel/threads-max"),
        number("/proc/sys/kernel/pid_max"),
        pp_telemetry::Limits::here().threads,
        // A stack and the page that guards it.
        number("/proc/sys/vm/max_map_count").map(|maps| maps / 2),
    ];
    match system.into_iter().flatten().min().map(|most| most.saturating_sub(OTHERS)) {
        Some(most) if wanted > most => Err(CliError::Usage(format!(
            "{ranks} ranks on {replicas} replicas are {wanted} threads, this system has {most}; use a --pp \
             times --dp of {most} or less"
        ))),
        _ => Ok(()),
    }
}

/// Refuses a text that is no file, or does not fit into the memory that is free.
pub(crate) fn text(path: &Path) -> Result<(), CliError> {
    let refused = |why: String| {
        let name = excerpt(&path.display().to_string());
        CliError::Usage(format!(
            "cannot read the data file {name}: {why}; name a text file that can be read"
        ))
    };
    let about = std::fs::metadata(path).map_err(|e| refused(e.to_string()))?;
    if !about.is_file() {
        return Err(refused(
            if about.is_dir() { "it is a folder" } else { "it is no file" }.to_owned(),
        ));
    }
    match memory_available() {
        Some(free) if about.len() > free / COPIES_OF_A_TEXT => Err(refused(format!(
            "its {} MiB need {COPIES_OF_A_TEXT} times as much memory, {} MiB are free",
            about.len() >> 20,
            free >> 20
        ))),
        _ => std::fs::File::open(path).map(drop).map_err(|e| refused(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_counts_what_a_gpt_really_has() {
        for (layers, width, heads, context) in [(1, 8, 1, 16), (6, 128, 4, 64), (3, 36, 3, 5)] {
            let config = GptConfig { layers, width, heads, context, dropout: 0.0 };
            let job = pp_models::gpt(config, None, 0).unwrap();
            let counted: u64 = job.stack.parameter_counts().unwrap().iter().sum();
            assert_eq!(parameters_of_gpt(&config), u128::from(counted), "{config:?}");
        }
    }
}
