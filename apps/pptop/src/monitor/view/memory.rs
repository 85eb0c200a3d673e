//! The memory of a rank, against the memory that its device has.

use pp_telemetry::{Model, RankState};

use super::theme::Theme;

/// The scale of the memory bars. It is the same for all ranks of a run, on every screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryScale {
    /// The memory of the rank's own device.
    Device,
    /// The highest peak of all ranks, if a device does not report its size, or if ranks share the
    /// machine's memory.
    Peak(u64),
}

/// The scale of a run's memory bars.
pub(crate) fn memory_scale(model: &Model) -> MemoryScale {
    let has_size = |rank: &RankState| {
        let gpu = model.gpu_of(rank.replica, rank.rank);
        gpu.is_some_and(|gpu| gpu.latest.total_bytes.is_some())
    };
    if !model.ranks().is_empty() && model.ranks().iter().all(has_size) {
        MemoryScale::Device
    } else {
        MemoryScale::Peak(model.peak_memory().map_or(0, |(_, bytes)| bytes))
    }
}

/// A bar of the share of `whole` that a rank holds, with a mark at its peak.
pub(crate) fn memory_bar(theme: Theme, live: u64, peak: u64, whole: u64, width: usize) -> String {
    let share = |bytes: u64| bytes as f64 / whole.max(1) as f64;
    let bar = theme.gauge(share(live), width);
    #[expect(clippy::cast_sign_loss, reason = "a share of bytes is not negative")]
    let at = (share(peak).min(1.0) * width as f64).ceil() as usize;
    let mark = if theme.ascii { '|' } else { '▕' };
    let idle = theme.idle();
    let with_mark = |(cell, symbol): (usize, char)| {
        if cell + 1 == at && symbol == idle { mark } else { symbol }
    };
    bar.chars().enumerate().map(with_mark).collect()
}

/// The bytes of a rank's device (CPU ranks share the machine's memory), the sum of the peaks of all
/// ranks on it, and their number. `None` if the device does not report its size.
pub(crate) fn room_of(model: &Model, rank: &RankState) -> Option<(u64, u64, usize)> {
    let gpu = model.gpu_of(rank.replica, rank.rank);
    let total = match gpu {
        Some(gpu) => gpu.latest.total_bytes?,
        None if is_cpu(rank) => model.hello().map(|hello| hello.host_memory_bytes)?,
        None => 0,
    };
    let is_there = |other: &&RankState| match gpu {
        Some(gpu) => model
            .gpu_of(other.replica, other.rank)
            .is_some_and(|there| there.latest.uuid == gpu.latest.uuid),
        None => is_cpu(other),
    };
    let ranks = model.ranks().iter().filter(is_there);
    let peaks = ranks.filter_map(|rank| rank.memory).map(|memory| memory.peak_bytes);
    let (sum, n_ranks) =
        peaks.fold((0_u64, 0), |(sum, n), bytes| (sum.saturating_add(bytes), n + 1));
    (total > 0).then_some((total, sum, n_ranks))
}

fn is_cpu(rank: &RankState) -> bool {
    rank.device.starts_with("cpu")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_marks_the_peak_beyond_what_is_held() {
        let theme = Theme::plain(false, true);
        assert_eq!(memory_bar(theme, 40, 75, 100, 10), "####...|..");
        assert_eq!(memory_bar(theme, 40, 40, 100, 10), "####......");
        assert_eq!(memory_bar(theme, 0, 500, 100, 4), "...|");
        assert_eq!(memory_bar(theme, 0, 0, 0, 4), "....");
    }
}
