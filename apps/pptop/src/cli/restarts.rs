//! `--restarts N`: a parent that starts the run again when it fails. It only waits and starts; the
//! run is its child.

mod ending;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use pp_telemetry::status_of;
use pp_train::checkpoint::{Checkpoint, list};
use pp_train::{CHECKPOINTS, causes, is_ignored, lost_rank};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use self::ending::{Ending, Failure, REFUSED, ending, last_step};
use super::{CliError, note};

/// Exit codes above are those of runs that were asked to end.
const STOPPED: i32 = 128;

/// What the parent has to know of the run.
pub(crate) struct Supervised {
    /// Restarts at most.
    pub(crate) most: u64,
    /// The folder of the first run.
    pub(crate) first: PathBuf,
    /// Whether that folder was made for it.
    pub(crate) is_new: bool,
    /// Whether the folders of restarts go beside the first one, or among the kept runs.
    pub(crate) is_named: bool,
    /// The name of the model.
    pub(crate) model: String,
    /// Steps planned.
    pub(crate) steps: u64,
    /// The checkpoint that the first run resumes from.
    pub(crate) resume: Option<Checkpoint>,
    /// The folder of the checkpoints; `None` takes the one in the folder of the first run.
    pub(crate) checkpoints: Option<PathBuf>,
    /// The file of `--dump-step`.
    pub(crate) dump_step: Option<PathBuf>,
    /// Whether `--headless` is among the words of the command.
    pub(crate) is_headless: bool,
    /// The commands of the first run and of restarts, where a launcher starts its processes; else
    /// the run is this program with the words of this process.
    pub(crate) launched: Option<[Launched; 2]>,
}

/// A command that starts `pptop train` in several processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Launched {
    /// The launcher with its flags, and the name of this program.
    pub(crate) launcher: Vec<OsString>,
    /// The words of this program, from `train` on.
    pub(crate) words: Vec<OsString>,
}

/// One run of the chain.
struct Attempt {
    dir: PathBuf,
    /// The step that it begins after.
    from: u64,
    /// The checkpoint that it resumes from.
    resume: Option<PathBuf>,
    /// What the run says about its restart; `None` for the first.
    restarted: Option<String>,
}

impl Attempt {
    /// A run in `dir` that resumes from a checkpoint, or begins.
    fn after(from: Option<&Checkpoint>, dir: PathBuf, restarted: Option<String>) -> Self {
        Self {
            dir,
            from: from.map_or(0, |from| from.manifest().step),
            resume: from.map(|from| from.path().to_owned()),
            restarted,
        }
    }
}

