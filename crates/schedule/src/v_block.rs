//! V-half and V-min (Qi et al. 2024, arXiv:2405.15362): a half and a third of the memory of 1F1B,
//! for some bubble.
//!
//! Two stages a rank, placed like a V: rank r holds stage a = r on the way down and b = 2p−1−r on
//! the way up. A *block* says in which slot, counted in ops of equal length, a micro-batch has its
//! F(a), F(b), I(b) and I(a) on each rank; micro-batch k follows 6k slots later, and the two slots
//! of six that are left take W, the oldest first. How long activations live in the block is all
//! there is to its memory.
//!
//! Played as it stands a block leaves gaps where it begins and ends. So its order is *squeezed*:
//! time goes on slot by slot, and a rank that would wait runs one of the next few cells of its row
//! instead, whichever can run, W only if nothing else can, and an F only if all cells that it
//! overtakes still find room under the block's own peak. A few sizes of that window are tried, the
//! block as it stands among them, and the shortest step wins. V-half then has 3p−7 idle slots a
//! rank for every even p from 4 on.

use std::collections::VecDeque;
use std::mem;

use crate::action::Action;
use crate::facts::{Chunks, Facts, Passes, Rows, any_size, to_and_fro};
use crate::formula::{Formula, Idle};
use crate::op::Op;
use crate::work;

pub(crate) static HALF: Facts = Facts {
    name: "v-half",
    about: "zb-v with about half the memory and some bubble",
    chunks: Chunks::Two,
    passes: Passes::Halves,
    topology: to_and_fro,
    has_group: false,
    takes: any_size,
    rows: Rows::All(|layout| rows(Block::Half, layout.p, layout.m)),
    // (3p−7)F/2 for F = I = W, even p ≥ 4 and m ≥ 2p, with p+2 chunks.
    formula: Some(Formula {
        idle: |case| {
            let p = case.p();
            let is_even = case.sizes.n_ranks.is_multiple_of(2);
            let holds = case.is_equal() && is_even && p >= 4.0 && case.m() >= 2.0 * p;
            holds.then(|| Idle::both((3.0 * p - 7.0) * case.share.forward / 2.0))
        },
        peak: |case, _| case.sizes.n_ranks + 2,
    }),
};

pub(crate) static MIN: Facts = Facts {
    name: "v-min",
    about: "zb-v with about a third of the memory and more bubble",
    chunks: Chunks::Two,
    passes: Passes::Halves,
    topology: to_and_fro,
    has_group: false,
    takes: any_size,
    rows: Rows::All(|layout| rows(Block::Min, layout.p, layout.m)),
    formula: None,
};

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
    /// Whether W waits for everything else; else cells run in the order of the block as far as they
    /// can.
    weight_grad_last: bool,
}

/// The block as it stands.
const AS_IT_STANDS: Window = Window { last_rank: 1, others: 1, weight_grad_last: false };

/// The windows that are tried.
const WINDOWS: [Window; 6] = [
    AS_IT_STANDS,
    Window { last_rank: 4, others: 3, weight_grad_last: true },
    Window { last_rank: 3, others: 3, weight_grad_last: true },
    Window { last_rank: 6, others: 6, weight_grad_last: true },
    Window { last_rank: 12, others: 12, weight_grad_last: true },
    Window { last_rank: 6, others: 6, weight_grad_last: false },
];

/// The rows of all ranks.
pub(crate) fn rows(block: Block, n_ranks: u32, n_micro_batches: u32) -> Vec<Vec<Action>> {
    // A window gains at the beginning and at the end of a step, and a block's form depends on p mod
    // 6 alone: a small pipeline and a few micro-batches tell which window is the best.
    let few_ranks = if n_ranks < 30 { n_ranks } else { 24 + n_ranks % 6 };
    let few = Blocks::new(block, few_ranks, n_micro_batches.min(2 * few_ranks));
    let best = WINDOWS.into_iter().min_by_key(|&window| few.play(window, |_, _| {}));
    let all = Blocks::new(block, n_ranks, n_micro_batches);
    let of = |rank: usize, cell: Cell| cell.op(rank as u32, n_ranks).into();
    let mut squeezed: Vec<Vec<Action>> =
        all.rows.iter().map(|row| Vec::with_capacity(row.len())).collect();
    let n_squeezed = all.play(best.unwrap_or(AS_IT_STANDS), |rank, cell| {
        squeezed[rank].push(of(rank, cell));
    });
    if n_squeezed <= all.play(AS_IT_STANDS, |_, _| {}) {
        return squeezed;
    }
    let rows = all.rows.iter().enumerate();
    rows.map(|(rank, row)| row.iter().map(|&cell| of(rank, cell)).collect()).collect()
}

