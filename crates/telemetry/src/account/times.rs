//! What the operations and the messages of the last recorded steps took.

use std::collections::HashMap;

use pp_quantile::{at_place, lower_median, lower_middle, mean_median, upper_median};
use pp_schedule::{Costs, Phase, Pipe, ValidPlan};

use super::{KINDS, RankTime, edges};
use crate::model::{Model, RecordedStep};
use crate::op_of::op_of;
use crate::reduced::Reduced;
use pp_trace::{Span, SpanKind, measure};

/// Which times of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Without the time in which it had no core.
    Net,
    /// All of it.
    Gross,
}

/// A sum of times and how many they are.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Sum {
    gross: f64,
    net: f64,
    n: f64,
}

impl Sum {
    fn sum(&self, share: Share) -> f64 {
        match share {
            Share::Net => self.net,
            Share::Gross => self.gross,
        }
    }

    fn mean(&self, share: Share) -> Option<f64> {
        (self.n > 0.0).then(|| self.sum(share) / self.n)
    }
}

/// What the operations of each stage took.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OpTimes(Vec<[Sum; 4]>);

impl OpTimes {
    fn new(plan: &ValidPlan) -> Self {
        Self(vec![[Sum::default(); 4]; plan.n_stages() as usize])
    }

    fn add(&mut self, span: &Span) {
        let Some(kind) = kind_index(span.op) else { return };
        let Some(sum) = self.0.get_mut(span.stage as usize).map(|of_stage| &mut of_stage[kind])
        else {
            return;
        };
        let starved = seconds(span.starved_ns.min(span.dur_ns));
        sum.gross += seconds(span.dur_ns);
        sum.net += seconds(span.dur_ns) - starved;
        sum.n += 1.0;
    }

    /// F, I and W of a stage. Where a backward was measured whole only, it is halved; where I was
    /// measured as well, the rest of it is W.
    fn of_stage(&self, stage: usize, share: Share) -> [f64; 3] {
        let Some([forward, whole, input, weight]) = self.0.get(stage) else { return [0.0; 3] };
        let forward = forward.mean(share).unwrap_or(0.0);
        let Some(i) = input.mean(share) else {
            let half = whole.mean(share).unwrap_or(0.0) / 2.0;
            return [forward, half, half];
        };
        // All that was not I, over all backwards: those in two ops and those in one.
        let n = weight.n + whole.n;
        let not_i = weight.sum(share) + whole.sum(share) - whole.n * i;
        [forward, i, if n > 0.0 { (not_i / n).max(0.0) } else { 0.0 }]
    }
}

/// The mean times of a plan's ops on a core over the last recorded steps, messages, copies and
/// waiting for a core left out: what the plan would take if nothing came between. `None` before a
/// first step is recorded whole.
pub fn mean_costs(model: &Model, plan: &ValidPlan, n_steps_max: usize) -> Option<Costs> {
    let mut ops = OpTimes::new(plan);
    let mut costs = Costs::uniform(plan.n_stages(), 0.0, 0.0, 0.0, 0.0);
    for step in settled(model, plan, n_steps_max) {
        step.spans.iter().for_each(|span| ops.add(span));
    }
    for stage in 0..plan.n_stages() as usize {
        let [forward, input, weight] = ops.of_stage(stage, Share::Net);
        if forward <= 0.0 {
            return None;
        }
        (costs.forward[stage], costs.input_grad[stage], costs.weight_grad[stage]) =
            (forward, input, weight);
    }
    Some(costs)
}

/// The last complete steps with every op of the plan, without the first step of the run if there
/// are others: it also pays for what happens only once.
fn settled<'a>(model: &'a Model, plan: &ValidPlan, n_steps_max: usize) -> Vec<&'a RecordedStep> {
    let dp = model.hello().map_or(1, |hello| hello.dp.max(1)) as usize;
    // A recorder that could not keep up leaves gaps, which are no idleness.
    let is_whole = |step: &&RecordedStep| {
        step.is_whole()
            && step.spans.iter().filter(|span| span.op.is_compute()).count() == plan.n_ops() * dp
    };
    let mut steps: Vec<&RecordedStep> =
        model.recorded().complete_steps().rev().filter(is_whole).take(n_steps_max).collect();
    steps.reverse();
    if steps.len() > 1 && steps.first().is_some_and(|step| step.step <= model.first_step()) {
        steps.remove(0);
    }
    steps
}

