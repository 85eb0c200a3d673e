//! What a process's rank is doing, in a small file: it can be read when the process is gone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use pp_schedule::{Rank, Replica};
use serde::{Deserialize, Serialize};

/// Two numbers of so many digits each, and a space behind each: the step, and what the rank is
/// doing. The rest of the file says whose it is.
const DIGITS: usize = 20;
/// The file about the process that was lost.
const LOST: &str = "lost.state";

/// The file of one rank.
#[derive(Debug)]
pub(crate) struct Sheet(File);

/// Whose file it is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) replica: u32,
    pub(crate) rank: u32,
    pub(crate) host: String,
    pub(crate) pid: u32,
}

/// The path of the file of a process.
fn path(dir: &Path, index: u32) -> PathBuf {
    dir.join(format!("rank-{index}.state"))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

impl Sheet {
    /// The file of a process in `dir`. Without it a rank that is killed cannot be asked any more.
    pub(crate) fn create(
        dir: &Path,
        index: u32,
        (replica, rank): (Replica, Rank),
        host: &str,
    ) -> io::Result<Self> {
        let file = create(&path(dir, index))?;
        let pid = std::process::id();
        let owner = Owner { replica: replica.0, rank: rank.0, host: host.to_owned(), pid };
        let owner = serde_json::to_string(&owner)?;
        file.write_all_at(owner.as_bytes(), 2 * (DIGITS as u64 + 1))?;
        let sheet = Self(file);
        sheet.write(0, 0);
        Ok(sheet)
    }

    /// Writes what the rank is doing. It takes a microsecond; what cannot be written is not missed
    /// by the run.
    pub(crate) fn write(&self, step: u64, doing: u64) {
        let text = format!("{step:>DIGITS$} {doing:>DIGITS$} ");
        let _ = self.0.write_all_at(text.as_bytes(), 0);
    }
}

/// Notes which process was lost, and what its file says at that moment: a process that was stopped
/// may go on for a while when its launcher ends it. The first note stays.
pub(crate) fn note_lost(dir: &Path, index: u32) {
    let Ok(text) = fs::read_to_string(path(dir, index)) else { return };
    let lost = dir.join(LOST);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(lost);
    // Another process has noted it, or the folder is gone with the run.
    if let Ok(file) = file {
        let _ = file.write_all_at(text.as_bytes(), 0);
    }
}

/// What the file of a process says.
pub(crate) struct LastWords {
    pub(crate) owner: Owner,
    pub(crate) step: u64,
    pub(crate) doing: u64,
}

/// What the file of the lost process said when it was lost.
pub(crate) fn last_words(dir: &Path) -> Option<LastWords> {
    words(&fs::read_to_string(dir.join(LOST)).ok()?)
}

/// What the file of a process says.
pub(crate) fn words_of(dir: &Path, index: u32) -> Option<LastWords> {
    words(&fs::read_to_string(path(dir, index)).ok()?)
}

fn words(text: &str) -> Option<LastWords> {
    let number = |at: usize| text.get(at..at + DIGITS)?.trim().parse::<u64>().ok();
    let (step, doing) = (number(0)?, number(DIGITS + 1)?);
    let owner = serde_json::from_str(text.get(2 * (DIGITS + 1)..)?).ok()?;
    Some(LastWords { owner, step, doing })
}
