//! The flags of checkpoints: when a run writes them, and from which one it goes on.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pp_telemetry::{FindError, Run, find_run, is_path, list_runs, of_path, runs_dir};
use pp_train::checkpoint::{Checkpoint, CheckpointError, list, newest};
use pp_train::{CHECKPOINTS, CheckpointOptions, Every, JobRecord, KEEP, Resume, causes};

use super::help::headings;
use super::refusal::excerpt;
use super::{CliError, note};

/// The flags of checkpoints.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct CheckpointArgs {
    /// Write checkpoints into this folder [default: checkpoints in the folder of the run]
    #[arg(long, value_name = "DIR", help_heading = headings::CHECKPOINTS)]
    pub(crate) checkpoint_dir: Option<PathBuf>,
    /// Write a checkpoint every N steps, or after a time such as 90s, 10m or 2h
    #[arg(long, value_name = "N|TIME", value_parser = every, help_heading = headings::CHECKPOINTS)]
    checkpoint_every: Option<Every>,
    #[arg(long, value_name = "K", value_parser = keep, help_heading = headings::CHECKPOINTS, help = format!("Keep the K newest checkpoints [default: {KEEP}]"))]
    keep: Option<usize>,
    /// Write a checkpoint after the last step
    #[arg(long, help_heading = headings::CHECKPOINTS)]
    checkpoint_at_end: bool,
    /// Resume from a checkpoint: its folder, a folder of checkpoints, a run, or latest; the job is
    /// that of the checkpoint, and other flags change parts of it
    #[arg(long, value_name = "DIR|RUN|latest", help_heading = headings::CHECKPOINTS)]
    pub(crate) resume: Option<OsString>,
}

impl CheckpointArgs {
    /// The options of the run.
    pub(crate) fn options(&self) -> CheckpointOptions {
        CheckpointOptions {
            dir: self.checkpoint_dir.clone(),
            every: self.checkpoint_every,
            keep: self.keep,
            at_end: self.checkpoint_at_end,
        }
    }
}

/// A number of steps, or a time.
fn every(text: &str) -> Result<Every, String> {
    let refused = || "use a number of steps, or a time such as 90s, 10m or 2h".to_owned();
    let (digits, seconds) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], Some(1)),
        Some((at, 'm')) => (&text[..at], Some(60)),
        Some((at, 'h')) => (&text[..at], Some(3600)),
        _ => (text, None),
    };
    let number = digits.parse::<u64>().ok().filter(|&number| number > 0).ok_or_else(refused)?;
    match seconds {
        None => Ok(Every::Steps(number)),
        Some(seconds) => {
            let seconds = number.checked_mul(seconds).ok_or_else(refused)?;
            Ok(Every::Time(Duration::from_secs(seconds)))
        }
    }
}

fn keep(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|&number| number > 0);
    number.ok_or_else(|| "use a whole number from 1".to_owned())
}

/// Where checkpoints lie: a folder, and the run that it is of, if that is known.
struct Place {
    dir: PathBuf,
    run: Option<Run>,
}

/// Whether a path is the folder of one checkpoint.
pub(crate) fn is_checkpoint(path: &Path) -> bool {
    path.join("manifest.json").exists()
}

/// The folder of the checkpoints that a name stands for: `latest`, a folder, or a run.
///
/// # Errors
/// [`CliError::Usage`] if it has none.
pub(crate) fn folder(name: &OsStr) -> Result<PathBuf, CliError> {
    place(name).map(|place| place.dir)
}

/// Finds the newest checkpoint that a name stands for of which every byte is right, and says which
/// ones it did not take.
///
/// # Errors
/// [`CliError::Usage`] if there is none.
pub(crate) fn find(name: &OsStr) -> Result<Checkpoint, CliError> {
    let path = Path::new(name);
    if is_checkpoint(path) { named(path) } else { newest_of(&folder(name)?) }
}

fn newest_of(dir: &Path) -> Result<Checkpoint, CliError> {
    let found = newest(dir).map_err(|error| refused(&error))?;
    for refused in &found.refused {
        note(&format!("a checkpoint is not taken: {}", causes(refused)));
    }
    let checkpoint = found.checkpoint.ok_or_else(|| {
        let dir = excerpt(&dir.display().to_string());
        CliError::Usage(format!("no checkpoint in {dir} is whole"))
    })?;
    if !found.refused.is_empty() {
        note(&format!("taking {}", checkpoint.path().display()));
    }
    Ok(checkpoint)
}

