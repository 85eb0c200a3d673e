//! The runs that are kept: which there are, how they stand, which one is meant, and which have to
//! go.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use pp_schedule::did_you_mean;
use thiserror::Error;

use crate::process::is_of_this_namespace;
use crate::ranks::{RankFolder, status_of_job};
use crate::standing::{Evidence, Standing};
use pp_trace::{
    COMPRESSED_FILE, EVENTS_FILE, End, Event, Line, RankFile, STATUS_FILE, Status, log_of,
    open_regular,
};

/// Bytes that a summary has at most.
const STATUS_BYTES_MAX: u64 = 64 * 1024;
/// Runs that are named when a prefix fits several.
const NAMED_MAX: usize = 5;

/// One run that is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its id: the name of its directory.
    pub id: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Its log: as it is written, or compressed.
    pub log: PathBuf,
    /// Its summary, if it can be read.
    pub status: Option<Status>,
    /// The last line of its log, where that is one and the summary does not tell the end.
    pub end: Option<End>,
    /// Bytes of all its files.
    pub bytes: u64,
    /// When any of them was last written.
    pub modified: SystemTime,
}

impl Run {
    /// The run of a directory, or `None` if it holds no run. A symbolic link holds none.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn of(dir: &Path) -> io::Result<Option<Self>> {
        let about = dir.symlink_metadata()?;
        let Some(id) = dir.file_name().filter(|_| about.is_dir()) else { return Ok(None) };
        let (mut bytes, mut modified, mut is_run) = (0, about.modified()?, false);
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let about = entry.metadata()?;
            is_run |= [EVENTS_FILE, COMPRESSED_FILE, STATUS_FILE]
                .iter()
                .any(|name| entry.file_name() == *name)
                || RankFile::is_name(&entry.file_name());
            bytes += about.len();
            modified = modified.max(about.modified()?);
        }
        let log = log_or_ranks_of(dir);
        let status = status_of(dir);
        Ok(is_run.then(|| Self {
            id: id.to_string_lossy().into_owned(),
            dir: dir.to_owned(),
            end: end_of(&log, status.as_ref()),
            log,
            status,
            bytes,
            modified,
        }))
    }

    /// When it began, in milliseconds of Unix time: by its own account, but not after its last
    /// byte. A clock that was wrong once does not make a run the newest for ever.
    pub fn began_unix_ms(&self) -> u64 {
        let since = self.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let modified = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let began = self.status.as_ref().map(|status| status.started_unix_ms);
        began.filter(|&began| began > 0).unwrap_or(modified).min(modified)
    }

    /// How it stands, by its summary, its process, and the last line of its log.
    pub fn standing(&self) -> Standing {
        self.evidence().standing()
    }

    /// Whether its ranks have written a file each, and nobody has made a log of them.
    pub fn has_ranks(&self) -> bool {
        RankFolder::is_one(&self.log)
    }

    /// What is known of how it stands; who has read its log knows more.
    pub fn evidence(&self) -> Evidence<'_> {
        let evidence = self.status.as_ref().map(Evidence::of).unwrap_or_default();
        Evidence { end: self.end.as_ref(), ..evidence }
    }
}

/// Bytes at the end of a log in which its last line is looked for.
const TAIL_BYTES: u64 = 64 * 1024;

/// How a run ended by the last line of its log, where its summary does not say so. A compressed log
/// cannot be read from its end.
fn end_of(log: &Path, status: Option<&Status>) -> Option<End> {
    let has_ended = status.is_some_and(|status| Evidence::of(status).code.is_some());
    if has_ended || log.extension().is_some_and(|ending| ending == "zst") {
        return None;
    }
    let mut file = open_regular(log).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail).ok()?;
    // A last line without its line feed is not whole yet.
    let whole = tail.strip_suffix(b"\n")?;
    let line = whole.rsplit(|&byte| byte == b'\n').next()?;
    match Event::parse(line) {
        Ok(Line::Event(Event::End(end))) => Some(end),
        _ => None,
    }
}

