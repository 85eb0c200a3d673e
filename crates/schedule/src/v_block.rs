//! V-half and V-min (Qi et al. 2024, arXiv:2405.15362): a half and a third of the memory of 1F1B, for some bubble.
//!
//! Two stages a rank, placed like a V: rank r holds stage a = r on the way down and b = 2p−1−r on the way up. A *block* says in which
//! slot, counted in ops of equal length, a micro-batch has its F(a), F(b), I(b) and I(a) on each rank; micro-batch k follows 6k slots
//! later, and the two slots of six that are left take W, the oldest first. How long activations live in the block is all there is to
//! its memory.
//!
//! Played as it stands a block leaves gaps where it begins and ends. So its order is *squeezed*: time goes on slot by slot, and a rank
//! that would wait runs one of the next few cells of its row instead, whichever can run, W only if nothing else can, and an F only if
//! all cells that it overtakes still find room under the block's own peak. A few sizes of that window are tried, the block as it stands
//! among them, and the shortest step wins. V-half then has 3p−7 idle slots a rank for every even p from 4 on.

use std::collections::VecDeque;

use crate::action::Action;
use crate::op::{Op, Phase};

/// Which of the two blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    Half,
    Min,
}

impl Block {
    /// The slots of F(a), F(b), I(b) and I(a) of micro-batch 0.
    fn slots(self, rank: u32, n_ranks: u32) -> [u64; 4] {
        let (p, r) = (u64::from(n_ranks), u64::from(rank));
        match self {
            Self::Half => {
                let t = if p.is_multiple_of(2) { 3 } else { 0 };
                [2 * r, 3 * p - r - 2, 3 * p + t + 2 * r - 1, 6 * p + t - r - 2]
            }
            Self::Min => {
                let t = if p.is_multiple_of(3) { 2 } else { 0 };
                [r, 2 * p - r - 1, 2 * p + t + r, 4 * p + t - r - 1]
            }
        }
    }
}

/// A window of cells among which a rank chooses: on the last rank, and on the others.
#[derive(Clone, Copy, Debug)]
struct Window {
    last_rank: usize,
    others: usize,
    /// Whether W waits for everything else; else cells run in the order of the block as far as they can.
    weight_grad_last: bool,
}

/// The windows that are tried. The first leaves the block as it stands.
const WINDOWS: [Window; 7] = [
    Window { last_rank: 1, others: 1, weight_grad_last: false },
    Window { last_rank: 4, others: 3, weight_grad_last: true },
    Window { last_rank: 3, others: 3, weight_grad_last: true },
    Window { last_rank: 6, others: 6, weight_grad_last: true },
    Window { last_rank: 12, others: 12, weight_grad_last: true },
    Window { last_rank: 3, others: 3, weight_grad_last: false },
    Window { last_rank: 6, others: 6, weight_grad_last: false },
];

/// The rows of all ranks.
pub(crate) fn rows(block: Block, n_ranks: u32, n_micro_batches: u32) -> Vec<Vec<Action>> {
    let rows: Vec<Vec<Op>> =
        (0..n_ranks).map(|rank| block_row(block, rank, n_ranks, n_micro_batches)).collect();
    let limit = rows.iter().map(|row| peak(row)).max().unwrap_or(0);
    let squeezed = WINDOWS.map(|window| squeeze(&rows, n_ranks, limit, window));
    let shortest = squeezed.into_iter().min_by_key(|(n_slots, _)| *n_slots);
    let rows = shortest.map_or(rows, |(_, rows)| rows);
    rows.into_iter().map(|row| row.into_iter().map(Action::from).collect()).collect()
}

/// The row of one rank as the block has it.
fn block_row(block: Block, rank: u32, n_ranks: u32, n_micro_batches: u32) -> Vec<Op> {
    let (a, b) = (rank, 2 * n_ranks - 1 - rank);
    let slots = block.slots(rank, n_ranks);
    let kinds =
        [(a, Phase::Forward), (b, Phase::Forward), (b, Phase::InputGrad), (a, Phase::InputGrad)];
    let mut next = [0_u32; 4];
    let mut late: VecDeque<Op> = VecDeque::new();
    let mut row = Vec::with_capacity(6 * n_micro_batches as usize);
    let mut slot = 0;
    while row.len() < 6 * n_micro_batches as usize {
        let due = (0..4).find(|&kind| {
            next[kind] < n_micro_batches && slots[kind] + 6 * u64::from(next[kind]) == slot
        });
        match due {
            Some(kind) => {
                let (stage, phase) = kinds[kind];
                let op = Op { phase, ..Op::forward(stage, next[kind]) };
                next[kind] += 1;
                row.push(op);
                if phase == Phase::InputGrad {
                    late.push_back(Op { phase: Phase::WeightGrad, ..op });
                }
            }
            None => row.extend(late.pop_front()),
        }
        slot += 1;
    }
    row
}