/// What the operations and the messages took.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    pub(crate) steps: (u64, u64),
    pub(crate) n_steps: usize,
    pub(crate) step_seconds: f64,
    pub(crate) window_seconds: f64,
    pub(crate) bubble_ratio: f64,
    /// Computing of a mean rank in a step, with and without the time without a core.
    pub(crate) busy_seconds: f64,
    pub(crate) net_busy_seconds: f64,
    pub(crate) ranks: Vec<RankTime>,
    pub(crate) halves_are_guessed: bool,
    /// How much the windows of the steps differ, as a part of their median.
    pub(crate) noise: f64,
    ops: OpTimes,
    /// Copies for one micro-batch, by stage.
    copies: Vec<f64>,
    /// From rank to rank: the time from the end of an operation until the rank that waits for it
    /// has what it made.
    latency: Vec<Vec<f64>>,
}

/// What was made: replica, stage, whether forwards, micro-batch.
type Made = (u32, u32, bool, u32);

fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}

fn kind_index(kind: SpanKind) -> Option<usize> {
    KINDS.iter().position(|other| *other == kind)
}

/// Gives each rank the one that it waits for longest, of several the first.
///
/// `waits` is by the place of the rank that waits and the rank that it waits for: all of the wait,
/// and what of it lies in the compute window.
fn set_longest_waits(ranks: &mut [RankTime], waits: HashMap<(usize, u32), [f64; 2]>) {
    for ((at, other), [seconds, in_window]) in waits {
        let Some(rank) = ranks.get_mut(at) else { continue };
        let is_most = rank
            .waits_for
            .is_none_or(|(before, most)| seconds.total_cmp(&most).then(before.cmp(&other)).is_gt());
        if is_most {
            rank.waits_for = Some((other, seconds));
            rank.waits_for_in_window = in_window;
        }
    }
}

impl Measured {
    /// Of the last complete steps.
    pub(crate) fn of(model: &Model, plan: &ValidPlan, n_steps_max: usize) -> Option<Self> {
        let hello = model.hello()?;
        let steps = settled(model, plan, n_steps_max);
        let (first, last) = (steps.first()?.step, steps.last()?.step);
        let n_steps = steps.len() as f64;
        let n_stages = plan.n_stages() as usize;
        let n_ranks = plan.n_ranks() as usize;

        let mut ops = OpTimes::new(plan);
        let mut copies = vec![0.0; n_stages];
        let mut delays: HashMap<(usize, usize), Vec<f64>> = HashMap::new();
        let mut waits: HashMap<(usize, u32), [f64; 2]> = HashMap::new();
        let mut ranks: Vec<RankTime> = model
            .ranks()
            .iter()
            .map(|state| RankTime {
                replica: state.replica,
                rank: state.rank,
                ..RankTime::default()
            })
            .collect();
        let (mut step_seconds, mut window_seconds, mut bubble_ratio) = (0.0, 0.0, 0.0);
        let mut windows = Vec::with_capacity(steps.len());
        for step in &steps {
            let step_ns = step.step_ns?;
            step_seconds += seconds(step_ns) / n_steps;
            let bubble = measure(&step.spans, hello.pp, step_ns);
            window_seconds += bubble.window_seconds / n_steps;
            windows.push(bubble.window_seconds);
            bubble_ratio += bubble.bubble_ratio / n_steps;
            let made = made(&step.spans);
            let window_of_replica = windows_of(&step.spans);
            let sent = sends(&step.spans);
            add_means(&mut ranks, n_ranks, &step.spans, n_steps);
            for span in &step.spans {
                let at = span.replica as usize * n_ranks + span.rank as usize;
                if let Some(rank) = ranks.get_mut(at) {
                    add_to_rank(rank, span, n_steps);
                }
                ops.add(span);
                if span.op.is_copy() {
                    if let Some(copies) = copies.get_mut(span.stage as usize) {
                        *copies += seconds(span.dur_ns);
                    }
                } else if span.op.is_wait()
                    && let Some(producer) = producer(span, &made)
                    && producer.rank != span.rank
                {
                    let [whole, in_window] = waits.entry((at, producer.rank)).or_default();
                    *whole += seconds(span.dur_ns) / n_steps;
                    let window = window_of_replica.get(&span.replica).copied().unwrap_or_default();
                    *in_window += seconds(within(span, window)) / n_steps;
                    // A message leaves when its Send is over: of an overlapped pair both leave at
                    // the end of the pair.
                    let left_ns = sent
                        .get(&(span.replica, producer.stage, span.op, span.mb))
                        .copied()
                        .unwrap_or_else(|| producer.end_ns());
                    if let Some(delay) = span.end_ns().checked_sub(left_ns) {
                        let edge = (producer.rank as usize, span.rank as usize);
                        delays.entry(edge).or_default().push(seconds(delay));
                    }
                }
            }
        }
        for rank in &mut ranks {
            rank.other = step_seconds - rank.sum();
        }
        set_longest_waits(&mut ranks, waits);
        let mut latency = vec![vec![0.0; n_ranks]; n_ranks];
        for ((from, to), mut delays) in delays {
            if let Some(cell) = latency.get_mut(from).and_then(|row| row.get_mut(to)) {
                *cell = upper_median(&mut delays).unwrap_or(0.0);
            }
        }
        // An op's copies are charged once for each of its micro-batches.
        for (copies, of_stage) in copies.iter_mut().zip(&ops.0) {
            let n_forwards = of_stage[0].n;
            *copies = if n_forwards > 0.0 { *copies / n_forwards } else { 0.0 };
        }
        let n_all = ranks.len().max(1) as f64;
        let busy_seconds = ranks.iter().map(RankTime::compute).sum::<f64>() / n_all;
        let starved = ranks.iter().map(|rank| rank.starved).sum::<f64>() / n_all;
        let has_halves = ops.0.iter().any(|of_stage| of_stage[2].n > 0.0);
        (window_seconds > 0.0).then_some(Self {
            steps: (first, last),
            n_steps: steps.len(),
            step_seconds,
            window_seconds,
            bubble_ratio,
            busy_seconds,
            net_busy_seconds: busy_seconds - starved,
            ranks,
            halves_are_guessed: !has_halves,
            noise: noise(windows),
            ops,
            copies,
            latency,
        })
    }

