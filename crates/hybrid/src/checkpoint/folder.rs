//! The folder of a run's checkpoints: what is there, which is the newest, which ones go.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use pp_executor::StageState;
use pp_trace::refuse_shared_dir;
use rustix::fs::OFlags;

use super::disk::Disk;
use super::error::CheckpointError;
use super::read::Checkpoint;
use super::write::{About, Part, seal, write_part};

/// The file that a run locks while it may write checkpoints.
const LOCK: &str = ".lock";
const PREFIX: &str = "step-";
/// What the hidden names of a checkpoint end in while it is written, and while it is removed.
const DRAFT: &str = ".draft";
const REMOVED: &str = ".removed";
/// How often a run asks again for a folder that is taken, and how long it waits each time.
const TRIES: u32 = 10;
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// The most names to try for a step that has a checkpoint already.
const NAMES_MAX: u32 = 1000;

/// A folder into which one run writes checkpoints. Other runs are kept out while this lives.
#[derive(Debug)]
pub struct CheckpointFolder {
    dir: PathBuf,
    /// Holds the lock, which the system releases when the process ends.
    _lock: File,
}

/// A folder with the name of a checkpoint.
#[derive(Debug)]
pub struct Found {
    /// Its path.
    pub path: PathBuf,
    /// The checkpoint, if its manifest is in order.
    pub checkpoint: Result<Checkpoint, CheckpointError>,
}

/// The result of a search for the newest checkpoint.
#[derive(Debug, Default)]
pub struct Newest {
    /// The newest verified checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// Those that looked newer or cannot be placed, and why each was not taken.
    pub refused: Vec<CheckpointError>,
}

/// A checkpoint that has no name yet.
#[derive(Debug)]
pub struct Draft {
    /// The name that it will have.
    path: PathBuf,
    dir: PathBuf,
    sequence: u64,
    /// The reason why a half-written checkpoint that had to go is still there.
    rest: Option<CheckpointError>,
}

impl Draft {
    /// The folder for its parts.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// A checkpoint that is durable.
#[derive(Debug)]
pub struct Written {
    /// The checkpoint. Each of its bytes has been read back and verified.
    pub checkpoint: Checkpoint,
    /// The reason why an older one that had to go is still there.
    pub not_removed: Option<CheckpointError>,
}

impl CheckpointFolder {
    /// Takes the folder for this run, and makes it if it is missing.
    ///
    /// # Errors
    /// It cannot be written, others may write into it, or another run writes into it.
    pub fn take(dir: &Path, disk: &dyn Disk) -> Result<Self, CheckpointError> {
        make(dir, disk)?;
        refuse_shared_dir(dir).map_err(CheckpointError::write(dir))?;
        let path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(CheckpointError::write(&path))?;
        let mut tries = 0;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                // Whoever asks whether the folder is busy holds the lock for a moment.
                Err(TryLockError::WouldBlock) if tries < TRIES => {
                    tries += 1;
                    thread::sleep(TRY_AGAIN);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(CheckpointError::Busy { dir: dir.to_owned() });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(CheckpointError::write(&path)(error));
                }
            }
        }
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Refuses a checkpoint of `n_bytes` that the disk has no room for.
    ///
    /// # Errors
    /// [`CheckpointError::NoRoom`]. A disk that does not say how full it is passes.
    pub fn ask_room(&self, n_bytes: u64) -> Result<(), CheckpointError> {
        let Ok(disk) = rustix::fs::statvfs(&self.dir) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free >= n_bytes {
            return Ok(());
        }
        Err(CheckpointError::NoRoom { dir: self.dir.clone(), free, needed: n_bytes })
    }

    /// Writes a checkpoint of `ranks`, the stages of each rank. When this returns it is durable,
    /// and every byte has been read back and verified. Then all but the `keep` newest checkpoints
    /// that led to this one are removed; `None` keeps all. Those of other trainings stay.
    ///
    /// # Errors
    /// A file cannot be written. The earlier checkpoints stay.
    pub fn write(
        &self,
        disk: &dyn Disk,
        ranks: &[Vec<StageState>],
        about: &About,
        keep: Option<usize>,
    ) -> Result<Written, CheckpointError> {
        let n_stages = ranks.iter().flatten().count();
        let draft = self.begin(disk, about.step)?;
        match write_part(disk, draft.dir(), ranks, &about.of_stages(n_stages)) {
            Ok(part) => self.finish(disk, draft, vec![part], n_stages, about, keep),
            Err(error) => {
                self.abandon(disk, &draft);
                Err(error)
            }
        }
    }

