//! The flags of checkpoints: when a run writes them, and from which one it goes on.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pp_telemetry::{FindError, Run, find_run, is_path, list_runs, of_path, runs_dir};
use pp_train::checkpoint::{
    Checkpoint, CheckpointError, MANIFEST, Manifest, is_busy, list, newest,
};
use pp_train::{CHECKPOINTS, CheckpointOptions, Every, JobRecord, KEEP, Resume, causes};

use super::help::headings;
use super::refusal::excerpt;
use super::{CliError, note};

/// The most runs that a message names.
const NAMED_MAX: usize = 3;

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
}

/// The checkpoint to resume from.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ResumeArgs {
    /// Resume from a checkpoint: its folder, a folder of checkpoints, a run, or latest; the job and
    /// its checkpoint flags are those of that run, and other flags change parts of them
    #[arg(long, value_name = "DIR|RUN|latest", help_heading = headings::CHECKPOINTS)]
    pub(crate) resume: Option<OsString>,
}

impl CheckpointArgs {
    /// The options of the run. The folder is absolute: its name is kept for commands that run
    /// elsewhere.
    pub(crate) fn options(&self) -> CheckpointOptions {
        let absolute = |dir: &PathBuf| std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
        CheckpointOptions {
            dir: self.checkpoint_dir.as_ref().map(absolute),
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

/// Where checkpoints lie: a folder, and the run whose checkpoints count there; `None` counts all.
struct Place {
    dir: PathBuf,
    run: Option<Run>,
}

/// The reason for a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To read a checkpoint.
    Read,
    /// To resume from it.
    Resume,
}

impl Purpose {
    /// What to do where nothing was found.
    fn remedy(self) -> &'static str {
        match self {
            Self::Read => "name another run or folder",
            Self::Resume => "name another run or folder, or start without --resume",
        }
    }
}

/// The result of a search for the newest checkpoint in a folder.
#[derive(Debug, Default)]
struct Search {
    /// The newest one of which every byte is right.
    checkpoint: Option<Checkpoint>,
    /// Those that looked newer or cannot be placed, and why each was not taken.
    refused: Vec<CheckpointError>,
    /// The runs in the folder whose checkpoints do not count.
    others: BTreeSet<String>,
}

/// Whether a path is the folder of one checkpoint.
pub(crate) fn is_checkpoint(path: &Path) -> bool {
    path.join(MANIFEST).exists()
}

/// The folder of the checkpoints that a name stands for: `latest`, a folder, or a run.
///
/// # Errors
/// [`CliError::Usage`] if it has none.
pub(crate) fn folder(name: &OsStr) -> Result<PathBuf, CliError> {
    if name == "latest" {
        let latest = latest()?.into_iter().next();
        return latest.map(|place| place.dir).ok_or_else(|| none_in_any_run(Purpose::Read));
    }
    place(name).map(|place| place.dir)
}

/// Finds the newest checkpoint that a name stands for of which every byte is right, and says which
/// ones it did not take.
///
/// # Errors
/// [`CliError::Usage`] if there is none.
pub(crate) fn find(name: &OsStr) -> Result<Checkpoint, CliError> {
    find_for(name, Purpose::Read)
}

fn find_for(name: &OsStr, purpose: Purpose) -> Result<Checkpoint, CliError> {
    let path = Path::new(name);
    if is_checkpoint(path) {
        let whole = path.canonicalize().ok();
        let dir = whole.as_deref().and_then(Path::parent);
        dir.map_or(Ok(()), |dir| refuse_busy(dir, purpose))?;
        return named(path);
    }
    if name == "latest" {
        return newest_of_latest(purpose);
    }
    let place = place(name)?;
    refuse_alive(&place, purpose)?;
    let Search { checkpoint, refused, others } = search(&place)?;
    tell(&refused, &mut BTreeSet::new());
    let checkpoint = checkpoint.ok_or_else(|| none_there(&place, &others, purpose))?;
    if !refused.is_empty() {
        note(&format!("taking {}", checkpoint.path().display()));
    }
    Ok(checkpoint)
}

/// The newest whole checkpoint of the run that began last among those that have one.
fn newest_of_latest(purpose: Purpose) -> Result<Checkpoint, CliError> {
    let mut told = BTreeSet::new();
    for place in latest()? {
        refuse_alive(&place, purpose)?;
        let Search { checkpoint, refused, .. } = search(&place)?;
        tell(&refused, &mut told);
        match (checkpoint, &place.run) {
            (Some(checkpoint), _) => {
                if !told.is_empty() {
                    note(&format!("taking {}", checkpoint.path().display()));
                }
                return Ok(checkpoint);
            }
            (None, Some(run)) if !refused.is_empty() => {
                let id = excerpt(&run.id);
                note(&format!("no checkpoint of the run {id} is whole; trying the run before it"));
            }
            _ => {}
        }
    }
    Err(none_in_any_run(purpose))
}

fn none_in_any_run(purpose: Purpose) -> CliError {
    let remedy = match purpose {
        Purpose::Read => "name a folder of checkpoints",
        Purpose::Resume => "start without --resume",
    };
    CliError::Usage(format!("no run has a checkpoint that is whole; {remedy}"))
}

/// Why nothing is taken from a folder.
fn none_there(place: &Place, others: &BTreeSet<String>, purpose: Purpose) -> CliError {
    let dir = excerpt(&place.dir.display().to_string());
    let remedy = purpose.remedy();
    CliError::Usage(match &place.run {
        Some(run) if !others.is_empty() => {
            let id = excerpt(&run.id);
            let mut named: Vec<String> =
                others.iter().take(NAMED_MAX).map(|other| excerpt(other)).collect();
            if others.len() > NAMED_MAX {
                named.push("…".to_owned());
            }
            let named = named.join(" ");
            format!("the run {id} has no whole checkpoint in {dir}; name a run that has: {named}")
        }
        Some(run) => {
            let id = excerpt(&run.id);
            format!("no checkpoint of the run {id} in {dir} is whole; {remedy}")
        }
        None => format!("no checkpoint in {dir} is whole; {remedy}"),
    })
}

/// Says which checkpoints are not taken, each once.
fn tell(refused: &[CheckpointError], told: &mut BTreeSet<String>) {
    for refused in refused {
        let why = causes(refused);
        if !told.contains(&why) {
            note(&format!("skipped a checkpoint: {why}"));
            told.insert(why);
        }
    }
}

fn search(place: &Place) -> Result<Search, CliError> {
    let Some(run) = &place.run else {
        let found = newest(&place.dir).map_err(|error| refused(&error))?;
        let others = BTreeSet::new();
        return Ok(Search { checkpoint: found.checkpoint, refused: found.refused, others });
    };
    let mut search = Search::default();
    let mut there = Vec::new();
    for found in list(&place.dir).map_err(|error| refused(&error))? {
        match found.checkpoint {
            Ok(checkpoint) => there.push(checkpoint),
            Err(refused) => search.refused.push(refused),
        }
    }
    let (mut own, others): (Vec<Checkpoint>, Vec<Checkpoint>) =
        there.into_iter().partition(|checkpoint| is_of(run, checkpoint.manifest()));
    search.others = others.iter().map(|other| other.manifest().run.clone()).collect();
    own.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.manifest().sequence));
    for checkpoint in own {
        match checkpoint.verify() {
            Ok(()) => {
                search.checkpoint = Some(checkpoint);
                break;
            }
            Err(refused) => search.refused.push(refused),
        }
    }
    Ok(search)
}

