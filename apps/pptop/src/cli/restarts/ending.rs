//! How a run ended, and whether a restart may help.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use pp_telemetry::{EVENTS_FILE, Event, Line};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR2};

/// The exit code of a run that failed.
const FAILED: i32 = 1;
/// The exit code of a refusal.
pub(super) const REFUSED: i32 = 2;
/// The most bytes at the end of a log that are searched for its last step.
const TAIL_BYTES: u64 = 1 << 22;
/// The most characters of the reason of a failure.
const REASON_CHARS: usize = 200;

/// A failure that a restart may help against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) why: String,
    /// The last step that was finished.
    pub(super) step: u64,
    /// The exit code of the parent, if this was the last attempt.
    pub(super) code: u8,
    /// Whether the run ended by itself before its first step, so that it would do so again.
    pub(super) is_early: bool,
}

impl Failure {
    /// Whether it is the failure of the attempt before. Of several ranks that fail at once any may
    /// be the first, so the words don't count.
    pub(super) fn is_same(&self, before: &Self) -> bool {
        (self.code, self.step) == (before.code, before.step)
    }
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// For good, with this exit code.
    Over(u8),
    Failed(Failure),
}

/// How a run ended. A launcher ends with other codes than the run: with that of a rank that was
/// killed, or with one of its own. The run began after step `from`, and its last finished step is
/// `step`.
pub(super) fn ending(
    status: ExitStatus,
    is_asked: bool,
    is_launched: bool,
    from: u64,
    step: u64,
    reason: impl Fn() -> Option<String>,
) -> Ending {
    let failed = |why: String, code: i32, is_early: bool| {
        Ending::Failed(Failure { why, step, code: u8::try_from(code).unwrap_or(1), is_early })
    };
    if let Some(signal) = status.signal() {
        let code = 128 + signal;
        // A run that has not begun to listen is ended by the signal itself.
        // A launcher that could not reach a host was ended by its parent.
        let by_signal = [SIGTERM, SIGINT, SIGHUP, SIGUSR2, SIGQUIT].contains(&signal);
        if is_asked || (by_signal && !is_launched) {
            return Ending::Over(u8::try_from(code).unwrap_or(1));
        }
        let name = signal_hook::low_level::signal_name(signal)
            .map_or_else(|| format!("signal {signal}"), ToOwned::to_owned);
        let why = reason().filter(|_| is_launched);
        let why = why.unwrap_or_else(|| format!("{name} killed it after step {step}"));
        return failed(why, code, false);
    }
    match status.code() {
        Some(code)
            if !is_asked && (code == FAILED || (is_launched && ![0, REFUSED].contains(&code))) =>
        {
            let why = reason().unwrap_or_else(|| format!("exit code {code} after step {step}"));
            failed(why.chars().take(REASON_CHARS).collect(), code, !is_launched && step <= from)
        }
        code => Ending::Over(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
    }
}

/// The last step in the log of a run.
pub(super) fn last_step(dir: &Path) -> Option<u64> {
    let mut file = File::open(dir.join(EVENTS_FILE)).ok()?;
    let n_bytes = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(n_bytes.saturating_sub(TAIL_BYTES))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail).ok()?;
    let step = |line: &[u8]| match Event::parse(line) {
        Ok(Line::Event(Event::Step(step))) => Some(step.step),
        _ => None,
    };
    tail.split(|&byte| byte == b'\n').rev().find_map(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_that_nobody_asked_for_is_followed_by_a_restart() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        let killed = ExitStatus::from_raw;
        let of = |status, is_asked, step| {
            ending(status, is_asked, false, 4, step, || Some("why".to_owned()))
        };
        let failed = |why: &str, step, code, is_early| {
            Ending::Failed(Failure { why: why.to_owned(), step, code, is_early })
        };
        assert_eq!(of(exit(0), false, 9), Ending::Over(0));
        assert_eq!(of(exit(2), false, 4), Ending::Over(2));
        assert_eq!(of(exit(143), false, 9), Ending::Over(143));
        assert_eq!(of(exit(1), false, 4), failed("why", 4, 1, true), "before its first step");
        assert_eq!(of(exit(1), true, 9), Ending::Over(1), "it was to end in any case");
        assert_eq!(of(exit(1), false, 9), failed("why", 9, 1, false));
        assert_eq!(of(killed(15), false, 4), Ending::Over(143));
        assert_eq!(of(killed(9), true, 9), Ending::Over(137));
        let by_kill = failed("SIGKILL killed it after step 9", 9, 137, false);
        assert_eq!(of(killed(9), false, 9), by_kill);
        let launched = |code| ending(exit(code), false, true, 4, 9, || None);
        let by_launcher = failed("exit code 137 after step 9", 9, 137, false);
        assert_eq!(launched(137), by_launcher, "a rank was killed");
        assert_eq!(launched(2), Ending::Over(2));
        let by_fault = failed("SIGSEGV killed it after step 4", 4, 139, false);
        assert_eq!(of(killed(11), false, 4), by_fault);
    }

    #[test]
    fn a_failure_is_the_same_at_the_same_step() {
        let failure =
            |why: &str, step, code| Failure { why: why.to_owned(), step, code, is_early: false };
        let of_rank = failure("rank 1, step 3", 2, 1);
        assert!(of_rank.is_same(&failure("rank 1 of replica 1, step 3", 2, 1)));
        assert!(!of_rank.is_same(&failure("rank 1, step 4", 3, 1)));
        assert!(!of_rank.is_same(&failure("SIGKILL killed it after step 2", 2, 137)));
    }
}
