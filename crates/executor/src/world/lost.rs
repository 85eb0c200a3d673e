//! What a lost process was doing, from the file that it left.

use std::path::Path;

use pp_schedule::{Rank, Replica};

use crate::error::ExecError;
use crate::progress::{Doing, EVALUATING};
use crate::sheet::{LastWords, last_words};

/// What the lost process of a run was in, if one was lost: `rank 1 on node7, step 3, op 1F2 was
/// lost while it computes (process 41)`. `dir` is the folder of the files of processes, see
/// [`RankConfig::sheets`](crate::RankConfig::sheets).
pub fn lost_rank(dir: &Path) -> Option<String> {
    let LastWords { owner, step, doing } = last_words(dir)?;
    let error = ExecError::Killed {
        replica: Replica(owner.replica),
        rank: Rank(owner.rank),
        host: owner.host,
        pid: owner.pid,
        step: step & !EVALUATING,
        is_evaluating: step & EVALUATING != 0,
        doing: Doing::unpack(doing),
    };
    Some(error.to_string())
}

#[cfg(test)]
mod tests {
    use pp_schedule::{MicroBatch, Op, Phase, Stage};

    use super::*;
    use crate::sheet::{Sheet, note_lost};

    #[test]
    fn a_rank_that_is_gone_is_named_with_what_it_was_doing() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        assert_eq!(lost_rank(dir), None);
        let sheet = Sheet::create(dir, 3, (Replica(1), Rank(1)), "node7").unwrap();
        let op = Op::new(Stage(1), Phase::Forward, MicroBatch(2));
        sheet.write(12, Doing::Computing(op).pack());
        assert_eq!(lost_rank(dir), None, "nobody was lost so far");
        note_lost(dir, 3);
        note_lost(dir, 2);
        let pid = std::process::id();
        let told = format!(
            "rank 1 of replica 1 on node7, step 12, op 1F2 was lost while it computes (process {pid})"
        );
        assert_eq!(lost_rank(dir), Some(told.clone()));
        // The process goes on for a while.
        sheet.write(13, Doing::Idle.pack());
        assert_eq!(lost_rank(dir), Some(told));
        std::fs::write(dir.join("lost.state"), "7").unwrap();
        assert_eq!(lost_rank(dir), None, "a broken file says nothing");
    }
}
