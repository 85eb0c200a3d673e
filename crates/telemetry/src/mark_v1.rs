//! The content of a mark in the log: version 1.
//!
//! The format is separate from [`Model`](crate::Model): the model may change its fields, and old
//! logs keep these. No key here is renamed or removed. A new key needs a default; any other change
//! is version 2.
//!
//! The oldest marks have the same keys without `version`. Keys with a default were added later. The
//! events in a mark have the format of the log.

use std::collections::{BTreeMap, VecDeque};

use pp_trace::{Cpu, End, Gpu, Hello, Mem, PhaseEvent, StepEvent, any_float, any_float_option};
use serde::{Deserialize, Serialize};

/// The version of these keys.
pub(crate) const VERSION: u32 = 1;

/// The version of a mark without the key.
pub(crate) fn first_version() -> u32 {
    VERSION
}

/// A whole mark.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MarkV1 {
    #[serde(default = "first_version")]
    pub(crate) version: u32,
    pub(crate) step: u64,
    pub(crate) frames: Vec<FrameV1>,
    pub(crate) model: Box<ModelV1>,
}

/// Where a mark is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FrameV1 {
    pub(crate) offset: u64,
    pub(crate) step: u64,
}

/// The state of the model, without spans.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ModelV1 {
    pub(crate) hello: Option<Box<Hello>>,
    pub(crate) ranks: Vec<RankV1>,
    pub(crate) gpus: GpusV1,
    pub(crate) steps: StepsV1,
    pub(crate) loss: HistoryV1,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<MetricsV1>,
    #[serde(default)]
    pub(crate) phases: PhasesV1,
    #[serde(default)]
    pub(crate) watchdog: WatchdogV1,
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub(crate) alarms: VecDeque<(u64, AlarmV1)>,
    pub(crate) messages: VecDeque<MessageV1>,
    pub(crate) n_warnings: u64,
    pub(crate) n_dropped: u64,
    #[serde(default)]
    pub(crate) n_dropped_before: u64,
    #[serde(default)]
    pub(crate) incomplete: IncompleteV1,
    #[serde(default)]
    pub(crate) totals: TotalsV1,
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub(crate) lost: VecDeque<LostV1>,
    pub(crate) n_events: u64,
    pub(crate) end: Option<End>,
}

/// One rank of one replica.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RankV1 {
    pub(crate) replica: u32,
    pub(crate) rank: u32,
    pub(crate) stages: Vec<u32>,
    pub(crate) layers: Vec<Option<[u32; 2]>>,
    pub(crate) device: String,
    pub(crate) memory: Option<Mem>,
    /// The newest look, and the one before.
    pub(crate) cpu: [Option<Cpu>; 2],
    pub(crate) memory_history: VecDeque<u64>,
    pub(crate) recent: VecDeque<RankStepV1>,
    pub(crate) history: VecDeque<f64>,
}

/// The times of a rank in a step.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct RankStepV1 {
    pub(crate) step_ns: u64,
    pub(crate) window_ns: u64,
    pub(crate) busy_ns: u64,
    pub(crate) starved_ns: u64,
    pub(crate) copy_ns: u64,
    #[serde(default)]
    pub(crate) is_first: bool,
}

/// The GPUs, in the order in which they were first seen.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GpusV1 {
    pub(crate) states: Vec<GpuV1>,
}

/// One GPU with its last looks, oldest first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GpuV1 {
    pub(crate) latest: Gpu,
    pub(crate) utilisation: VecDeque<Option<f64>>,
    pub(crate) power: VecDeque<Option<f64>>,
    pub(crate) temperature: VecDeque<Option<f64>>,
    pub(crate) first_joules: Option<f64>,
}

/// The last steps.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StepsV1 {
    pub(crate) steps: VecDeque<StepEvent>,
}