impl Supervised {
    /// Starts the run, and starts it again when it fails.
    ///
    /// # Errors
    /// The exit code of the last run, whose message is written already.
    pub(crate) fn run(self) -> Result<(), CliError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            CliError::Failed(format!("cannot {what}: {error}"))
        };
        // Before the child starts, so that no signal and no end is missed.
        let forwarded = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2];
        let forwarded = forwarded.into_iter().filter(|&signal| !is_ignored(signal));
        let mut signals = Signals::new(forwarded.chain([SIGCHLD]))
            .map_err(|error| failed("listen for signals", &error))?;
        let program =
            std::env::current_exe().map_err(|error| failed("find this program", &error))?;
        let dir = self.checkpoints.clone().unwrap_or_else(|| self.first.join(CHECKPOINTS));
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        // Not their names: a name is free again once its checkpoint is removed.
        let older = last_sequence(&dir);
        let mut attempt = Attempt::after(self.resume.as_ref(), self.first.clone(), None);
        let mut runs = Vec::new();
        let mut before: Option<Failure> = None;
        for n in 1.. {
            runs.extend(attempt.dir.file_name().map(|name| name.to_string_lossy().into_owned()));
            let mut command = self.command(&program, &attempt);
            command.args(self.words(&attempt, &dir));
            let mut child = command.spawn().map_err(|error| failed("start the run", &error))?;
            let ended = match self.launched {
                None => wait(&mut child, &mut signals),
                Some(_) => wait_for_launcher(&mut child, &mut signals, &attempt.dir),
            };
            let (status, is_asked) = ended.map_err(|error| failed("wait for it", &error))?;
            let newest = newest(&dir, older, &runs);
            let step = reached(&attempt, newest.as_ref());
            // A rank that was killed says nothing itself.
            let reason = || {
                let status = status_of(&attempt.dir);
                status.and_then(|status| status.reason).or_else(|| lost_rank(&attempt.dir))
            };
            let is_launched = self.launched.is_some();
            // A stop that reached the run past this process: by a request, or by a batch system.
            let has_stopped = || {
                let code = status_of(&attempt.dir).and_then(|status| status.code);
                is_launched && code.is_some_and(|code| code > STOPPED)
            };
            let is_asked = is_asked || has_stopped();
            let failure = match ending(status, is_asked, is_launched, attempt.from, step, reason) {
                Ending::Over(0) => return Ok(()),
                Ending::Over(code) => {
                    if i32::from(code) == REFUSED && n == 1 && self.is_new {
                        // A refusal leaves no folder. If a file cannot be removed, it stays.
                        let _ = pp_telemetry::remove(&self.first);
                    }
                    return Err(CliError::Code(code));
                }
                Ending::Failed(failure) => failure,
            };
            let code = failure.code;
            let over = |why: &str| {
                note(&format!("no restart after {}: {why}", failure.why));
                Err(CliError::Code(code))
            };
            if let Some(last) = newest.as_ref().filter(|last| last.manifest().step >= self.steps) {
                let path = last.path().display();
                note(&format!(
                    "no restart after {}: all {} steps are made; to write the weights, run pptop checkpoint export {path} -o FILE.safetensors",
                    failure.why, self.steps
                ));
                return Err(CliError::Code(1));
            }
            if before.as_ref().is_some_and(|before| failure.is_same(before)) {
                return over("the same failure came at the same step twice in a row");
            }
            if failure.is_early && n == 1 {
                // What it said is all that there is to say.
                return Err(CliError::Code(code));
            }
            if failure.is_early {
                return over("it failed before its first step");
            }
            if n > self.most {
                let used = match self.most {
                    1 => "the only restart is used".to_owned(),
                    most => format!("all {most} restarts are used"),
                };
                return over(&used);
            }
            attempt = self.next(n, &failure, newest.as_ref())?;
            note(attempt.restarted.as_deref().unwrap_or_default());
            before = Some(failure);
        }
        Ok(())
    }

    /// The attempt after a failure.
    fn next(
        &self,
        n: u64,
        failure: &Failure,
        newest: Option<&Checkpoint>,
    ) -> Result<Attempt, CliError> {
        let goes_on = match newest {
            Some(newest) => {
                format!("it resumes from the checkpoint of step {}", newest.manifest().step)
            }
            None if self.resume.is_some() => {
                "there is no newer checkpoint, so it resumes as before".to_owned()
            }
            None => "there is no checkpoint, so it starts anew".to_owned(),
        };
        let restarted = format!("restart {n} of {} after {}; {goes_on}", self.most, failure.why);
        let from = newest.or(self.resume.as_ref());
        Ok(Attempt::after(from, self.dir_of_restart()?, Some(restarted)))
    }

    /// A folder for a restart.
    fn dir_of_restart(&self) -> Result<PathBuf, CliError> {
        if !self.is_named {
            let made = pp_telemetry::new_run_dir(&self.model);
            return made.map(|(_, dir)| dir).map_err(|error| CliError::Failed(causes(&error)));
        }
        let beside = |n: u64| {
            let mut name = self.first.clone().into_os_string();
            name.push(format!("-restart-{n}"));
            PathBuf::from(name)
        };
        let free = (1..u64::MAX).map(beside).find(|dir| dir.symlink_metadata().is_err());
        Ok(free.unwrap_or_else(|| beside(0)))
    }

    /// The beginning of the command of an attempt.
    fn command(&self, program: &Path, attempt: &Attempt) -> Command {
        let Some((first, flags)) =
            self.launched(attempt).and_then(|launched| launched.launcher.split_first())
        else {
            return Command::new(program);
        };
        let mut command = Command::new(first);
        command.args(flags);
        command
    }

    fn launched(&self, attempt: &Attempt) -> Option<&Launched> {
        self.launched.as_ref().map(|[first, then]| match attempt.restarted {
            None => first,
            Some(_) => then,
        })
    }

    /// The words of the child: those of this process, changed where the attempt needs it.
    fn words(&self, attempt: &Attempt, checkpoints: &Path) -> Vec<OsString> {
        let own: Vec<OsString> = match self.launched(attempt) {
            Some(launched) => launched.words.clone(),
            None => std::env::args_os().skip(1).collect(),
        };
        let mut dropped = vec!["--restarts", "--run-dir", "--checkpoint-dir"];
        if attempt.restarted.is_some() {
            if !is_fault_for_all(&own) {
                dropped.push("--inject-fault");
            }
            // The first step was written by an earlier attempt.
            if self.dump_step.as_deref().is_some_and(Path::exists) {
                dropped.push("--dump-step");
            }
        }
        if attempt.resume.is_some() {
            dropped.extend(["--resume", "--init"]);
        }
        let mut words = without(own, &dropped);
        if attempt.resume.is_some() {
            // It belongs to the weights that the run began with.
            words.retain(|word| word != "--allow-nonfinite");
        }
        if !self.is_headless {
            words.push("--headless".into());
        }
        let mut flag = |name: &str, value: &OsStr| {
            let mut word = OsString::from(format!("--{name}="));
            word.push(value);
            words.push(word);
        };
        flag("run-dir", attempt.dir.as_os_str());
        flag("checkpoint-dir", checkpoints.as_os_str());
        if let Some(path) = &attempt.resume {
            // Not the word of the command: `latest` may be another one by now.
            flag("resume", path.as_os_str());
        }
        flag("supervised", attempt.restarted.as_deref().unwrap_or_default().as_ref());
        words
    }
}

