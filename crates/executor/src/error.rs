//! The errors of ranks and of calls to them.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use pp_schedule::{Op, Rank, Replica};

use crate::progress::Doing;

/// The error of a call, or of the start of the ranks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// Kernels of several ranks would share candle's thread pool.
    #[error(
        "candle would use {threads} threads for each CPU rank; a rank is one thread: set RAYON_NUM_THREADS=1 in the \
         environment before the program starts"
    )]
    Threads {
        /// What candle says.
        threads: usize,
    },
    /// Pinned ranks need a core each, and this process may use fewer.
    #[error("cannot pin {ranks} ranks to a core each: this process may use fewer cores")]
    Cores {
        /// Ranks of all replicas.
        ranks: u32,
    },
    /// The partition and the plan have different numbers of stages.
    #[error("the partition has {partition} stages, the plan {plan}")]
    Stages {
        /// Stages of the partition.
        partition: usize,
        /// Stages of the plan.
        plan: usize,
    },
    /// The batch and the plan have different numbers of micro-batches.
    #[error("the batch has {batch} micro-batches, the plan {plan}")]
    MicroBatches {
        /// Micro-batches of the batch.
        batch: usize,
        /// Micro-batches of the plan.
        plan: usize,
    },
    /// The number of batches is not that of the replicas.
    #[error("{batches} batches were given, there are {replicas} replicas")]
    Batches {
        /// Batches that were given.
        batches: usize,
        /// Replicas.
        replicas: u32,
    },
    /// An input with another number of samples than the targets have.
    #[error("input {input} has {rows} samples, the targets {targets}")]
    Samples {
        /// The input's place.
        input: usize,
        /// Its samples.
        rows: usize,
        /// Those of the targets.
        targets: usize,
    },
    /// An earlier error has ended the ranks.
    #[error("the ranks have stopped after an earlier error")]
    Ended,
    /// Samples that do not divide.
    #[error("{samples} samples do not divide into {micro_batches} micro-batches of equal size")]
    Uneven {
        /// Samples of the batch.
        samples: usize,
        /// Micro-batches asked for.
        micro_batches: usize,
    },
    /// The plan for an evaluation could not be made: our own bug.
    #[error("no plan for the evaluation")]
    Plan(#[from] pp_schedule::ScheduleError),
    /// The system refused a thread for a rank.
    #[error("rank {rank} could not get a thread")]
    Spawn {
        /// The rank.
        rank: Rank,
        /// What the system said.
        source: std::io::Error,
    },
    /// A rank failed, before any other.
    #[error("{}", Place(*.replica, *.rank, *.step, *.op))]
    Rank {
        /// Its replica.
        replica: Replica,
        /// Its place in the pipeline.
        rank: Rank,
        /// The step, from 1; 0 before the first.
        step: u64,
        /// The op that it computed, or whose input it waited for.
        op: Option<Op>,
        /// The cause.
        source: Box<RankError>,
    },
    /// A rank gave no answer in time. Of several, it is one that waits for no other.
    #[error(
        "{} gave no answer within {deadline:?}: it {doing}",
        Place(*.replica, *.rank, *.step, .doing.op())
    )]
    Deadline {
        /// Its replica.
        replica: Replica,
        /// Its place in the pipeline.
        rank: Rank,
        /// The step, from 1; 0 before the first.
        step: u64,
        /// What it is doing.
        doing: Doing,
        /// How long the call was allowed to take.
        deadline: Duration,
    },
    /// The thread of a rank has ended without an answer: our own bug.
    #[error("{} is gone without an answer", Place(*.replica, *.rank, 0, None))]
    Gone {
        /// Its replica.
        replica: Replica,
        /// Its place in the pipeline.
        rank: Rank,
    },
    /// A tensor operation outside any rank failed.
    #[error("a tensor operation failed")]
    Tensor(#[from] candle_core::Error),
}

/// The place of an error: the step and the op only where they are known.
struct Place(Replica, Rank, u64, Option<Op>);

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let &Self(replica, rank, step, op) = self;
        write!(f, "rank {rank}")?;
        if replica.0 > 0 {
            write!(f, " of replica {replica}")?;
        }
        if step > 0 {
            write!(f, ", step {step}")?;
        }
        op.map_or(Ok(()), |op| write!(f, ", op {op}"))
    }
}

/// Why a rank failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RankError {
    /// candle reported an error.
    #[error("{}", first_line(.0))]
    Tensor(#[from] candle_core::Error),
    /// A layer cannot be built.
    #[error(transparent)]
    Partition(#[from] pp_partition::PartitionError),
    /// The system did not let the rank's thread be pinned.
    #[error("cannot be kept on core {core}: {source}")]
    Pin {
        /// The core.
        core: usize,
        /// The cause.
        source: std::io::Error,
    },
    /// The code of a layer panicked.
    #[error("panicked: {0}")]
    Panic(String),
    /// A fault that a test asked for.
    #[cfg(feature = "fault-injection")]
    #[error("failed on request")]
    Injected,
    /// What arrived is not what the op needs: our own bug.
    #[error("{0} did not arrive")]
    Missing(&'static str),
    /// Another rank failed first.
    #[error("stopped because another rank failed")]
    Stopped,
}

/// candle appends a backtrace to its errors when it is asked for one; a person wants the reason.
fn first_line(error: &candle_core::Error) -> String {
    let text = error.to_string();
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown").trim().to_owned()
}
