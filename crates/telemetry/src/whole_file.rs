//! A file that appears under its name whole or not at all.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, fsync, linkat, open, openat, renameat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

const BUFFER_BYTES: usize = 1 << 18;
/// The most names to try for a draft. A killed process with our pid may have left drafts; they
/// stay.
const NAMES_MAX: u32 = 100;
/// The most names to try beside one that is taken.
const BESIDE_MAX: u32 = 1000;

/// A file that is written beside its place, synced to the disk, and renamed into its place when it
/// is whole. No symbolic link is followed, and nothing but a regular file is replaced.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    name: OsString,
    dir: OwnedFd,
    draft: BufWriter<File>,
    draft_name: String,
    is_done: bool,
}

/// The fate of a file that already has the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is replaced, if it is a regular file; anything else stays, as with [`Taken::Stays`].
    Replaced,
    /// It stays, and the new file takes a free name beside it.
    Stays,
    /// It is replaced if it is the file with this identity, and stays otherwise.
    ReplacedIf(Identity),
}

/// The identity of a file: its device, its inode, and the time of its last write in seconds and
/// nanoseconds.
pub type Identity = (u64, u64, i64, u64);

/// A file that was not written.
#[derive(Debug)]
pub struct NotWritten {
    /// Its path.
    pub path: PathBuf,
    /// The reason.
    pub why: String,
    /// The remedy; `None` if the place is valid but writing failed.
    pub remedy: Option<&'static str>,
}

impl fmt::Display for NotWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display().to_string();
        let path = pp_schedule::clean(&path);
        write!(f, "cannot write {path}: {}", self.why)?;
        self.remedy.map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl std::error::Error for NotWritten {}

const ELSEWHERE: &str = "name a file in a folder that exists and can be written";

impl WholeFile {
    /// Starts a file for its owner alone. A file that has its name stays until
    /// [`WholeFile::finish`].
    ///
    /// # Errors
    /// No regular file can be written at this path.
    pub fn private(path: &Path) -> Result<Self, NotWritten> {
        Self::create(path, Mode::RUSR | Mode::WUSR)
    }

    /// The same for a file that others may read as far as the umask lets them.
    ///
    /// # Errors
    /// As [`WholeFile::private`].
    pub fn shared(path: &Path) -> Result<Self, NotWritten> {
        Self::create(path, Mode::from_raw_mode(0o666))
    }

