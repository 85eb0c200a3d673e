//! How the run stands: what its process, its log and its silence say together.

use pp_telemetry::{Evidence, Process, Standing};

use super::State;

/// The exit code of a process that SIGKILL has ended.
const CODE_KILL: i32 = 137;

/// What is known of the process that trains.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChildState {
    /// Its process id; 0 where nothing is known of it, as of a log alone.
    pub pid: u32,
    /// Whether it is a job of another program, which takes nothing from here.
    pub is_foreign: bool,
    /// Whether it is gone with an unknown exit code.
    pub is_gone: bool,
    /// Whether it is there and held, as by SIGSTOP.
    pub is_suspended: bool,
    /// Its exit code, once it has ended; 128 and the signal for one that was killed.
    pub code: Option<i32>,
    /// How it ended, by its summary.
    pub reason: Option<String>,
    /// The machine it runs on, where that is another: whether it is alive is not known here.
    pub host: Option<String>,
    /// For how long it has done nothing, by its summary.
    pub silent_seconds: Option<f64>,
    /// That nothing is recorded any more while the run goes on, and why.
    pub not_recorded: Option<String>,
    /// The last line that it wrote to its standard error.
    pub last_error: Option<String>,
}

impl ChildState {
    fn process(&self) -> Process {
        match self {
            Self { pid: 0, .. } => Process::Unknown,
            Self { host: Some(_), .. } => Process::Elsewhere,
            Self { is_gone: true, .. } => Process::Gone,
            Self { is_suspended: true, .. } => Process::Suspended,
            _ => Process::There,
        }
    }
}

/// How the run stands, and how it is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Status {
    /// The process runs, but has not said yet what it trains.
    Starting,
    /// It trains.
    Live,
    /// It trains, and the screen stands still.
    Frozen,
    /// No event has arrived for this many seconds.
    Stale(f64),
    /// Its process is held.
    Suspended,
    /// Somebody ended it.
    Stopped,
    /// It has ended with this exit code.
    Ended(i32),
    /// Its process is gone without a last word.
    Died,
    /// Nobody here can tell.
    Unknown,
    /// A recorded run is replayed at this speed.
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

    /// How the run stands, whatever the screen does.
    pub(crate) fn standing(&self) -> Standing {
        let silent = match self.child.silent_seconds {
            Some(seconds) => seconds.min(self.silent_seconds),
            None => self.silent_seconds,
        };
        let child = &self.child;
        let evidence = Evidence {
            // A process that was killed after it wrote its end record still counts as ended.
            end: self.model.end().filter(|end| end.code == child.code.unwrap_or(end.code)),
            code: child.code,
            reason: child.reason.as_deref(),
            process: child.process(),
            step: self.model.step(),
            has_begun: self.model.hello().is_some(),
            silent_seconds: Some(silent),
            step_seconds: self.model.steps().seconds().map(|seconds| seconds.p50),
            is_in_phase: self.model.phase().is_some(),
        };
        match evidence.standing() {
            // A log that grows before one's eyes is one of a run that goes on, wherever that is.
            Standing::Unknown if self.grows => {
                Evidence { process: Process::There, ..evidence }.standing()
            }
            standing => standing,
        }
    }

    pub(crate) fn status(&self) -> Status {
        if let Some(playback) = &self.playback {
            return if playback.is_paused {
                Status::Paused
            } else {
                Status::Replay(playback.speed)
            };
        }
        let standing = self.standing();
        if !standing.is_over() && self.frozen.is_some() {
            return Status::Frozen;
        }
        match standing {
            Standing::Starting => Status::Starting,
            Standing::Live => Status::Live,
            Standing::Stalled(seconds) => Status::Stale(seconds),
            Standing::Suspended => Status::Suspended,
            Standing::Finished => Status::Ended(0),
            Standing::Failed(code) => Status::Ended(code),
            Standing::Stopped(_) => Status::Stopped,
            // Killed from here, which was asked for.
            Standing::Died if self.stopping => Status::Stopped,
            Standing::Died => Status::Died,
            Standing::Unknown => Status::Unknown,
        }
    }

    /// Why the run failed, or what ended it, in one line; `None` if it went to its end, or on.
    pub(crate) fn failure(&self) -> Option<String> {
        if self.child.is_gone && self.stopping && self.exit_code().is_none() {
            return Some("the process was killed".to_owned());
        }
        if self.status() == Status::Died && self.exit_code().is_none() {
            let pid = self.child.pid;
            return Some(format!("process {pid} is gone without an end record: it was killed"));
        }
        let code = self.exit_code().filter(|&code| code != 0)?;
        let Some(end) = self.model.end().filter(|end| end.code != 0) else {
            return Some(match self.child.last_error.as_deref() {
                _ if code == CODE_KILL => "the process was killed".to_owned(),
                Some(last_error) => format!("the run ended with exit code {code}: {last_error}"),
                None => format!("the run ended with exit code {code}, without a reason"),
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
