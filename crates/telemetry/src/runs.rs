//! The runs that are kept: which there are, how they stand, which one is meant, and which have to go.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pp_schedule::did_you_mean;
use thiserror::Error;

use crate::files::{CHECKPOINT_FILE, COMPRESSED_FILE, EVENTS_FILE, STATUS_FILE};
use crate::source::{log_of, open_regular};
use crate::standing::{Evidence, Standing};
use crate::status::Status;

/// What the trainer says on its standard error when it runs in the background.
pub const STDERR_FILE: &str = "stderr.log";

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
    /// Bytes of all its files.
    pub bytes: u64,
    /// When any of them was last written.
    pub modified: SystemTime,
}

impl Run {
    /// The run of a directory, if it is one.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn of(dir: &Path) -> io::Result<Option<Self>> {
        let about = dir.symlink_metadata()?;
        let Some(id) = dir.file_name().and_then(|name| name.to_str()).filter(|_| about.is_dir())
        else {
            return Ok(None);
        };
        let (mut bytes, mut modified, mut is_run) = (0, about.modified()?, false);
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let about = entry.metadata()?;
            is_run |= [EVENTS_FILE, COMPRESSED_FILE, STATUS_FILE]
                .iter()
                .any(|name| entry.file_name() == *name);
            bytes += about.len();
            modified = modified.max(about.modified()?);
        }
        let log = log_of(dir);
        Ok(is_run.then(|| Self {
            id: id.to_owned(),
            dir: dir.to_owned(),
            log,
            status: status_of(dir),
            bytes,
            modified,
        }))
    }

    /// How it stands, by its summary and its process.
    pub fn standing(&self) -> Standing {
        self.evidence().standing()
    }

    /// What is known of how it stands; who has read its log knows more.
    pub fn evidence(&self) -> Evidence<'_> {
        self.status.as_ref().map(Evidence::of).unwrap_or_default()
    }
}

/// The summary of a run, if there is one that can be read.
pub fn status_of(dir: &Path) -> Option<Status> {
    let mut text = Vec::new();
    open_regular(&dir.join(STATUS_FILE))
        .ok()?
        .take(STATUS_BYTES_MAX)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice(&text).ok()
}

/// All runs below a directory, the newest first; none where it does not exist. What cannot be read is left out.
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
    let began = |run: &Run| run.status.as_ref().map_or(0, |status| status.started_unix_ms);
    runs.sort_by(|a, b| began(b).cmp(&began(a)).then_with(|| b.id.cmp(&a.id)));
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
    #[error("{n} runs begin with {given:?}: {named}; write more of the name")]
    Ambiguous {
        /// What was asked for.
        given: String,
        /// How many begin with it.
        n: usize,
        /// Some of them.
        named: String,
    },
    /// The file or directory is no run.
    #[error("{0:?} holds no run; name a folder with {EVENTS_FILE}, or such a file")]
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

