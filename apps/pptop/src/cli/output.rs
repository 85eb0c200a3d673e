//! Where a command writes what may be long: standard output, a pipe or a device, or a file that is
//! there whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pp_telemetry::{NotWritten, Taken, WholeFile};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::io::Errno;

use super::CliError;
use super::refusal::excerpt;

const BUFFER_BYTES: usize = 1 << 18;
/// How long a named pipe may be without a reader.
const READER_WAIT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Links that are followed to a stream.
const LINKS_MAX: usize = 40;

/// Where the output goes.
pub(crate) enum Output {
    /// To whoever reads standard output.
    Stdout(BufWriter<io::StdoutLock<'static>>),
    /// To a pipe or a device.
    Stream(BufWriter<File>),
    /// To a file, in the place of one of that name where that is allowed.
    File(WholeFile, Taken),
}

impl From<NotWritten> for CliError {
    fn from(refused: NotWritten) -> Self {
        let path = excerpt(&refused.path.display().to_string());
        let said = format!("cannot write {path}: {}", refused.why);
        match refused.remedy {
            Some(remedy) => Self::Usage(format!("{said}; {remedy}")),
            None => Self::Failed(said),
        }
    }
}

/// The meaning of a path for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Standard output, by one of its names.
    Stdout,
    /// A pipe, a device, or something else that this process has open: it is written through.
    Stream(PathBuf),
    /// A file, or the place for one.
    File,
}

impl Target {
    /// What this path means: `-`, `/dev/stdout`, `/dev/fd/3`, a named pipe, `/dev/null`, a file.
    pub(crate) fn of(path: &Path) -> Self {
        if path == Path::new("-") {
            return Self::Stdout;
        }
        if let Some(number) = own_descriptor(path) {
            return match number {
                1 => Self::Stdout,
                _ => Self::Stream(format!("/proc/self/fd/{number}").into()),
            };
        }
        let is_stream = |kind: std::fs::FileType| kind.is_fifo() || kind.is_char_device();
        match path.metadata() {
            Ok(about) if is_stream(about.file_type()) => Self::Stream(path.to_owned()),
            _ => Self::File,
        }
    }
}

/// The number of an open file of this process that a path names, through links such as
/// `/dev/stdout`.
pub(crate) fn own_descriptor(path: &Path) -> Option<u32> {
    let own = format!("/proc/{}", std::process::id());
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let dir = path.parent()?;
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let dir = dir.canonicalize().ok()?;
        if dir.file_name().is_some_and(|name| name == "fd") && dir.starts_with(&own) {
            return path.file_name()?.to_str()?.parse().ok();
        }
        if !path.symlink_metadata().ok()?.is_symlink() {
            return None;
        }
        path = dir.join(path.read_link().ok()?);
    }
    None
}

impl Output {
    /// Standard output.
    pub(crate) fn stdout() -> Self {
        Self::Stdout(BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock()))
    }

    /// What a path means; a file takes its name when it is whole, and one that is there is replaced
    /// only with `force`.
    ///
    /// # Errors
    /// [`CliError::Usage`] with what to do instead.
    pub(crate) fn to(path: &Path, force: bool) -> Result<Self, CliError> {
        match Target::of(path) {
            Target::Stdout => Ok(Self::stdout()),
            Target::Stream(stream) => open_stream(&stream)
                .map(|file| Self::Stream(BufWriter::with_capacity(BUFFER_BYTES, file)))
                .map_err(|why| {
                    let path = excerpt(&path.display().to_string());
                    CliError::Usage(format!("cannot write {path}: {why}"))
                }),
            Target::File => Self::file(path, force),
        }
    }

    /// The same for bytes that are no text.
    ///
    /// # Errors
    /// Also where they would go to a terminal.
    pub(crate) fn bytes_to(path: &Path, force: bool) -> Result<Self, CliError> {
        let output = Self::to(path, force)?;
        let is_terminal = match &output {
            Self::Stdout(_) => io::stdout().is_terminal(),
            Self::Stream(stream) => stream.get_ref().is_terminal(),
            Self::File(..) => false,
        };
        if is_terminal {
            let message =
                "cannot write binary data to a terminal; use -o FILE, -o DIRECTORY, or a pipe";
            return Err(CliError::Usage(message.to_owned()));
        }
        Ok(output)
    }

    fn file(path: &Path, force: bool) -> Result<Self, CliError> {
        let taken = if force { Taken::Replaced } else { Taken::Stays };
        let file = WholeFile::shared(path).map_err(|refused| match CliError::from(refused) {
            CliError::Usage(why) => CliError::Usage(format!("{why}, or - for standard output")),
            other => other,
        })?;
        Ok(Self::File(file, taken))
    }

    /// All is written. A file whose name was taken meanwhile is beside it, which is said.
    ///
    /// # Errors
    /// The rest cannot be written, or the file cannot take a name.
    pub(crate) fn finish(self, wanted: &Path) -> Result<(), CliError> {
        match self {
            Self::Stdout(mut stdout) => stdout.flush().map_err(|failed| write_failed(&failed)),
            Self::Stream(mut stream) => stream.flush().map_err(|failed| write_failed(&failed)),
            Self::File(file, taken) => {
                let path = file.finish(taken)?;
                if path != wanted {
                    let shown = |path: &Path| excerpt(&path.display().to_string());
                    // If standard error is closed, the message is lost.
                    let _ = writeln!(
                        io::stderr(),
                        "pptop: {} was created in the meantime and is kept; the result is in {}",
                        shown(wanted),
                        shown(&path)
                    );
                }
                Ok(())
            }
        }
    }
}

/// Opens what is written through. A pipe gets some time to be read from.
fn open_stream(path: &Path) -> Result<File, String> {
    // What this process was given open is not begun anew.
    let flags =
        OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let begun = Instant::now();
    let fd = loop {
        match open(path, flags, Mode::empty()) {
            Ok(fd) => break fd,
            Err(Errno::NXIO) if begun.elapsed() < READER_WAIT => thread::sleep(LOOK_EVERY),
            Err(Errno::NXIO) => {
                let seconds = READER_WAIT.as_secs();
                return Err(format!(
                    "no process opened it for reading within {seconds} s; start the reader first"
                ));
            }
            Err(errno) => return Err(io::Error::from(errno).to_string()),
        }
    };
    // From here on a slow reader is waited for.
    fcntl_getfl(fd.as_fd())
        .and_then(|flags| fcntl_setfl(fd.as_fd(), flags.difference(OFlags::NONBLOCK)))
        .map_err(|errno| io::Error::from(errno).to_string())?;
    Ok(File::from(fd))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::Stream(stream) => stream.write(bytes),
            Self::File(file, _) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::Stream(stream) => stream.flush(),
            Self::File(file, _) => file.flush(),
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
