//! Everything that a screen shows about a run, folded from its events.
//!
//! [`Model::apply`] is a pure function of the events so far: it reads no file and no clock. A live view, a view that
//! came late and one that looks back show the same for the same events. Its memory is bounded, however long the run.

mod activity;
mod gpus;
mod loss;
mod metrics;
mod rank;
mod recorded;
mod slow;
mod steps;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

pub use activity::{Activity, Wait};
pub use gpus::{GpuState, HISTORY_LOOKS};
pub use loss::{BUCKETS_MAX, LossBucket, LossHistory, Mark, RECENT_VALUES, Trend};
pub use metrics::Metrics;
pub use rank::{HISTORY_STEPS, RankState, SHARE_STEPS, Thread};
pub use recorded::{Recorded, RecordedStep};
pub use slow::{Reason, Slow};
pub use steps::{RECENT_STEPS, Rate, RecentSteps, Spread, StepSeconds};

use crate::event::{DeviceMapEntry, End, Event, Hello, Mem};
use crate::index::{Frame, Index};
use crate::span::Span;
use crate::step::StepEvent;

use activity::Progress;
use gpus::Gpus;
use rank::RankStep;
use slow::SlowOps;

/// Messages that are kept at most.
const MESSAGES_MAX: usize = 500;
/// Times at which events were lost that are kept at most.
const LOST_MAX: usize = 64;
/// Ranks, over all replicas, that are shown at most.
const RANKS_MAX: u64 = 65_536;

/// How serious a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Worth knowing.
    Info,
    /// Something may be wrong.
    Warn,
}

/// A message of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Time since the run began.
    pub elapsed_ns: u64,
    /// The step that it belongs to, if any.
    pub step: Option<u64>,
    /// How serious it is.
    pub level: Level,
    /// One line of text.
    pub text: String,
}

/// Events that the recorder has lost, as it was told at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Time since the run began.
    pub elapsed_ns: u64,
    /// The step after which it was told, if any.
    pub step: Option<u64>,
    /// How many more than before.
    pub count: u64,
}

/// The rank that computes most, and by how much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slowest {
    /// Its replica.
    pub replica: u32,
    /// The rank.
    pub rank: u32,
    /// How many times as long as the median of the other ranks it computes, the time without a core left out: 1 where all are alike.
    pub ratio: f64,
}

/// Everything that a screen shows about a run.
///
/// As it is saved in a log it is without what follows from single spans: the timeline, what runs now, what was slow.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    hello: Option<Box<Hello>>,
    ranks: Vec<RankState>,
    gpus: Gpus,
    #[serde(skip)]
    progress: Progress,
    steps: RecentSteps,
    #[serde(skip)]
    recorded: Recorded,
    #[serde(skip)]
    slow: SlowOps,
    #[serde(skip)]
    frames: Vec<Frame>,
    loss: LossHistory,
    #[serde(default)]
    metrics: Metrics,
    messages: VecDeque<Message>,
    n_warnings: u64,
    n_dropped: u64,
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    lost: VecDeque<Lost>,
    n_events: u64,
    end: Option<End>,
    /// Whether the run is known to be over, although its log does not say so.
    #[serde(skip)]
    is_over: bool,
}

impl Model {
    /// A run of which nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same without the spans of steps that are over, for whoever only sums them up.
    pub(crate) fn brief() -> Self {
        Self { recorded: Recorded::brief(), ..Self::default() }
    }

    /// Takes one more event into account.
    ///
    /// What belongs to a rank that `hello` does not know of is ignored; a second `hello` begins anew.
    pub fn apply(&mut self, event: &Event) {
        self.n_events += 1;
        match event {
            Event::Hello(hello) => {
                let recorded =
                    if self.recorded.is_brief() { Recorded::brief() } else { Recorded::default() };
                *self = Self { n_events: self.n_events, recorded, ..Self::with_hello(hello) };
            }
            Event::Index(index) => self.apply_index(index),
            Event::Step(step) => self.apply_step(step),
            Event::Span(span) => self.apply_span(span),
            Event::Mem(memory) => self.apply_memory(memory),
            Event::Eval(eval) => {
                let mark =
                    Mark { step: eval.step, loss: f64::from(eval.loss), accuracy: eval.accuracy };
                self.loss.mark(mark);
            }
            Event::Log(log) => self.message(log.elapsed_ns, log.step, Level::Info, &log.message),
            Event::Warn(warn) => {
                self.n_warnings += 1;
                self.message(warn.elapsed_ns, warn.step, Level::Warn, &warn.message);
            }
            Event::Gpu(gpu) => self.gpus.push(gpu),
            Event::Cpu(cpu) => {
                if let Some(index) = self.index(cpu.replica, cpu.rank) {
                    self.ranks[index].push_cpu(*cpu);
                }
            }
            Event::Dropped(dropped) => self.lose(dropped.elapsed_ns, None, dropped.count),
            Event::End(end) => self.end = Some(end.clone()),
        }
    }