fn peak(row: &[Op]) -> i64 {
    let (mut held, mut peak) = (0, 0);
    for op in row {
        held += change(*op);
        peak = peak.max(held);
    }
    peak
}

/// What an op adds to the chunks that its rank holds.
fn change(op: Op) -> i64 {
    match op.phase {
        Phase::Forward => 1,
        Phase::WeightGrad => -1,
        Phase::InputGrad | Phase::Backward => 0,
    }
}

/// Plays the rows slot by slot, each rank with a window on its next cells. Returns the slots that it takes, and the new rows.
fn squeeze(rows: &[Vec<Op>], n_ranks: u32, limit: i64, window: Window) -> (u64, Vec<Vec<Op>>) {
    let mut done = Done::new(2 * n_ranks);
    let mut left: Vec<VecDeque<Op>> =
        rows.iter().map(|row| row.iter().copied().collect()).collect();
    let mut held = vec![0_i64; rows.len()];
    let mut squeezed: Vec<Vec<Op>> = rows.iter().map(|row| Vec::with_capacity(row.len())).collect();
    let mut n_left: usize = rows.iter().map(Vec::len).sum();
    let mut slot = 0;
    let mut chosen: Vec<(usize, Op)> = Vec::with_capacity(rows.len());
    while n_left > 0 {
        slot += 1;
        for (rank, cells) in left.iter_mut().enumerate() {
            let is_last = rank + 1 == rows.len();
            let reach = if is_last { window.last_rank } else { window.others };
            let found = choose(cells, &done, held[rank], limit, reach, window.weight_grad_last);
            chosen.extend(found.and_then(|at| cells.remove(at)).map(|op| (rank, op)));
        }
        // What ends with this slot is there from the next one on.
        n_left -= chosen.len();
        for (rank, op) in chosen.drain(..) {
            held[rank] += change(op);
            squeezed[rank].push(op);
            done.add(op);
        }
    }
    (slot, squeezed)
}

/// The cell to run: the first that can, but W behind all others.
fn choose(
    cells: &VecDeque<Op>,
    done: &Done,
    held: i64,
    limit: i64,
    reach: usize,
    weight_grad_last: bool,
) -> Option<usize> {
    let (mut now, mut highest) = (held, held);
    let mut weight_grad = None;
    for (at, &op) in cells.iter().take(reach).enumerate() {
        let overtakes_its_like = || {
            let mut before = cells.iter().take(at);
            before.any(|other| (other.stage, other.phase) == (op.stage, op.phase))
        };
        let has_room = op.phase != Phase::Forward || highest < limit;
        if has_room && done.allows(op) && !overtakes_its_like() {
            if op.phase != Phase::WeightGrad || !weight_grad_last {
                return Some(at);
            }
            weight_grad = weight_grad.or(Some(at));
        }
        now += change(op);
        highest = highest.max(now);
    }
    weight_grad
}

/// How many micro-batches have passed each stage, forward and back: they pass in order.
struct Done {
    forward: Vec<u32>,
    back: Vec<u32>,
}

impl Done {
    fn new(n_stages: u32) -> Self {
        let none = vec![0; n_stages as usize];
        Self { forward: none.clone(), back: none }
    }

    fn allows(&self, op: Op) -> bool {
        let stage = op.stage.idx();
        let is_there = |count: u32| op.micro_batch.0 < count;
        match op.phase {
            Phase::Forward => stage == 0 || is_there(self.forward[stage - 1]),
            Phase::InputGrad | Phase::Backward if stage + 1 == self.forward.len() => {
                is_there(self.forward[stage])
            }
            Phase::InputGrad | Phase::Backward => is_there(self.back[stage + 1]),
            Phase::WeightGrad => is_there(self.back[stage]),
        }
    }

    fn add(&mut self, op: Op) {
        match op.phase {
            Phase::Forward => self.forward[op.stage.idx()] += 1,
            Phase::InputGrad | Phase::Backward => self.back[op.stage.idx()] += 1,
            Phase::WeightGrad => {}
        }
    }
}
