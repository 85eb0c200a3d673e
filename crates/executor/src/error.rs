//! The errors of ranks and of calls to them. The text of an error leaves out its cause, which is
//! its source.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use pp_schedule::{Op, Rank, Replica};

use crate::progress::{Doing, RankProgress};
use crate::transport::LinkError;

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
    #[error("{}{}", Place(*.replica, *.rank, *.step, *.is_evaluating, *.op), While(*.doing))]
    Rank {
        /// Its replica.
        replica: Replica,
        /// Its place in the pipeline.
        rank: Rank,
        /// The last step that it began, from 1; 0 before the first.
        step: u64,
        /// Whether it evaluated, after that step.
        is_evaluating: bool,
        /// What it was doing.
        doing: Doing,
        /// The op of that: the one that it computed, or whose input it waited for.
        op: Option<Op>,
        /// The cause.
        source: Box<RankError>,
    },
    /// A rank gave no answer in time. Of several, it is one that waits for no other.
    #[error(
        "{} gave no answer within {deadline:?}: it {doing}",
        Place(*.replica, *.rank, *.step, *.is_evaluating, .doing.op())
    )]
    Deadline {
        /// Its replica.
        replica: Replica,
        /// Its place in the pipeline.
        rank: Rank,
        /// The last step that it began, from 1; 0 before the first.
        step: u64,
        /// Whether it evaluates, after that step.
        is_evaluating: bool,
        /// What it is doing.
        doing: Doing,
        /// How long the call was allowed to take.
        deadline: Duration,
    },
    /// The process of a rank is gone, is stopped, or cannot be reached.
    #[error(
        "{} has been silent for {:.1} s: it is gone, stopped, or cannot be reached; at last it {doing}{}",
        OnHost(host, Place(*.replica, *.rank, *.step, *.is_evaluating, .doing.op())),
        .silent.as_secs_f64(),
        Waiting(*.waiting)
    )]
    Lost {
        /// Its replica.
        replica: Replica,
        /// Its place in the pipeline.
        rank: Rank,
        /// The host of its process.
        host: String,
        /// The last step that it was known to begin, from 1; 0 before the first.
        step: u64,
        /// Whether it evaluated, after that step.
        is_evaluating: bool,
        /// What it was doing when last heard of.
        doing: Doing,
        /// For how long nothing was heard of it.
        silent: Duration,
        /// A rank that waits for it, and what for.
        waiting: Option<(Rank, Op)>,
    },
    /// The process of a rank was lost, as the files of its run tell afterwards.
    #[error(
        "{} was lost while it {doing} (process {pid})",
        OnHost(host, Place(*.replica, *.rank, *.step, *.is_evaluating, .doing.op()))
    )]
    Killed {
        /// Its replica.
        replica: Replica,
        /// Its place in the pipeline.
        rank: Rank,
        /// The host of its process.
        host: String,
        /// The number of its process.
        pid: u32,
        /// The last step that it began, from 1; 0 before the first.
        step: u64,
        /// Whether it evaluated, after that step.
        is_evaluating: bool,
        /// What it was doing.
        doing: Doing,
    },
    /// The number of ranks is not that of the processes.
    #[error("{ranks} ranks were asked for, and there are {processes} processes: one for each rank")]
    World {
        /// Ranks of all replicas.
        ranks: u32,
        /// Processes.
        processes: u32,
    },
    /// The processes of a run could not talk to each other.
    #[error("a message between processes could not be moved")]
    Link(#[from] LinkError),
    /// The thread of a rank has ended without an answer: our own bug.
    #[error("{} is gone without an answer", Place(*.replica, *.rank, 0, false, None))]
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

impl ExecError {
    /// The error of a rank that failed there.
    pub(crate) fn of_rank(at: RankProgress, source: RankError) -> Self {
        let RankProgress { replica, rank, step, is_evaluating, doing } = at;
        let (op, source) = (doing.op(), Box::new(source));
        Self::Rank { replica, rank, step, is_evaluating, doing, op, source }
    }
}

/// The place of an error: the replica, the rank, the step, whether it happened in an evaluation
/// after that step, and the op; the step and the op only where they are known.
struct Place(Replica, Rank, u64, bool, Option<Op>);

impl Place {
    /// The text, with `host` behind the rank if it is given.
    fn write(&self, f: &mut Formatter<'_>, host: Option<&str>) -> fmt::Result {
        let &Self(replica, rank, step, is_evaluating, op) = self;
        write!(f, "rank {rank}")?;
        if replica.0 > 0 {
            write!(f, " of replica {replica}")?;
        }
        if let Some(host) = host {
            write!(f, " on {host}")?;
        }
        match (is_evaluating, step) {
            (true, 0) => f.write_str(", evaluation before the first step")?,
            (true, _) => write!(f, ", evaluation after step {step}")?,
            (false, 0) => {}
            (false, _) => write!(f, ", step {step}")?,
        }
        op.map_or(Ok(()), |op| write!(f, ", op {op}"))
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write(f, None)
    }
}

/// The place of an error in the process of another host.
struct OnHost<'a>(&'a str, Place);