    fn with_hello(hello: &Hello) -> Self {
        let mut ranks = Vec::new();
        if u64::from(hello.dp) * u64::from(hello.pp) <= RANKS_MAX {
            for replica in 0..hello.dp {
                ranks.extend((0..hello.pp).map(|rank| RankState::new(replica, rank)));
            }
        }
        for state in &mut ranks {
            for stage in hello.stages.iter().filter(|stage| stage.rank == state.rank) {
                state.stages.push(stage.stage);
                state.layers.push(stage.layers);
            }
            let device = hello
                .device_map
                .iter()
                .find(|entry| entry.rank == state.rank && entry.replica == state.replica);
            state.device = device.map(|entry| entry.device.clone()).unwrap_or_default();
        }
        Self {
            hello: Some(Box::new(hello.clone())),
            ranks,
            progress: Progress::new(hello),
            ..Self::default()
        }
    }

    fn index(&self, replica: u32, rank: u32) -> Option<usize> {
        let hello = self.hello.as_ref()?;
        if replica >= hello.dp || rank >= hello.pp {
            return None;
        }
        let index = replica as usize * hello.pp as usize + rank as usize;
        (index < self.ranks.len()).then_some(index)
    }

    fn apply_span(&mut self, span: &Span) {
        if self.index(span.replica, span.rank).is_some() {
            self.recorded.push(*span);
            if !self.recorded.is_brief() {
                self.progress.push(span);
            }
        }
    }

    fn apply_memory(&mut self, memory: &Mem) {
        if let Some(index) = self.index(memory.replica, memory.rank) {
            self.ranks[index].push_memory(*memory);
        }
    }

    fn apply_step(&mut self, step: &StepEvent) {
        self.loss.push(step.step, f64::from(step.loss));
        self.metrics.push(step);
        // A float beyond the range of the integer becomes its largest value, and not a number becomes 0.
        #[expect(clippy::cast_sign_loss, reason = "a negative time becomes 0")]
        let elapsed_ns = (step.elapsed_seconds * 1e9) as u64;
        self.lose(elapsed_ns, Some(step.step), step.dropped);
        self.progress.end_step(step.step);
        #[expect(clippy::cast_sign_loss, reason = "a negative time becomes 0")]
        let step_ns = (step.seconds * 1e9) as u64;
        if let Some(recorded) = self.recorded.complete(step.step, step_ns) {
            let n_ranks = self.hello.as_ref().map_or(0, |hello| hello.pp) as usize;
            for (index, rank_step) in rank_steps(recorded, step_ns, n_ranks) {
                if let Some(state) = self.ranks.get_mut(index) {
                    state.push(rank_step);
                }
            }
            if !self.recorded.is_brief() {
                self.find_slow(step.step, elapsed_ns);
            }
        }
        self.steps.push(step.clone());
    }

    /// So many events are lost by now.
    fn lose(&mut self, elapsed_ns: u64, step: Option<u64>, n_dropped: u64) {
        let Some(count) = n_dropped.checked_sub(self.n_dropped).filter(|&count| count > 0) else {
            return;
        };
        self.n_dropped = n_dropped;
        if self.lost.len() >= LOST_MAX {
            self.lost.pop_front();
        }
        self.lost.push_back(Lost { elapsed_ns, step, count });
    }

    fn find_slow(&mut self, step: u64, elapsed_ns: u64) {
        let mut slow = std::mem::take(&mut self.slow);
        if let Some(recorded) = self.recorded.get(step) {
            slow.step(step, elapsed_ns, &recorded.spans, |replica, rank| {
                self.gpu_of(replica, rank)
            });
        }
        self.slow = slow;
    }

    /// Who begins to read at a mark knows what was before it; who has read that already learns where the marks are.
    fn apply_index(&mut self, index: &Index) {
        if self.n_events == 1 && index.model.is_sound() {
            let progress = index.model.hello.as_deref().map(Progress::new).unwrap_or_default();
            *self = Self { progress, ..(*index.model).clone() };
        }
        self.frames.clone_from(&index.frames);
    }

    /// Whether it is one that a fold can have come to: what was read from a log may be anything.
    fn is_sound(&self) -> bool {
        let n_ranks =
            self.hello.as_ref().map_or(0, |hello| u64::from(hello.pp) * u64::from(hello.dp));
        let n_expected = if n_ranks <= RANKS_MAX { n_ranks } else { 0 };
        self.ranks.len() as u64 == n_expected
            && self.messages.len() <= MESSAGES_MAX
            && self.lost.len() <= LOST_MAX
            && self.loss.is_bounded()
    }

    fn message(&mut self, elapsed_ns: u64, step: Option<u64>, level: Level, text: &str) {
        if self.messages.len() >= MESSAGES_MAX {
            self.messages.pop_front();
        }
        self.messages.push_back(Message { elapsed_ns, step, level, text: text.to_owned() });
    }

