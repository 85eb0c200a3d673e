//! Which runs have to go, and how they go.
//!
//! Tidying removes whole runs only, and of a run only what it has on record: the files that every
//! run writes, what a monitor writes beside them under names of a fixed form, and what the status
//! names. A folder that contains anything else stays as it is. A dry run takes the same decisions
//! by the same function; it compresses into nothing to know how small a log would become.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead as _, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::runs::{Run, list_runs, status_of};
use crate::standing::{Evidence, Standing};
use pp_trace::{
    CHECKPOINT_FILE, COMPRESSED_DRAFT, COMPRESSED_FILE, EVENTS_FILE, OWN_FILES, RankFile, log_of,
    open_regular,
};

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

/// Logs of runs that ended are compressed when nothing was written for so long: whoever watched has
/// seen the end.
const COMPRESS_AFTER: Duration = Duration::from_mins(10);
/// A run that has written nothing for this long is gone, whatever the process list says.
const SILENT: Duration = Duration::from_mins(1);
const COMPRESS_LEVEL: i32 = 3;
/// How long one waits for another process that tidies up.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_FILE: &str = ".tidy.lock";

/// What tidying up did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Runs whose logs were compressed.
    pub compressed: Vec<String>,
    /// Runs that were removed.
    pub removed: Vec<String>,
    /// Runs that would have gone, and what else is in their folders, in a line each.
    pub left: Vec<String>,
    /// What could not be done, in a line each.
    pub failed: Vec<String>,
    /// Another process tidies up at the moment, so nothing was done.
    pub is_busy: bool,
}

