//! One rank of one replica, as the screen shows it.

use std::collections::VecDeque;

use pp_trace::{Cpu, Mem, Span};

use crate::mark_v1::{RankStepV1, RankV1};

/// Steps that the shares are taken over.
pub const SHARE_STEPS: usize = 20;
/// Steps whose busy share is kept for a small chart.
pub const HISTORY_STEPS: usize = 120;

/// What one rank did in one step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RankStep {
    /// The whole step.
    pub(crate) step_ns: u64,
    /// The compute window of the replica.
    pub(crate) window_ns: u64,
    /// Compute.
    pub(crate) busy_ns: u64,
    /// Compute during which there was no core.
    pub(crate) starved_ns: u64,
    /// Copies.
    pub(crate) copy_ns: u64,
    /// Whether it is step 1, which also pays for what happens only once.
    pub(crate) is_first: bool,
}

impl RankStep {
    /// Compute on a core.
    fn computing_ns(&self) -> u64 {
        self.busy_ns.saturating_sub(self.starved_ns)
    }

    pub(crate) fn add(&mut self, span: &Span) {
        if span.op.is_compute() {
            self.busy_ns = self.busy_ns.saturating_add(span.dur_ns);
            self.starved_ns = self.starved_ns.saturating_add(span.starved_ns.min(span.dur_ns));
        } else if span.op.is_copy() {
            self.copy_ns = self.copy_ns.saturating_add(span.dur_ns);
        }
    }
}

/// What the system counts for a thread, in each second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thread {
    /// Share of the time on a core.
    pub on_core: f64,
    /// Share of the time in which it was ready but had no core.
    pub starved: f64,
    /// Times that it waited.
    pub voluntary_switches: f64,
    /// Times that its core was taken from it.
    pub involuntary_switches: f64,
}

/// One rank of one replica.
#[derive(Debug, Clone, PartialEq)]
pub struct RankState {
    /// The replica.
    pub replica: u32,
    /// The place along the pipeline.
    pub rank: u32,
    /// Its stages, ascending.
    pub stages: Vec<u32>,
    /// Its layers, as first and last of each stage; `None` where the run does not tell them.
    pub layers: Vec<Option<[u32; 2]>>,
    /// The device that it computes on.
    pub device: String,
    /// Its memory, once it was told.
    pub memory: Option<Mem>,
    /// The newest look at its thread, and the one before.
    cpu: [Option<Cpu>; 2],
    memory_history: VecDeque<u64>,
    recent: VecDeque<RankStep>,
    history: VecDeque<f64>,
}

impl RankState {
    pub(crate) fn new(replica: u32, rank: u32) -> Self {
        Self {
            replica,
            rank,
            stages: Vec::new(),
            layers: Vec::new(),
            device: String::new(),
            memory: None,
            cpu: [None; 2],
            memory_history: VecDeque::new(),
            recent: VecDeque::new(),
            history: VecDeque::new(),
        }
    }

    /// Whether it keeps its bounds: one that was read from a log might not.
    pub(crate) fn is_bounded(&self) -> bool {
        self.recent.len() <= SHARE_STEPS
            && self.history.len() <= HISTORY_STEPS
            && self.memory_history.len() <= HISTORY_STEPS
            && self.stages.len() == self.layers.len()
    }

    pub(crate) fn push(&mut self, step: RankStep) {
        let has_first = self.recent.front().is_some_and(|first| first.is_first);
        if has_first || self.recent.len() >= SHARE_STEPS {
            self.recent.pop_front();
        }
        if self.history.len() >= HISTORY_STEPS {
            self.history.pop_front();
        }
        self.history.push_back(share(step.computing_ns(), step.step_ns).unwrap_or(0.0));
        self.recent.push_back(step);
    }

    pub(crate) fn push_memory(&mut self, memory: Mem) {
        if self.memory_history.len() >= HISTORY_STEPS {
            self.memory_history.pop_front();
        }
        self.memory_history.push_back(memory.live_bytes);
        self.memory = Some(memory);
    }

    pub(crate) fn push_cpu(&mut self, cpu: Cpu) {
        self.cpu = [Some(cpu), self.cpu[0]];
    }

    /// What the system counted for its thread between the last two looks.
    pub fn thread(&self) -> Option<Thread> {
        let [Some(now), Some(before)] = self.cpu else { return None };
        let seconds = now.elapsed_ns.checked_sub(before.elapsed_ns)? as f64 * 1e-9;
        let a_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        (seconds > 0.0).then(|| Thread {
            on_core: a_second(now.cpu_ns, before.cpu_ns) * 1e-9,
            starved: a_second(now.run_queue_ns, before.run_queue_ns) * 1e-9,
            voluntary_switches: a_second(now.voluntary_switches, before.voluntary_switches),
            involuntary_switches: a_second(now.involuntary_switches, before.involuntary_switches),
        })
    }

