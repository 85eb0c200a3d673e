//! Where a command writes what may be long: standard output, or a file that is there whole or not at all.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, open, openat, renameat, statat, unlinkat};

use super::CliError;
use super::refusal::excerpt;

const BUFFER_BYTES: usize = 1 << 18;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Where the output goes.
pub(crate) enum Output {
    /// To whoever reads standard output.
    Stdout(BufWriter<io::StdoutLock<'static>>),
    /// To a file.
    File(WholeFile),
}

impl Output {
    /// Standard output.
    pub(crate) fn stdout() -> Self {
        Self::Stdout(BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock()))
    }

    /// Standard output, for bytes that are no text.
    ///
    /// # Errors
    /// [`CliError::Usage`] where they would go to a terminal.
    pub(crate) fn stdout_for_bytes() -> Result<Self, CliError> {
        if io::stdout().is_terminal() {
            let message =
                "binary data is not for a terminal; accepted: -o FILE, -o DIRECTORY, or a pipe";
            return Err(CliError::Usage(message.to_owned()));
        }
        Ok(Self::stdout())
    }

    /// A file, which takes its name when it is whole.
    ///
    /// # Errors
    /// [`CliError::Usage`] with what would be accepted.
    pub(crate) fn file(path: &Path) -> Result<Self, CliError> {
        WholeFile::create(path).map(Self::File)
    }

    /// All is written.
    ///
    /// # Errors
    /// The rest cannot be written, or the file cannot take its name.
    pub(crate) fn finish(self) -> Result<(), CliError> {
        match self {
            Self::Stdout(mut stdout) => stdout.flush().map_err(|failed| write_failed(&failed)),
            Self::File(file) => file.finish(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::File(file) => file.draft.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::File(file) => file.draft.flush(),
        }
    }
}

/// How a command ends that could not write: quietly, when the reader has gone away.
pub(crate) fn write_failed(failed: &io::Error) -> CliError {
    match failed.kind() {
        io::ErrorKind::BrokenPipe => CliError::Code(0),
        _ => CliError::Failed(format!("cannot write: {failed}")),
    }
}

/// A file for its owner only that is written beside its place and moved there when it is whole.
pub(crate) struct WholeFile {
    path: PathBuf,
    name: OsString,
    dir: OwnedFd,
    draft: BufWriter<File>,
    draft_name: String,
    is_done: bool,
}

impl WholeFile {
    fn create(path: &Path) -> Result<Self, CliError> {
        let refused = |why: &dyn std::fmt::Display, accepted: &str| {
            let shown = excerpt(&path.display().to_string());
            CliError::Usage(format!("cannot write {shown}: {why}; accepted: {accepted}"))
        };
        let elsewhere =
            "a file in a directory that exists and can be written, or - for standard output";
        let Some(name) = path.file_name() else {
            return Err(refused(&"it names no file", elsewhere));
        };
        let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(parent.unwrap_or(Path::new(".")), flags, Mode::empty())
            .map_err(|errno| refused(&io::Error::from(errno), elsewhere))?;
        match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => match FileType::from_raw_mode(there.st_mode) {
                FileType::RegularFile => {}
                FileType::Directory => {
                    return Err(refused(&"it is a directory", "the name of a file in it"));
                }
                FileType::Symlink => {
                    return Err(refused(&"it is a symbolic link", "the file itself"));
                }
                _ => return Err(refused(&"it is no regular file", elsewhere)),
            },
            Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(refused(&io::Error::from(errno), elsewhere)),
        }
        // One at a time is enough for a process.
        let draft_name = format!(".pptop-export-{}.new", std::process::id());
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || openat(&dir, &draft_name, flags, FILE_MODE);
        // One of this name is left from a process that was killed and had our number.
        let draft = create().or_else(|errno| match errno {
            rustix::io::Errno::EXIST => {
                unlinkat(&dir, &draft_name, AtFlags::empty()).and_then(|()| create())
            }
            errno => Err(errno),
        });
        let draft = draft.map_err(|errno| refused(&io::Error::from(errno), elsewhere))?;
        Ok(Self {
            path: path.to_owned(),
            name: name.to_owned(),
            dir,
            draft: BufWriter::with_capacity(BUFFER_BYTES, File::from(draft)),
            draft_name,
            is_done: false,
        })
    }

    fn finish(mut self) -> Result<(), CliError> {
        let named = self
            .draft
            .flush()
            .and_then(|()| Ok(renameat(&self.dir, &self.draft_name, &self.dir, &self.name)?));
        self.is_done = named.is_ok();
        named.map_err(|failed| {
            let shown = excerpt(&self.path.display().to_string());
            CliError::Failed(format!("cannot write {shown}: {failed}"))
        })
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