    /// Begins a checkpoint of `step`: makes the folder into which its parts are written
    /// ([`write_part`]). It gets its name when all of them are there.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn begin(&self, disk: &dyn Disk, step: u64) -> Result<Draft, CheckpointError> {
        // A rest that cannot be removed must not keep a new checkpoint from being written.
        let rest = self.tidy(disk).err();
        let there = list(&self.dir)?;
        let last = there.iter().filter_map(|found| found.checkpoint.as_ref().ok());
        let sequence = 1 + last.map(|c| c.manifest().sequence).max().unwrap_or(0);
        let name = self.free_name(step)?;
        let (path, dir) = (self.dir.join(&name), self.dir.join(format!(".{name}{DRAFT}")));
        disk.create_dir(&dir).map_err(CheckpointError::write(&dir))?;
        Ok(Draft { path, dir, sequence, rest })
    }

    /// Makes a checkpoint of the parts of a draft, which have all `n_stages` stages. Else as
    /// [`Self::write`].
    ///
    /// # Errors
    /// A file cannot be written, or a stage is missing. The earlier checkpoints stay.
    pub fn finish(
        &self,
        disk: &dyn Disk,
        draft: Draft,
        parts: Vec<Part>,
        n_stages: usize,
        about: &About,
        keep: Option<usize>,
    ) -> Result<Written, CheckpointError> {
        if let Err(error) = seal(disk, &draft.dir, parts, n_stages, about, draft.sequence) {
            self.abandon(disk, &draft);
            return Err(error);
        }
        let Draft { path, dir, rest, .. } = draft;
        disk.rename(&dir, &path).map_err(CheckpointError::write(&path))?;
        disk.sync_dir(&self.dir).map_err(CheckpointError::write(&self.dir))?;
        let checkpoint = Checkpoint::open(&path)?;
        checkpoint.verify()?;
        let not_removed = keep.and_then(|keep| self.retain(disk, keep.max(1), about).err());
        Ok(Written { checkpoint, not_removed: not_removed.or(rest) })
    }

    /// Removes a draft: what is left of it takes room, which may be what was missing. Nobody may
    /// write into it any more.
    pub fn abandon(&self, disk: &dyn Disk, draft: &Draft) {
        // The next checkpoint removes what is still there.
        let _ = remove(disk, &draft.dir);
    }

    /// Removes all but the `keep` newest checkpoints that led to the one that `about` is of. A
    /// folder whose manifest is not in order stays: it may be of a later version.
    fn retain(&self, disk: &dyn Disk, keep: usize, about: &About) -> Result<(), CheckpointError> {
        let mut there: Vec<Checkpoint> =
            list(&self.dir)?.into_iter().filter_map(|found| found.checkpoint.ok()).collect();
        there.retain(|checkpoint| about.comes_from(checkpoint.manifest()));
        there.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.manifest().sequence));
        for old in there.iter().skip(keep) {
            let name = old.path().file_name().unwrap_or_default().to_string_lossy();
            let hidden = self.dir.join(format!(".{name}{REMOVED}"));
            // First the name goes: no half of a checkpoint ever has it.
            disk.rename(old.path(), &hidden).map_err(CheckpointError::write(old.path()))?;
            disk.sync_dir(&self.dir).map_err(CheckpointError::write(&self.dir))?;
            remove(disk, &hidden)?;
        }
        Ok(())
    }

    /// Removes what was half-written, or half-removed, when a run was killed.
    fn tidy(&self, disk: &dyn Disk) -> Result<(), CheckpointError> {
        let read = || CheckpointError::read(&self.dir);
        for entry in fs::read_dir(&self.dir).map_err(read())? {
            let name = entry.map_err(read())?.file_name();
            let is_rest = name.to_str().is_some_and(|name| {
                let is_hidden = name.strip_prefix('.').is_some_and(|n| n.starts_with(PREFIX));
                is_hidden && (name.ends_with(DRAFT) || name.ends_with(REMOVED))
            });
            if is_rest {
                remove(disk, &self.dir.join(name))?;
            }
        }
        Ok(())
    }

    fn free_name(&self, step: u64) -> Result<String, CheckpointError> {
        let name = format!("{PREFIX}{step:08}");
        let mut names = std::iter::once(name.clone())
            .chain((2..=NAMES_MAX).map(|number| format!("{name}-{number}")));
        // A name is free if nothing has it, not even a broken link.
        let free = names.find(|name| fs::symlink_metadata(self.dir.join(name)).is_err());
        let taken = || CheckpointError::broken(self.dir.join(&name), "too many have this step");
        free.ok_or_else(taken)
    }
}

