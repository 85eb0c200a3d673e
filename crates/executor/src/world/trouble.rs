//! An error of a rank, as the other processes are told of it.

use std::error::Error;

use pp_schedule::{Op, Rank, Replica, ValidPlan};
use serde::{Deserialize, Serialize};

use crate::error::{ExecError, RankError};
use crate::per_rank::place;
use crate::progress::{Doing, Progress, RankProgress};
use crate::transport::{Trouble, World};

/// The most characters of a reason: a notice has to be short enough to be sent at once.
const WHY_CHARS: usize = 500;

/// What a process tells when its rank has failed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Notice {
    step: u64,
    is_evaluating: bool,
    /// See [`Doing::pack`].
    doing: u64,
    why: String,
}

impl Notice {
    fn of(error: &ExecError) -> Self {
        let (step, is_evaluating, doing) = match error {
            ExecError::Rank { step, is_evaluating, doing, .. } => (*step, *is_evaluating, *doing),
            _ => (0, false, Doing::Idle),
        };
        let first: Option<&(dyn Error + 'static)> = match error {
            ExecError::Rank { source, .. } => Some(source.as_ref()),
            other => Some(other),
        };
        let causes = std::iter::successors(first, |&error| error.source());
        let why: Vec<String> = causes.map(ToString::to_string).collect();
        let why = why.join(": ").chars().take(WHY_CHARS).collect();
        Self { step, is_evaluating, doing: doing.pack(), why }
    }
}

/// Tells all other processes that the rank of this one has failed.
pub(crate) fn tell(world: &dyn World, error: &ExecError) {
    // Notices are plain data, and every one of them can be written.
    if let Ok(notice) = serde_json::to_vec(&Notice::of(error)) {
        world.fail(notice);
    }
}

/// The error of a call that cannot go on because of `trouble`.
pub(crate) fn error_of(
    trouble: &Trouble,
    world: &dyn World,
    plan: &ValidPlan,
    progress: &Progress,
) -> ExecError {
    let n_ranks = plan.n_ranks();
    let at = |index: u32| place(index as usize, n_ranks as usize);
    let host = |index: u32| world.hosts().get(index as usize).cloned().unwrap_or_default();
    match trouble {
        Trouble::Told { from, notice } => {
            let (replica, rank): (Replica, Rank) = at(*from);
            let of: Result<Notice, _> = serde_json::from_slice(notice);
            let (step, is_evaluating, doing, why) = match of {
                Ok(of) => (of.step, of.is_evaluating, Doing::unpack(of.doing), of.why),
                Err(_) => (0, false, Doing::Idle, Trouble::why(notice)),
            };
            let at = RankProgress { replica, rank, step, is_evaluating, doing };
            ExecError::of_rank(at, RankError::Elsewhere { host: host(*from), why })
        }
        Trouble::Lost { index, silent } => {
            let (replica, rank) = at(*index);
            let seen = progress.read().into_iter().nth(*index as usize);
            let (step, is_evaluating, doing) =
                seen.map_or((0, false, Doing::Idle), |of| (of.step, of.is_evaluating, of.doing));
            let (host, silent) = (host(*index), *silent);
            let waiting = waits_for(plan, progress, replica, rank);
            ExecError::Lost { replica, rank, host, step, is_evaluating, doing, silent, waiting }
        }
    }
}

/// A rank of the replica that waits for what `rank` has to send, and the op that it waits with.
fn waits_for(
    plan: &ValidPlan,
    progress: &Progress,
    replica: Replica,
    rank: Rank,
) -> Option<(Rank, Op)> {
    let of_replica = progress.read().into_iter().filter(|other| other.replica == replica);
    of_replica.filter(|other| !other.is_evaluating && other.rank != rank).find_map(|other| {
        let Doing::Awaiting(op) = other.doing else { return None };
        let from = plan.input_stage(op)?;
        (plan.rank_of(from, op.micro_batch) == rank).then_some((other.rank, op))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_short_and_says_why() {
        let at = RankProgress {
            replica: Replica(0),
            rank: Rank(1),
            step: 3,
            is_evaluating: false,
            doing: Doing::Updating,
        };
        let long = "\u{1}\"".repeat(100_000);
        let error = ExecError::of_rank(at, RankError::Panic(long));
        let notice = serde_json::to_vec(&Notice::of(&error)).unwrap();
        // What one message of MPI has room for at once, in `crates/mpi/src/watch.rs`.
        assert!(notice.len() < 3000, "{} bytes", notice.len());
        assert!(Trouble::why(&notice).starts_with("panicked: "));
        assert_eq!(Trouble::why(b"no such file"), "no such file");
    }
}
