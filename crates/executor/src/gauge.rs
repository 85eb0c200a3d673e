//! How many bytes a rank holds, and what for.

use pp_nn::memory::Meter;

use crate::report::RankMemory;
use crate::stages::Stages;

/// Measures what the rank's thread holds while a step runs.
pub(crate) struct Gauge {
    meter: Meter,
    /// Bytes held when the step began.
    before: i64,
    /// The most held beyond them between two ops.
    between: i64,
}

impl Gauge {
    /// A gauge of what `meter` counts.
    pub(crate) fn new(meter: Meter) -> Self {
        Self { meter, before: 0, between: 0 }
    }

    /// A step begins.
    pub(crate) fn begin(&mut self, stages: &Stages) {
        self.meter.reset_peak();
        (self.before, self.between) = (self.beyond_packed(stages), 0);
    }

    /// An op has ended.
    pub(crate) fn look(&mut self, stages: &Stages) {
        self.between = self.between.max(self.beyond_packed(stages) - self.before);
    }

    /// What the rank holds now, and the most since the step began.
    pub(crate) fn report(&self, stages: &Stages) -> RankMemory {
        let parameter_bytes = stages.parameter_bytes();
        let gradient_bytes = stages.gradient_bytes();
        let optimizer_bytes = stages.optimizer_bytes();
        let packed_bytes = stages.packed_bytes();
        let fixed = gradient_bytes + optimizer_bytes + parameter_bytes + packed_bytes;
        // If nobody counts, only what stays is known.
        let counted = self.meter.is_counted();
        let (live_bytes, peak_bytes) = if counted {
            (self.meter.live_bytes().max(0) as u64, self.meter.peak_bytes().max(0) as u64)
        } else {
            (fixed, fixed)
        };
        let beyond = peak_bytes.saturating_sub(fixed);
        let stash_bytes = if counted { beyond.min(self.between.max(0) as u64) } else { 0 };
        RankMemory {
            live_bytes,
            peak_bytes,
            parameter_bytes,
            gradient_bytes,
            optimizer_bytes,
            packed_bytes,
            stash_bytes,
            temporary_bytes: beyond - stash_bytes,
        }
    }

    /// Bytes alive without packed copies of weights. These are made during the first step, and
    /// would look like activations.
    fn beyond_packed(&self, stages: &Stages) -> i64 {
        self.meter.live_bytes() - stages.packed_bytes() as i64
    }
}