/// Whether a process that runs may write checkpoints into `dir`.
pub fn is_busy(dir: &Path) -> bool {
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(dir.join(LOCK));
    open.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Makes a folder and those above it that are missing, each durable and for its owner alone.
fn make(dir: &Path, disk: &dyn Disk) -> Result<(), CheckpointError> {
    let missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.is_dir();
    let missing: Vec<&Path> = dir.ancestors().take_while(missing).collect();
    for dir in missing.into_iter().rev() {
        disk.create_dir(dir).map_err(CheckpointError::write(dir))?;
        let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
        let above = above.unwrap_or(Path::new("."));
        disk.sync_dir(above).map_err(CheckpointError::write(above))?;
    }
    Ok(())
}

/// Whether this is the name of a checkpoint: `step-00000120`, or `step-00000120-2`.
fn is_name(name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).map(|rest| {
        let (step, number) = rest.split_once('-').unwrap_or((rest, "2"));
        [step, number]
            .map(|part| part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty())
    });
    parts == Some([true, true])
}

/// All folders in `dir` with the name of a checkpoint, by step. Reads their manifests. A link to a
/// folder is none of them.
///
/// # Errors
/// The folder cannot be read.
pub fn list(dir: &Path) -> Result<Vec<Found>, CheckpointError> {
    let read = || CheckpointError::read(dir);
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(read())? {
        let entry = entry.map_err(read())?;
        let name = entry.file_name();
        if is_name(&name) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            paths.push(dir.join(name));
        }
    }
    paths.sort();
    let found = |path: PathBuf| Found { checkpoint: Checkpoint::open(&path), path };
    Ok(paths.into_iter().map(found).collect())
}

/// Looks for the newest checkpoint in `dir` whose every byte is right.
///
/// # Errors
/// The folder cannot be read.
pub fn newest(dir: &Path) -> Result<Newest, CheckpointError> {
    let mut result = Newest::default();
    let mut there = Vec::new();
    for found in list(dir)? {
        match found.checkpoint {
            Ok(checkpoint) => there.push(checkpoint),
            Err(refused) => result.refused.push(refused),
        }
    }
    there.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.manifest().sequence));
    for checkpoint in there {
        match checkpoint.verify() {
            Ok(()) => {
                result.checkpoint = Some(checkpoint);
                break;
            }
            Err(refused) => result.refused.push(refused),
        }
    }
    Ok(result)
}

/// Removes a folder of files. The manifest goes first. A link goes, and what it leads to stays.
fn remove(disk: &dyn Disk, dir: &Path) -> Result<(), CheckpointError> {
    let read = || CheckpointError::read(dir);
    if !fs::symlink_metadata(dir).map_err(read())?.is_dir() {
        return disk.remove_file(dir).map_err(CheckpointError::write(dir));
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(read())? {
        names.push(entry.map_err(read())?.file_name());
    }
    names.sort_by_key(|name| name != super::MANIFEST);
    for name in names {
        let path = dir.join(name);
        disk.remove_file(&path).map_err(CheckpointError::write(&path))?;
    }
    disk.remove_dir(dir).map_err(CheckpointError::write(dir))
}
