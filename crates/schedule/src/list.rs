//! List scheduling: plays a step forward in time, and lets a policy choose what each rank runs
//! whenever it is free.
//!
//! Micro-batches pass every stage in ascending order, and so do the sums of their weight gradients.
//! A forward is let in only if the rank has room for it and, behind it, for one micro-batch on each
//! of the rank's later stages: so the oldest micro-batch can always go on, and no choice of a
//! policy ends in a deadlock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::action::Action;
use crate::costs::Costs;
use crate::edges::Edges;
use crate::ids::{MicroBatch, Pipe, Rank, Stage};
use crate::op::{Op, Phase};
use crate::ordered::Ordered;
use crate::topology::Topology;
use crate::work;

/// What is to be scheduled: m micro-batches through the stages of one copy of a model.
#[derive(Clone, Copy)]
pub(crate) struct Problem<'a> {
    pub(crate) topology: &'a Topology,
    pub(crate) n_micro_batches: u32,
    /// Times, and what each rank may hold, without messages.
    pub(crate) costs: &'a Costs,
    /// How many micro-batches may be between their first F and their last backward.
    pub(crate) n_in_flight: u32,
    /// I and W apart, or B.
    pub(crate) splits: bool,
}

/// Which op a rank prefers among those that can run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Policy {
    pub(crate) first: First,
    /// Of several stages whose F can run.
    pub(crate) forward: Pick,
    /// Of several stages whose backward can run.
    pub(crate) back: Pick,
    /// Where F has its turn and waits for room, W makes it, before a backward.
    pub(crate) flushes: bool,
    /// F starts only if it delays a backward that is under way by at most this part of itself: 1
    /// for always.
    pub(crate) forward_delay: f64,
    /// W starts only if it delays an input that is under way by at most this part of itself: 1 for
    /// whenever nothing else can run.
    pub(crate) weight_grad_delay: f64,
}

/// Forwards or backwards first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    Back,
    Forward,
    /// Whichever did not run last.
    InTurn,
}

/// The stage nearest to the input of the model, or to its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    Lowest,
    Highest,
}

/// How long a step takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    pub(crate) makespan: f64,
    /// The longest time from a rank's first start to its last end.
    pub(crate) longest_span: f64,
}

/// The rows, and how long the step takes in which they came about. Where a rank waited for an input
/// and then did something else first, the same rows played as soon as they can are shorter.
#[derive(Debug)]
pub(crate) struct Scheduled {
    pub(crate) rows: Vec<Vec<Action>>,
    pub(crate) length: Length,
}

/// Schedules a problem. Every rank must have room for one micro-batch on all its stages. Linear in
/// the ops, but for a heap of events.
pub(crate) fn schedule(problem: Problem<'_>, policy: Policy) -> Scheduled {
    Clockwork::new(problem, policy).run()
}

/// How far a stage has come.
struct StageState {
    rank: usize,
    /// When the inputs of its forwards arrive, in order, as far as that is known.
    forward_inputs: Vec<f64>,
    gradients: Vec<f64>,
    n_forward: u32,
    n_back: u32,
    n_weight_grad: u32,
    /// What one micro-batch takes here at most: its activation, or its residue.
    share: f64,
    /// The shares of the later stages of this rank.
    reserve: f64,
}

struct RankState {
    /// When it can start something else.
    free: f64,
    last_end: f64,
    held: f64,
    limit: f64,
    stages: Vec<u32>,
    last_was_forward: bool,
    first_start: f64,
    row: Vec<Action>,
}

/// A rank is free, or one of its inputs arrives: the time and the rank. A heap gives out the
/// greatest first, here the earliest.
type Event = Reverse<(Ordered, usize)>;

fn event(time: f64, rank: usize) -> Event {
    Reverse((Ordered(time), rank))
}

/// Whether a stage's next F can run.
enum Forward {
    /// Its input is not under way, or there is none left.
    Unknown,
    /// Its rank has no room.
    NoRoom,
    /// From this time on.
    At(f64),
}

/// What a rank could do now.
#[derive(Default)]
struct Choices {
    forward: Option<u32>,
    back: Option<u32>,
    weight_grad: Option<u32>,
    has_no_room: bool,
}

struct Clockwork<'a> {
    /// Where edges have a bandwidth: which they are, and when each has sent what it was given.
    edges: Option<Edges>,
    edge_free: Vec<f64>,
    problem: Problem<'a>,
    policy: Policy,
    stages: Vec<StageState>,
    ranks: Vec<RankState>,
    events: BinaryHeap<Event>,
}