/// The history of a number over all steps.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HistoryV1 {
    pub(crate) buckets: Vec<BucketV1>,
    pub(crate) stride: u64,
    pub(crate) n_in_last: u64,
    pub(crate) marks: Vec<ValidationV1>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) best: Option<ValidationV1>,
    #[serde(default)]
    pub(crate) recent: VecDeque<BucketV1>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) buckets_max: Option<usize>,
    #[serde(with = "any_float_option")]
    pub(crate) last: Option<f64>,
    pub(crate) ema_raw: f64,
    pub(crate) ema_bias: f64,
    pub(crate) n_nonfinite: u64,
}

/// Some consecutive steps: the first, the last; lowest, highest and average value; the number of
/// steps whose value is not finite. It is a list without keys, because a mark has thousands.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct BucketV1(
    pub(crate) u64,
    pub(crate) u64,
    #[serde(with = "any_float")] pub(crate) f64,
    #[serde(with = "any_float")] pub(crate) f64,
    #[serde(with = "any_float")] pub(crate) f64,
    pub(crate) u64,
);

/// A validation.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ValidationV1 {
    pub(crate) step: u64,
    #[serde(with = "any_float")]
    pub(crate) loss: f64,
    pub(crate) accuracy: Option<f64>,
}

/// Numbers other than the loss.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MetricsV1 {
    pub(crate) grad_norm: HistoryV1,
    pub(crate) lr: HistoryV1,
    pub(crate) seconds: HistoryV1,
    pub(crate) bubble_ratio: HistoryV1,
    pub(crate) rate: HistoryV1,
}

/// The phases of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct PhasesV1 {
    pub(crate) running: Option<PhaseEvent>,
    pub(crate) over: VecDeque<PhaseEvent>,
    pub(crate) costs: BTreeMap<String, PhaseCostV1>,
}

/// The time that all phases of one name took.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PhaseCostV1 {
    pub(crate) count: u64,
    pub(crate) total_ns: u64,
    pub(crate) recent_ns: VecDeque<u64>,
}

/// An alarm of the training.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum AlarmV1 {
    LossNotFinite {
        step: u64,
    },
    NormNotFinite {
        step: u64,
    },
    Diverging {
        step: u64,
        #[serde(with = "any_float")]
        loss: f64,
        #[serde(with = "any_float")]
        before: f64,
        is_first: bool,
    },
    LossSpike {
        step: u64,
        #[serde(with = "any_float")]
        value: f64,
        #[serde(with = "any_float")]
        usual: f64,
    },
    NormSpike {
        step: u64,
        #[serde(with = "any_float")]
        value: f64,
        #[serde(with = "any_float")]
        usual: f64,
    },
}

/// The state of the watchdog: the last steps and its alarms.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WatchdogV1 {
    pub(crate) losses: VecDeque<f64>,
    pub(crate) norms: VecDeque<f64>,
    #[serde(with = "any_float_option")]
    pub(crate) first: Option<f64>,
    pub(crate) best: Option<(f64, f64)>,
    pub(crate) state: Option<AlarmV1>,
    pub(crate) spike: Option<AlarmV1>,
    pub(crate) quiet_until: [u64; 2],
    pub(crate) n_spikes: u64,
    pub(crate) step: u64,
}

/// The level of a message.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LevelV1 {
    Info,
    Warn,
}

/// A message, and its number of repetitions.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MessageV1 {
    pub(crate) elapsed_ns: u64,
    pub(crate) step: Option<u64>,
    pub(crate) level: LevelV1,
    pub(crate) text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rank: Option<u32>,
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub(crate) count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first_step: Option<u64>,
}

fn once() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_once(count: &u64) -> bool {
    *count <= 1
}

/// The steps that lost operations.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct IncompleteV1 {
    pub(crate) n_steps: u64,
    pub(crate) last_step: u64,
    pub(crate) n_missing: u64,
    pub(crate) n_expected: u64,
}

/// Samples, tokens and time of the whole run.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct TotalsV1 {
    pub(crate) samples: u64,
    pub(crate) tokens: u64,
    pub(crate) elapsed_seconds: f64,
}

/// Lost events, over some steps.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct LostV1 {
    pub(crate) elapsed_ns: u64,
    pub(crate) step: Option<u64>,
    pub(crate) count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first_step: Option<u64>,
}