/// The last step that is known to be finished.
fn reached(attempt: &Attempt, newest: Option<&Checkpoint>) -> u64 {
    // The last lines of a log are lost with a process that is killed.
    let saved = newest.map_or(0, |newest| newest.manifest().step);
    last_step(&attempt.dir).unwrap_or(0).max(saved).max(attempt.from)
}

/// Waits for the end of the run, and forwards what comes meanwhile. Returns how it ended, and
/// whether it was asked to.
fn wait(child: &mut Child, signals: &mut Signals) -> io::Result<(ExitStatus, bool)> {
    let mut is_asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, is_asked));
        }
        let came: Vec<i32> = signals.wait().collect();
        is_asked |= forward(child, came);
    }
}

/// Forwards signals to the run. Returns whether one of them asks it to end.
fn forward(child: &Child, signals: impl IntoIterator<Item = i32>) -> bool {
    let mut is_asked = false;
    for number in signals {
        let signal = Signal::from_named_raw(number).filter(|_| number != SIGCHLD);
        if let Some(signal) = signal {
            is_asked |= number != SIGUSR1;
            // It may just have ended.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }
    is_asked
}

/// How often a launcher is looked at, how long it gets to end once its run has failed, and how long
/// once it was asked to.
const LOOK: Duration = Duration::from_millis(50);
const LAUNCHER_LASTS: Duration = Duration::from_secs(4);
const LAUNCHER_ENDS: Duration = Duration::from_secs(2);
/// How long process 0 gets for its last checkpoint once another process is lost.
const LAST_WRITE: Duration = Duration::from_mins(2);

/// The same for a launcher that runs in `dir`. A launcher that cannot reach a host waits for it for
/// minutes; it is ended some seconds after its run.
fn wait_for_launcher(
    child: &mut Child,
    signals: &mut Signals,
    dir: &Path,
) -> io::Result<(ExitStatus, bool)> {
    let mut is_asked = false;
    let (mut over, mut lost): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, is_asked));
        }
        let came: Vec<i32> = signals.pending().collect();
        is_asked |= forward(child, came);
        let has_failed = || {
            let status = status_of(dir);
            status.is_some_and(|status| status.code.is_some_and(|code| code != 0))
        };
        if over.is_none() && has_failed() {
            over = Some(Instant::now());
        }
        if lost.is_none() && lost_rank(dir).is_some() {
            lost = Some(Instant::now());
        }
        let lasts = over.map_or(Duration::ZERO, |over| over.elapsed());
        // Process 0 may still write a checkpoint. If it is the one that is lost, it writes no end.
        let lasts = lasts
            .max(lost.map_or(Duration::ZERO, |lost| lost.elapsed().saturating_sub(LAST_WRITE)));
        if lasts > LAUNCHER_LASTS + LAUNCHER_ENDS {
            child.kill()?;
        } else if lasts > LAUNCHER_LASTS {
            // It may just have ended.
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
        std::thread::sleep(LOOK);
    }
}

/// Whether the fault that a test asks for strikes every attempt.
fn is_fault_for_all(words: &[OsString]) -> bool {
    words.iter().any(|word| word.to_str().is_some_and(|word| word.ends_with(":again")))
}

/// The words without some flags and their values.
fn without(words: Vec<OsString>, flags: &[&str]) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let name = text.split_once('=').map_or(text.as_ref(), |(name, _)| name);
        if !flags.contains(&name) {
            kept.push(word);
        } else if name.len() == text.len() {
            words.next();
        }
    }
    kept
}

/// The largest place among the checkpoints in `dir`; 0 if there are none.
fn last_sequence(dir: &Path) -> u64 {
    let found = list(dir).unwrap_or_default().into_iter();
    let places = found.filter_map(|found| Some(found.checkpoint.ok()?.manifest().sequence));
    places.max().unwrap_or(0)
}

/// The newest checkpoint of these runs after the place `older` of which every byte is right.
fn newest(dir: &Path, older: u64, runs: &[String]) -> Option<Checkpoint> {
    let found = list(dir).unwrap_or_default().into_iter();
    let is_own = |checkpoint: &Checkpoint| {
        let manifest = checkpoint.manifest();
        manifest.sequence > older && runs.contains(&manifest.run)
    };
    let mut own: Vec<Checkpoint> =
        found.filter_map(|found| found.checkpoint.ok()).filter(is_own).collect();
    own.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.manifest().sequence));
    own.into_iter().find(|checkpoint| match checkpoint.verify() {
        Ok(()) => true,
        Err(error) => {
            note(&format!("skipped a checkpoint: {}", causes(&error)));
            false
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn flags_go_with_their_values() {
        let given = words("train --restarts 2 --pp 2 --run-dir=a --resume latest --restarts-x 1");
        let kept = without(given, &["--restarts", "--run-dir", "--resume"]);
        assert_eq!(kept, words("train --pp 2 --restarts-x 1"));
        assert!(is_fault_for_all(&words("train --inject-fault 0:1:copy:kill:again")));
        assert!(!is_fault_for_all(&words("train --inject-fault 0:1:copy:kill")));
    }
}
