//! The files of one run, opened so that nothing else can be put in their place.
//!
//! The directory is resolved and opened once, and every file is opened relative to it, refusing
//! symbolic links. Directories that are made here are for their owner only, files too. The mode of
//! a directory that was there is left as it is; one that others may write to is refused, since they
//! could put other files in the place of these.

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fstat, open, openat, renameat, unlinkat};

use crate::error::TraceError;

/// The name of the log in the directory of a run.
pub const EVENTS_FILE: &str = "events.jsonl";
/// The name of the summary that is renewed each second.
pub const STATUS_FILE: &str = "status.json";
/// The name of the log when it was compressed after its run.
pub const COMPRESSED_FILE: &str = "events.jsonl.zst";
/// The weights that were written when somebody asked for it.
pub const CHECKPOINT_FILE: &str = "checkpoint.safetensors";
/// What the trainer says on its standard error when it runs in the background.
pub const STDERR_FILE: &str = "stderr.log";
/// The status while it is written.
pub const STATUS_DRAFT: &str = ".status.json.new";
/// The compressed log while it is written.
pub const COMPRESSED_DRAFT: &str = ".events.jsonl.zst.new";
/// All that a run writes into its folder by itself, and what is made of it afterwards.
pub const OWN_FILES: [&str; 7] = [
    EVENTS_FILE,
    COMPRESSED_FILE,
    STATUS_FILE,
    STDERR_FILE,
    CHECKPOINT_FILE,
    STATUS_DRAFT,
    COMPRESSED_DRAFT,
];

/// Bytes that a summary is overwritten with at most.
const STATUS_BYTES_MAX: u64 = 64 * 1024;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The open directory of a run.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    fd: OwnedFd,
}

impl RunDir {
    /// Makes the directory where it is missing, and opens it.
    pub(crate) fn create(path: &Path) -> Result<Self, TraceError> {
        let directory = |source: io::Error| TraceError::Directory { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).map_err(directory)?;
        let path = path.canonicalize().map_err(directory)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = open(&path, flags, Mode::empty()).map_err(|errno| directory(errno.into()))?;
        let about = fstat(&fd).map_err(|errno| directory(errno.into()))?;
        refuse_mode(&path, about.st_mode).map_err(directory)?;
        Ok(Self { path, fd })
    }

    /// Opens the log for appending.
    pub(crate) fn open_events(&self) -> Result<File, TraceError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |errno: rustix::io::Errno| TraceError::File {
            path: self.path.join(EVENTS_FILE),
            source: errno.into(),
        };
        let fd = openat(&self.fd, EVENTS_FILE, flags, FILE_MODE).map_err(failed)?;
        // Whatever the umask is.
        fchmod(&fd, FILE_MODE).map_err(failed)?;
        Ok(File::from(fd))
    }

    /// Replaces the summary in one step: a reader sees the old one or the new one. On a disk
    /// without room for a second file the summary is written over, in the room that it has.
    pub(crate) fn replace_status(&self, text: &[u8]) -> io::Result<()> {
        self.renew_status(text).or_else(|error| {
            let _ = unlinkat(&self.fd, STATUS_DRAFT, AtFlags::empty());
            self.overwrite_status(text).map_err(|_| error)
        })
    }

    fn renew_status(&self, text: &[u8]) -> io::Result<()> {
        match unlinkat(&self.fd, STATUS_DRAFT, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, STATUS_DRAFT, flags, FILE_MODE)?;
        fchmod(&fd, FILE_MODE)?;
        let mut draft = File::from(fd);
        draft.write_all(text)?;
        drop(draft);
        renameat(&self.fd, STATUS_DRAFT, &self.fd, STATUS_FILE)?;
        Ok(())
    }

    fn overwrite_status(&self, text: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut file = File::from(openat(&self.fd, STATUS_FILE, flags, Mode::empty())?);
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::other("it is no longer a regular file"));
        }
        // Blanks in place of what a longer one had there: a file that is cut first could lose its
        // room.
        let n_left = about.len().saturating_sub(text.len() as u64);
        let mut text = text.to_vec();
        text.resize(text.len().saturating_add(n_left.min(STATUS_BYTES_MAX) as usize), b' ');
        file.write_all(&text)
    }
}

/// Whether a run may keep its files in a directory that is there: only its owner may write to it.
///
/// # Errors
/// It is no directory, others may write to it, or it cannot be looked at.
pub fn refuse_shared_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let about = dir.metadata()?;
    if !about.is_dir() {
        return Err(io::Error::other("it is not a folder"));
    }
    refuse_mode(dir, about.mode())
}

fn refuse_mode(dir: &Path, mode: u32) -> io::Result<()> {
    if mode & 0o022 == 0 {
        return Ok(());
    }
    let dir = dir.display();
    let mode = mode & 0o7777;
    Err(io::Error::other(format!("others may write to it (mode {mode:o}); run chmod go-w {dir}")))
}