    /// Bytes in tensors after each of the last steps, oldest first.
    pub fn memory_history(&self) -> impl ExactSizeIterator<Item = u64> {
        self.memory_history.iter().copied()
    }

    fn sum(&self, number: impl Fn(&RankStep) -> u64) -> u64 {
        self.recent.iter().map(number).fold(0, u64::saturating_add)
    }

    /// Share of the whole step that it computes, over the last recorded steps; a time without a
    /// core meanwhile counts as well.
    pub fn busy_of_step(&self) -> Option<f64> {
        share(self.sum(|step| step.busy_ns), self.sum(|step| step.step_ns))
    }

    /// Share of the compute window that it computes, over the last recorded steps, a time without a
    /// core meanwhile included; the rest is its bubble.
    pub fn busy_of_window(&self) -> Option<f64> {
        share(self.sum(|step| step.busy_ns), self.sum(|step| step.window_ns))
    }

    /// Share of the compute window in which it was ready to compute but had no core.
    pub fn starved_of_window(&self) -> Option<f64> {
        share(self.sum(|step| step.starved_ns), self.sum(|step| step.window_ns))
    }

    /// Share of the compute window that it copies.
    pub fn copy_of_window(&self) -> Option<f64> {
        share(self.sum(|step| step.copy_ns), self.sum(|step| step.window_ns))
    }

    /// Compute in one step: mean over the last recorded steps.
    pub fn busy_seconds(&self) -> Option<f64> {
        (!self.recent.is_empty())
            .then(|| self.sum(|step| step.busy_ns) as f64 * 1e-9 / self.recent.len() as f64)
    }

    /// Compute on a core in one step: mean over the last recorded steps, without the time in which
    /// it had no core.
    pub fn computing_seconds(&self) -> Option<f64> {
        (!self.recent.is_empty())
            .then(|| self.sum(RankStep::computing_ns) as f64 * 1e-9 / self.recent.len() as f64)
    }

    /// Share of the whole step that it computes on a core, over the last recorded steps.
    pub fn computing_of_step(&self) -> Option<f64> {
        share(self.sum(RankStep::computing_ns), self.sum(|step| step.step_ns))
    }

    /// Share of the compute window that it computes on a core. With the share in which it had none
    /// ([`RankState::starved_of_window`]) and its bubble ([`RankState::bubble_of_window`]) that is
    /// all of the window.
    pub fn computing_of_window(&self) -> Option<f64> {
        share(self.sum(RankStep::computing_ns), self.sum(|step| step.window_ns))
    }

    /// Share of the compute window in which it was idle: neither computing nor ready to.
    pub fn bubble_of_window(&self) -> Option<f64> {
        self.busy_of_window().map(|busy| 1.0 - busy)
    }

    /// The share of each of the last recorded steps that it computed on a core, oldest first.
    pub fn history(&self) -> impl ExactSizeIterator<Item = f64> {
        self.history.iter().copied()
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl From<RankStep> for RankStepV1 {
    fn from(step: RankStep) -> Self {
        let RankStep { step_ns, window_ns, busy_ns, starved_ns, copy_ns, is_first } = step;
        Self { step_ns, window_ns, busy_ns, starved_ns, copy_ns, is_first }
    }
}

impl From<RankStepV1> for RankStep {
    fn from(saved: RankStepV1) -> Self {
        let RankStepV1 { step_ns, window_ns, busy_ns, starved_ns, copy_ns, is_first } = saved;
        Self { step_ns, window_ns, busy_ns, starved_ns, copy_ns, is_first }
    }
}

impl From<&RankState> for RankV1 {
    fn from(state: &RankState) -> Self {
        Self {
            replica: state.replica,
            rank: state.rank,
            stages: state.stages.clone(),
            layers: state.layers.clone(),
            device: state.device.clone(),
            memory: state.memory,
            cpu: state.cpu,
            memory_history: state.memory_history.clone(),
            recent: state.recent.iter().copied().map(RankStepV1::from).collect(),
            history: state.history.clone(),
        }
    }
}

impl From<RankV1> for RankState {
    fn from(saved: RankV1) -> Self {
        Self {
            replica: saved.replica,
            rank: saved.rank,
            stages: saved.stages,
            layers: saved.layers,
            device: saved.device,
            memory: saved.memory,
            cpu: saved.cpu,
            memory_history: saved.memory_history,
            recent: saved.recent.into_iter().map(RankStep::from).collect(),
            history: saved.history,
        }
    }
}