/// Sums of the same numbers in another order may differ by so much.
const ROUNDING: f64 = 1.0 + 1e-9;

impl<'a> Clockwork<'a> {
    fn new(problem: Problem<'a>, policy: Policy) -> Self {
        let Problem { topology, n_micro_batches, costs, splits, .. } = problem;
        let (m, n_ranks) = (n_micro_batches as usize, topology.n_ranks() as usize);
        let limit = |rank: usize| {
            costs.memory_limit.as_ref().map_or(f64::INFINITY, |limits| limits[rank] * ROUNDING)
        };
        let mut ranks: Vec<RankState> = (0..n_ranks)
            .map(|rank| RankState {
                free: 0.0,
                last_end: 0.0,
                held: 0.0,
                limit: limit(rank),
                stages: Vec::new(),
                last_was_forward: false,
                first_start: f64::INFINITY,
                row: Vec::new(),
            })
            .collect();
        let mut stages: Vec<StageState> = topology
            .ranks(Pipe(0))
            .iter()
            .map(|rank| StageState {
                rank: rank.idx(),
                forward_inputs: Vec::with_capacity(m),
                gradients: Vec::with_capacity(m),
                n_forward: 0,
                n_back: 0,
                n_weight_grad: 0,
                share: 0.0,
                reserve: 0.0,
            })
            .collect();
        for ((state, &activation), &residue) in
            stages.iter_mut().zip(&costs.activation).zip(&costs.residue)
        {
            state.share = activation.max(residue);
        }
        stages[0].forward_inputs.resize(m, 0.0);
        for (stage, state) in (0..).zip(&stages) {
            ranks[state.rank].stages.push(stage);
        }
        let n_phases = if splits { 3 } else { 2 };
        for rank in &mut ranks {
            rank.row.reserve_exact(n_phases * rank.stages.len() * m);
            let mut later = 0.0;
            for &stage in rank.stages.iter().rev() {
                stages[stage as usize].reserve = later;
                later += stages[stage as usize].share;
            }
        }
        let events = (0..n_ranks).map(|rank| event(0.0, rank)).collect();
        let edges = costs.bandwidth.is_some().then(|| Edges::new(topology));
        let edge_free = vec![0.0; edges.as_ref().map_or(0, Edges::len)];
        Self { edges, edge_free, problem, policy, stages, ranks, events }
    }

    fn run(mut self) -> Scheduled {
        while let Some(Reverse((Ordered(time), rank))) = self.events.pop() {
            if self.ranks[rank].free <= time
                && let Some(op) = self.choose(rank, time)
            {
                self.start(rank, op, time);
            }
        }
        let spans = self.ranks.iter().map(|rank| rank.last_end - rank.first_start);
        let makespan = self.ranks.iter().map(|rank| rank.last_end).fold(0.0, f64::max);
        let length = Length { makespan, longest_span: spans.fold(0.0, f64::max) };
        Scheduled { length, rows: self.ranks.into_iter().map(|rank| rank.row).collect() }
    }

    /// Whether the next F of a stage can run on its rank.
    fn forward(&self, rank: usize, stage: u32) -> Forward {
        let here = &self.stages[stage as usize];
        let Some(&input) = here.forward_inputs.get(here.n_forward as usize) else {
            return Forward::Unknown;
        };
        if stage == 0 && here.n_forward - here.n_back >= self.problem.n_in_flight {
            return Forward::Unknown;
        }
        let RankState { held, limit, .. } = self.ranks[rank];
        let needed = here.share + here.reserve;
        if held + needed > limit { Forward::NoRoom } else { Forward::At(input) }
    }

    fn choose(&self, rank: usize, now: f64) -> Option<Op> {
        let Policy { first, flushes, weight_grad_delay, .. } = self.policy;
        let (choices, next_arrival) = self.choices(rank, now);
        let Choices { forward, back, weight_grad, has_no_room } = choices;
        let is_forwards_turn = match first {
            First::Back => false,
            First::Forward => true,
            First::InTurn => !self.ranks[rank].last_was_forward,
        };
        if let Some(stage) = weight_grad
            && has_no_room
            && forward.is_none()
            && (back.is_none() || (flushes && is_forwards_turn))
        {
            return Some(self.next(stage, Phase::WeightGrad));
        }
        if let Some(stage) = forward
            && (is_forwards_turn || back.is_none())
        {
            return Some(self.next(stage, Phase::Forward));
        }
        if let Some(stage) = back {
            let phase = if self.problem.splits { Phase::InputGrad } else { Phase::Backward };
            return Some(self.next(stage, phase));
        }
        let stage = weight_grad?;
        let time = self.problem.costs.weight_grad[stage as usize];
        let fits = now + time <= next_arrival + weight_grad_delay * time;
        fits.then(|| self.next(stage, Phase::WeightGrad))
    }

