//! What the operations and the messages of the last recorded steps took.

use std::collections::HashMap;

use pp_schedule::{Costs, Pipe, ValidPlan};

use super::{KINDS, RankTime, edges};
use crate::bubble::measure;
use crate::model::{Model, RecordedStep};
use crate::span::{Span, SpanKind};

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
    fn mean(&self, share: Share) -> Option<f64> {
        let sum = match share {
            Share::Net => self.net,
            Share::Gross => self.gross,
        };
        (self.n > 0.0).then(|| sum / self.n)
    }
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
    /// By stage and kind.
    ops: Vec<[Sum; 4]>,
    /// Copies for one micro-batch, by stage.
    copies: Vec<f64>,
    /// From rank to rank: the time from the end of an operation until the rank that waits for it has what it made.
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

impl Measured {
    /// The last complete steps, without the first of the run if there are others.
    pub(crate) fn of(model: &Model, plan: &ValidPlan, n_steps_max: usize) -> Option<Self> {
        let hello = model.hello()?;
        let mut steps: Vec<&RecordedStep> =
            model.recorded().complete_steps().rev().take(n_steps_max).collect();
        steps.reverse();
        if steps.len() > 1 && steps.first().is_some_and(|step| step.step <= 1) {
            steps.remove(0);
        }
        let (first, last) = (steps.first()?.step, steps.last()?.step);
        let n_steps = steps.len() as f64;
        let n_stages = plan.n_stages() as usize;
        let n_ranks = plan.n_ranks() as usize;

        let mut ops = vec![[Sum::default(); 4]; n_stages];
        let mut copies = vec![0.0; n_stages];
        let mut delays: HashMap<(usize, usize), Vec<f64>> = HashMap::new();
        // By the place of the rank that waits, and the rank that it waits for.
        let mut waits: HashMap<(usize, u32), f64> = HashMap::new();
        let mut ranks: Vec<RankTime> = (0..hello.dp)
            .flat_map(|replica| (0..hello.pp).map(move |rank| (replica, rank)))
            .map(|(replica, rank)| RankTime { replica, rank, ..RankTime::default() })
            .collect();
        let (mut step_seconds, mut window_seconds, mut bubble_ratio) = (0.0, 0.0, 0.0);
        for step in &steps {
            let step_ns = step.step_ns?;
            step_seconds += seconds(step_ns) / n_steps;
            let bubble = measure(&step.spans, hello.pp, step_ns);
            window_seconds += bubble.window_seconds / n_steps;
            bubble_ratio += bubble.bubble_ratio / n_steps;
            let made: HashMap<Made, &Span> = step
                .spans
                .iter()
                .filter_map(|span| {
                    let forwards = match span.op {
                        SpanKind::F => true,
                        SpanKind::B | SpanKind::I => false,
                        _ => return None,
                    };
                    Some(((span.replica, span.stage, forwards, span.mb), span))
                })
                .collect();
            for span in &step.spans {
                let at = span.replica as usize * n_ranks + span.rank as usize;
                if let Some(rank) = ranks.get_mut(at) {
                    add_to_rank(rank, span, n_steps);
                }
                let Some(of_stage) = ops.get_mut(span.stage as usize) else { continue };
                if let Some(kind) = kind_index(span.op) {
                    let starved = seconds(span.starved_ns.min(span.dur_ns));
                    let sum = &mut of_stage[kind];
                    sum.gross += seconds(span.dur_ns);
                    sum.net += seconds(span.dur_ns) - starved;
                    sum.n += 1.0;
                } else if span.op.is_copy() {
                    copies[span.stage as usize] += seconds(span.dur_ns);
                } else if span.op.is_wait()
                    && let Some(producer) = producer(span, &made)
                    && producer.rank != span.rank
                {
                    *waits.entry((at, producer.rank)).or_default() +=
                        seconds(span.dur_ns) / n_steps;
                    if let Some(delay) = span.end_ns().checked_sub(producer.end_ns()) {
                        let edge = (producer.rank as usize, span.rank as usize);
                        delays.entry(edge).or_default().push(seconds(delay));
                    }
                }
            }
        }
        for (at, rank) in ranks.iter_mut().enumerate() {
            rank.other = step_seconds - rank.sum();
            let its = waits.iter().filter(|((waiting, _), _)| *waiting == at);
            let most = its.max_by(|a, b| a.1.total_cmp(b.1).then(b.0.1.cmp(&a.0.1)));
            rank.waits_for = most.map(|((_, other), seconds)| (*other, *seconds));
        }
        let mut latency = vec![vec![0.0; n_ranks]; n_ranks];
        for ((from, to), mut delays) in delays {
            if let Some(cell) = latency.get_mut(from).and_then(|row| row.get_mut(to)) {
                delays.sort_by(f64::total_cmp);
                *cell = delays[delays.len() / 2];
            }
        }
        // An op's copies are charged once for each of its micro-batches.
        for (copies, of_stage) in copies.iter_mut().zip(&ops) {
            let n_forwards = of_stage[0].n;
            *copies = if n_forwards > 0.0 { *copies / n_forwards } else { 0.0 };
        }
        let n_all = ranks.len().max(1) as f64;
        let busy_seconds = ranks.iter().map(RankTime::compute).sum::<f64>() / n_all;
        let starved = ranks.iter().map(|rank| rank.starved).sum::<f64>() / n_all;
        let has_halves = ops.iter().any(|of_stage| of_stage[2].n > 0.0);
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
            ops,
            copies,
            latency,
        })
    }

    /// F, I and W of a stage. A backward that was measured whole is halved.
    fn of_stage(&self, stage: usize, share: Share) -> [f64; 3] {
        let Some([forward, whole, input, weight]) = self.ops.get(stage) else { return [0.0; 3] };
        let forward = forward.mean(share).unwrap_or(0.0);
        let halves = (input.mean(share), weight.mean(share), whole.mean(share));
        let (input, weight) = match halves {
            (Some(input), Some(weight), _) => (input, weight),
            (Some(input), None, Some(whole)) => (input, (whole - input).max(0.0)),
            (Some(input), None, None) => (input, 0.0),
            (None, _, Some(whole)) => (whole / 2.0, whole / 2.0),
            (None, weight, None) => (0.0, weight.unwrap_or(0.0)),
        };
        [forward, input, weight]
    }

    /// F, I and W of a stage together, without the time without a core.
    pub(crate) fn whole(&self, stage: usize) -> f64 {
        self.of_stage(stage, Share::Net).iter().sum()
    }

    /// How much longer a stage takes than it would as fast as the reference.
    pub(crate) fn excess(&self, stage: usize, reference: &[[f64; 3]]) -> f64 {
        self.whole(stage) - reference.get(stage).map_or(0.0, |times| times.iter().sum())
    }

    /// F, I and W of each stage, were its rank as fast as the lower median of the ranks, chunk by chunk.
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
                    .map(|other| self.of_stage(other, Share::Net))
                    .collect();
                // By the whole, so that the three belong together.
                let mut sorted = alike;
                sorted.sort_by(|a, b| a.iter().sum::<f64>().total_cmp(&b.iter().sum::<f64>()));
                sorted.get((sorted.len().saturating_sub(1)) / 2).copied().unwrap_or([0.0; 3])
            })
            .collect()
    }

    /// Costs of the plan's stages: measured, or those of `instead`; with copies and messages, or without.
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
                None => self.of_stage(stage, share),
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
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(0.0)
    }

    /// F, I and W of all stages of a rank together, with their copies.
    pub(crate) fn of_rank(&self, plan: &ValidPlan, rank: u32) -> [f64; 3] {
        let mut sum = [0.0; 3];
        for (_, stage) in plan.topology().stages_of(pp_schedule::Rank(rank)) {
            let [forward, input, weight] = self.of_stage(stage.idx(), Share::Net);
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

/// The operation that a wait was for.
fn producer<'a>(wait: &Span, made: &HashMap<Made, &'a Span>) -> Option<&'a Span> {
    let (stage, forwards) = match wait.op {
        SpanKind::WaitAct => (wait.stage.checked_sub(1)?, true),
        SpanKind::WaitGrad => (wait.stage.checked_add(1)?, false),
        _ => return None,
    };
    made.get(&(wait.replica, stage, forwards, wait.mb)).copied()
}

fn add_to_rank(rank: &mut RankTime, span: &Span, n_steps: f64) {
    let time = seconds(span.dur_ns) / n_steps;
    let sum = match span.op {
        SpanKind::F => &mut rank.forward,
        SpanKind::B | SpanKind::I => &mut rank.backward,
        SpanKind::W => &mut rank.weight_grad,
        SpanKind::Send | SpanKind::Recv => &mut rank.copy,
        SpanKind::WaitAct => &mut rank.wait_act,
        SpanKind::WaitGrad => &mut rank.wait_grad,
        SpanKind::AllReduce => &mut rank.all_reduce,
        SpanKind::Optim => &mut rank.optimizer,
        SpanKind::Checkpoint => &mut rank.checkpoint,
        SpanKind::Data => &mut rank.data,
    };
    *sum += time;
    if span.op.is_compute() {
        rank.starved += seconds(span.starved_ns.min(span.dur_ns)) / n_steps;
    }
}