/// The log of a run's folder; the folder itself, if each rank has written a file of its own and
/// nobody has collected them into a log.
pub fn log_or_ranks_of(dir: &Path) -> PathBuf {
    let log = log_of(dir);
    let Ok(files) = RankFile::all_in(dir) else { return log };
    let written = |path: &Path| path.symlink_metadata().and_then(|about| about.modified()).ok();
    let newest = files.iter().filter_map(|file| written(&file.path)).max();
    // A job that has begun since is not in the log.
    if newest > written(&log) { dir.to_owned() } else { log }
}

/// The summary of a run, if there is one that can be read. That of a job of another framework
/// follows from the files of its ranks.
pub fn status_of(dir: &Path) -> Option<Status> {
    read_status(dir).or_else(|| status_of_job(dir))
}

/// The summary of the run of a log in a folder; with files of ranks, that of the log's job.
pub fn status_of_log(dir: &Path, log: &Path) -> Option<Status> {
    if RankFolder::is_one(log) { status_of_job(log) } else { status_of(dir) }
}

fn read_status(dir: &Path) -> Option<Status> {
    let mut text = Vec::new();
    open_regular(&dir.join(STATUS_FILE))
        .ok()?
        .take(STATUS_BYTES_MAX)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice(&text).ok()
}

/// All runs below a directory, the newest first; none where it does not exist. What cannot be read
/// is left out.
///
/// # Errors
/// The directory is there and cannot be read.
pub fn list_runs(runs_dir: &Path) -> io::Result<Vec<Run>> {
    let entries = match fs::read_dir(runs_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut runs: Vec<Run> =
        entries.filter_map(|entry| Run::of(&entry.ok()?.path()).ok().flatten()).collect();
    // Of runs that began in the same moment the one with the higher number behind its name is
    // newer.
    runs.sort_by_cached_key(|run| Reverse((run.began_unix_ms(), run.id.len(), run.id.clone())));
    Ok(runs)
}

/// Which run is meant, and why none.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FindError {
    /// There are no runs.
    #[error("there are no runs in {0:?}; start one with pptop train")]
    NoRuns(PathBuf),
    /// Nothing has this name.
    #[error("no run, process or file is called {given:?}; {remedy}")]
    Unknown {
        /// What was asked for.
        given: String,
        /// The name that was probably meant, and what can be named.
        remedy: String,
    },
    /// Several runs begin with it.
    #[error("{n} runs begin with {given:?}: {named}; give more of the name")]
    Ambiguous {
        /// What was asked for.
        given: String,
        /// How many begin with it.
        n: usize,
        /// Some of them.
        named: String,
    },
    /// The file or directory is no run.
    #[error(
        "{0:?} contains no run; name a folder with {EVENTS_FILE} or files of ranks, or the file itself"
    )]
    NotARun(PathBuf),
    /// It cannot be looked at.
    #[error("cannot read {path:?}: {source}; name a run that can be read")]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The run that a name means: `latest`, the beginning of an id, the number of a process, a folder,
/// or a log.
///
/// # Errors
/// [`FindError`] says why not, and what can be named.
pub fn find_run(runs_dir: &Path, name: impl AsRef<OsStr>) -> Result<Run, FindError> {
    let name = name.as_ref();
    if is_path(name) {
        return of_path(Path::new(name));
    }
    find_by_name(runs_dir, name)
}

/// Whether a name can only mean a file or a folder: then nobody has to know where runs are kept.
pub fn is_path(name: &OsStr) -> bool {
    let is_log = |ending: &OsStr| ending == "jsonl" || ending == "zst";
    name.as_bytes().contains(&b'/') || Path::new(name).extension().is_some_and(is_log)
}

