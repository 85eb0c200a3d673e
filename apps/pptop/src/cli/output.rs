//! Where a command writes what may be long: standard output, or a file that is there whole or not at all.

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;

use pptop::whole_file::{NotWritten, WholeFile};

use super::CliError;
use super::refusal::excerpt;

const BUFFER_BYTES: usize = 1 << 18;

/// Where the output goes.
pub(crate) enum Output {
    /// To whoever reads standard output.
    Stdout(BufWriter<io::StdoutLock<'static>>),
    /// To a file.
    File(WholeFile),
}

impl From<NotWritten> for CliError {
    fn from(refused: NotWritten) -> Self {
        let path = excerpt(&refused.path.display().to_string());
        let said = format!("cannot write {path}: {}", refused.why);
        match refused.accepted {
            Some(accepted) => Self::Usage(format!("{said}; use {accepted}")),
            None => Self::Failed(said),
        }
    }
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
            let message = "binary data is not for a terminal; use -o FILE, -o DIRECTORY, or a pipe";
            return Err(CliError::Usage(message.to_owned()));
        }
        Ok(Self::stdout())
    }

    /// A file, which takes its name when it is whole.
    ///
    /// # Errors
    /// [`CliError::Usage`] with what to do instead.
    pub(crate) fn file(path: &Path) -> Result<Self, CliError> {
        let file = WholeFile::create(path).map_err(|refused| match CliError::from(refused) {
            CliError::Usage(why) => CliError::Usage(format!("{why}, or - for standard output")),
            other => other,
        })?;
        Ok(Self::File(file))
    }

    /// All is written.
    ///
    /// # Errors
    /// The rest cannot be written, or the file cannot take its name.
    pub(crate) fn finish(self) -> Result<(), CliError> {
        match self {
            Self::Stdout(mut stdout) => stdout.flush().map_err(|failed| write_failed(&failed)),
            Self::File(file) => Ok(file.finish()?),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::File(file) => file.flush(),
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