    fn create(path: &Path, mode: Mode) -> Result<Self, NotWritten> {
        let refused = |why: &dyn fmt::Display, remedy| NotWritten {
            path: path.to_owned(),
            why: why.to_string(),
            remedy: Some(remedy),
        };
        let failed = |errno: Errno| refused(&io::Error::from(errno), ELSEWHERE);
        let Some(name) = path.file_name() else {
            return Err(refused(&"it names no file", ELSEWHERE));
        };
        let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(parent.unwrap_or(Path::new(".")), flags, Mode::empty()).map_err(failed)?;
        match found(&dir, name).map_err(failed)?.map(|there| kind_of(&there)) {
            None | Some(FileType::RegularFile) => {}
            Some(FileType::Directory) => {
                return Err(refused(&"it is a folder", "name a file in it"));
            }
            Some(FileType::Symlink) => {
                let why = "it is a symbolic link, not a regular file";
                return Err(refused(&why, "name the file itself"));
            }
            Some(_) => return Err(refused(&"it is not a regular file", ELSEWHERE)),
        }
        let (draft_name, draft) = draft(&dir, mode).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            name: name.to_owned(),
            dir,
            draft: BufWriter::with_capacity(BUFFER_BYTES, draft),
            draft_name,
            is_done: false,
        })
    }

    /// Ends the file: it takes its name, or a free one beside it. Gives its path.
    ///
    /// # Errors
    /// The rest cannot be written, or the file gets no name. Then nothing has changed.
    pub fn finish(mut self, taken: Taken) -> Result<PathBuf, NotWritten> {
        let done = self.draft_to_disk().and_then(|()| self.take_a_name(taken));
        let name = done.map_err(|error| self.failed(&error))?;
        self.is_done = true;
        self.folder_to_disk().map_err(|error| self.failed(&error))?;
        Ok(self.path.with_file_name(name))
    }

    /// Ends the file: it takes its name if that is free. Gives whether it did.
    ///
    /// # Errors
    /// As [`WholeFile::finish`].
    pub fn finish_new(mut self) -> Result<bool, NotWritten> {
        let named = self.draft_to_disk().and_then(|()| self.take_if_free(&self.name));
        self.is_done = named.map_err(|error| self.failed(&error))?;
        if self.is_done {
            self.folder_to_disk().map_err(|error| self.failed(&error))?;
        }
        Ok(self.is_done)
    }

    /// The identity of the draft, and later of the file.
    ///
    /// # Errors
    /// The system does not say.
    pub fn identity(&mut self) -> io::Result<Identity> {
        // A later write would change the time.
        self.draft.flush()?;
        let there = rustix::fs::fstat(self.draft.get_ref())?;
        Ok(identity_of(&there))
    }

    /// The bytes reach the disk before the name does: a power cut must not leave an empty file.
    fn draft_to_disk(&mut self) -> io::Result<()> {
        self.draft.flush()?;
        self.draft.get_ref().sync_all()
    }

    fn folder_to_disk(&self) -> io::Result<()> {
        match fsync(&self.dir) {
            // Some file systems cannot do it for a folder.
            Ok(()) | Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS | Errno::BADF) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn take_a_name(&self, taken: Taken) -> io::Result<OsString> {
        let there = found(&self.dir, &self.name)?;
        let may_go = there.as_ref().is_some_and(|there| {
            kind_of(there) == FileType::RegularFile
                && match taken {
                    Taken::Replaced => true,
                    Taken::Stays => false,
                    Taken::ReplacedIf(identity) => identity_of(there) == identity,
                }
        });
        if may_go {
            renameat(&self.dir, &self.draft_name, &self.dir, &self.name)?;
            return Ok(self.name.clone());
        }
        for number in 1..=BESIDE_MAX {
            let name = if number == 1 { self.name.clone() } else { beside(&self.name, number) };
            if self.take_if_free(&name)? {
                return Ok(name);
            }
        }
        Err(io::Error::other("its name and all numbered variants of it are taken"))
    }

    /// Renames the draft to a name if that is free; gives whether it did.
    fn take_if_free(&self, name: &OsStr) -> io::Result<bool> {
        let (dir, draft) = (&self.dir, self.draft_name.as_str());
        match renameat_with(dir, draft, dir, name, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => return Ok(false),
            // Not every file system knows this kind of renaming; most of the others know links.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            Err(errno) => return Err(errno.into()),
        }
        match linkat(dir, draft, dir, name, AtFlags::empty()) {
            Ok(()) => unlinkat(dir, draft, AtFlags::empty())?,
            Err(Errno::EXIST) => return Ok(false),
            Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS) => {
                if found(dir, name)?.is_some() {
                    return Ok(false);
                }
                renameat(dir, draft, dir, name)?;
            }
            Err(errno) => return Err(errno.into()),
        }
        Ok(true)
    }

    /// The file could not be written.
    pub fn failed(&self, error: &dyn fmt::Display) -> NotWritten {
        NotWritten { path: self.path.clone(), why: error.to_string(), remedy: None }
    }
}

/// The file with a name in a folder, links not followed.
fn found(dir: &OwnedFd, name: &OsStr) -> Result<Option<Stat>, Errno> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok(Some(there)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn kind_of(there: &Stat) -> FileType {
    FileType::from_raw_mode(there.st_mode)
}

#[expect(clippy::useless_conversion, reason = "the numbers have other types on other machines")]
fn identity_of(there: &Stat) -> Identity {
    // A new file may get the number of one that was removed: its time tells them apart.
    let (seconds, nanoseconds) = (i64::from(there.st_mtime), u64::from(there.st_mtime_nsec));
    (u64::from(there.st_dev), u64::from(there.st_ino), seconds, nanoseconds)
}

/// `w-2.safetensors` for `w.safetensors`: the name that is tried beside one that is taken.
fn beside(name: &OsStr, number: u32) -> OsString {
    let path = Path::new(name);
    let mut other = path.file_stem().unwrap_or(name).to_owned();
    other.push(format!("-{number}"));
    if let Some(ending) = path.extension() {
        other.push(".");
        other.push(ending);
    }
    other
}

/// A new file with a name that nothing has.
fn draft(dir: &OwnedFd, mode: Mode) -> Result<(String, File), Errno> {
    static N_DRAFTS: AtomicU32 = AtomicU32::new(0);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut found = Err(Errno::EXIST);
    for _ in 0..NAMES_MAX {
        let number = N_DRAFTS.fetch_add(1, Ordering::Relaxed);
        let name = format!(".pptop-{}-{number}.new", std::process::id());
        found = openat(dir, &name, flags, mode).map(|draft| (name, File::from(draft)));
        if !matches!(found, Err(Errno::EXIST)) {
            break;
        }
    }
    found
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.draft.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.draft.flush()
    }
}