/// What a cell of a block does on its rank, with stage a or stage b.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    ForwardA,
    ForwardB,
    InputGradB,
    InputGradA,
    WeightGradB,
    WeightGradA,
}

impl Kind {
    /// In the order of a block's slots.
    const IN_SLOTS: [Self; 4] =
        [Self::ForwardA, Self::ForwardB, Self::InputGradB, Self::InputGradA];

    fn is_forward(self) -> bool {
        matches!(self, Self::ForwardA | Self::ForwardB)
    }

    fn is_weight_grad(self) -> bool {
        matches!(self, Self::WeightGradA | Self::WeightGradB)
    }
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    kind: Kind,
    micro_batch: u32,
}

impl Cell {
    fn op(self, rank: u32, n_ranks: u32) -> Op {
        let (a, b) = (rank, 2 * n_ranks - 1 - rank);
        match self.kind {
            Kind::ForwardA => Op::forward(a, self.micro_batch),
            Kind::ForwardB => Op::forward(b, self.micro_batch),
            Kind::InputGradA => Op::input_grad(a, self.micro_batch),
            Kind::InputGradB => Op::input_grad(b, self.micro_batch),
            Kind::WeightGradA => Op::weight_grad(a, self.micro_batch),
            Kind::WeightGradB => Op::weight_grad(b, self.micro_batch),
        }
    }

    /// What it adds to the chunks that its rank holds.
    fn change(self) -> i32 {
        i32::from(self.kind.is_forward()) - i32::from(self.kind.is_weight_grad())
    }
}

/// The rows as the block has them, and the most chunks that a rank holds then.
struct Blocks {
    rows: Vec<Vec<Cell>>,
    limit: i32,
}

impl Blocks {
    fn new(block: Block, n_ranks: u32, n_micro_batches: u32) -> Self {
        let row = |rank| block_row(block.slots(rank, n_ranks), n_micro_batches);
        let rows: Vec<Vec<Cell>> = (0..n_ranks).map(row).collect();
        let limit = rows.iter().map(|row| peak(row)).max().unwrap_or(0);
        Self { rows, limit }
    }

    /// As [`Squeeze::play`].
    fn play(&self, window: Window, run: impl FnMut(usize, Cell)) -> u64 {
        Squeeze::new(self, window).play(run)
    }
}

/// The row of one rank as the block has it.
fn block_row(slots: [u64; 4], n_micro_batches: u32) -> Vec<Cell> {
    let mut next = [0_u32; 4];
    let mut late: VecDeque<Cell> = VecDeque::new();
    let n_cells = 6 * n_micro_batches as usize;
    let mut row = Vec::with_capacity(n_cells);
    let mut slot = 0;
    while row.len() < n_cells {
        work::done(1);
        let is_due =
            |&at: &usize| next[at] < n_micro_batches && slots[at] + 6 * u64::from(next[at]) == slot;
        if let Some(at) = (0..4).find(is_due) {
            let cell = Cell { kind: Kind::IN_SLOTS[at], micro_batch: next[at] };
            next[at] += 1;
            row.push(cell);
            match cell.kind {
                Kind::InputGradA => late.push_back(Cell { kind: Kind::WeightGradA, ..cell }),
                Kind::InputGradB => late.push_back(Cell { kind: Kind::WeightGradB, ..cell }),
                _ => {}
            }
        } else if let Some(cell) = late.pop_front() {
            row.push(cell);
        } else {
            // Nothing is due: on to the next slot that has something.
            let ahead = (0..4).filter(|&at| next[at] < n_micro_batches);
            let due = ahead.map(|at| slots[at] + 6 * u64::from(next[at]));
            slot = due.filter(|&due| due > slot).min().unwrap_or(slot + 1);
            continue;
        }
        slot += 1;
    }
    row
}

fn peak(row: &[Cell]) -> i32 {
    let (mut held, mut peak) = (0, 0);
    for cell in row {
        held += cell.change();
        peak = peak.max(held);
    }
    peak
}

/// The rows, played slot by slot, each rank with a window on its next cells.
struct Squeeze<'a> {
    rows: &'a [Vec<Cell>],
    limit: i32,
    window: Window,
    ranks: Vec<Cursor>,
}

/// How far a rank has come in its row.
#[derive(Clone, Copy, Default)]
struct Cursor {
    /// The first cell that has not run.
    head: usize,
    /// Which of the cells behind it have: bit i for cell `head + i`.
    overtaken: u64,
    held: i32,
    /// How many micro-batches have passed, by kind: they pass in order.
    n_done: [u32; 6],
}