    /// What is run, once that is known.
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_deref()
    }

    /// All ranks of the first replica, then all of the second, and so on.
    pub fn ranks(&self) -> &[RankState] {
        &self.ranks
    }

    /// The GPUs that were looked at.
    pub fn gpus(&self) -> &[GpuState] {
        self.gpus.states()
    }

    /// The GPU of a rank, found by its own name or by its address, never by its number.
    pub fn gpu_of(&self, replica: u32, rank: u32) -> Option<&GpuState> {
        let is_its = |entry: &&DeviceMapEntry| entry.rank == rank && entry.replica == replica;
        let entry = self.hello.as_ref()?.device_map.iter().find(is_its)?;
        self.gpus.find(entry.uuid.as_deref(), entry.pci.as_deref())
    }

    /// What took longer than usual lately, oldest first.
    pub fn slow_ops(&self) -> impl DoubleEndedIterator<Item = &Slow> {
        self.slow.found()
    }

    /// How often something took longer than usual.
    pub fn n_slow_ops(&self) -> u64 {
        self.slow.n_found()
    }

    /// Where in the log one can begin to read.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// What a rank is doing now, as far as the log tells.
    pub fn activity(&self, replica: u32, rank: u32) -> Activity {
        if self.is_over || self.end.is_some() {
            return Activity::Ended;
        }
        let all_recorded = self.hello.as_ref().is_some_and(|hello| hello.span_every <= 1);
        self.progress.activity(replica, rank, all_recorded)
    }

    /// The log does not say that a run was killed; who knows it says so here. Then no rank does anything any more.
    pub fn set_over(&mut self, is_over: bool) {
        self.is_over = is_over;
    }

    /// Numbers over the last steps.
    pub fn steps(&self) -> &RecentSteps {
        &self.steps
    }

    /// The steps whose spans are at hand.
    pub fn recorded(&self) -> &Recorded {
        &self.recorded
    }

    /// The loss over all steps.
    pub fn loss(&self) -> &LossHistory {
        &self.loss
    }

    /// Other numbers over all steps.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The last messages, oldest first.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = &Message> {
        self.messages.iter()
    }

    /// Warnings so far.
    pub fn n_warnings(&self) -> u64 {
        self.n_warnings
    }

    /// Events that the recorder has lost.
    pub fn n_dropped(&self) -> u64 {
        self.n_dropped
    }

    /// When events were lost lately, oldest first.
    pub fn lost(&self) -> impl DoubleEndedIterator<Item = &Lost> {
        self.lost.iter()
    }

    /// Events so far.
    pub fn n_events(&self) -> u64 {
        self.n_events
    }

    /// How the run ended, if it has.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// The last step that is over; 0 before the first.
    pub fn step(&self) -> u64 {
        self.steps.last().map_or(0, |step| step.step)
    }

    /// How long the rest of the run will take.
    pub fn eta_seconds(&self) -> Option<f64> {
        self.steps.eta_seconds(self.hello.as_ref()?.steps)
    }

    /// Ranks over all replicas, and cores, when there are more ranks than cores.
    pub fn ranks_over_cores(&self) -> Option<(u64, u32)> {
        self.hello.as_ref()?.ranks_over_cores()
    }

    /// The rank that computes most in a step.
    pub fn slowest(&self) -> Option<Slowest> {
        let mut busy: Vec<(f64, &RankState)> = self
            .ranks
            .iter()
            .filter_map(|state| Some((state.computing_seconds()?, state)))
            .collect();
        busy.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (seconds, state) = busy.pop()?;
        let last = busy.len().checked_sub(1)?;
        let usual = f64::midpoint(busy.get(last / 2)?.0, busy.get(last.div_ceil(2))?.0);
        (usual > 0.0).then(|| Slowest {
            replica: state.replica,
            rank: state.rank,
            ratio: seconds / usual,
        })
    }

    /// Share of the compute window that ranks copy, over the last recorded steps.
    pub fn copy_ratio(&self) -> Option<f64> {
        let shares: Vec<f64> = self.ranks.iter().filter_map(RankState::copy_of_window).collect();
        (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
    }

    /// The rank with the highest peak of memory, and that peak.
    pub fn peak_memory(&self) -> Option<(&RankState, u64)> {
        self.ranks
            .iter()
            .filter_map(|state| Some((state, state.memory?.peak_bytes)))
            .max_by_key(|(state, bytes)| (*bytes, std::cmp::Reverse((state.replica, state.rank))))
    }
}

/// Sums the spans of one step for each rank, by the place of the rank in [`Model::ranks`].
fn rank_steps(recorded: &RecordedStep, step_ns: u64, n_ranks: usize) -> BTreeMap<usize, RankStep> {
    let mut windows: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    let mut sums: BTreeMap<usize, (u32, RankStep)> = BTreeMap::new();
    for span in &recorded.spans {
        if span.op.is_compute() {
            let window = windows.entry(span.replica).or_insert((u64::MAX, 0));
            *window = (window.0.min(span.start_ns), window.1.max(span.end_ns()));
        }
        let index = span.replica as usize * n_ranks + span.rank as usize;
        sums.entry(index).or_insert((span.replica, RankStep::default())).1.add(span);
    }
    sums.into_iter()
        .map(|(index, (replica, sum))| {
            let (first_ns, last_ns) = windows.get(&replica).copied().unwrap_or((0, 0));
            (index, RankStep { step_ns, window_ns: last_ns.saturating_sub(first_ns), ..sum })
        })
        .collect()
}