impl Drop for WholeFile {
    /// Removes the draft of an unfinished file.
    fn drop(&mut self) {
        if !self.is_done {
            let _ = unlinkat(&self.dir, &self.draft_name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    fn names(folder: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut file = WholeFile::private(&path).unwrap();
        let other = WholeFile::private(&path).unwrap();
        file.write_all(b"one").unwrap();
        assert!(!path.exists());
        assert_eq!(file.finish(Taken::Stays).unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!other.finish_new().unwrap());
        let mut never = WholeFile::private(&path).unwrap();
        never.write_all(b"half").unwrap();
        drop(never);
        assert_eq!(
            (fs::read(&path).unwrap(), names(&folder)),
            (b"one".to_vec(), vec!["a".to_owned()])
        );
        let new = WholeFile::private(&folder.path().join("b")).unwrap();
        assert!(new.finish_new().unwrap());
        assert_eq!(names(&folder).len(), 2);
    }

    #[test]
    fn only_a_regular_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let why = |path: &Path| WholeFile::private(path).unwrap_err().to_string();
        assert!(why(&link).ends_with("symbolic link, not a regular file; name the file itself"));
        assert!(why(folder.path()).contains("it is a folder"));
        assert!(why(Path::new("/dev/null")).contains("not a regular file"));
        assert!(why(&folder.path().join("no/a")).contains("No such file"));
        assert!(why(Path::new("..")).contains("it names no file"));
        assert_eq!(names(&folder), ["link"]);
    }

    #[test]
    fn a_name_that_was_taken_meanwhile_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let write = |taken, text: &str, meanwhile: &dyn Fn()| {
            let mut file = WholeFile::shared(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let identity = file.identity().unwrap();
            meanwhile();
            (file.finish(taken).unwrap(), identity)
        };
        let nothing = || {};
        let (first, identity) =
            write(Taken::Stays, "ours", &|| fs::write(&path, "theirs").unwrap());
        assert_eq!(first, folder.path().join("w-2.safetensors"));
        assert_eq!(fs::read(&first).unwrap(), b"ours");
        // Only the file that is meant is replaced.
        let (second, _) = write(Taken::ReplacedIf(identity), "more", &nothing);
        assert_eq!(second, folder.path().join("w-3.safetensors"));
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
        let (third, identity) = write(Taken::Replaced, "forced", &nothing);
        assert_eq!((third, fs::read(&path).unwrap()), (path.clone(), b"forced".to_vec()));
        let (fourth, _) = write(Taken::ReplacedIf(identity), "again", &nothing);
        assert_eq!((fourth, fs::read(&path).unwrap()), (path.clone(), b"again".to_vec()));
        // A link or a folder is never replaced.
        let (fifth, _) = write(Taken::Replaced, "late", &|| {
            fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("nowhere", &path).unwrap();
        });
        assert_eq!(fifth, folder.path().join("w-4.safetensors"));
        assert!(path.symlink_metadata().unwrap().is_symlink());
        assert_eq!(names(&folder).len(), 4);
    }

    #[test]
    fn names_beside_keep_their_ending() {
        for (name, other) in [
            ("w.safetensors", "w-2.safetensors"),
            ("w", "w-2"),
            (".w", ".w-2"),
            ("a.b.c", "a.b-2.c"),
        ] {
            assert_eq!(beside(OsStr::new(name), 2), other);
        }
    }
}
