//! How the run stands: what its process, its log and its silence say together.

use super::State;

/// A run without a sign of life for this long, and for three steps, is called stale.
const STALE_SECONDS_MIN: f64 = 5.0;

/// Exit codes of a process that a signal has ended.
const CODE_HUP: i32 = 129;
const CODE_INT: i32 = 130;
const CODE_KILL: i32 = 137;
const CODE_TERM: i32 = 143;

/// What is known of the process that trains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChildState {
    /// Its process id; 0 where nothing is known of it, as of a log alone.
    pub pid: u32,
    /// Whether it is gone, and nobody knows its exit code.
    pub is_gone: bool,
    /// Its exit code, once it has ended; 128 and the signal for one that was killed.
    pub code: Option<i32>,
    /// The machine it runs on, where that is another: whether it is alive is not known here.
    pub host: Option<String>,
    /// The last line that it wrote to its standard error.
    pub last_error: Option<String>,
}

/// How the run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Status {
    /// The process runs, but has not said yet what it trains.
    Starting,
    /// It trains.
    Live,
    /// It trains, and the screen stands still.
    Frozen,
    /// Nothing was heard of it for so many seconds.
    Stale(f64),
    /// Somebody ended it.
    Stopped,
    /// It has ended with this exit code.
    Ended(i32),
    /// Its process is gone without a last word.
    Died,
    /// A recorded run is played, so many times as fast.
    Replay(f64),
    /// A recorded run stands still.
    Paused,
}

impl State {
    /// Whether the run was asked to end and has not ended yet.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping && self.exit_code().is_none()
    }

    /// Whether nothing more will come: the process is gone, or it never was.
    pub(crate) fn is_over(&self) -> bool {
        self.child.code.is_some()
            || self.child.is_gone
            || self.playback.is_some()
            || (!self.launched_here && self.model.end().is_some())
    }

    /// How the run has ended: what its process says, or else its log.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.child.code.or_else(|| self.model.end().map(|end| end.code))
    }

    pub(crate) fn status(&self) -> Status {
        if let Some(playback) = &self.playback {
            return if playback.is_paused {
                Status::Paused
            } else {
                Status::Replay(playback.speed)
            };
        }
        if let Some(code) = self.exit_code() {
            return if self.was_stopped(code) { Status::Stopped } else { Status::Ended(code) };
        }
        if self.child.is_gone {
            return if self.stopping { Status::Stopped } else { Status::Died };
        }
        if self.frozen.is_some() {
            return Status::Frozen;
        }
        let step_seconds = self.model.steps().seconds().map_or(0.0, |seconds| seconds.p50);
        // Until the first step is over nobody knows how long one takes.
        if self.model.step() > 0 && self.silent_seconds > STALE_SECONDS_MIN.max(3.0 * step_seconds)
        {
            return Status::Stale(self.silent_seconds);
        }
        if self.model.hello().is_none() { Status::Starting } else { Status::Live }
    }

    /// Whether a run that ended with `code` was asked to: by one of the signals for that, or from here.
    fn was_stopped(&self, code: i32) -> bool {
        matches!(code, CODE_HUP | CODE_INT | CODE_TERM) || (self.stopping && code == CODE_KILL)
    }

    /// Why the run failed, or what ended it, in one line; `None` if it went to its end, or on.
    pub(crate) fn failure(&self) -> Option<String> {
        if self.child.is_gone && self.stopping && self.exit_code().is_none() {
            return Some("the process was killed".to_owned());
        }
        if self.status() == Status::Died {
            let pid = self.child.pid;
            return Some(format!(
                "process {pid} is gone without a last word: killed, or its disk is full"
            ));
        }
        let code = self.exit_code().filter(|&code| code != 0)?;
        let Some(end) = self.model.end().filter(|end| end.code != 0) else {
            return Some(match self.child.last_error.as_deref() {
                _ if code == CODE_KILL => "the process was killed".to_owned(),
                Some(last_error) => format!("the run ended with exit code {code}: {last_error}"),
                None => format!("the run ended with exit code {code}, without a word why"),
            });
        };
        // The reason often names the place itself.
        let place = match (end.rank, end.op.as_deref()) {
            (Some(rank), _) if end.reason.contains(&format!("rank {rank}")) => String::new(),
            (Some(rank), Some(op)) => format!("rank {rank}, {op}: "),
            (Some(rank), None) => format!("rank {rank}: "),
            (None, _) => String::new(),
        };
        Some(format!("{place}{}", end.reason))
    }
}
