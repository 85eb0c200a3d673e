//! What the fold of a run answers: how it stands, what it has trained, what was lost.

use pp_quantile::mean_median;
use pp_trace::{End, Hello, PhaseEvent};

use super::{
    Activity, Alarm, Frame, GpuState, Incomplete, LOST_PAUSE, LossHistory, Lost, Message, Metrics,
    Model, PhaseCost, RankState, RecentSteps, Recorded, Slow, SlowGroup, Slowest, Totals,
};

impl Model {
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
        let at = *self.devices.get(&(replica, rank))?;
        let entry = self.hello.as_ref()?.device_map.get(at)?;
        self.gpus.find(entry.uuid.as_deref(), entry.pci.as_deref())
    }

    /// The host of a rank, in a run on several.
    pub fn host_of(&self, replica: u32, rank: u32) -> Option<&str> {
        let hello = self.hello.as_ref().filter(|hello| hello.hosts.len() > 1)?;
        let at = *self.devices.get(&(replica, rank))?;
        hello.device_map.get(at)?.host.as_deref()
    }

    /// What took longer than usual lately, oldest first.
    pub fn slow_ops(&self) -> impl DoubleEndedIterator<Item = &Slow> {
        self.slow.found()
    }

    /// How often something took longer than usual.
    pub fn n_slow_ops(&self) -> u64 {
        self.slow.n_found()
    }

    /// The same as one line for each rank, cause and span of steps, the one that came last at the
    /// end.
    pub fn slow_groups(&self) -> impl DoubleEndedIterator<Item = &SlowGroup> {
        self.slow.groups()
    }

    /// What goes on now that is no step, such as an evaluation.
    pub fn phase(&self) -> Option<&PhaseEvent> {
        self.phases.running().filter(|_| self.end.is_none())
    }

    /// The last phases that are over, oldest first.
    pub fn phases(&self) -> impl DoubleEndedIterator<Item = &PhaseEvent> {
        self.phases.over()
    }

    /// What phases have cost so far, by name.
    pub fn phase_costs(&self) -> impl Iterator<Item = (&str, &PhaseCost)> {
        self.phases.costs()
    }

    /// What is wrong with the training now, if anything is.
    pub fn alarm(&self) -> Option<Alarm> {
        self.watchdog.alarm()
    }

    /// What was wrong with the training, oldest first, with the time at which it was seen.
    pub fn alarms(&self) -> impl DoubleEndedIterator<Item = (u64, Alarm)> {
        self.alarms.iter().copied()
    }

    /// Jumps of the loss and of the norm of the gradients so far.
    pub fn n_spikes(&self) -> u64 {
        self.watchdog.n_spikes()
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
        if self.phase().is_some() {
            return Activity::Phase;
        }
        let all_recorded = self.hello.as_ref().is_some_and(|hello| hello.span_every <= 1);
        self.progress.activity(replica, rank, all_recorded)
    }

    /// The log does not say that a run was killed; who knows it says so here. Then no rank does
    /// anything any more.
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

    /// The steps of which operations were lost: no number of a rank is taken from them.
    pub fn incomplete(&self) -> Incomplete {
        self.incomplete
    }

    /// What was trained on so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Floating-point operations a second, where it is known what a sample needs.
    pub fn flops(&self) -> Option<f64> {
        let of_sample = self.hello.as_ref()?.flops_per_sample;
        let samples = self.steps.samples_per_second()?;
        (of_sample > 0).then_some(of_sample as f64 * samples)
    }

    /// The share of what the devices could do at most that was done (MFU), where somebody said what
    /// that is.
    pub fn flops_utilisation(&self) -> Option<f64> {
        let peak = self.hello.as_ref()?.peak_flops.filter(|peak| *peak > 0.0)?;
        Some(self.flops()? / peak)
    }

    /// The lost events, grouped by spans of steps without a pause.
    pub fn lost_groups(&self) -> Vec<Lost> {
        let mut groups: Vec<Lost> = Vec::new();
        for lost in &self.lost {
            let begins = lost.first_step.or(lost.step).unwrap_or(0);
            match groups.last_mut() {
                Some(last) if begins <= last.step.unwrap_or(0).saturating_add(LOST_PAUSE) => {
                    last.first_step =
                        last.first_step.or(last.step).or(lost.first_step).or(lost.step);
                    last.count = last.count.saturating_add(lost.count);
                    (last.elapsed_ns, last.step) = (lost.elapsed_ns, lost.step.or(last.step));
                }
                _ => groups.push(*lost),
            }
        }
        groups
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

    /// How long the rest of the run will take: its steps, and the evaluations between them as far
    /// as one knows what they cost.
    pub fn eta_seconds(&self) -> Option<f64> {
        let hello = self.hello.as_ref()?;
        let steps = self.steps.eta_seconds(hello.steps)?;
        let seconds = self.phases.cost(PhaseEvent::EVALUATING).and_then(PhaseCost::median_seconds);
        let evaluations = seconds.unwrap_or(0.0) * self.n_evaluations_left() as f64;
        // Time already spent on the evaluation that goes on.
        let passed = self.phase().filter(|phase| phase.phase == PhaseEvent::EVALUATING);
        let passed = passed
            .map_or(0.0, |phase| phase.elapsed_ns.saturating_sub(phase.start_ns) as f64 * 1e-9);
        Some(steps + (evaluations - passed.min(seconds.unwrap_or(0.0))).max(0.0))
    }

    /// Evaluations that are still to come, the one that goes on included.
    fn n_evaluations_left(&self) -> u64 {
        let Some(hello) = &self.hello else { return 0 };
        let n_until = |step: u64| {
            let regular = step.checked_div(hello.eval_every).unwrap_or(0);
            // One more after the last step, unless an earlier one falls on it.
            let is_last =
                step >= hello.steps && !hello.steps.is_multiple_of(hello.eval_every.max(1));
            regular + u64::from(is_last)
        };
        if hello.eval_every == 0 || hello.steps == 0 {
            return u64::from(self.phase().is_some_and(|p| p.phase == PhaseEvent::EVALUATING));
        }
        // The evaluation after the last step is over once its end is logged.
        let is_over = self.phases.over().next_back().is_some_and(|phase| {
            phase.phase == PhaseEvent::EVALUATING && phase.step == Some(self.step())
        });
        let is_due = self.step() > 0
            && (self.step().is_multiple_of(hello.eval_every) || self.step() >= hello.steps);
        n_until(hello.steps).saturating_sub(n_until(self.step())) + u64::from(is_due && !is_over)
    }

    /// Ranks over all replicas, and cores, when there are more ranks than cores.
    pub fn ranks_over_cores(&self) -> Option<(u64, u32)> {
        self.hello.as_ref()?.ranks_over_cores()
    }

    /// The GPU that most ranks share, and how many do, where any is shared.
    pub fn ranks_on_one_gpu(&self) -> Option<(u64, &str)> {
        self.hello.as_ref()?.ranks_on_one_gpu()
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
        let mut others: Vec<f64> = busy.iter().map(|(seconds, _)| *seconds).collect();
        let usual = mean_median(&mut others)?;
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