/// The checkpoint of a folder that was named itself. If it is broken, the message names the newest
/// one beside it that is whole.
fn named(path: &Path) -> Result<Checkpoint, CliError> {
    let opened = Checkpoint::open(path).and_then(|checkpoint| {
        checkpoint.verify()?;
        Ok(checkpoint)
    });
    opened.map_err(|error| {
        let beside = path.canonicalize().ok();
        let beside = beside.as_deref().and_then(Path::parent).and_then(|dir| newest(dir).ok());
        let advice = match beside.and_then(|found| found.checkpoint) {
            Some(other) => format!("use {}", other.path().display()),
            None => "no other checkpoint beside it is whole".to_owned(),
        };
        CliError::Usage(format!("{}; {advice}", causes(&error)))
    })
}

fn refused(error: &CheckpointError) -> CliError {
    CliError::Usage(causes(error))
}

fn place(name: &OsStr) -> Result<Place, CliError> {
    let path = Path::new(name);
    if name == "latest" {
        return latest();
    }
    if pp_telemetry::log_of(path).exists() || !has_any(path) {
        let run = run(name).map_err(|refused| CliError::Usage(refused.to_string()))?;
        let Some(dir) = folder_of(&run) else {
            let id = excerpt(&run.id);
            return Err(CliError::Usage(format!("the run {id} has no checkpoint")));
        };
        return Ok(Place { dir, run: Some(run) });
    }
    Ok(Place { dir: path.to_owned(), run: None })
}

/// The run with this name.
fn run(name: &OsStr) -> Result<Run, FindError> {
    match runs_dir() {
        Ok(runs) if !is_path(name) => find_run(&runs, name),
        _ => of_path(Path::new(name)),
    }
}

/// The checkpoints of the run that began last among those that have some.
fn latest() -> Result<Place, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    let runs = runs_dir().map_err(|error| failed(&error))?;
    let mut all = list_runs(&runs).map_err(|error| failed(&error))?;
    all.sort_by_key(|run| std::cmp::Reverse(run.began_unix_ms()));
    let found =
        all.into_iter().find_map(|run| Some(Place { dir: folder_of(&run)?, run: Some(run) }));
    found.ok_or_else(|| CliError::Usage("no run has a checkpoint".to_owned()))
}

/// The folder with the checkpoints of a run, if it has any: that of its flag, or the one in its own
/// folder.
fn folder_of(run: &Run) -> Option<PathBuf> {
    let told = run.status.as_ref().and_then(|status| status.checkpoints.clone());
    let own = run.dir.join(CHECKPOINTS);
    [told.map(PathBuf::from), Some(own)].into_iter().flatten().find(|dir| has_any(dir))
}

/// Whether a folder has checkpoints, whole or not.
fn has_any(dir: &Path) -> bool {
    list(dir).is_ok_and(|found| !found.is_empty())
}

/// The checkpoint that `--resume` names, and the words of its job.
///
/// # Errors
/// As [`find`]; and if its run has not ended, or it names no job.
pub(crate) fn resumed(
    name: &OsStr,
    takes_other_data: bool,
) -> Result<(Resume, Vec<String>), CliError> {
    let found = || {
        let path = Path::new(name);
        if is_checkpoint(path) {
            return named(path);
        }
        let Place { dir, run } = place(name)?;
        if let Some(run) = run.filter(|run| run.standing().is_alive()) {
            let id = excerpt(&run.id);
            return Err(CliError::Usage(format!("the run {id} has not ended; stop it first")));
        }
        newest_of(&dir)
    };
    let told = |error: CliError| match error {
        CliError::Usage(why) => CliError::Usage(format!("--resume: {why}")),
        other => other,
    };
    let checkpoint = found().map_err(told)?;
    let record = JobRecord::read(&checkpoint)
        .map_err(|error| CliError::Usage(format!("--resume: {}", causes(&error))))?;
    Ok((Resume { checkpoint, takes_other_data }, record.words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_number_of_steps_or_a_time() {
        assert_eq!(every("10"), Ok(Every::Steps(10)));
        assert_eq!(every("90s"), Ok(Every::Time(Duration::from_secs(90))));
        assert_eq!(every("10m"), Ok(Every::Time(Duration::from_mins(10))));
        assert_eq!(every("2h"), Ok(Every::Time(Duration::from_hours(2))));
        for text in ["", "0", "0s", "m", "-1", "1d", "1.5h", "5124095576030432h"] {
            assert!(every(text).is_err(), "{text}");
        }
        assert_eq!(keep("3"), Ok(3));
        assert!(keep("0").is_err());
    }
}