    /// F, I and W of a stage together, without the time without a core.
    pub(crate) fn whole(&self, stage: usize) -> f64 {
        self.ops.of_stage(stage, Share::Net).iter().sum()
    }

    /// What each rank of the pipeline computes in a step, without the time without a core: mean
    /// over the replicas.
    pub(crate) fn net_of_ranks(&self) -> Vec<f64> {
        let n_ranks = self.latency.len();
        let mut net = vec![0.0; n_ranks];
        for rank in &self.ranks {
            if let Some(net) = net.get_mut(rank.rank as usize) {
                *net += rank.compute() - rank.starved;
            }
        }
        let n_replicas = (self.ranks.len() / n_ranks.max(1)).max(1) as f64;
        net.iter().map(|net| net / n_replicas).collect()
    }

    /// How much more each of them computes than the lower median.
    pub(crate) fn excess_of_ranks(&self) -> Vec<f64> {
        let net = self.net_of_ranks();
        let usual = lower_median(&mut net.clone()).unwrap_or(0.0);
        net.iter().map(|net| (net - usual).max(0.0)).collect()
    }

    /// How much longer a stage takes than it would as fast as the reference.
    pub(crate) fn excess(&self, stage: usize, reference: &[[f64; 3]]) -> f64 {
        self.whole(stage) - reference.get(stage).map_or(0.0, |times| times.iter().sum())
    }

    /// F, I and W of each stage, were its rank as fast as the lower median of the ranks, chunk by
    /// chunk.
    pub(crate) fn reference(&self, plan: &ValidPlan) -> Vec<[f64; 3]> {
        let topology = plan.topology();
        let n_stages = plan.n_stages() as usize;
        let chunk = |stage: usize| {
            let stage = pp_schedule::Stage(stage as u32);
            topology.chunk_of(Pipe(0), stage)
        };
        (0..n_stages)
            .map(|stage| {
                let alike: Vec<[f64; 3]> = (0..n_stages)
                    .filter(|&other| chunk(other) == chunk(stage))
                    .map(|other| self.ops.of_stage(other, Share::Net))
                    .collect();
                // By the whole, so that the three belong together.
                let mut sorted = alike;
                sorted.sort_by(|a, b| a.iter().sum::<f64>().total_cmp(&b.iter().sum::<f64>()));
                sorted.get(lower_middle(sorted.len())).copied().unwrap_or([0.0; 3])
            })
            .collect()
    }

