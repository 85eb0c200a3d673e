//! The watch for stalls: a thread that looks at what each rank is in.
//!
//! A stall is a time in which no rank begins anything new, while at least one has work. It is told
//! once, with a line for each rank. The process may also end then, because the caller waits for
//! ranks that may never answer.

mod words;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use pp_executor::{Doing, InWorld, Progress, RankProgress, TimedProgress};
use pp_hybrid::checkpoint::list;
use pp_schedule::ValidPlan;
use pp_telemetry::{End, Event, Recorder, Warn};

use crate::checkpoints::Waiting;
use crate::observer::Notice;
use words::{held_up, lines, overdue, seconds};

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
    /// The id of this run and those of the runs that led to it. Others may write there as well.
    pub(crate) runs: Vec<String>,
    /// The checkpoint that the run waits for.
    pub(crate) waiting: Waiting,
    /// The socket for requests, which goes with the process.
    pub(crate) socket: Option<PathBuf>,
    /// The other processes of the run, which end with this one.
    pub(crate) world: Option<InWorld>,
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
        let newest = newest.filter(|checkpoint| self.runs.contains(&checkpoint.manifest().run));
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
        if let Some(InWorld(world)) = &self.world {
            world.abort(1);
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

#[cfg(test)]
mod tests {
    use super::words::tests::{now, timed};
    use super::*;

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
