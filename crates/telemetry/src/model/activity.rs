//! What each rank is doing now.
//!
//! A span is written when its operation is over, so the log never says what runs at this moment.
//! The plan does: a rank works through its row in order, so what it does next is known, and whether
//! the tensor that it needs exists is known from the spans of its neighbour. A rank that hangs can
//! therefore be told from one that waits, and for whom.

use std::collections::{HashMap, HashSet};

use pp_schedule::{Action, Op, Phase};

use pp_trace::{Hello, Span, SpanKind};

/// Operations of a plan that are kept at most: a longer one is not followed.
const OPS_MAX: usize = 4_000_000;

/// What a rank waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The operation that cannot begin.
    pub op: Op,
    /// The rank that has yet to make what is needed.
    pub for_rank: u32,
}

/// What a rank is doing now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Not known: the spans of this step are not recorded, or the plan is not.
    Unknown,
    /// It computes.
    Running(Op),
    /// It waits for another rank.
    Waiting(Wait),
    /// It has done its part of the step.
    Done,
    /// It takes part in the mean of the gradients, or runs the optimizer.
    Updating,
    /// The run does something that is no step, as [`Model::phase`](crate::Model::phase) says.
    Phase,
    /// The run is over.
    Ended,
}

/// A result that another rank may wait for.
type Made = (u32, u32, Direction, u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Direction {
    Forward,
    Backward,
}

/// The ops of a rank, in order, and which of them begin an overlapped pair: such a one waits for
/// the input of the next as well.
#[derive(Debug, Clone, Default, PartialEq)]
struct Row {
    ops: Vec<Op>,
    begins_pair: HashSet<usize>,
}

impl Row {
    fn parse(text: &str) -> Option<Self> {
        let mut row = Self::default();
        for cell in text.split(',').map(str::trim).filter(|cell| !cell.is_empty()) {
            let action: Action = cell.parse().ok()?;
            if matches!(action, Action::Overlapped(_)) {
                row.begins_pair.insert(row.ops.len());
            }
            row.ops.extend(action.ops());
        }
        Some(row)
    }
}

/// Follows all ranks through the plan of the running step.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Progress {
    rows: Vec<Row>,
    /// By stage and copy of the model.
    rank_of_stage: HashMap<(u32, u32), u32>,
    n_stages: u32,
    /// Micro-batches of one copy of the model.
    n_per_pipe: u32,
    /// The step that the rest belongs to.
    step: u64,
    n_done: HashMap<(u32, u32), usize>,
    last: HashMap<(u32, u32), SpanKind>,
    made: HashSet<Made>,
}

impl Progress {
    pub(crate) fn new(hello: &Hello) -> Self {
        let mut n_ops = 0;
        let mut rows = Vec::new();
        for text in &hello.plan {
            let Some(row) = Row::parse(text) else { return Self::default() };
            n_ops += row.ops.len();
            if n_ops > OPS_MAX {
                return Self::default();
            }
            rows.push(row);
        }
        let rank_of_stage: HashMap<(u32, u32), u32> =
            hello.stages.iter().map(|stage| ((stage.stage, stage.copy), stage.rank)).collect();
        let n_pipes =
            hello.stages.iter().map(|stage| stage.copy).max().unwrap_or(0).saturating_add(1);
        let n_stages = hello.stages.iter().filter(|stage| stage.copy == 0).count();
        Self {
            rows,
            rank_of_stage,
            n_stages: u32::try_from(n_stages).unwrap_or(u32::MAX),
            n_per_pipe: (hello.micro_batches / n_pipes).max(1),
            ..Self::default()
        }
    }

    /// Operations that each rank has to do in a step; `None` where the plan is not known.
    pub(crate) fn n_ops_of_ranks(&self) -> Option<impl ExactSizeIterator<Item = usize>> {
        (!self.rows.is_empty()).then(|| self.rows.iter().map(|row| row.ops.len()))
    }

    pub(crate) fn push(&mut self, span: &Span) {
        if span.step < self.step {
            return;
        }
        if span.step > self.step {
            self.begin(span.step);
        }
        let place = (span.replica, span.rank);
        self.last.insert(place, span.op);
        if !span.op.is_compute() {
            return;
        }
        let n_in_row = self.rows.get(span.rank as usize).map_or(0, |row| row.ops.len());
        let n_done = self.n_done.entry(place).or_default();
        if *n_done >= n_in_row {
            return;
        }
        *n_done += 1;
        let direction = match span.op {
            SpanKind::F => Direction::Forward,
            SpanKind::B | SpanKind::I => Direction::Backward,
            _ => return,
        };
        self.made.insert((span.replica, span.stage, direction, span.mb));
    }

    /// The step is over: what comes next belongs to another.
    pub(crate) fn end_step(&mut self, step: u64) {
        self.begin(step.saturating_add(1).max(self.step));
    }

    fn begin(&mut self, step: u64) {
        if step == self.step {
            return;
        }
        self.step = step;
        self.n_done.clear();
        self.last.clear();
        self.made.clear();
    }

    /// What a rank does now; `all_recorded` says that every step has spans, so that none yet means
    /// that none is done.
    pub(crate) fn activity(&self, replica: u32, rank: u32, all_recorded: bool) -> Activity {
        let Some(row) = self.rows.get(rank as usize).filter(|row| !row.ops.is_empty()) else {
            return Activity::Unknown;
        };
        if self.last.is_empty() && !all_recorded {
            return Activity::Unknown;
        }
        let n_done = self.n_done.get(&(replica, rank)).copied().unwrap_or(0);
        let Some(&next) = row.ops.get(n_done) else {
            return match self.last.get(&(replica, rank)) {
                Some(SpanKind::AllReduce | SpanKind::Optim) => Activity::Updating,
                _ => Activity::Done,
            };
        };
        let waits = |op: Op| {
            let (needed, for_rank) = self.needed(replica, op)?;
            (!self.made.contains(&needed)).then_some(Wait { op, for_rank })
        };
        let other_half = || row.ops.get(n_done + 1).filter(|_| row.begins_pair.contains(&n_done));
        match waits(next).or_else(|| waits(*other_half()?)) {
            Some(wait) => Activity::Waiting(wait),
            None => Activity::Running(next),
        }
    }

    /// What `op` needs from another stage, and which rank makes it.
    fn needed(&self, replica: u32, op: Op) -> Option<(Made, u32)> {
        let stage = op.input_stage(self.n_stages)?.0;
        let direction =
            if op.phase == Phase::Forward { Direction::Forward } else { Direction::Backward };
        let copy = op.micro_batch.0 / self.n_per_pipe.max(1);
        let for_rank = *self.rank_of_stage.get(&(stage, copy))?;
        Some(((replica, stage, direction, op.micro_batch.0), for_rank))
    }
}
