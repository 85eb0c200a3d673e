//! What each rank is doing at this moment, in one table that any thread may read.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pp_schedule::{MicroBatch, Op, Phase, Rank, Replica, Stage};

use crate::per_rank::place;
use crate::sheet::Sheet;

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
    /// It sums the squares of its gradients, for their norm.
    SummingSquares,
    /// Its optimizer changes the weights.
    Updating,
    /// It copies tensors to the host.
    Collecting,
    /// It waits for its device, which has all of its work.
    AwaitingDevice,
    /// It waits for the weights that the other copies of its stages have stepped.
    AwaitingWeights,
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
        matches!(self, Self::Awaiting(_) | Self::AwaitingGradients | Self::AwaitingWeights)
    }

    /// In one word, so that one store writes all of it: kind, phase, stage and micro-batch from the
    /// highest bit to the lowest.
    pub(crate) fn pack(self) -> u64 {
        let kind: u64 = match self {
            Self::Idle => 0,
            Self::Awaiting(_) => 1,
            Self::Computing(_) => 2,
            Self::AwaitingGradients => 3,
            Self::Averaging => 4,
            Self::Updating => 5,
            Self::Collecting => 6,
            Self::SummingSquares => 7,
            Self::AwaitingDevice => 8,
            Self::AwaitingWeights => 9,
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

    pub(crate) fn unpack(word: u64) -> Self {
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
            7 => Self::SummingSquares,
            8 => Self::AwaitingDevice,
            9 => Self::AwaitingWeights,
            _ => Self::Idle,
        }
    }
}

const KIND_AT: u32 = 60;
const PHASE_AT: u32 = 58;
const STAGE_AT: u32 = 32;
/// The stages that a word can name: 2^26, far more than a process can hold.
const STAGES: u64 = (1 << (PHASE_AT - STAGE_AT)) - 1;

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "has nothing to do",
            Self::Awaiting(_) => "waits for its input",
            Self::Computing(_) => "computes",
            Self::AwaitingGradients => "waits for the gradients of the other copies of the model",
            Self::Averaging => "averages gradients",
            Self::SummingSquares => "sums the squares of its gradients",
            Self::Updating => "updates its weights",
            Self::Collecting => "copies its tensors",
            Self::AwaitingDevice => "waits for its device",
            Self::AwaitingWeights => "waits for the weights of the other copies of the model",
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
    /// Whether it evaluates, after that step.
    pub is_evaluating: bool,
    /// What it is doing.
    pub doing: Doing,
}

/// The progress of one rank, with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedProgress {
    /// The progress.
    pub rank: RankProgress,
    /// The moment at which the rank began what it is doing.
    pub since: Instant,
}

/// The bit of an entry's step that says that the rank evaluates.
pub(crate) const EVALUATING: u64 = 1 << 63;

/// One rank's entry. Each has a cache line of its own: ranks write at every op, and would otherwise
/// take the line from each other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Entry {
    /// The step, with [`EVALUATING`] while the rank evaluates after it.
    step: AtomicU64,
    doing: AtomicU64,
    /// Nanoseconds from the origin of the table to the last change of `doing`.
    since_ns: AtomicU64,
}

/// The table of what each rank is doing. A clone reads the same table. Reading disturbs no rank and
/// works while a call is under way.
#[derive(Clone, Debug)]
pub struct Progress {
    n_ranks: usize,
    /// The moment at which the table was made.
    origin: Instant,
    entries: Arc<[Entry]>,
}

impl Progress {
    pub(crate) fn new(n_ranks: u32, n_replicas: u32) -> Self {
        let n = n_ranks as usize * n_replicas as usize;
        let entries = (0..n).map(|_| Entry::default()).collect();
        Self { n_ranks: n_ranks as usize, origin: Instant::now(), entries }
    }

    /// What each rank is doing now, replica by replica, rank by rank.
    pub fn read(&self) -> Vec<RankProgress> {
        (0..self.entries.len()).map(|index| self.at(index)).collect()
    }

    /// The same, with the moment at which each rank began what it is doing. While a rank changes,
    /// the moment may be that of the change, and the rest that of before.
    pub fn read_timed(&self) -> Vec<TimedProgress> {
        let timed = |index: usize| {
            let rank = self.at(index);
            let since = Duration::from_nanos(self.entries[index].since_ns.load(Ordering::Acquire));
            TimedProgress { rank, since: self.origin + since }
        };
        (0..self.entries.len()).map(timed).collect()
    }

