//! The limits of this machine. A size above a limit is refused with both numbers, before anything
//! is built.

pub use pp_telemetry::memory_available;

use crate::error::TrainError;

/// Value, gradient and two moments, four bytes each.
const BYTES_A_PARAMETER: u128 = 16;

/// Refuses a model whose training does not fit into the memory that is free: `parameters` of each
/// of the `replicas`.
///
/// # Errors
/// [`TrainError::TooManyParameters`].
pub fn parameters(parameters: u128, replicas: u32) -> Result<(), TrainError> {
    let needed = parameters * BYTES_A_PARAMETER * u128::from(replicas);
    match memory_available() {
        Some(free) if needed > u128::from(free) => {
            let most = u128::from(free) / BYTES_A_PARAMETER;
            Err(TrainError::TooManyParameters { parameters, replicas, needed, free, most })
        }
        _ => Ok(()),
    }
}

/// Refuses a micro-batch of `samples` whose activations do not fit into the memory that is free.
pub(crate) fn activations(bytes_a_sample: u128, samples: u64) -> Result<(), TrainError> {
    let needed = bytes_a_sample.saturating_mul(u128::from(samples));
    match memory_available() {
        Some(free) if needed > u128::from(free) => {
            let most = u128::from(free) / bytes_a_sample.max(1);
            Err(TrainError::ActivationsTooLarge { samples, needed, free, most })
        }
        _ => Ok(()),
    }
}

/// Refuses a batch whose samples alone do not fit into the memory that is free.
pub(crate) fn batch(samples: u64, bytes_a_sample: u64) -> Result<(), TrainError> {
    // As the data set makes them, and as the ranks get them.
    let each = 2 * bytes_a_sample.max(1);
    match memory_available() {
        Some(free) if samples > free / each => {
            let needed = u128::from(samples) * u128::from(each);
            Err(TrainError::BatchTooLarge { samples, needed, free, most: free / each })
        }
        _ => Ok(()),
    }
}

/// Refuses more ranks than the system has threads for.
///
/// # Errors
/// [`TrainError::Threads`].
pub fn threads(ranks: u32, replicas: u32) -> Result<(), TrainError> {
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
        Some(most) if wanted > most => Err(TrainError::Threads { ranks, replicas, most }),
        _ => Ok(()),
    }
}
