//! A file that is there whole or not at all.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, linkat, open, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

const BUFFER_BYTES: usize = 1 << 18;
/// Names that are tried for a draft: those of killed processes that had our number are left alone.
const NAMES_MAX: u32 = 100;

/// A file for its owner alone that is written beside its place and moved there when it is whole. No symbolic link is followed, and nothing but a
/// regular file is replaced.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    name: OsString,
    dir: OwnedFd,
    draft: BufWriter<File>,
    draft_name: String,
    is_done: bool,
}

/// Why a file is not written.
#[derive(Debug)]
pub struct NotWritten {
    /// Its path.
    pub path: PathBuf,
    /// Why not.
    pub why: String,
    /// What to use instead; nothing where the place is a good one and writing failed.
    pub accepted: Option<&'static str>,
}

impl fmt::Display for NotWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display().to_string();
        let path = pp_schedule::clean(&path);
        write!(f, "cannot write {path}: {}", self.why)?;
        self.accepted.map_or(Ok(()), |accepted| write!(f, "; use {accepted}"))
    }
}

impl std::error::Error for NotWritten {}

const ELSEWHERE: &str = "a file in a folder that exists and can be written";

impl WholeFile {
    /// Begins to write a file; what has its name stays there until [`WholeFile::finish`].
    ///
    /// # Errors
    /// The place is none for a file.
    pub fn create(path: &Path) -> Result<Self, NotWritten> {
        let refused = |why: &dyn fmt::Display, accepted| NotWritten {
            path: path.to_owned(),
            why: why.to_string(),
            accepted: Some(accepted),
        };
        let failed = |errno: Errno| refused(&io::Error::from(errno), ELSEWHERE);
        let Some(name) = path.file_name() else {
            return Err(refused(&"it names no file", ELSEWHERE));
        };
        let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(parent.unwrap_or(Path::new(".")), flags, Mode::empty()).map_err(failed)?;
        match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => match FileType::from_raw_mode(there.st_mode) {
                FileType::RegularFile => {}
                FileType::Directory => {
                    return Err(refused(&"it is a folder", "the name of a file in it"));
                }
                FileType::Symlink => {
                    return Err(refused(
                        &"it is a symbolic link and no regular file",
                        "the file itself",
                    ));
                }
                _ => return Err(refused(&"it is no regular file", ELSEWHERE)),
            },
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let (draft_name, draft) = draft(&dir).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            name: name.to_owned(),
            dir,
            draft: BufWriter::with_capacity(BUFFER_BYTES, draft),
            draft_name,
            is_done: false,
        })
    }

    /// All is written: the file takes its name.
    ///
    /// # Errors
    /// The rest cannot be written, or the name not be taken. Then nothing has changed.
    pub fn finish(mut self) -> Result<(), NotWritten> {
        let done = self
            .draft
            .flush()
            .and_then(|()| Ok(renameat(&self.dir, &self.draft_name, &self.dir, &self.name)?));
        self.is_done = done.is_ok();
        done.map_err(|error| self.failed(&error))
    }

    /// All is written: the file takes its name, if nothing has that by now; whether it does.
    ///
    /// # Errors
    /// As [`WholeFile::finish`].
    pub fn finish_new(mut self) -> Result<bool, NotWritten> {
        let named = self.draft.flush().and_then(|()| {
            let flags = AtFlags::empty();
            match linkat(&self.dir, &self.draft_name, &self.dir, &self.name, flags) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) => Ok(false),
                Err(errno) => Err(errno.into()),
            }
        });
        named.map_err(|error| self.failed(&error))
    }

    /// The file could not be written.
    pub fn failed(&self, error: &dyn fmt::Display) -> NotWritten {
        NotWritten { path: self.path.clone(), why: error.to_string(), accepted: None }
    }
}

/// A new file with a name that nothing has.
fn draft(dir: &OwnedFd) -> Result<(String, File), Errno> {
    static N_DRAFTS: AtomicU32 = AtomicU32::new(0);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
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
    /// What did not become whole leaves no trace.
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

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let dir =
                std::env::temp_dir().join(format!("pptop-whole-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir(&dir).unwrap();
            Self(dir)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = Folder::new("all");
        let path = folder.0.join("a");
        let mut file = WholeFile::create(&path).unwrap();
        let other = WholeFile::create(&path).unwrap();
        file.write_all(b"one").unwrap();
        assert!(!path.exists());
        file.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!other.finish_new().unwrap());
        let mut never = WholeFile::create(&path).unwrap();
        never.write_all(b"half").unwrap();
        drop(never);
        assert_eq!(
            (fs::read(&path).unwrap(), folder.names()),
            (b"one".to_vec(), vec!["a".to_owned()])
        );
        let new = WholeFile::create(&folder.0.join("b")).unwrap();
        assert!(new.finish_new().unwrap());
        assert_eq!(folder.names().len(), 2);
    }

    #[test]
    fn only_a_regular_file_is_replaced() {
        let folder = Folder::new("kinds");
        let link = folder.0.join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let why = |path: &Path| WholeFile::create(path).unwrap_err().to_string();
        assert!(why(&link).ends_with("symbolic link and no regular file; use the file itself"));
        assert!(why(&folder.0).contains("it is a folder"));
        assert!(why(Path::new("/dev/null")).contains("no regular file"));
        assert!(why(&folder.0.join("no/a")).contains("No such file"));
        assert!(why(Path::new("..")).contains("it names no file"));
        assert_eq!(folder.names(), ["link"]);
    }
}
