//! The words for a stall: what each rank is in, and which op of which rank it waits for.

use std::time::{Duration, Instant};

use pp_executor::{Doing, ExecError, RankProgress, TimedProgress};
use pp_schedule::{Op, Phase, Pipe, Rank, Replica, ValidPlan};

/// A rank that holds the others up: one that waits for no other, if there is one.
pub(super) fn held_up(ranks: &[TimedProgress]) -> Option<RankProgress> {
    let busy = ranks.iter().map(|timed| timed.rank).filter(|at| at.doing != Doing::Idle);
    busy.min_by_key(|at| at.doing.is_waiting())
}

/// The same text for the same stall: it has no measured time.
pub(super) fn overdue(at: RankProgress, deadline: Duration) -> String {
    let RankProgress { replica, rank, step, is_evaluating, doing } = at;
    ExecError::Deadline { replica, rank, step, is_evaluating, doing, deadline }.to_string()
}

/// What each rank is in and for how long, a line each.
pub(super) fn lines(plan: &ValidPlan, ranks: &[TimedProgress], now: Instant) -> Vec<String> {
    let line = |timed: &TimedProgress| {
        let at = timed.rank;
        let (name, lasting) = (named(at.replica, at.rank), seconds(timed.since, now));
        match awaited(plan, ranks, at) {
            Some((what, other)) => {
                let of = named(other.rank.replica, other.rank.rank);
                let other = has(other, now);
                format!("{name} has waited {lasting} for {what} of {of}, which {other}")
            }
            None => format!("{name} {}", has(timed, now)),
        }
    };
    ranks.iter().map(line).collect()
}

/// What a rank waits for, and the rank that has to bring it.
fn awaited<'a>(
    plan: &ValidPlan,
    ranks: &'a [TimedProgress],
    at: RankProgress,
) -> Option<(String, &'a TimedProgress)> {
    match at.doing {
        Doing::Awaiting(op) => {
            let (made, rank) =
                if at.is_evaluating { evaluated(plan, op) } else { maker(plan, op) }?;
            let is_it = |other: &&TimedProgress| {
                (other.rank.replica, other.rank.rank) == (at.replica, rank)
            };
            Some((made.to_string(), ranks.iter().find(is_it)?))
        }
        Doing::AwaitingGradients => {
            let holds = plan.topology().stages_of(at.rank);
            let is_copy = |other: RankProgress| {
                let stages = plan.topology().stages_of(other.rank);
                stages.iter().any(|(_, stage)| holds.iter().any(|(_, here)| here == stage))
            };
            let is_behind = |other: RankProgress| {
                let computes = matches!(other.doing, Doing::Awaiting(_) | Doing::Computing(_));
                other.step < at.step || (computes && !other.is_evaluating)
            };
            let other = ranks.iter().find(|other| is_copy(other.rank) && is_behind(other.rank))?;
            Some(("the gradients".to_owned(), other))
        }
        _ => None,
    }
}

/// The op of the plan that makes the input of `op`, and its rank.
fn maker(plan: &ValidPlan, op: Op) -> Option<(Op, Rank)> {
    let stage = plan.input_stage(op)?;
    let rank = plan.rank_of(stage, op.micro_batch);
    let makes = |made: &Op| {
        (made.stage, made.micro_batch) == (stage, op.micro_batch)
            && plan.output_stage(*made) == Some(op.stage)
    };
    plan.ops(rank).find(makes).map(|made| (made, rank))
}

/// The same in an evaluation: forwards through the first copy of the model.
fn evaluated(plan: &ValidPlan, op: Op) -> Option<(Op, Rank)> {
    let stage = plan.input_stage(op)?;
    let rank = plan.topology().rank_of(Pipe(0), stage);
    Some((Op::new(stage, Phase::Forward, op.micro_batch), rank))
}

fn named(replica: Replica, rank: Rank) -> String {
    match replica.0 {
        0 => format!("rank {rank}"),
        _ => format!("rank {rank} of replica {replica}"),
    }
}

/// What a rank has done since it last moved.
fn has(timed: &TimedProgress, now: Instant) -> String {
    let lasting = seconds(timed.since, now);
    match timed.rank.doing {
        Doing::Idle => format!("has had nothing to do for {lasting}"),
        Doing::Awaiting(op) => format!("has waited {lasting} for the input of {op}"),
        Doing::Computing(op) => format!("has been in {op} for {lasting}"),
        Doing::AwaitingGradients => {
            format!("has waited {lasting} for the gradients of other copies of the model")
        }
        Doing::Averaging => format!("has averaged gradients for {lasting}"),
        Doing::SummingSquares => format!("has summed the squares of its gradients for {lasting}"),
        Doing::AwaitingDevice => format!("has waited {lasting} for its device"),
        Doing::Updating => format!("has updated its weights for {lasting}"),
        Doing::Collecting => format!("has copied its tensors for {lasting}"),
        _ => format!("has been busy for {lasting}"),
    }
}