/// The run that a name means: `latest`, the beginning of an id, the number of a process, a folder, or a log.
///
/// # Errors
/// [`FindError`] says why not, and what can be named.
pub fn find_run(runs_dir: &Path, name: &str) -> Result<Run, FindError> {
    let unreadable = |path: &Path, source| FindError::Unreadable { path: path.to_owned(), source };
    let path = Path::new(name);
    let is_path =
        name.contains('/') || path.extension().is_some_and(|e| e == "jsonl" || e == "zst");
    if is_path {
        return of_path(path);
    }
    let runs = list_runs(runs_dir).map_err(|error| unreadable(runs_dir, error))?;
    if name == "latest" {
        return runs.into_iter().next().ok_or_else(|| FindError::NoRuns(runs_dir.to_owned()));
    }
    if let Ok(pid) = name.parse::<u32>() {
        let has_it = |run: &&Run| {
            run.standing().is_alive() && run.status.as_ref().is_some_and(|status| status.pid == pid)
        };
        let is_here = |run: &&Run| run.status.as_ref().is_some_and(Status::is_of_this_namespace);
        // Containers have processes of the same numbers: the one that is this number here comes first.
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
        // A folder here, where no run has this name.
        0 if path.is_dir() => of_path(path),
        0 => {
            let given = name.chars().take(64).collect();
            let known = runs.iter().map(|run| run.id.as_str()).chain(["latest"]);
            let meant = did_you_mean(name, known).map_or_else(String::new, |meant| meant + " ");
            let remedy = match runs.first() {
                Some(run) => format!(
                    "{meant}name latest, the beginning of an id such as {}, the process number of a run, or a file",
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

/// The run of a folder, or of a log that may lie anywhere.
fn of_path(path: &Path) -> Result<Run, FindError> {
    let unreadable = |source| FindError::Unreadable { path: path.to_owned(), source };
    let about = path.symlink_metadata().map_err(unreadable)?;
    if about.is_dir() {
        let whole = path.canonicalize().map_err(unreadable)?;
        return Run::of(&whole)
            .map_err(unreadable)?
            .ok_or_else(|| FindError::NotARun(path.to_owned()));
    }
    open_regular(path).map_err(unreadable)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_named =
        [EVENTS_FILE, COMPRESSED_FILE].iter().any(|n| path.file_name().is_some_and(|f| f == *n));
    let name =
        path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    Ok(Run {
        id: name,
        dir: dir.to_owned(),
        log: path.to_owned(),
        // Beside a file of another name lies the summary of another run, if any.
        status: if is_named { status_of(dir) } else { None },
        bytes: about.len(),
        modified: about.modified().map_err(unreadable)?,
    })
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Runs.
    pub runs: usize,
    /// Bytes of all runs together.
    pub bytes: u64,
    /// Since the last byte was written.
    pub age: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self { runs: 100, bytes: 1_000_000_000, age: Duration::from_hours(30 * 24) }
    }
}

/// Logs of runs that ended are compressed when nothing was written for so long: whoever watched has seen the end.
const COMPRESS_AFTER: Duration = Duration::from_mins(10);
/// Whoever has not written for so long is gone, whatever the list of processes says.
const SILENT: Duration = Duration::from_mins(1);
const COMPRESS_LEVEL: i32 = 3;

/// What tidying up did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Runs whose logs were compressed.
    pub compressed: Vec<String>,
    /// Runs that were removed.
    pub removed: Vec<String>,
    /// What could not be done, in a line each.
    pub failed: Vec<String>,
}

/// Compresses the logs of finished runs, and removes the oldest runs beyond what is kept: by their number, by the bytes of their logs, and by
/// their age. The newest run is kept whatever the size of its log, a run with a checkpoint until somebody removes it; a run whose process is
/// there is never touched, nor is anything that is no run. With `dry` it only tells.
///
/// # Errors
/// The directory cannot be read or locked. Another process that tidies up at the moment is no error: then nothing is done.
pub fn tidy(runs_dir: &Path, keep: Keep, dry: bool) -> io::Result<Tidied> {
    let mut tidied = Tidied::default();
    let Some(_lock) = Lock::take(runs_dir)? else { return Ok(tidied) };
    let uid = rustix::process::getuid().as_raw();
    let now = SystemTime::now();
    let (mut n_kept, mut kept_bytes, mut is_full) = (0, 0_u64, false);
    for run in list_runs(runs_dir)? {
        let age = now.duration_since(run.modified).unwrap_or_default();
        let is_ours = run.dir.symlink_metadata().is_ok_and(|about| about.uid() == uid);
        let may_go = is_ours
            && !run.dir.join(CHECKPOINT_FILE).exists()
            && match run.standing() {
                Standing::Starting
                | Standing::Live
                | Standing::Stalled(_)
                | Standing::Suspended => false,
                Standing::Finished | Standing::Stopped(_) | Standing::Failed(_) => true,
                // Its process may be one that this machine's list of processes does not show.
                Standing::Died => age > SILENT,
                // A run of another machine may live; it is left alone until it is old.
                Standing::Unknown => age > keep.age,
            };
        if may_go && (is_full || n_kept >= keep.runs || age > keep.age) {
            drop_run(&run, dry, &mut tidied);
            continue;
        }
        let is_plain = run.log.file_name().is_some_and(|name| name == EVENTS_FILE);
        let has_ended = run.standing().is_over();
        if is_ours && has_ended && is_plain && age > COMPRESS_AFTER {
            match if dry { Ok(()) } else { compress(&run) } {
                Ok(()) => tidied.compressed.push(run.id.clone()),
                Err(error) => tidied.failed.push(format!("{}: {error}", run.id)),
            }
        }
        // What counts is the log as it is now, and not what somebody has put beside it.
        let log_bytes = fs::metadata(log_of(&run.dir)).map_or(0, |about| about.len());
        if n_kept > 0 && kept_bytes.saturating_add(log_bytes) > keep.bytes {
            // From here on there is no room, for older ones neither.
            is_full = true;
            if may_go {
                tidied.compressed.retain(|id| *id != run.id);
                drop_run(&run, dry, &mut tidied);
                continue;
            }
        }
        n_kept += 1;
        kept_bytes = kept_bytes.saturating_add(log_bytes);
    }
    Ok(tidied)
}

fn drop_run(run: &Run, dry: bool, tidied: &mut Tidied) {
    match if dry { Ok(()) } else { remove(&run.dir) } {
        Ok(()) => tidied.removed.push(run.id.clone()),
        Err(error) => tidied.failed.push(format!("{}: {error}", run.id)),
    }
}

/// Removes the files of a run, with what a monitor has put beside them, and its folder.
///
/// # Errors
/// There is something else in the folder: then nothing is removed. Or a file cannot be removed.
pub fn remove(dir: &Path) -> io::Result<()> {
    const OURS: [&str; 6] =
        [EVENTS_FILE, COMPRESSED_FILE, STATUS_FILE, STDERR_FILE, CHECKPOINT_FILE, COMPRESSED_DRAFT];
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let text = name.to_str().unwrap_or_default();
        let is_between = |before: &str, after: &str| {
            text.strip_prefix(before).is_some_and(|rest| rest.strip_suffix(after).is_some())
        };
        // Screens and traces, and what a process that was killed had not finished.
        let is_ours = OURS.contains(&text)
            || is_between("screen-", ".txt")
            || is_between("step-", ".trace.json")
            || is_between("checkpoint.safetensors.", "")
            || is_between(".", ".new");
        if !is_ours {
            let shown = name.display();
            return Err(io::Error::other(format!("{shown} is none of a run's files")));
        }
        names.push(name);
    }
    for name in names {
        match fs::remove_file(dir.join(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    fs::remove_dir(dir)
}

const COMPRESSED_DRAFT: &str = ".events.jsonl.zst.new";

/// The compressed log takes the place of the plain one only when it is whole.
fn compress(run: &Run) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let draft = run.dir.join(COMPRESSED_DRAFT);
    match fs::remove_file(&draft) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let into = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let mut log = open_regular(&run.log)?;
    let mut encoder = zstd::Encoder::new(into, COMPRESS_LEVEL)?;
    io::copy(&mut log, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(&draft, run.dir.join(COMPRESSED_FILE))?;
    fs::remove_file(&run.log)
}

/// Only one process tidies up at a time.
struct Lock {
    _file: fs::File,
}

impl Lock {
    fn take(runs_dir: &Path) -> io::Result<Option<Self>> {
        use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match open(runs_dir.join(".tidy.lock"), flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => fs::File::from(fd),
            // No runs yet.
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}