fn find_by_name(runs_dir: &Path, name: &OsStr) -> Result<Run, FindError> {
    let path = Path::new(name);
    let runs = match list_runs(runs_dir) {
        Ok(runs) => runs,
        // What is here needs no list.
        Err(_) if name != "latest" && path.exists() => return of_path(path),
        Err(source) => return Err(FindError::Unreadable { path: runs_dir.to_owned(), source }),
    };
    // Ids are UTF-8, so a name that is not matches none of them.
    let name = &*name.to_string_lossy();
    if name == "latest" {
        return runs.into_iter().next().ok_or_else(|| FindError::NoRuns(runs_dir.to_owned()));
    }
    if let Ok(pid) = name.parse::<u32>() {
        let has_it = |run: &&Run| {
            run.standing().is_alive() && run.status.as_ref().is_some_and(|status| status.pid == pid)
        };
        let is_here = |run: &&Run| run.status.as_ref().is_some_and(is_of_this_namespace);
        // Containers have processes of the same numbers: the one that is this number here comes
        // first.
        let (here, elsewhere): (Vec<&Run>, Vec<&Run>) =
            runs.iter().filter(has_it).partition(is_here);
        match if here.is_empty() { elsewhere } else { here }.as_slice() {
            [] => {}
            [run] => return Ok((*run).clone()),
            several => return Err(ambiguous(name, several)),
        }
    }
    if let Some(run) = runs.iter().find(|run| run.id == name) {
        return Ok(run.clone());
    }
    let mut fitting: Vec<&Run> =
        runs.iter().filter(|run| !name.is_empty() && run.id.starts_with(name)).collect();
    match fitting.len() {
        1 => Ok(fitting.remove(0).clone()),
        // A folder or a file here, where no run has this name.
        0 if path.exists() => of_path(path),
        0 => {
            let given = name.chars().take(64).collect();
            let known = runs.iter().map(|run| run.id.as_str()).chain(["latest"]);
            let meant = did_you_mean(name, known).map_or_else(String::new, |meant| meant + " ");
            let remedy = match runs.first() {
                Some(run) => format!(
                    "{meant}name latest, the beginning of an id such as {}, the process id of a run, or a file",
                    run.id
                ),
                None => "name a file; there are no runs yet".to_owned(),
            };
            Err(FindError::Unknown { given, remedy })
        }
        _ => Err(ambiguous(name, &fitting)),
    }
}

fn ambiguous(name: &str, fitting: &[&Run]) -> FindError {
    let mut named: Vec<&str> = fitting.iter().take(NAMED_MAX).map(|run| run.id.as_str()).collect();
    if fitting.len() > NAMED_MAX {
        named.push("…");
    }
    FindError::Ambiguous { given: name.to_owned(), n: fitting.len(), named: named.join(" ") }
}

/// The run of a folder, or of a log that may lie anywhere. A link to a folder is followed, once; a
/// link to a log is not.
///
/// # Errors
/// [`FindError`] says what would be accepted.
pub fn of_path(path: &Path) -> Result<Run, FindError> {
    let unreadable = |source| FindError::Unreadable { path: path.to_owned(), source };
    let about = path.symlink_metadata().map_err(unreadable)?;
    if path.is_dir() {
        let whole = path.canonicalize().map_err(unreadable)?;
        return Run::of(&whole)
            .map_err(unreadable)?
            .ok_or_else(|| FindError::NotARun(path.to_owned()));
    }
    open_regular(path).map_err(unreadable)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_named =
        [EVENTS_FILE, COMPRESSED_FILE].iter().any(|n| path.file_name().is_some_and(|f| f == *n))
            || RankFile::of(path).is_some();
    let status = if is_named { status_of_log(dir, path) } else { None };
    let name =
        path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    Ok(Run {
        id: name,
        dir: dir.to_owned(),
        log: path.to_owned(),
        // Beside a file of another name lies the summary of another run, if any.
        end: end_of(path, status.as_ref()),
        status,
        bytes: about.len(),
        modified: about.modified().map_err(unreadable)?,
    })
}