    /// Costs of the plan's stages: measured, or those of `instead`; with copies and messages, or
    /// without.
    pub(crate) fn costs(
        &self,
        plan: &ValidPlan,
        share: Share,
        instead: Option<&[[f64; 3]]>,
        with_copies: bool,
    ) -> Costs {
        let mut costs = Costs::uniform(plan.n_stages(), 0.0, 0.0, 0.0, 0.0);
        for stage in 0..plan.n_stages() as usize {
            let [forward, input, weight] = match instead {
                Some(times) => times.get(stage).copied().unwrap_or([0.0; 3]),
                None => self.ops.of_stage(stage, share),
            };
            let copy = if with_copies { self.copies[stage] / 2.0 } else { 0.0 };
            costs.forward[stage] = forward + copy;
            costs.input_grad[stage] = input + copy;
            costs.weight_grad[stage] = weight;
        }
        if with_copies {
            costs.comm = edges(&self.latency);
        }
        costs
    }

    /// The median delay of a message over all edges that had any.
    pub(crate) fn usual_latency(&self) -> f64 {
        let mut all: Vec<f64> =
            self.latency.iter().flatten().copied().filter(|delay| *delay > 0.0).collect();
        upper_median(&mut all).unwrap_or(0.0)
    }

    /// F, I and W of all stages of a rank together, with their copies; `factors` says for each
    /// stage how many times as long it takes.
    pub(crate) fn of_rank(&self, plan: &ValidPlan, rank: u32, factors: Option<&[f64]>) -> [f64; 3] {
        let mut sum = [0.0; 3];
        for &(_, stage) in plan.topology().stages_of(pp_schedule::Rank(rank)) {
            let factor = factors.and_then(|all| all.get(stage.idx())).copied().unwrap_or(1.0);
            let times = self.ops.of_stage(stage.idx(), Share::Net);
            let [forward, input, weight] = times.map(|time| time * factor);
            let copy = self.copies[stage.idx()] / 2.0;
            sum = [sum[0] + forward + copy, sum[1] + input + copy, sum[2] + weight];
        }
        sum
    }

    pub(crate) fn slowest_edge(&self) -> Option<(u32, u32, f64)> {
        let edges = self.latency.iter().enumerate().flat_map(|(from, row)| {
            row.iter().enumerate().map(move |(to, delay)| (from as u32, to as u32, *delay))
        });
        edges.max_by(|a, b| a.2.total_cmp(&b.2)).filter(|(.., delay)| *delay > 0.0)
    }
}

/// Fewer steps say nothing about how much steps differ.
const STEPS_FOR_NOISE: usize = 4;
/// What steps are taken to differ by where there are too few to tell.
const NOISE_UNKNOWN: f64 = 0.05;
/// The distance between the quartiles of a normal distribution in standard deviations.
const QUARTILES_IN_SD: f64 = 1.349;

fn noise(mut windows: Vec<f64>) -> f64 {
    if windows.len() < STEPS_FOR_NOISE {
        return NOISE_UNKNOWN;
    }
    let last = windows.len() - 1;
    let mut quartile = |place| at_place(&mut windows, place).unwrap_or(0.0);
    let (low, high) = (quartile(last / 4), quartile(last - last / 4));
    match mean_median(&mut windows) {
        Some(middle) if middle > 0.0 => (high - low) / QUARTILES_IN_SD / middle,
        _ => NOISE_UNKNOWN,
    }
}

/// What each op of a step has made for another stage.
fn made(spans: &[Span]) -> HashMap<Made, &Span> {
    let made = spans.iter().filter_map(|span| {
        let forwards = match span.op {
            SpanKind::F => true,
            SpanKind::B | SpanKind::I => false,
            _ => return None,
        };
        Some(((span.replica, span.stage, forwards, span.mb), span))
    });
    made.collect()
}