pub(super) fn seconds(since: Instant, now: Instant) -> String {
    format!("{:.0} s", now.saturating_duration_since(since).as_secs_f64())
}

#[cfg(test)]
pub(super) mod tests {
    use pp_schedule::{ScheduleName, Sizes};

    use super::*;

    fn plan(name: ScheduleName, n_ranks: u32) -> ValidPlan {
        let n_virtual_stages = name.default_virtual_stages();
        let sizes = Sizes { n_ranks, n_micro_batches: 8, n_virtual_stages, interleave_group: None };
        name.generate(&sizes).unwrap()
    }

    pub(in crate::stall) fn timed(
        now: Instant,
        replica: u32,
        rank: u32,
        ago: u64,
        doing: Doing,
    ) -> TimedProgress {
        let rank = RankProgress {
            replica: Replica(replica),
            rank: Rank(rank),
            step: 4,
            is_evaluating: false,
            doing,
        };
        TimedProgress { rank, since: now.checked_sub(Duration::from_secs(ago)).unwrap() }
    }

    fn op(text: &str) -> Op {
        text.parse().unwrap()
    }

    pub(in crate::stall) fn now() -> Instant {
        Instant::now() + Duration::from_hours(1)
    }

    #[test]
    fn a_rank_that_waits_names_the_op_and_the_rank_that_it_waits_for() {
        let (plan, now) = (plan(ScheduleName::OneFOneB, 4), now());
        let ranks = [
            timed(now, 0, 0, 30, Doing::Awaiting(op("0B3"))),
            timed(now, 0, 1, 31, Doing::Awaiting(op("1B3"))),
            timed(now, 0, 2, 33, Doing::Computing(op("2B3"))),
            timed(now, 0, 3, 32, Doing::Awaiting(op("3F5"))),
        ];
        let expected = [
            "rank 0 has waited 30 s for 1B3 of rank 1, which has waited 31 s for the input of 1B3",
            "rank 1 has waited 31 s for 2B3 of rank 2, which has been in 2B3 for 33 s",
            "rank 2 has been in 2B3 for 33 s",
            "rank 3 has waited 32 s for 2F5 of rank 2, which has been in 2B3 for 33 s",
        ];
        assert_eq!(lines(&plan, &ranks, now), expected);
        let at = held_up(&ranks).unwrap();
        let text = overdue(at, Duration::from_secs(30));
        assert_eq!(text, "rank 2, step 4, op 2B3 gave no answer within 30s: it computes");
    }

    /// The stages of a V lie up and down the ranks, and its backward is cut in two.
    #[test]
    fn the_other_rank_is_that_of_the_plan_and_not_the_next_one() {
        let plan = plan(ScheduleName::ZbV, 4);
        // The turn: stages 3 and 4 are both on the last rank.
        assert_eq!(maker(&plan, op("4F2")), Some((op("3F2"), Rank(3))));
        assert_eq!(maker(&plan, op("7F2")), Some((op("6F2"), Rank(1))));
        assert_eq!(maker(&plan, op("6I2")), Some((op("7I2"), Rank(0))));
        assert_eq!((maker(&plan, op("0F2")), maker(&plan, op("7I2"))), (None, None));
        // A backward that is cut in two feeds one that is whole, and the other way round.
        for rank in (0..4).map(Rank) {
            for op in plan.ops(rank) {
                let found = maker(&plan, op);
                assert_eq!(found.is_some(), plan.input_stage(op).is_some(), "{op}");
            }
        }
        let (other, rank) = evaluated(&plan, op("7F40")).unwrap();
        assert_eq!((other, rank), (op("6F40"), Rank(1)));
    }

    #[test]
    fn gradients_are_awaited_of_a_copy_that_is_behind() {
        let (plan, now) = (plan(ScheduleName::OneFOneB, 2), now());
        let ranks = [
            timed(now, 0, 0, 31, Doing::AwaitingGradients),
            timed(now, 0, 1, 31, Doing::Idle),
            timed(now, 1, 0, 33, Doing::Computing(op("0B7"))),
            timed(now, 1, 1, 34, Doing::AwaitingGradients),
        ];
        let expected = [
            "rank 0 has waited 31 s for the gradients of rank 0 of replica 1, which has been in 0B7 for 33 s",
            "rank 1 has had nothing to do for 31 s",
            "rank 0 of replica 1 has been in 0B7 for 33 s",
            "rank 1 of replica 1 has waited 34 s for the gradients of other copies of the model",
        ];
        assert_eq!(lines(&plan, &ranks, now), expected);
    }
}