impl Display for OnHost<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.1.write(f, Some(self.0))
    }
}

/// A rank that waits for a lost one.
struct Waiting(Option<(Rank, Op)>);

impl Display for Waiting {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |(rank, op)| write!(f, "; rank {rank} waits for it with {op}"))
    }
}

/// What a rank was doing when it failed, where that was no op.
struct While(Doing);

impl Display for While {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Doing::Idle | Doing::Awaiting(_) | Doing::Computing(_) => Ok(()),
            doing => write!(f, ", while it {doing}"),
        }
    }
}

/// Why a rank failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RankError {
    /// candle reported an error.
    #[error("a tensor operation failed")]
    Tensor(#[source] candle_core::Error),
    /// An error in a part of the model, such as a layer.
    #[error("{part}")]
    Within {
        /// The name of the part.
        part: String,
        /// The cause.
        source: Box<RankError>,
    },
    /// A layer cannot be built.
    #[error(transparent)]
    Partition(#[from] pp_partition::PartitionError),
    /// The system did not let the rank's thread be pinned.
    #[error("cannot be kept on core {core}")]
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
    /// A rank of another process failed.
    #[error("on {host}: {why}")]
    Elsewhere {
        /// The host of its process.
        host: String,
        /// The cause, and its causes.
        why: String,
    },
    /// A message could not be moved.
    #[error("a message between processes could not be moved")]
    Link(#[from] LinkError),
    /// A message that is not of this call: our own bug, or two runs in one world.
    #[error("{arrived} arrived, and {expected} was expected")]
    OutOfPlace {
        /// What arrived.
        arrived: String,
        /// What was expected.
        expected: String,
    },
    /// Another rank failed first.
    #[error("stopped because another rank failed")]
    Stopped,
}

impl From<candle_core::Error> for RankError {
    /// Makes candle's context of an error a link of the chain. candle has it only in the text, on a
    /// line before that of the cause.
    fn from(error: candle_core::Error) -> Self {
        match error {
            candle_core::Error::Context { inner, context } => {
                Self::Within { part: context.to_string(), source: Box::new(Self::from(*inner)) }
            }
            error => Self::Tensor(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::io;

    use pp_partition::PartitionError;

    use super::*;

    /// The texts of an error and of its causes.
    fn chain(error: &(dyn Error + 'static)) -> Vec<String> {
        let errors = std::iter::successors(Some(error), |&error| error.source());
        errors.map(ToString::to_string).collect()
    }

    #[test]
    fn no_text_repeats_that_of_its_cause() {
        let io = || io::Error::other("not permitted");
        let tensor = || candle_core::Error::Msg("no memory".to_owned());
        let layer = || PartitionError::Layer { layer: 3, name: "a".to_owned(), source: tensor() };
        let (replica, rank, step, is_evaluating) = (Replica(0), Rank(1), 2, false);
        let at = RankProgress { replica, rank, step, is_evaluating, doing: Doing::Updating };
        let while_updating = "rank 1, step 2, while it updates its weights";
        let failed = "a tensor operation failed";
        let pin = RankError::Pin { core: 5, source: io() };
        let cases: [(RankError, &[&str]); 3] = [
            (pin, &["cannot be kept on core 5", "not permitted"]),
            (tensor().into(), &[failed, "no memory"]),
            (tensor().context("layer 3").into(), &["layer 3", failed, "no memory"]),
        ];
        for (error, causes) in cases {
            let expected = [&[while_updating][..], causes].concat();
            assert_eq!(chain(&ExecError::of_rank(at, error)), expected);
        }
        assert_eq!(chain(&RankError::from(layer())), chain(&layer()));
        let spawn = ExecError::Spawn { rank, source: io() };
        assert_eq!(chain(&spawn), ["rank 1 could not get a thread", "not permitted"]);
        assert_eq!(chain(&ExecError::from(tensor())), [failed, "no memory"]);
    }

    #[test]
    fn an_error_of_a_rank_says_when_and_at_what() {
        let op: Op = "1F2".parse().unwrap();
        for (step, is_evaluating, doing, text) in [
            (0, false, Doing::Idle, "rank 1"),
            (3, false, Doing::Computing(op), "rank 1, step 3, op 1F2"),
            (3, false, Doing::Awaiting(op), "rank 1, step 3, op 1F2"),
            (0, true, Doing::Computing(op), "rank 1, evaluation before the first step, op 1F2"),
            (3, true, Doing::Awaiting(op), "rank 1, evaluation after step 3, op 1F2"),
            (3, false, Doing::Averaging, "rank 1, step 3, while it averages gradients"),
            (3, false, Doing::Updating, "rank 1, step 3, while it updates its weights"),
            (3, false, Doing::Collecting, "rank 1, step 3, while it copies its tensors"),
        ] {
            let (replica, rank) = (Replica(0), Rank(1));
            let at = RankProgress { replica, rank, step, is_evaluating, doing };
            let error = ExecError::of_rank(at, RankError::Stopped);
            assert_eq!(error.to_string(), text);
            assert!(matches!(error, ExecError::Rank { op, .. } if op == doing.op()));
        }
    }
}
