//! What each rank is doing at this moment, in one table that any thread may read.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pp_schedule::{MicroBatch, Op, Phase, Rank, Replica, Stage};

use crate::per_rank::place;

/// What a rank is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doing {
    /// Nothing: it waits for the next call.
    Idle,
    /// It waits for the input of an op, which another rank has to send.
    Awaiting(Op),
    /// It computes an op, or hands on what the op made.
    Computing(Op),
    /// It waits for the gradients of the other copies of its stages.
    AwaitingGradients,
    /// It takes the mean of the gradients.
    Averaging,
    /// Its optimizer changes the weights.
    Updating,
    /// It copies tensors to the host.
    Collecting,
}

impl Doing {
    /// The op that the rank computes, or whose input it waits for.
    pub fn op(self) -> Option<Op> {
        match self {
            Self::Awaiting(op) | Self::Computing(op) => Some(op),
            _ => None,
        }
    }

    /// Whether the rank waits for another one, so that a delay is not its own.
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::Awaiting(_) | Self::AwaitingGradients)
    }

    /// In one word, so that one store writes all of it: kind, phase, stage and micro-batch from the
    /// highest bit to the lowest.
    fn pack(self) -> u64 {
        let kind: u64 = match self {
            Self::Idle => 0,
            Self::Awaiting(_) => 1,
            Self::Computing(_) => 2,
            Self::AwaitingGradients => 3,
            Self::Averaging => 4,
            Self::Updating => 5,
            Self::Collecting => 6,
        };
        let op = self.op().map_or(0, |op| {
            let phase = match op.phase {
                Phase::Forward => 0,
                Phase::Backward => 1,
                Phase::InputGrad => 2,
                Phase::WeightGrad => 3,
            };
            let stage = u64::from(op.stage.0) & STAGES;
            (phase << PHASE_AT) | (stage << STAGE_AT) | u64::from(op.micro_batch.0)
        });
        (kind << KIND_AT) | op
    }

    fn unpack(word: u64) -> Self {
        let op = || {
            let phase = Phase::ALL[((word >> PHASE_AT) & 3) as usize];
            let stage = Stage(((word >> STAGE_AT) & STAGES) as u32);
            Op::new(stage, phase, MicroBatch(word as u32))
        };
        match word >> KIND_AT {
            1 => Self::Awaiting(op()),
            2 => Self::Computing(op()),
            3 => Self::AwaitingGradients,
            4 => Self::Averaging,
            5 => Self::Updating,
            6 => Self::Collecting,
            _ => Self::Idle,
        }
    }
}

const KIND_AT: u32 = 61;
const PHASE_AT: u32 = 59;
const STAGE_AT: u32 = 32;
/// The stages that a word can name: 2^27, far more than a process can hold.
const STAGES: u64 = (1 << (PHASE_AT - STAGE_AT)) - 1;

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "has nothing to do",
            Self::Awaiting(_) => "waits for its input",
            Self::Computing(_) => "computes",
            Self::AwaitingGradients => "waits for the gradients of the other copies of the model",
            Self::Averaging => "averages gradients",
            Self::Updating => "updates its weights",
            Self::Collecting => "copies its tensors",
        })
    }
}

/// The progress of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankProgress {
    /// Its replica.
    pub replica: Replica,
    /// Its place along the pipeline.
    pub rank: Rank,
    /// The last step that it began, from 1; 0 before the first.
    pub step: u64,
    /// What it is doing.
    pub doing: Doing,
}

/// One rank's entry. Each has a cache line of its own: ranks write at every op, and would otherwise
/// take the line from each other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Entry {
    step: AtomicU64,
    doing: AtomicU64,
}

/// The table of what each rank is doing. A clone reads the same table. Reading disturbs no rank and
/// works while a call is under way.
#[derive(Clone, Debug)]
pub struct Progress {
    n_ranks: usize,
    entries: Arc<[Entry]>,
}

impl Progress {
    pub(crate) fn new(n_ranks: u32, n_replicas: u32) -> Self {
        let n = n_ranks as usize * n_replicas as usize;
        Self { n_ranks: n_ranks as usize, entries: (0..n).map(|_| Entry::default()).collect() }
    }

    /// What each rank is doing now, replica by replica, rank by rank.
    pub fn read(&self) -> Vec<RankProgress> {
        let entry = |(index, entry): (usize, &Entry)| {
            let (replica, rank) = place(index, self.n_ranks);
            let (step, doing) = entry.read();
            RankProgress { replica, rank, step, doing }
        };
        self.entries.iter().enumerate().map(entry).collect()
    }

    /// The entry of one rank, to write to.
    pub(crate) fn of(&self, replica: Replica, rank: Rank) -> Reporter {
        let index = replica.idx() * self.n_ranks + rank.idx();
        Reporter { entries: Arc::clone(&self.entries), index }
    }
}

impl Entry {
    /// The step, and what the rank does in it. Reads again if the rank began a step meanwhile.
    fn read(&self) -> (u64, Doing) {
        loop {
            let step = self.step.load(Ordering::Acquire);
            let doing = self.doing.load(Ordering::Acquire);
            if self.step.load(Ordering::Relaxed) == step {
                return (step, Doing::unpack(doing));
            }
        }
    }
}

/// The one writer of an entry.
pub(crate) struct Reporter {
    entries: Arc<[Entry]>,
    index: usize,
}

impl Reporter {
    /// Writes that a step begins.
    pub(crate) fn begin(&self, step: u64) {
        self.entries[self.index].step.store(step, Ordering::Release);
    }

    pub(crate) fn set(&self, doing: Doing) {
        self.entries[self.index].doing.store(doing.pack(), Ordering::Release);
    }

    pub(crate) fn get(&self) -> (u64, Doing) {
        self.entries[self.index].read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let progress = Progress::new(2, 2);
        let rank = progress.of(Replica(1), Rank(0));
        rank.begin(7);
        for phase in Phase::ALL {
            let op = Op::new(Stage(STAGES as u32), phase, MicroBatch(u32::MAX));
            for doing in [
                Doing::Idle,
                Doing::Awaiting(op),
                Doing::Computing(op),
                Doing::AwaitingGradients,
                Doing::Averaging,
                Doing::Updating,
                Doing::Collecting,
            ] {
                rank.set(doing);
                let here = RankProgress { replica: Replica(1), rank: Rank(0), step: 7, doing };
                assert_eq!(progress.read()[2], here);
                assert_eq!(rank.get(), (7, doing));
            }
        }
        assert_eq!(progress.read()[3].doing, Doing::Idle);
    }
}
