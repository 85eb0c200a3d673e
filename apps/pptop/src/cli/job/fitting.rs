//! Sizes near one that does not fit, so that a refusal can name some that do.

use pp_schedule::{ScheduleError, ScheduleName, Sizes};

/// Numbers of micro-batches that are tried upwards from one that a schedule does not take.
const MOST_TRIED: usize = 1 << 16;

/// The divisors of `number` nearest to `wanted` that `fits` takes, as text: `4 or 8`, one of both,
/// or nothing.
pub(crate) fn near_divisors(
    number: u64,
    wanted: u64,
    fits: impl Fn(u64) -> bool,
) -> Option<String> {
    let divisors = divisors(number);
    let at = divisors.partition_point(|&divisor| divisor < wanted);
    let below = divisors[..at].iter().rev().copied().find(|&divisor| fits(divisor));
    let above = divisors[at..].iter().copied().find(|&divisor| divisor != wanted && fits(divisor));
    either(below, above)
}

/// The multiples of `unit` nearest to `wanted`, which is not a multiple itself, as text.
pub(crate) fn near_multiples(unit: u64, wanted: u64) -> String {
    let below = wanted / unit * unit;
    either(Some(below).filter(|&below| below > 0), below.checked_add(unit)).unwrap_or_default()
}

/// The micro-batches nearest to the refused ones that divide a batch over the replicas and that the
/// schedule takes, as a phrase. Without a batch only the schedule counts, and its own refusal says
/// what it takes.
pub(crate) fn near_micro_batches(
    name: ScheduleName,
    sizes: &Sizes,
    batch: Option<u64>,
    replicas: u32,
) -> Option<String> {
    let takes = |m: u64| {
        let n_micro_batches = u32::try_from(m).unwrap_or(u32::MAX);
        name.check(&Sizes { n_micro_batches, ..*sizes }).is_ok()
    };
    let share =
        batch.filter(|batch| batch.is_multiple_of(u64::from(replicas)))? / u64::from(replicas);
    near_divisors(share, u64::from(sizes.n_micro_batches), takes)
}

/// A refusal of a number of micro-batches, with a remedy that fits the batch as well.
pub(crate) fn with_batch(
    mut refused: ScheduleError,
    name: ScheduleName,
    sizes: &Sizes,
    batch: Option<u64>,
    replicas: u32,
) -> ScheduleError {
    if let ScheduleError::MicroBatches { remedy, .. }
    | ScheduleError::InterleavedSize { remedy, .. } = &mut refused
        && let Some(batch) = batch
    {
        let near = near_micro_batches(name, sizes, Some(batch), replicas);
        let other_batch = || {
            let m = (sizes.n_micro_batches..)
                .take(MOST_TRIED)
                .find(|&m| name.check(&Sizes { n_micro_batches: m, ..*sizes }).is_ok())?;
            let multiples = near_multiples(u64::from(m) * u64::from(replicas), batch);
            Some(format!("use --micro-batches {m} with --batch-size {multiples}"))
        };
        let better = match near {
            Some(near) => Some(format!("use --micro-batches {near}, for a batch of {batch}")),
            None => other_batch(),
        };
        *remedy = better.unwrap_or_else(|| std::mem::take(remedy));
    }
    refused
}

fn either(below: Option<u64>, above: Option<u64>) -> Option<String> {
    match (below, above) {
        (Some(below), Some(above)) => Some(format!("{below} or {above}")),
        (Some(one), None) | (None, Some(one)) => Some(one.to_string()),
        (None, None) => None,
    }
}

/// All divisors, ascending.
fn divisors(number: u64) -> Vec<u64> {
    /// The largest number whose divisors are searched. Beyond it the search by trial takes too
    /// long.
    const LARGEST: u64 = 1 << 40;
    if number == 0 || number > LARGEST {
        return Vec::new();
    }
    let small: Vec<u64> = (1..=number.isqrt()).filter(|&n| number.is_multiple_of(n)).collect();
    let large = small.iter().rev().map(|&n| number / n).filter(|&n| n * n > number);
    small.iter().copied().chain(large).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divisors_on_both_sides_are_named() {
        assert_eq!(divisors(36), [1, 2, 3, 4, 6, 9, 12, 18, 36]);
        let near = |number, wanted| near_divisors(number, wanted, |_| true);
        assert_eq!(near(32, 7).unwrap(), "4 or 8");
        assert_eq!(near(128, 5).unwrap(), "4 or 8");
        assert_eq!(near(32, 64).unwrap(), "32");
        assert_eq!(near(7, 3).unwrap(), "1 or 7");
        assert_eq!(near(u64::MAX, 3), None);
        assert_eq!(near_divisors(32, 7, |n| n > 16).unwrap(), "32");
        assert_eq!(near_multiples(8, 33), "32 or 40");
        assert_eq!(near_multiples(8, 3), "8");
    }

    #[test]
    fn they_fit_the_schedule_and_the_replicas_as_well() {
        let sizes = |p, m| Sizes {
            n_ranks: p,
            n_micro_batches: m,
            n_virtual_stages: 2,
            interleave_group: None,
        };
        let near = |name, p, m, batch, dp| near_micro_batches(name, &sizes(p, m), Some(batch), dp);
        let interleaved = ScheduleName::InterleavedOneFOneB;
        // m=6 and m=12 divide 60 too, but four ranks take neither 6 = 4 + 2 nor odd rounds such as
        // 15.
        let named = near(interleaved, 4, 9, 60, 1).unwrap();
        for m in named.split(" or ").map(|m| m.parse().unwrap()) {
            assert!(60 % m == 0 && interleaved.check(&sizes(4, m)).is_ok(), "{named}");
        }
        assert_eq!(near(ScheduleName::DualPipeV, 4, 7, 32, 1).unwrap(), "8");
        assert_eq!(near(ScheduleName::DualPipeV, 4, 7, 32, 2).unwrap(), "8");
        assert_eq!(near(ScheduleName::DualPipeV, 4, 7, 32, 8), None, "4 samples, and m of 8");
    }
}