/// When the messages of a step left: for the stage that sends, what is waited for at the other end,
/// and the micro-batch. A `Send` does not say its direction; it belongs to the op of this stage and
/// micro-batch that was the last to end before it.
fn sends(spans: &[Span]) -> HashMap<(u32, u32, SpanKind, u32), u64> {
    let mut made: HashMap<(u32, u32, u32), Vec<&Span>> = HashMap::new();
    for span in spans {
        if matches!(span.op, SpanKind::F | SpanKind::B | SpanKind::I) {
            made.entry((span.replica, span.stage, span.mb)).or_default().push(span);
        }
    }
    // By their ends, and those that end together in their order.
    for ops in made.values_mut() {
        ops.sort_by_key(|op| op.end_ns());
    }
    let mut sent = HashMap::new();
    for send in spans.iter().filter(|span| span.op == SpanKind::Send) {
        let Some(ops) = made.get(&(send.replica, send.stage, send.mb)) else { continue };
        let n_before = ops.partition_point(|op| op.end_ns() <= send.start_ns);
        if let Some(op) = n_before.checked_sub(1).map(|last| ops[last]) {
            let waited = if op.op == SpanKind::F { SpanKind::WaitAct } else { SpanKind::WaitGrad };
            sent.entry((send.replica, send.stage, waited, send.mb)).or_insert(send.end_ns());
        }
    }
    sent
}

/// The operation that a wait was for.
fn producer<'a>(wait: &Span, made: &HashMap<Made, &'a Span>) -> Option<&'a Span> {
    let op = op_of(wait).filter(|_| wait.op.is_wait())?;
    // Behind the last stage nothing was made.
    let stage = op.input_stage(u32::MAX)?.0;
    made.get(&(wait.replica, stage, op.phase == Phase::Forward, wait.mb)).copied()
}

/// Adds the times of the gradient mean, where there are any.
fn add_means(ranks: &mut [RankTime], n_ranks: usize, spans: &[Span], n_steps: f64) {
    if spans.iter().all(|span| span.op != SpanKind::AllReduce) {
        return;
    }
    let mut of_rank: HashMap<usize, Vec<&Span>> = HashMap::new();
    for span in spans {
        let at = span.replica as usize * n_ranks + span.rank as usize;
        of_rank.entry(at).or_default().push(span);
    }
    for (at, spans) in of_rank {
        let Some(rank) = ranks.get_mut(at) else { continue };
        let Reduced { whole_ns, alone_ns } = Reduced::of(spans);
        rank.all_reduce += seconds(alone_ns) / n_steps;
        rank.all_reduce_whole += seconds(whole_ns) / n_steps;
    }
}

/// From the first start to the last end of compute, for each replica.
fn windows_of(spans: &[Span]) -> HashMap<u32, (u64, u64)> {
    let mut windows = HashMap::new();
    for span in spans.iter().filter(|span| span.op.is_compute()) {
        let (first, last) = windows.entry(span.replica).or_insert((u64::MAX, 0));
        *first = span.start_ns.min(*first);
        *last = span.end_ns().max(*last);
    }
    windows
}

/// How much of a span lies between two times.
fn within(span: &Span, (first_ns, last_ns): (u64, u64)) -> u64 {
    span.end_ns().min(last_ns).saturating_sub(span.start_ns.max(first_ns))
}

fn add_to_rank(rank: &mut RankTime, span: &Span, n_steps: f64) {
    let starved = if span.op.is_compute() { span.starved_ns.min(span.dur_ns) } else { 0 };
    let time = seconds(span.dur_ns - starved) / n_steps;
    rank.starved += seconds(starved) / n_steps;
    let sum = match span.op {
        SpanKind::F => &mut rank.forward,
        SpanKind::B | SpanKind::I => &mut rank.backward,
        SpanKind::W => &mut rank.weight_grad,
        SpanKind::Send | SpanKind::Recv => &mut rank.copy,
        SpanKind::WaitAct => &mut rank.wait_act,
        SpanKind::WaitGrad => &mut rank.wait_grad,
        // It may lie beside other work: `add_means`.
        SpanKind::AllReduce => return,
        SpanKind::Optim => &mut rank.optimizer,
        SpanKind::Checkpoint => &mut rank.checkpoint,
        SpanKind::Data => &mut rank.data,
    };
    *sum += time;
}
