//! Everything that a screen shows about a run, folded from its events.
//!
//! [`Model::apply`] is a pure function of the events so far: it reads no file and no clock. A live
//! view, a view that came late and one that looks back show the same for the same events. Its
//! memory is bounded, however long the run.

mod activity;
mod alarm;
mod answers;
mod before;
mod gpus;
mod loss;
mod mark;
mod message;
mod metrics;
mod phases;
mod rank;
mod recorded;
mod slow;
mod steps;
mod whole;

use std::collections::{BTreeMap, HashMap, VecDeque};

pub use activity::{Activity, Wait};
pub use alarm::{Alarm, Watchdog};
pub use before::Before;
pub use gpus::{GpuState, HISTORY_LOOKS};
pub use loss::{BUCKETS_MAX, LossBucket, LossHistory, Mark, RECENT_VALUES, Trend};
pub use mark::{Frame, LogMark, MarkError};
pub use message::{Level, Message};
pub use metrics::Metrics;
pub use phases::PhaseCost;
pub use rank::{HISTORY_STEPS, RankState, SHARE_STEPS, Thread};
pub use recorded::{Recorded, RecordedStep};
pub use slow::{Reason, Slow, SlowGroup};
pub use steps::{RECENT_STEPS, Rate, RecentSteps, Spread, StepSeconds, Totals};
pub use whole::Incomplete;

pub(crate) use mark::{is_intact, saved, write_mark};
pub(crate) use whole::{Expected, Tally};

use pp_trace::{Continues, End, Event, Hello, Index, Mem, Span, StageInfo, StepEvent};

use crate::mark_v1::{LostV1, MessageV1, ModelV1, RankV1};

use activity::Progress;
use gpus::Gpus;
use phases::Phases;
use rank::RankStep;
use slow::SlowOps;

/// Ranks, over all replicas, that are shown at most.
const RANKS_MAX: u64 = 65_536;
/// The most ranks whose bubble is analysed: the analysis keeps a value for each pair of them.
pub(crate) const RANKS_OF_ACCOUNT_MAX: usize = 1024;
/// Messages that are kept at most.
const MESSAGES_MAX: usize = 500;
/// Times at which events were lost that are kept at most.
const LOST_MAX: usize = 64;
/// Steps without a loss of events, after which the next one is told anew.
const LOST_PAUSE: u64 = 50;
/// Alarms that are kept at most.
const ALARMS_MAX: usize = 64;
/// Ranks that are made at most, over all the runs that one log names one after another.
const RANKS_EVER_MAX: u64 = 16 * RANKS_MAX;
/// Stages, over all replicas, whose places are shown at most.
const STAGES_SHOWN_MAX: u64 = 1 << 20;

/// Events that the recorder has lost, over some steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Time since the run began, when it was last told.
    pub elapsed_ns: u64,
    /// The step after which it was last told, if any.
    pub step: Option<u64>,
    /// How many more than before.
    pub count: u64,
    /// The step after which it was first told, if that was another.
    pub first_step: Option<u64>,
}

/// The rank that computes most, and by how much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slowest {
    /// Its replica.
    pub replica: u32,
    /// The rank.
    pub rank: u32,
    /// How many times as long as the median of the other ranks it computes, the time without a core
    /// left out: 1 where all are alike.
    pub ratio: f64,
}

/// Everything that a screen shows about a run.
///
/// As it is saved in a mark it is without what follows from single spans: the timeline, what runs
/// now, what was slow.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    hello: Option<Box<Hello>>,
    ranks: Vec<RankState>,
    gpus: Gpus,
    progress: Progress,
    steps: RecentSteps,
    recorded: Recorded,
    slow: SlowOps,
    frames: Vec<Frame>,
    loss: LossHistory,
    metrics: Metrics,
    phases: Phases,
    watchdog: Watchdog,
    alarms: VecDeque<(u64, Alarm)>,
    messages: VecDeque<Message>,
    n_warnings: u64,
    n_dropped: u64,
    /// Events that were lost by the end of the last step.
    n_dropped_before: u64,
    incomplete: Incomplete,
    totals: Totals,
    lost: VecDeque<Lost>,
    n_events: u64,
    end: Option<End>,
    /// Whether the run is known to be over, although its log does not say so.
    is_over: bool,
    /// Ranks that were made so far, those of runs before included.
    n_ranks_ever: u64,
    /// Where the device of each rank stands in the device map.
    devices: HashMap<(u32, u32), usize>,
    /// Whether the curves begin before this run, and where the runs before it were resumed.
    has_before: bool,
    seams_before: Vec<Continues>,
}

