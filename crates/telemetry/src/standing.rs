//! How a run stands: one word for it, from all that is known.
//!
//! A log alone does not tell whether its run goes on. Three witnesses do: the last line of the log,
//! the summary beside it, and the process that the summary names. Everything that shows a run asks
//! here, so that no two screens differ.

use std::fmt;

use pp_trace::machine::unix_ms;
use pp_trace::{End, State, Status};

use crate::process::Process;

/// A run whose process is there and that has done nothing for so long, and for three steps, has
/// stalled.
const STALLED_SECONDS: f64 = 5.0;
const STALLED_STEPS: f64 = 3.0;
/// What lasts and is no step, such as an evaluation, says how far it is only now and then.
const STALLED_SECONDS_OF_PHASE: f64 = 120.0;

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGUSR2: i32 = 12;
const SIGTERM: i32 = 15;
/// Exit codes from here on name a signal.
const SIGNALLED: i32 = 128;

/// What ended a run before its last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedBy {
    /// A signal, such as SIGTERM.
    Signal(i32),
    /// Somebody who asked for it, from a monitor.
    Request,
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Standing {
    /// Its process is there, and has not trained anything yet.
    Starting,
    /// It trains.
    Live,
    /// Its process is there, and has done nothing for so many seconds.
    Stalled(f64),
    /// Its process is there, and held.
    Suspended,
    /// It went to its end.
    Finished,
    /// It was asked to end, and has.
    Stopped(StoppedBy),
    /// It failed, with this exit code.
    Failed(i32),
    /// Its process is gone without a last word: it was killed.
    Died,
    /// Nobody here can tell: it is of another machine, or a log alone.
    Unknown,
}

/// All that is known of how a run stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evidence<'a> {
    /// The last line of its log, if that is there and was read.
    pub end: Option<&'a End>,
    /// Its exit code, where its process or its summary told it.
    pub code: Option<i32>,
    /// Why it ended, by its summary.
    pub reason: Option<&'a str>,
    /// Its process.
    pub process: Process,
    /// Steps that are over.
    pub step: u64,
    /// Whether it has said what it trains.
    pub has_begun: bool,
    /// How long it has done nothing; `None` where nobody looked.
    pub silent_seconds: Option<f64>,
    /// How long a step takes.
    pub step_seconds: Option<f64>,
    /// Whether it does something that lasts and is no step.
    pub is_in_phase: bool,
}

impl<'a> Evidence<'a> {
    /// What the summary of a run says; the process that it names is looked for.
    pub fn of(status: &'a Status) -> Self {
        let has_ended = status.state == State::Ended;
        let process = if has_ended { Process::Gone } else { Process::of(status) };
        let silent_ms = unix_ms().checked_sub(status.progressed_unix_ms);
        let has_clock = status.progressed_unix_ms > 0 && process != Process::Elsewhere;
        Self {
            end: None,
            // A summary of an older version may have ended without a code.
            code: status.code.or(has_ended.then_some(0)),
            reason: status.reason.as_deref(),
            process,
            step: status.step,
            has_begun: status.state != State::Starting,
            silent_seconds: silent_ms.filter(|_| has_clock).map(|ms| ms as f64 * 1e-3),
            step_seconds: status.step_seconds,
            is_in_phase: status.phase.is_some(),
        }
    }

    /// How the run stands.
    pub fn standing(&self) -> Standing {
        // The log's own word comes first: a process may fail to end well after it.
        if let Some(end) = self.end {
            return of_code(end.code, &end.reason);
        }
        if let Some(code) = self.code {
            return of_code(code, self.reason.unwrap_or_default());
        }
        match self.process {
            Process::Unknown | Process::Elsewhere => Standing::Unknown,
            Process::Gone => Standing::Died,
            Process::Suspended => Standing::Suspended,
            Process::There if !self.has_begun => Standing::Starting,
            Process::There => match self.silent_seconds {
                Some(silent) if self.step > 0 && silent > self.patience() => {
                    Standing::Stalled(silent)
                }
                _ => Standing::Live,
            },
        }
    }

    /// How long it may do nothing. Until the first step is over nobody knows how long one takes.
    fn patience(&self) -> f64 {
        let least = if self.is_in_phase { STALLED_SECONDS_OF_PHASE } else { STALLED_SECONDS };
        least.max(STALLED_STEPS * self.step_seconds.unwrap_or(0.0))
    }
}

fn of_code(code: i32, reason: &str) -> Standing {
    match code.saturating_sub(SIGNALLED) {
        _ if code == 0 => Standing::Finished,
        // A request ends a run as SIGTERM does, so its code is the same.
        SIGTERM if reason.contains("by request") => Standing::Stopped(StoppedBy::Request),
        signal @ (SIGHUP | SIGINT | SIGUSR2 | SIGTERM) => {
            Standing::Stopped(StoppedBy::Signal(signal))
        }
        SIGKILL => Standing::Died,
        _ => Standing::Failed(code),
    }
}