/// Compresses the logs of finished runs, and removes the oldest runs beyond what is kept: by their
/// number, by the bytes of their logs, and by their age. The newest run is kept whatever the limits
/// are, a run with a checkpoint until somebody removes it; a run whose process is there is never
/// touched, nor is anything that is no run, nor a folder with anything else in it. With `dry` it
/// only tells.
///
/// # Errors
/// The directory cannot be read or locked. Another process that tidies up at the moment is no
/// error: then nothing is done.
pub fn tidy(runs_dir: &Path, keep: Keep, dry: bool) -> io::Result<Tidied> {
    let mut tidied = Tidied::default();
    let _lock = match Lock::take(runs_dir, dry)? {
        Taken::Ours(lock) => lock,
        Taken::NoRuns => return Ok(tidied),
        Taken::Busy => return Ok(Tidied { is_busy: true, ..tidied }),
    };
    let uid = rustix::process::getuid().as_raw();
    let now = SystemTime::now();
    let (mut n_kept, mut kept_bytes, mut is_full) = (0, 0_u64, false);
    for (place, run) in list_runs(runs_dir)?.into_iter().enumerate() {
        let age = now.duration_since(run.modified).unwrap_or_default();
        let is_ours = run.dir.symlink_metadata().is_ok_and(|about| about.uid() == uid);
        let is_newest = place == 0;
        let mut may_go = is_ours
            && !is_newest
            && !has_results(&run)
            && match summed_up(&run) {
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
        let has_to_go = |tidied: &mut Tidied| match files_of(&run.dir) {
            Ok(names) => {
                drop_run(&run, &names, dry, tidied);
                true
            }
            Err(why) => {
                tidied.left.push(format!("{}: {why}", run.id));
                false
            }
        };
        if may_go && (is_full || n_kept >= keep.runs || age > keep.age) {
            if has_to_go(&mut tidied) {
                continue;
            }
            may_go = false;
        }
        let is_plain = run.log.file_name().is_some_and(|name| name == EVENTS_FILE);
        let has_ended = summed_up(&run).is_over();
        let draft = if is_ours && has_ended && is_plain && age > COMPRESS_AFTER {
            match Draft::of(&run, dry) {
                Ok(draft) => Some(draft),
                Err(error) => {
                    tidied.failed.push(format!("{}: {error}", run.id));
                    None
                }
            }
        } else {
            None
        };
        // What counts is the log as it will be, and not what somebody has put beside it.
        let log_bytes = match &draft {
            Some(draft) => draft.bytes,
            None => fs::metadata(log_of(&run.dir)).map_or(0, |about| about.len()),
        };
        if n_kept > 0 && kept_bytes.saturating_add(log_bytes) > keep.bytes {
            // From here on there is no room, for older ones neither.
            is_full = true;
            // What was compressed for nothing goes with the rest.
            if may_go && has_to_go(&mut tidied) {
                continue;
            }
        }
        if let Some(draft) = draft {
            match draft.keep() {
                Ok(()) => tidied.compressed.push(run.id.clone()),
                Err(error) => tidied.failed.push(format!("{}: {error}", run.id)),
            }
        }
        n_kept += 1;
        kept_bytes = kept_bytes.saturating_add(log_bytes);
    }
    Ok(tidied)
}

/// Whether somebody may still want what the run has written down: a checkpoint, or another file of
/// weights that its status names.
fn has_results(run: &Run) -> bool {
    let named = run.status.iter().flat_map(|status| status.files.iter().map(String::as_str));
    let is_there =
        |name: &str| !name.contains('/') && run.dir.join(name).symlink_metadata().is_ok();
    named.chain([CHECKPOINT_FILE]).any(is_there)
}

/// How a run stands by its summary alone. One without a summary may be of another program, or of
/// another machine that goes on with it: it is left alone until it is old, whatever its log says.
fn summed_up(run: &Run) -> Standing {
    run.status.as_ref().map_or(Standing::Unknown, |status| Evidence::of(status).standing())
}

fn drop_run(run: &Run, names: &[std::ffi::OsString], dry: bool, tidied: &mut Tidied) {
    match if dry { Ok(()) } else { remove_files(&run.dir, names) } {
        Ok(()) => tidied.removed.push(run.id.clone()),
        Err(error) => tidied.failed.push(format!("{}: {error}", run.id)),
    }
}

/// Removes the files of a run, with what a monitor has put beside them, and its folder.
///
/// # Errors
/// There is something else in the folder: then nothing is removed. Or a file cannot be removed.
pub fn remove(dir: &Path) -> io::Result<()> {
    remove_files(dir, &files_of(dir).map_err(io::Error::other)?)
}

fn remove_files(dir: &Path, names: &[std::ffi::OsString]) -> io::Result<()> {
    for name in names {
        match fs::remove_file(dir.join(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    fs::remove_dir(dir)
}

/// The names in the folder of a run, if all of them are the run's; else what is not.
fn files_of(dir: &Path) -> Result<Vec<std::ffi::OsString>, String> {
    let status = status_of(dir).unwrap_or_default();
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        let name = entry.file_name();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !is_of_a_run(&name, &status.files) {
            let shown = name.to_string_lossy().replace(char::is_control, "\u{fffd}");
            return Err(format!("{shown} is not one of its files; move it elsewhere"));
        }
        names.push(name);
    }
    // In one order on every machine, the log last: what was stopped half-way is a run still.
    names.sort_by_key(|name| (name == EVENTS_FILE || name == COMPRESSED_FILE, name.clone()));
    Ok(names)
}

/// Whether a name is one that a run has on record, or of a form that only `pptop` writes.
fn is_of_a_run(name: &OsStr, recorded: &[String]) -> bool {
    let Some(name) = name.to_str() else { return false };
    OWN_FILES.contains(&name)
        || recorded.iter().any(|file| file == name)
        // Screens and traces, of a step, with a number where that name was taken.
        || is_numbers(name, "screen-", ".txt")
        || is_numbers(name, "step-", ".trace.json")
        || name.strip_prefix("step-").and_then(|rest| rest.split_once(".trace-")).is_some_and(
            |(step, rest)| is_number(step) && rest.strip_suffix(".json").is_some_and(is_number),
        )
        // What each rank of a job of another program has written.
        || RankFile::is_name(OsStr::new(name))
        // What the ranks of a run in several processes were doing.
        || is_numbers(name, "rank-", ".state")
        || name == "lost.state"
        // What a process that was killed had not finished.
        || is_numbers(name, ".pptop-", ".new")
}

/// Whether a name is a number, or two with a hyphen between them, between these two texts.
fn is_numbers(name: &str, before: &str, after: &str) -> bool {
    let middle = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    middle.is_some_and(|text| match text.split_once('-') {
        Some((first, second)) => is_number(first) && is_number(second),
        None => is_number(text),
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A log that is compressed and has not taken the place of the plain one yet.
struct Draft<'a> {
    run: &'a Run,
    bytes: u64,
    /// It has its name already.
    is_there: bool,
    is_dry: bool,
}

/// Counts what is written, and hands it on.
struct Counted<W> {
    inner: W,
    n_bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n_written = self.inner.write(bytes)?;
        self.n_bytes += n_written as u64;
        Ok(n_written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<'a> Draft<'a> {
    /// Compresses the log of a run: beside it, or with `dry` into nothing.
    fn of(run: &'a Run, dry: bool) -> io::Result<Self> {
        let mut log = open_regular(&run.log)?;
        let whole = run.dir.join(COMPRESSED_FILE);
        if whole.symlink_metadata().is_ok() {
            // Left by a process that was killed just before it removed the plain log, or somebody
            // else's.
            let packed = open_regular(&whole)?;
            let bytes = packed.metadata()?.len();
            if !is_same(log, zstd::Decoder::new(packed)?)? {
                return Err(io::Error::other("it has two logs that differ"));
            }
            return Ok(Self { run, bytes, is_there: true, is_dry: dry });
        }
        let bytes = if dry {
            compressed(&mut log, io::sink())?.n_bytes
        } else {
            let path = run.dir.join(COMPRESSED_DRAFT);
            remove_if_there(&path)?;
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            let counted = compressed(&mut log, options.open(path)?)?;
            counted.inner.sync_all()?;
            counted.n_bytes
        };
        Ok(Self { run, bytes, is_there: false, is_dry: dry })
    }

    /// The compressed log takes the place of the plain one, only now that it is whole.
    fn keep(&self) -> io::Result<()> {
        if self.is_dry {
            return Ok(());
        }
        let dir = &self.run.dir;
        if !self.is_there {
            fs::rename(dir.join(COMPRESSED_DRAFT), dir.join(COMPRESSED_FILE))?;
            fs::File::open(dir)?.sync_all()?;
        }
        fs::remove_file(&self.run.log)
    }
}

/// Whether two streams have the same bytes.
fn is_same(one: impl Read, other: impl Read) -> io::Result<bool> {
    const CHUNK_BYTES: usize = 1 << 16;
    let (mut one, mut other) = (
        io::BufReader::with_capacity(CHUNK_BYTES, one),
        io::BufReader::with_capacity(CHUNK_BYTES, other),
    );
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let n_bytes = left.len().min(right.len());
        if n_bytes == 0 {
            return Ok(left.len() == right.len());
        }
        if left[..n_bytes] != right[..n_bytes] {
            return Ok(false);
        }
        one.consume(n_bytes);
        other.consume(n_bytes);
    }
}

fn compressed<W: Write>(log: &mut fs::File, into: W) -> io::Result<Counted<W>> {
    let mut encoder = zstd::Encoder::new(Counted { inner: into, n_bytes: 0 }, COMPRESS_LEVEL)?;
    io::copy(log, &mut encoder)?;
    encoder.finish()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Only one process tidies up at a time.
struct Lock {
    /// None where a dry run found none to hold.
    _file: Option<fs::File>,
}

/// What came of the wish to tidy up.
enum Taken {
    Ours(Lock),
    NoRuns,
    Busy,
}

impl Lock {
    fn take(runs_dir: &Path, dry: bool) -> io::Result<Taken> {
        use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
        use rustix::io::Errno;
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A dry run makes nothing, not even the file of the lock.
        let flags = flags | if dry { OFlags::RDONLY } else { OFlags::RDWR | OFlags::CREATE };
        let file = match open(runs_dir.join(LOCK_FILE), flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => fs::File::from(fd),
            Err(Errno::NOENT) if runs_dir.is_dir() => return Ok(Taken::Ours(Self { _file: None })),
            Err(Errno::NOENT) => return Ok(Taken::NoRuns),
            Err(errno) => return Err(errno.into()),
        };
        let begun = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Taken::Ours(Self { _file: Some(file) })),
                Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCK_WAIT => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(Errno::WOULDBLOCK) => return Ok(Taken::Busy),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_run_has_on_record_is_its_own() {
        let recorded = ["checkpoint-2.safetensors".to_owned()];
        let is_ours = |name: &str| is_of_a_run(OsStr::new(name), &recorded);
        for name in OWN_FILES {
            assert!(is_ours(name), "{name}");
        }
        for name in [
            "checkpoint-2.safetensors",
            "screen-3.txt",
            "screen-3-2.txt",
            "step-12.trace.json",
            "step-12.trace-2.json",
            ".pptop-77-0.new",
            "rank-15.state",
            "lost.state",
        ] {
            assert!(is_ours(name), "{name}");
        }
        for name in [
            "checkpoint.safetensors.step1000",
            "checkpoint-3.safetensors",
            "checkpoint.safetensors~",
            "events.jsonl.bak",
            "events.jsonl~",
            "events.jsonl.zst.new",
            "EVENTS.JSONL",
            "rank-.state",
            "screen-.txt",
            "screen-last.txt",
            "screen-3-.txt",
            "screen-3-2-1.txt",
            "step-final.trace.json",
            "step-12.trace-.json",
            ".new",
            ".notes.new",
            ".pptop-notes.new",
            "status.json.old",
            "",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