    /// What can run now, and when the next input arrives that is under way.
    fn choices(&self, rank: usize, now: f64) -> (Choices, f64) {
        let mut choices = Choices::default();
        let (mut next_input, mut next_gradient) = (f64::INFINITY, f64::INFINITY);
        for &stage in &self.ranks[rank].stages {
            work::done(1);
            let here = &self.stages[stage as usize];
            match self.forward(rank, stage) {
                Forward::Unknown => {}
                Forward::NoRoom => choices.has_no_room = true,
                Forward::At(time) if time <= now => {
                    choices.forward = Some(self.policy.forward.of(choices.forward, stage));
                }
                Forward::At(time) => next_input = next_input.min(time),
            }
            match here.gradients.get(here.n_back as usize) {
                Some(&time) if time <= now => {
                    choices.back = Some(self.policy.back.of(choices.back, stage));
                }
                Some(&time) => next_gradient = next_gradient.min(time),
                None => {}
            }
            // Of several stages the one that is furthest behind.
            let n_done = |stage: u32| self.stages[stage as usize].n_weight_grad;
            if self.problem.splits
                && here.n_weight_grad < here.n_back
                && choices.weight_grad.is_none_or(|other| n_done(stage) < n_done(other))
            {
                choices.weight_grad = Some(stage);
            }
        }
        choices.forward = choices.forward.filter(|&stage| {
            let time = self.problem.costs.forward[stage as usize];
            now + time <= next_gradient + self.policy.forward_delay * time
        });
        (choices, next_input.min(next_gradient))
    }

    /// The next op of a stage in this phase.
    fn next(&self, stage: u32, phase: Phase) -> Op {
        let here = &self.stages[stage as usize];
        let micro_batch = match phase {
            Phase::Forward => here.n_forward,
            Phase::Backward | Phase::InputGrad => here.n_back,
            Phase::WeightGrad => here.n_weight_grad,
        };
        Op::new(Stage(stage), phase, MicroBatch(micro_batch))
    }

    fn start(&mut self, rank: usize, op: Op, now: f64) {
        let Problem { topology, costs, .. } = self.problem;
        let end = now + costs.duration(op);
        let residue = costs.residue[op.stage.idx()];
        let here = &mut self.ranks[rank];
        here.free = end;
        here.last_end = end;
        here.first_start = here.first_start.min(now);
        here.row.push(op.into());
        let state = &mut self.stages[op.stage.idx()];
        match op.phase {
            Phase::Forward => {
                here.held += state.share;
                here.last_was_forward = true;
                state.n_forward += 1;
            }
            Phase::Backward | Phase::InputGrad => {
                let is_split = op.phase == Phase::InputGrad;
                here.held -= if is_split { state.share - residue } else { state.share };
                here.last_was_forward = false;
                state.n_back += 1;
            }
            Phase::WeightGrad => {
                here.held -= residue;
                state.n_weight_grad += 1;
            }
        }
        let Some(next) = topology.output_stage(op) else {
            self.events.push(event(end, rank));
            if op.phase == Phase::Forward {
                // The loss is its own gradient.
                state.gradients.push(end);
            }
            return;
        };
        let to = self.stages[next.idx()].rank;
        let (sender, receiver) = ((Rank(rank as u32), op.stage), (Rank(to as u32), next));
        let mut sent = end;
        if let Some(edges) = self.edges.as_ref().filter(|_| to != rank) {
            let edge = &mut self.edge_free[edges.between(Pipe(0), op.stage, next)];
            *edge = edge.max(end) + costs.transfer(sender, receiver);
            sent = *edge;
        }
        let arrival = sent + costs.latency(sender.0, receiver.0);
        if !costs.overlapped_comm {
            self.ranks[rank].free = arrival;
        }
        self.events.push(event(self.ranks[rank].free, rank));
        let next = &mut self.stages[next.idx()];
        if op.phase == Phase::Forward {
            next.forward_inputs.push(arrival);
        } else {
            next.gradients.push(arrival);
        }
        if to != rank {
            self.events.push(event(arrival, to));
        }
    }
}

impl Pick {
    fn of(self, found: Option<u32>, stage: u32) -> u32 {
        match (self, found) {
            (_, None) => stage,
            (Self::Lowest, Some(found)) => found.min(stage),
            (Self::Highest, Some(found)) => found.max(stage),
        }
    }
}