/// Ranks over all replicas, as far as they are shown: none of more than a screen has names for.
pub(crate) fn n_ranks_shown(hello: &Hello) -> u64 {
    let n_ranks = u64::from(hello.pp) * u64::from(hello.dp);
    if n_ranks <= RANKS_MAX { n_ranks } else { 0 }
}

/// By replica and rank, the first place of each in the device map.
fn devices_of(hello: &Hello) -> HashMap<(u32, u32), usize> {
    let mut devices = HashMap::new();
    for (at, entry) in hello.device_map.iter().enumerate() {
        devices.entry((entry.replica, entry.rank)).or_insert(at);
    }
    devices
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
    /// What belongs to a rank that `hello` does not know of is ignored; a second `hello` begins
    /// anew.
    pub fn apply(&mut self, event: &Event) {
        self.n_events = self.n_events.saturating_add(1);
        match event {
            Event::Hello(hello) => {
                let recorded =
                    if self.recorded.is_brief() { Recorded::brief() } else { Recorded::default() };
                // What was said while it started belongs to the run as well.
                let before = std::mem::take(self);
                // The same few bytes may ask for as many ranks again and again.
                let n_ranks_ever = before.n_ranks_ever.saturating_add(n_ranks_shown(hello));
                let is_shown = n_ranks_ever <= RANKS_EVER_MAX;
                let n_events = before.n_events;
                *self =
                    Self { recorded, n_events, n_ranks_ever, ..Self::with_hello(hello, is_shown) };
                if before.hello.is_none() {
                    (self.phases, self.messages) = (before.phases, before.messages);
                    self.n_warnings = before.n_warnings;
                }
            }
            Event::Phase(phase) => self.phases.push(phase),
            Event::Index(index) => self.apply_index(index),
            Event::Step(step) => self.apply_step(step),
            Event::Span(span) => self.apply_span(span),
            Event::Mem(memory) => self.apply_memory(memory),
            Event::Eval(eval) => {
                let mark =
                    Mark { step: eval.step, loss: f64::from(eval.loss), accuracy: eval.accuracy };
                self.loss.mark(mark);
            }
            Event::Log(log) => {
                self.message(log.elapsed_ns, log.step, None, Level::Info, &log.message);
            }
            Event::Warn(warn) => {
                self.n_warnings = self.n_warnings.saturating_add(1);
                self.message(warn.elapsed_ns, warn.step, warn.rank, Level::Warn, &warn.message);
            }
            Event::Gpu(gpu) => self.gpus.push(gpu),
            Event::Cpu(cpu) => {
                if let Some(index) = self.index(cpu.replica, cpu.rank) {
                    self.ranks[index].push_cpu(*cpu);
                }
            }
            Event::Dropped(dropped) => self.lose(dropped.elapsed_ns, None, dropped.count),
            Event::End(end) => {
                self.phases.step_is_over();
                self.end = Some(end.clone());
            }
        }
    }

    fn with_hello(hello: &Hello, has_ranks: bool) -> Self {
        let mut ranks = Vec::new();
        if has_ranks && n_ranks_shown(hello) > 0 {
            for replica in 0..hello.dp {
                ranks.extend((0..hello.pp).map(|rank| RankState::new(replica, rank)));
            }
        }
        let mut stages: HashMap<u32, Vec<&StageInfo>> = HashMap::new();
        // Each replica has all of them.
        let n_stages = hello.stages.len() as u64 * u64::from(hello.dp);
        for stage in hello.stages.iter().filter(|_| n_stages <= STAGES_SHOWN_MAX) {
            stages.entry(stage.rank).or_default().push(stage);
        }
        let devices = devices_of(hello);
        for state in &mut ranks {
            for stage in stages.get(&state.rank).into_iter().flatten() {
                state.stages.push(stage.stage);
                state.layers.push(stage.layers);
            }
            let device = devices.get(&(state.replica, state.rank));
            state.device =
                device.map(|&at| hello.device_map[at].device.clone()).unwrap_or_default();
        }
        Self {
            hello: Some(Box::new(hello.clone())),
            ranks,
            progress: Progress::new(hello),
            devices,
            steps: RecentSteps::from_step(hello.first_step()),
            ..Self::default()
        }
    }

    /// The first step of the run.
    pub(crate) fn first_step(&self) -> u64 {
        self.hello.as_ref().map_or(1, |hello| hello.first_step())
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
        if let Some(loss) = step.loss {
            self.loss.push(step.step, f64::from(loss));
        }
        self.metrics.push(step);
        self.phases.step_is_over();
        // A float beyond the range of the integer becomes its largest value, and not a number
        // becomes 0.
        #[expect(clippy::cast_sign_loss, reason = "a negative time becomes 0")]
        let elapsed_ns = (step.elapsed_seconds * 1e9) as u64;
        self.lose(elapsed_ns, Some(step.step), step.dropped);
        // A loss that is not told raises no alarm, and neither does a norm of 0.
        if let Some(loss) = step.loss
            && let Some(alarm) =
                self.watchdog.step(step.step, f64::from(loss), step.grad_norm.unwrap_or(0.0))
        {
            if self.alarms.len() >= ALARMS_MAX {
                self.alarms.pop_front();
            }
            self.alarms.push_back((elapsed_ns, alarm));
        }
        self.progress.end_step(step.step);
        #[expect(clippy::cast_sign_loss, reason = "a negative time becomes 0")]
        let step_ns = (step.seconds * 1e9) as u64;
        let n_lost = step.dropped.saturating_sub(self.n_dropped_before);
        self.n_dropped_before = step.dropped.max(self.n_dropped_before);
        let dp = self.hello.as_ref().map_or(0, |hello| hello.dp);
        let first = self.first_step();
        let expected = Expected::by(&self.progress, dp);
        if let Some(recorded) = self.recorded.complete(step.step, step_ns, &expected, n_lost) {
            let n_ranks = self.hello.as_ref().map_or(0, |hello| hello.pp) as usize;
            if recorded.n_missing > 0 {
                // What is lost is no idleness: no number is taken from such a step.
                self.incomplete = Incomplete {
                    n_steps: self.incomplete.n_steps + 1,
                    last_step: step.step,
                    n_missing: recorded.n_missing,
                    n_expected: expected.n_ops(),
                };
            } else {
                for (index, rank_step) in rank_steps(recorded, step_ns, n_ranks) {
                    if let Some(state) = self.ranks.get_mut(index) {
                        state.push(RankStep { is_first: step.step <= first, ..rank_step });
                    }
                }
                if !self.recorded.is_brief() {
                    self.find_slow(step.step, elapsed_ns);
                }
            }
        } else if n_lost > 0 {
            // Nothing of it has come.
            let n_expected = expected.n_ops();
            self.incomplete = Incomplete {
                n_steps: self.incomplete.n_steps + 1,
                last_step: step.step,
                n_missing: n_expected.max(1),
                n_expected,
            };
        }
        self.totals.push(step);
        self.steps.push(step.clone());
    }

    /// So many events are lost by now.
    fn lose(&mut self, elapsed_ns: u64, step: Option<u64>, n_dropped: u64) {
        let Some(count) = n_dropped.checked_sub(self.n_dropped).filter(|&count| count > 0) else {
            return;
        };
        self.n_dropped = n_dropped;
        if self.lost.len() >= LOST_MAX
            && let Some(oldest) = self.lost.pop_front()
            && let Some(next) = self.lost.front_mut()
        {
            // What is no longer told by itself still counts.
            next.count = next.count.saturating_add(oldest.count);
            next.first_step = oldest.first_step.or(oldest.step).or(next.first_step);
        }
        self.lost.push_back(Lost { elapsed_ns, step, count, first_step: None });
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

    /// A reader that begins at a mark takes the fold from it, and so does one that could not read
    /// the first line. A reader that has a fold already takes the places of the marks alone.
    fn apply_index(&mut self, index: &Index) {
        if self.hello.is_none()
            && let Ok(mark) = LogMark::parse(index.line())
        {
            let hello = mark.model.hello.as_deref();
            let progress = hello.map(Progress::new).unwrap_or_default();
            let devices = hello.map(devices_of).unwrap_or_default();
            let n_ranks_ever = self.n_ranks_ever.saturating_add(hello.map_or(0, n_ranks_shown));
            let recorded = std::mem::take(&mut self.recorded);
            *self = Self { progress, recorded, n_ranks_ever, devices, ..*mark.model };
            self.frames = mark.frames;
        } else if let Some(frames) = mark::frames_of(index.line()) {
            self.frames = frames;
        }
    }

    /// Whether it is one that a fold can have come to: what was read from a log may be anything.
    fn is_sound(&self) -> bool {
        let hello = self.hello.as_deref();
        let n_expected = hello.map_or(0, n_ranks_shown);
        let pp = hello.map_or(1, |hello| u64::from(hello.pp)).max(1);
        let is_at = |(at, state): (u64, &RankState)| {
            (u64::from(state.replica), u64::from(state.rank)) == (at / pp, at % pp)
        };
        // Of a log that names too many runs the last ones have no ranks.
        (self.ranks.is_empty() || self.ranks.len() as u64 == n_expected)
            && (0..).zip(&self.ranks).all(is_at)
            && self.ranks.iter().all(RankState::is_bounded)
            && self.messages.len() <= MESSAGES_MAX
            && self.lost.len() <= LOST_MAX
            && self.alarms.len() <= ALARMS_MAX
            && self.phases.is_bounded()
            && self.watchdog.is_bounded()
            && self.loss.is_bounded()
            && self.metrics.is_bounded()
            && self.steps.is_bounded()
            && self.gpus.is_bounded()
    }

    /// The same once more is no new message: the one that is there moves to the end, and counts.
    fn message(
        &mut self,
        elapsed_ns: u64,
        step: Option<u64>,
        rank: Option<u32>,
        level: Level,
        text: &str,
    ) {
        let text = text.to_owned();
        let mut new = Message { elapsed_ns, step, level, text, rank, count: 1, first_step: None };
        let again = new.again_in(&self.messages);
        if let Some(before) = again.and_then(|at| self.messages.remove(at)) {
            new.count = before.count.saturating_add(1);
            new.first_step = before.first_step.or(before.step);
            new.step = new.step.or(before.step);
        }
        if self.messages.len() >= MESSAGES_MAX {
            self.messages.pop_front();
        }
        self.messages.push_back(new);
    }

    /// As much of it as [`crate::account`] looks at, to be handed to another thread: the spans are
    /// shared, not copied.
    #[must_use]
    pub fn for_account(&self) -> Self {
        // Of more ranks than it takes there is no account, and of the rest it wants the names
        // alone.
        let ranks = self.ranks.iter().take(RANKS_OF_ACCOUNT_MAX + 1);
        Self {
            hello: self.hello.clone(),
            ranks: ranks.map(|state| RankState::new(state.replica, state.rank)).collect(),
            recorded: self.recorded.complete_alone(),
            ..Self::default()
        }
    }
}

impl From<Lost> for LostV1 {
    fn from(lost: Lost) -> Self {
        let Lost { elapsed_ns, step, count, first_step } = lost;
        Self { elapsed_ns, step, count, first_step }
    }
}

impl From<LostV1> for Lost {
    fn from(saved: LostV1) -> Self {
        let LostV1 { elapsed_ns, step, count, first_step } = saved;
        Self { elapsed_ns, step, count, first_step }
    }
}

impl From<&Model> for ModelV1 {
    fn from(model: &Model) -> Self {
        Self {
            hello: model.hello.clone(),
            ranks: model.ranks.iter().map(RankV1::from).collect(),
            gpus: (&model.gpus).into(),
            steps: (&model.steps).into(),
            loss: (&model.loss).into(),
            metrics: Some((&model.metrics).into()),
            phases: (&model.phases).into(),
            watchdog: (&model.watchdog).into(),
            alarms: model.alarms.iter().map(|&(at, alarm)| (at, alarm.into())).collect(),
            messages: model.messages.iter().map(MessageV1::from).collect(),
            n_warnings: model.n_warnings,
            n_dropped: model.n_dropped,
            n_dropped_before: model.n_dropped_before,
            incomplete: model.incomplete.into(),
            totals: model.totals.into(),
            lost: model.lost.iter().copied().map(LostV1::from).collect(),
            n_events: model.n_events,
            end: model.end.clone(),
        }
    }
}

/// What was read from a log may be anything: it has to be what a fold can have come to.
impl TryFrom<ModelV1> for Model {
    type Error = MarkError;

    fn try_from(saved: ModelV1) -> Result<Self, MarkError> {
        let first = saved.hello.as_ref().map_or(1, |hello| hello.first_step());
        let model = Self {
            hello: saved.hello,
            ranks: saved.ranks.into_iter().map(RankState::from).collect(),
            gpus: saved.gpus.into(),
            steps: RecentSteps::from_saved(first, saved.steps),
            loss: saved.loss.into(),
            metrics: saved.metrics.map(Metrics::from).unwrap_or_default(),
            phases: saved.phases.into(),
            watchdog: saved.watchdog.into(),
            alarms: saved.alarms.into_iter().map(|(at, alarm)| (at, alarm.into())).collect(),
            messages: saved.messages.into_iter().map(Message::from).collect(),
            n_warnings: saved.n_warnings,
            n_dropped: saved.n_dropped,
            n_dropped_before: saved.n_dropped_before,
            incomplete: saved.incomplete.into(),
            totals: saved.totals.into(),
            lost: saved.lost.into_iter().map(Lost::from).collect(),
            n_events: saved.n_events,
            end: saved.end,
            ..Self::default()
        };
        if model.is_sound() { Ok(model) } else { Err(MarkError::Unsound) }
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
