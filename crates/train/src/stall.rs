//! The watch for stalls: a thread that looks at what each rank is in.
//!
//! A stall is a time in which no rank begins anything new, while at least one has work. It is told
//! once, with a line for each rank. The process may also end then, because the caller waits for
//! ranks that may never answer.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use pp_executor::{Doing, ExecError, Progress, RankProgress, TimedProgress};
use pp_hybrid::checkpoint::list;
use pp_schedule::{Op, Phase, Pipe, Rank, Replica, ValidPlan};
use pp_telemetry::{End, Event, Recorder, Warn};

use crate::checkpoints::Waiting;
use crate::observer::Notice;

/// The time after which a stall is told, unless the options say otherwise.
pub const STALL_AFTER: Duration = Duration::from_mins(1);

/// Receives the notices of the watch, on its own thread.
type Told = Arc<dyn Fn(&Notice<'_>) + Send + Sync>;

/// What a run does about ranks that stall.
#[derive(Clone)]
pub struct StallOptions {
    /// The time without a move after which a stall is told; `None` turns the watch off.
    pub after: Option<Duration>,
    /// Whether the process ends then, with exit code 1.
    pub stops: bool,
    /// Gets the notices of a stall: warnings, and the end of a run that stops. They come from
    /// another thread than those of the observer, which waits for the ranks.
    pub told: Option<Told>,
}

impl Default for StallOptions {
    fn default() -> Self {
        Self { after: Some(STALL_AFTER), stops: false, told: None }
    }
}

impl fmt::Debug for StallOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("StallOptions");
        shown.field("after", &self.after).field("stops", &self.stops).finish_non_exhaustive()
    }
}

/// All that the watch needs.
pub(crate) struct Watched {
    pub(crate) options: StallOptions,
    pub(crate) plan: Arc<ValidPlan>,
    pub(crate) progress: Progress,
    pub(crate) recorder: Recorder,
    pub(crate) origin: Instant,
    /// The folder of the checkpoints.
    pub(crate) checkpoints: PathBuf,
    /// The checkpoint that the run waits for.
    pub(crate) waiting: Waiting,
    /// The socket for requests, which goes with the process.
    pub(crate) socket: Option<PathBuf>,
}

/// The watch, while the run trains.
#[derive(Debug)]
pub(crate) struct StallWatch {
    is_over: Arc<Mutex<bool>>,
    looks: Option<(Thread, JoinHandle<()>)>,
}

impl StallWatch {
    /// Begins to watch; `None` if the options turn it off.
    pub(crate) fn begin(watched: Watched) -> std::io::Result<Option<Self>> {
        let Some(after) = watched.options.after else { return Ok(None) };
        let is_over = Arc::new(Mutex::new(false));
        let looks_at = Arc::clone(&is_over);
        let look = move || watch(&watched, after, &looks_at);
        let handle = std::thread::Builder::new().name("stalls".to_owned()).spawn(look)?;
        Ok(Some(Self { is_over, looks: Some((handle.thread().clone(), handle)) }))
    }
}

impl Drop for StallWatch {
    fn drop(&mut self) {
        *self.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        if let Some((thread, handle)) = self.looks.take() {
            thread.unpark();
            // The thread does not panic. If it did, nothing would be left to wait for.
            let _ = handle.join();
        }
    }
}