/// Whether a checkpoint is of a run, of a run that continues it, or of a restart of it.
fn is_of(run: &Run, manifest: &Manifest) -> bool {
    // The folder of a run may have another name by now.
    let id = run.status.as_ref().map(|status| status.run.as_str()).filter(|id| !id.is_empty());
    let id = id.unwrap_or(&run.id);
    let before = manifest.continues.iter().map(|before| before.run.as_str());
    before.chain([manifest.run.as_str()]).any(|other| {
        // A restart without a checkpoint to resume from continues no run.
        let number = other.strip_prefix(id).and_then(|rest| rest.strip_prefix("-restart-"));
        other == id || number.is_some_and(|number| number.parse::<u64>().is_ok())
    })
}

/// Refuses to resume from a run that has not ended.
fn refuse_alive(place: &Place, purpose: Purpose) -> Result<(), CliError> {
    let alive = place.run.as_ref().filter(|run| run.standing().is_alive());
    if let (Some(run), Purpose::Resume) = (alive, purpose) {
        let id = excerpt(&run.id);
        return Err(CliError::Usage(format!("the run {id} has not ended; stop it first")));
    }
    refuse_busy(&place.dir, purpose)
}

/// Refuses to resume from a folder into which a run writes.
fn refuse_busy(dir: &Path, purpose: Purpose) -> Result<(), CliError> {
    if purpose == Purpose::Read || !is_busy(dir) {
        return Ok(());
    }
    let dir = excerpt(&dir.display().to_string());
    Err(CliError::Usage(format!(
        "a run that has not ended writes checkpoints into {dir}; stop it first, or name another folder"
    )))
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

/// The place that a folder or a run stands for.
fn place(name: &OsStr) -> Result<Place, CliError> {
    let path = Path::new(name);
    if pp_telemetry::log_of(path).exists() || !has_any(path) {
        let run = run(name).map_err(|refused| CliError::Usage(refused.to_string()))?;
        let Some(dir) = folder_of(&run) else {
            let id = excerpt(&run.id);
            // A run that has just begun may not have said yet where its checkpoints are.
            let why = if run.standing().is_alive() {
                "has not ended, and has no checkpoint so far; stop it first, or name another"
            } else {
                "has no checkpoint; name another"
            };
            return Err(CliError::Usage(format!("the run {id} {why}")));
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

/// The places of all runs whose folder has checkpoints, of the run that began last first.
fn latest() -> Result<Vec<Place>, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    let runs = runs_dir().map_err(|error| failed(&error))?;
    let all = list_runs(&runs).map_err(|error| failed(&error))?;
    let place = |run: Run| Some(Place { dir: folder_of(&run)?, run: Some(run) });
    Ok(all.into_iter().filter_map(place).collect())
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
    let told = |error: CliError| match error {
        CliError::Usage(why) => CliError::Usage(format!("--resume: {why}")),
        other => other,
    };
    let checkpoint = find_for(name, Purpose::Resume).map_err(told)?;
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