    /// The entry of a rank in two words, for another process. `index` is its place, replica by
    /// replica, rank by rank.
    pub fn words(&self, index: usize) -> [u64; 2] {
        let (step, doing) = self.entries[index].read();
        [step, doing.pack()]
    }

    /// Writes what another process has told of its rank. A rank that begins something new does so
    /// when this is told.
    pub fn set_words(&self, index: usize, [step, doing]: [u64; 2]) {
        let Some(entry) = self.entries.get(index) else { return };
        let is_same = entry.step.load(Ordering::Relaxed) == step
            && entry.doing.load(Ordering::Relaxed) == doing;
        if !is_same {
            entry.step.store(step, Ordering::Release);
            let since = self.origin.elapsed();
            entry.since_ns.store(since.as_nanos() as u64, Ordering::Release);
            entry.doing.store(doing, Ordering::Release);
        }
    }

    fn at(&self, index: usize) -> RankProgress {
        let (replica, rank) = place(index, self.n_ranks);
        let (step, doing) = self.entries[index].read();
        let is_evaluating = step & EVALUATING != 0;
        RankProgress { replica, rank, step: step & !EVALUATING, is_evaluating, doing }
    }

    /// The entry of one rank, to write to.
    pub(crate) fn of(&self, replica: Replica, rank: Rank) -> Reporter {
        let index = replica.idx() * self.n_ranks + rank.idx();
        Reporter { progress: self.clone(), index, sheet: None }
    }
}

impl Entry {
    /// The step as it is stored, and what the rank does in it. Reads again if the rank began a step
    /// or an evaluation meanwhile.
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

/// The writer of an entry. Only the thread of the rank writes, so clones stay on it.
#[derive(Clone)]
pub(crate) struct Reporter {
    progress: Progress,
    index: usize,
    sheet: Option<Arc<Sheet>>,
}

impl Reporter {
    /// Writes that a step begins.
    pub(crate) fn begin(&self, step: u64) {
        self.entry().step.store(step, Ordering::Release);
    }

    /// Writes that an evaluation begins after the last step.
    pub(crate) fn begin_evaluation(&self) {
        self.entry().step.fetch_or(EVALUATING, Ordering::Release);
    }

    /// Writes that the evaluation has ended.
    pub(crate) fn end_evaluation(&self) {
        self.entry().step.fetch_and(!EVALUATING, Ordering::Release);
    }

    pub(crate) fn set(&self, doing: Doing) {
        let since = self.progress.origin.elapsed();
        self.entry().since_ns.store(since.as_nanos() as u64, Ordering::Release);
        self.entry().doing.store(doing.pack(), Ordering::Release);
        if let Some(sheet) = &self.sheet {
            sheet.write(self.entry().step.load(Ordering::Relaxed), doing.pack());
        }
    }

    /// Keeps in a file as well what it writes.
    pub(crate) fn on(self, sheet: Option<Arc<Sheet>>) -> Self {
        Self { sheet, ..self }
    }

    pub(crate) fn get(&self) -> RankProgress {
        self.progress.at(self.index)
    }

    fn entry(&self) -> &Entry {
        &self.progress.entries[self.index]
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
                Doing::SummingSquares,
                Doing::Updating,
                Doing::Collecting,
                Doing::AwaitingWeights,
            ] {
                rank.set(doing);
                let here = RankProgress {
                    replica: Replica(1),
                    rank: Rank(0),
                    step: 7,
                    is_evaluating: false,
                    doing,
                };
                assert_eq!(progress.read()[2], here);
                assert_eq!(rank.get(), here);
                rank.begin_evaluation();
                assert_eq!(rank.get(), RankProgress { is_evaluating: true, ..here });
                rank.end_evaluation();
                assert_eq!(rank.get(), here);
            }
        }
        assert_eq!(progress.read()[3].doing, Doing::Idle);
    }

    #[test]
    fn a_rank_has_a_time_from_when_on_it_does_what_it_does() {
        let progress = Progress::new(1, 2);
        let rank = progress.of(Replica(1), Rank(0));
        let before = Instant::now();
        rank.set(Doing::Updating);
        let after = Instant::now();
        let [other, timed] = progress.read_timed()[..] else { panic!("two ranks") };
        assert_eq!(timed.rank, rank.get());
        assert!(before <= timed.since && timed.since <= after);
        assert!(other.since <= before, "a rank that has done nothing has done so from the start");
        assert_eq!(progress.read_timed()[1], timed);
    }
}