impl<'a> Squeeze<'a> {
    fn new(blocks: &'a Blocks, window: Window) -> Self {
        let Blocks { rows, limit } = blocks;
        Self { rows, limit: *limit, window, ranks: vec![Cursor::default(); rows.len()] }
    }

    /// Calls `run` for every cell in its turn. Returns the slots that it takes.
    fn play(mut self, mut run: impl FnMut(usize, Cell)) -> u64 {
        let mut n_left: usize = self.rows.iter().map(Vec::len).sum();
        let mut n_slots = 0;
        let n_ranks = self.rows.len();
        let mut chosen: Vec<(usize, usize)> = Vec::with_capacity(n_ranks);
        // What a rank can run changes only with what it or a neighbour has run in the slot before.
        let mut changed: Vec<usize> = (0..n_ranks).collect();
        let mut is_listed = vec![true; n_ranks];
        while n_left > 0 {
            n_slots += 1;
            for rank in changed.drain(..) {
                work::done(1);
                is_listed[rank] = false;
                chosen.extend(self.choose(rank).map(|at| (rank, at)));
            }
            // What ends with this slot is there from the next one on.
            n_left -= chosen.len();
            for (rank, at) in chosen.drain(..) {
                let near = rank.saturating_sub(1)..(rank + 2).min(n_ranks);
                changed.extend(near.filter(|&rank| !mem::replace(&mut is_listed[rank], true)));
                let cursor = &mut self.ranks[rank];
                let cell = self.rows[rank][cursor.head + at];
                cursor.held += cell.change();
                cursor.n_done[cell.kind as usize] += 1;
                cursor.overtaken |= 1 << at;
                let n_run = cursor.overtaken.trailing_ones();
                cursor.head += n_run as usize;
                cursor.overtaken >>= n_run;
                run(rank, cell);
            }
        }
        n_slots
    }

    /// How many micro-batches the stage before, or behind, has let through for cells of this kind.
    fn n_allowed(&self, rank: usize, kind: Kind) -> u32 {
        let n_done = |rank: usize, kind: Kind| self.ranks[rank].n_done[kind as usize];
        let is_last = rank + 1 == self.rows.len();
        match kind {
            Kind::ForwardA if rank == 0 => u32::MAX,
            Kind::ForwardA => n_done(rank - 1, Kind::ForwardA),
            Kind::ForwardB if is_last => n_done(rank, Kind::ForwardA),
            Kind::ForwardB => n_done(rank + 1, Kind::ForwardB),
            Kind::InputGradB if rank == 0 => n_done(0, Kind::ForwardB),
            Kind::InputGradB => n_done(rank - 1, Kind::InputGradB),
            Kind::InputGradA if is_last => n_done(rank, Kind::InputGradB),
            Kind::InputGradA => n_done(rank + 1, Kind::InputGradA),
            Kind::WeightGradB => n_done(rank, Kind::InputGradB),
            Kind::WeightGradA => n_done(rank, Kind::InputGradA),
        }
    }

    /// The cell to run, counted from the head of its row: the first that can, but W behind all
    /// others if the window says so.
    fn choose(&self, rank: usize) -> Option<usize> {
        let Cursor { head, overtaken, held, .. } = self.ranks[rank];
        let is_last = rank + 1 == self.rows.len();
        let mut n_ahead = if is_last { self.window.last_rank } else { self.window.others };
        let (mut now, mut highest) = (held, held);
        let mut weight_grad = None;
        // The kinds of cells that are passed over, a bit each: their like have to wait as well.
        let mut waiting = 0_u8;
        // One bit of the mask stays free, so that every cell of the window has one.
        for (at, &cell) in self.rows[rank][head..].iter().take(63).enumerate() {
            if overtaken & (1 << at) != 0 {
                continue;
            }
            if n_ahead == 0 {
                break;
            }
            n_ahead -= 1;
            let kind = 1 << cell.kind as u8;
            let has_room = !cell.kind.is_forward() || highest < self.limit;
            if has_room && waiting & kind == 0 && cell.micro_batch < self.n_allowed(rank, cell.kind)
            {
                if !cell.kind.is_weight_grad() || !self.window.weight_grad_last {
                    return Some(at);
                }
                weight_grad = weight_grad.or(Some(at));
            }
            waiting |= kind;
            now += cell.change();
            highest = highest.max(now);
        }
        weight_grad
    }
}