fn watch(watched: &Watched, after: Duration, is_over: &Mutex<bool>) {
    let pause = (after / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let mut stillness = Stillness::default();
    let mut looked = Instant::now();
    let mut told_of = None;
    loop {
        std::thread::park_timeout(pause);
        // Held until the process has ended: the run does not end in another way meanwhile.
        let is_over = is_over.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_over {
            return;
        }
        let now = Instant::now();
        let ranks = watched.progress.read_timed();
        // A process that was suspended looks late. Its ranks were suspended as well.
        let passed = now.duration_since(looked).min(2 * pause);
        looked = now;
        watched.look_at_writing(after, now, &mut told_of);
        if stillness.look(&ranks, passed) < after || stillness.is_told {
            continue;
        }
        stillness.is_told = true;
        watched.tell(&ranks, now);
        if watched.options.stops {
            watched.end(&ranks, after);
        }
    }
}

/// How long no rank has moved.
#[derive(Debug, Default)]
struct Stillness {
    ranks: Vec<TimedProgress>,
    lasting: Duration,
    is_told: bool,
}

impl Stillness {
    /// Compares the ranks with those of the last look, `passed` ago. Ranks without any work are at
    /// no standstill.
    fn look(&mut self, ranks: &[TimedProgress], passed: Duration) -> Duration {
        let is_busy = ranks.iter().any(|timed| timed.rank.doing != Doing::Idle);
        if is_busy && self.ranks == ranks {
            self.lasting += passed;
        } else {
            *self = Self { ranks: ranks.to_vec(), ..Self::default() };
        }
        self.lasting
    }
}

impl Watched {
    /// Says what each rank is in, a line each.
    fn tell(&self, ranks: &[TimedProgress], now: Instant) {
        for (timed, message) in ranks.iter().zip(lines(&self.plan, ranks, now)) {
            let step = Some(timed.rank.step).filter(|&step| step > 0);
            self.warn(step, Some(timed.rank.rank.0), message, now);
        }
    }

    /// Says that the run has waited so long for a checkpoint to be written, once for each. It goes
    /// on waiting in any case: a large checkpoint takes its time, and is not to be lost.
    fn look_at_writing(&self, after: Duration, now: Instant, told_of: &mut Option<u64>) {
        let Some((step, since)) = self.waiting.get() else { return };
        if now.saturating_duration_since(since) < after || *told_of == Some(step) {
            return;
        }
        *told_of = Some(step);
        let (lasting, dir) = (seconds(since, now), self.checkpoints.display());
        let message = format!(
            "the run has waited {lasting} for the checkpoint of step {step} to be written into {dir}"
        );
        self.warn(Some(step), None, message, now);
    }

    /// Notes a warning, and records it.
    fn warn(&self, step: Option<u64>, rank: Option<u32>, message: String, now: Instant) {
        self.notice(&Notice::Warning(&message));
        let elapsed_ns = (now - self.origin).as_nanos() as u64;
        let warn = Event::Warn(Warn { elapsed_ns, step, rank, message });
        self.notice(&Notice::Event(&warn));
        self.recorder.record(warn);
    }

    /// Ends the process. Its ranks are not waited for.
    fn end(&self, ranks: &[TimedProgress], after: Duration) -> ! {
        let held_up = held_up(ranks);
        let reason = held_up.map_or_else(|| "no rank moves".to_owned(), |at| overdue(at, after));
        let newest = list(&self.checkpoints).unwrap_or_default();
        let newest = newest.into_iter().filter_map(|found| found.checkpoint.ok());
        let newest = newest.max_by_key(|checkpoint| checkpoint.manifest().sequence);
        let saved = newest.map_or_else(
            || "there is no checkpoint".to_owned(),
            |newest| {
                let (step, path) = (newest.manifest().step, newest.path().display());
                format!("the last checkpoint is that of step {step} in {path}")
            },
        );
        self.notice(&Notice::Warning(&format!("training failed: {reason}; {saved}")));
        let end = End {
            code: 1,
            reason,
            steps: ranks.iter().map(|timed| finished(timed.rank)).max().unwrap_or(0),
            rank: held_up.map(|at| at.rank.0),
            op: held_up.and_then(|at| at.doing.op()).map(|op| op.to_string()),
            wall_seconds: self.origin.elapsed().as_secs_f64(),
            saved: Some(saved),
            ..End::default()
        };
        self.notice(&Notice::Event(&Event::End(end.clone())));
        self.recorder.finish(end);
        if let Some(socket) = &self.socket {
            // What stays is removed by the next run that listens.
            let _ = std::fs::remove_file(socket);
        }
        signal_hook::low_level::exit(1)
    }

    fn notice(&self, notice: &Notice<'_>) {
        if let Some(told) = &self.options.told {
            told(notice);
        }
    }
}

/// The steps that a rank has finished.
fn finished(at: RankProgress) -> u64 {
    let is_after = at.is_evaluating || at.doing == Doing::Collecting;
    if is_after { at.step } else { at.step.saturating_sub(1) }
}

/// A rank that holds the others up: one that waits for no other, if there is one.
fn held_up(ranks: &[TimedProgress]) -> Option<RankProgress> {
    let busy = ranks.iter().map(|timed| timed.rank).filter(|at| at.doing != Doing::Idle);
    busy.min_by_key(|at| at.doing.is_waiting())
}

/// The same text for the same stall: it has no measured time.
fn overdue(at: RankProgress, deadline: Duration) -> String {
    let RankProgress { replica, rank, step, is_evaluating, doing } = at;
    ExecError::Deadline { replica, rank, step, is_evaluating, doing, deadline }.to_string()
}

/// What each rank is in and for how long, a line each.
fn lines(plan: &ValidPlan, ranks: &[TimedProgress], now: Instant) -> Vec<String> {
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
        Doing::Updating => format!("has updated its weights for {lasting}"),
        Doing::Collecting => format!("has copied its tensors for {lasting}"),
        _ => format!("has been busy for {lasting}"),
    }
}

fn seconds(since: Instant, now: Instant) -> String {
    format!("{:.0} s", now.saturating_duration_since(since).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use pp_schedule::{ScheduleName, Sizes};

    use super::*;

    fn plan(name: ScheduleName, n_ranks: u32) -> ValidPlan {
        let n_virtual_stages = name.default_virtual_stages();
        let sizes = Sizes { n_ranks, n_micro_batches: 8, n_virtual_stages, interleave_group: None };
        name.generate(&sizes).unwrap()
    }

    fn timed(now: Instant, replica: u32, rank: u32, ago: u64, doing: Doing) -> TimedProgress {
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

    fn now() -> Instant {
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

    #[test]
    fn ranks_stand_still_while_one_has_work_and_none_moves() {
        let now = now();
        let second = Duration::from_secs(1);
        let busy = [timed(now, 0, 0, 9, Doing::Updating), timed(now, 0, 1, 9, Doing::Idle)];
        let mut stillness = Stillness::default();
        let seen: Vec<u64> = (0..4).map(|_| stillness.look(&busy, second).as_secs()).collect();
        assert_eq!(seen, [0, 1, 2, 3]);
        stillness.is_told = true;
        let moved = [timed(now, 0, 0, 8, Doing::Updating), busy[1]];
        assert_eq!((stillness.look(&moved, second), stillness.is_told), (Duration::ZERO, false));
        let idle = busy.map(|of| timed(now, 0, of.rank.rank.0, 7, Doing::Idle));
        assert_eq!([0; 3].map(|_| stillness.look(&idle, second)), [Duration::ZERO; 3]);
    }
}