impl Standing {
    /// Whether its process is there, whatever it does.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Starting | Self::Live | Self::Stalled(_) | Self::Suspended)
    }

    /// Whether nothing more will come.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Stopped(_) | Self::Failed(_) | Self::Died)
    }

    /// Whether the rest of the run can be estimated: only where it goes on.
    pub fn has_rest(self) -> bool {
        self == Self::Live
    }

    /// One word, for scripts: `starting`, `live`, `stalled`, `suspended`, `finished`, `stopped`,
    /// `failed`, `died` or `unknown`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Stalled(_) => "stalled",
            Self::Suspended => "suspended",
            Self::Finished => "finished",
            Self::Stopped(_) => "stopped",
            Self::Failed(_) => "failed",
            Self::Died => "died",
            Self::Unknown => "unknown",
        }
    }

    /// What `state` was before there were more words: `live` while the process is there, `ended
    /// CODE`, `stopped`, `died` or `unknown`.
    pub fn state(self) -> String {
        match self {
            Self::Starting | Self::Live | Self::Stalled(_) | Self::Suspended => "live".to_owned(),
            Self::Finished => "ended 0".to_owned(),
            Self::Failed(code) => format!("ended {code}"),
            Self::Stopped(_) | Self::Died | Self::Unknown => self.name().to_owned(),
        }
    }
}

impl fmt::Display for StoppedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Signal(SIGHUP) => f.write_str("SIGHUP"),
            Self::Signal(SIGINT) => f.write_str("SIGINT"),
            Self::Signal(SIGUSR2) => f.write_str("SIGUSR2"),
            Self::Signal(SIGTERM) => f.write_str("SIGTERM"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Request => f.write_str("by request"),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stalled(seconds) => f.pad(&format!("stalled {seconds:.0} s")),
            Self::Stopped(by) => f.pad(&format!("stopped ({by})")),
            Self::Failed(code) => f.pad(&format!("failed ({code})")),
            other => f.pad(other.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there() -> Evidence<'static> {
        Evidence { process: Process::There, has_begun: true, step: 3, ..Evidence::default() }
    }

    #[test]
    fn each_way_to_stand_has_its_word() {
        let end = |code, reason: &str| End { code, reason: reason.to_owned(), ..End::default() };
        let of_end = |end: &End| Evidence { end: Some(end), ..there() }.standing().to_string();
        assert_eq!(of_end(&end(0, "finished")), "finished");
        assert_eq!(of_end(&end(143, "stopped by SIGTERM after step 3")), "stopped (SIGTERM)");
        assert_eq!(of_end(&end(143, "stopped by request after step 3")), "stopped (by request)");
        assert_eq!(of_end(&end(130, "")), "stopped (SIGINT)");
        assert_eq!(of_end(&end(129, "")), "stopped (SIGHUP)");
        assert_eq!(of_end(&end(140, "stopped by SIGUSR2 after step 3")), "stopped (SIGUSR2)");
        assert_eq!(of_end(&end(1, "a rank failed")), "failed (1)");
        assert_eq!(of_end(&end(139, "")), "failed (139)");
        let told = Evidence { code: Some(0), process: Process::Gone, ..there() };
        assert_eq!(told.standing(), Standing::Finished, "the log has no end, the summary has");
        let killed = Evidence { code: Some(137), ..there() };
        assert_eq!(killed.standing(), Standing::Died);
        for (process, standing) in [
            (Process::There, Standing::Live),
            (Process::Suspended, Standing::Suspended),
            (Process::Gone, Standing::Died),
            (Process::Elsewhere, Standing::Unknown),
            (Process::Unknown, Standing::Unknown),
        ] {
            assert_eq!(Evidence { process, ..there() }.standing(), standing);
        }
        let starting = Evidence { has_begun: false, ..there() };
        assert_eq!(starting.standing(), Standing::Starting);
    }

    #[test]
    fn a_run_that_does_nothing_for_three_steps_has_stalled() {
        let silent = |seconds, step_seconds| {
            Evidence { silent_seconds: Some(seconds), step_seconds, ..there() }.standing()
        };
        assert_eq!(silent(4.0, None), Standing::Live);
        assert_eq!(silent(6.0, None), Standing::Stalled(6.0));
        assert_eq!(silent(25.0, Some(10.0)), Standing::Live);
        assert_eq!(silent(31.0, Some(10.0)).to_string(), "stalled 31 s");
        let first = Evidence { step: 0, silent_seconds: Some(1e6), ..there() };
        assert_eq!(first.standing(), Standing::Live, "nobody knows how long a step takes");
    }

    #[test]
    fn only_a_run_that_goes_on_has_a_rest() {
        assert!(Standing::Live.has_rest() && Standing::Live.is_alive());
        for standing in [
            Standing::Starting,
            Standing::Stalled(9.0),
            Standing::Suspended,
            Standing::Finished,
            Standing::Stopped(StoppedBy::Request),
            Standing::Failed(1),
            Standing::Died,
            Standing::Unknown,
        ] {
            assert!(!standing.has_rest(), "{standing}");
        }
        assert_eq!(Standing::Stalled(9.0).state(), "live", "a script sees that it goes on");
        assert_eq!(Standing::Finished.state(), "ended 0");
        assert_eq!(Standing::Failed(3).state(), "ended 3");
        assert_eq!(Standing::Stopped(StoppedBy::Request).state(), "stopped");
    }
}
