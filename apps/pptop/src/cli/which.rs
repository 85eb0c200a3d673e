//! Which run a command is about.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _, Write as _};
use std::ops::Deref;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use pp_telemetry::{FindError, Run, Spool, find_run, is_path, of_path, runs_dir};
use rustix::fs::{Mode, OFlags, open};

use super::CliError;
use super::outputs::Files;
use super::refusal::excerpt;

/// The run of a command that watches, reports or exports.
#[derive(Debug, clap::Args)]
pub(crate) struct WhichRun {
    /// latest, the start of a run id, a process id, a run folder, a log file, or - for a log on
    /// standard input
    #[arg(value_name = "RUN|PID|FILE|-", default_value = "latest")]
    pub(crate) run: OsString,
}

impl WhichRun {
    /// The run.
    ///
    /// # Errors
    /// [`CliError::Usage`] with what to do instead.
    pub(crate) fn find(&self) -> Result<Found, CliError> {
        find(&self.run)
    }
}

/// A run, with the copy of its log where that came through a pipe.
#[derive(Debug)]
pub(crate) struct Found {
    run: Run,
    spool: Option<Spool>,
}

impl Found {
    /// The run, and what has to stay as long as it is read.
    pub(crate) fn into_parts(self) -> (Run, Option<Spool>) {
        (self.run, self.spool)
    }
}

impl Deref for Found {
    type Target = Run;

    fn deref(&self) -> &Run {
        &self.run
    }
}

/// Finds the run that a name refers to. The state directory is needed only for a name that is not a
/// path.
///
/// # Errors
/// As [`WhichRun::find`].
pub(crate) fn find(name: &OsStr) -> Result<Found, CliError> {
    if let Some(stream) = stream_of(name) {
        return copied(stream, name);
    }
    let usage = |refused: FindError| CliError::Usage(refused.to_string());
    let run = if is_path(name) {
        of_path(Path::new(name)).map_err(usage)?
    } else {
        match runs_dir() {
            Ok(runs) => find_run(&runs, name).map_err(usage)?,
            Err(_) if name != "latest" && Path::new(name).exists() => {
                of_path(Path::new(name)).map_err(usage)?
            }
            Err(error) => return Err(CliError::Failed(error.to_string())),
        }
    };
    // What a command writes must not make what it reads longer.
    let mut files = Files::new(false);
    files.input("the run", &run.log);
    files.run_dir(&run.dir);
    files.check()?;
    Ok(Found { run, spool: None })
}

/// Where a log comes from that can be read only once: standard input, or a pipe with a name.
fn stream_of(name: &OsStr) -> Option<Stream<'_>> {
    let path = Path::new(name);
    if name == "-" {
        return Some(Stream::Stdin);
    }
    if let Some(number) = super::output::own_descriptor(path) {
        return Some(if number == 0 { Stream::Stdin } else { Stream::Named(path) });
    }
    let is_fifo = path.metadata().is_ok_and(|about| about.file_type().is_fifo());
    is_fifo.then_some(Stream::Named(path))
}

#[derive(Clone, Copy)]
enum Stream<'a> {
    Stdin,
    Named(&'a Path),
}

fn copied(stream: Stream<'_>, name: &OsStr) -> Result<Found, CliError> {
    let shown = match stream {
        Stream::Stdin => "standard input".to_owned(),
        Stream::Named(path) => excerpt(&path.display().to_string()),
    };
    let refused = |why: &dyn std::fmt::Display| {
        CliError::Usage(format!("cannot read a log from {shown}: {why}"))
    };
    if matches!(stream, Stream::Stdin) && io::stdin().is_terminal() {
        return Err(refused(&"it is a terminal; send the log of a run through a pipe"));
    }
    let fd = opened(stream).map_err(|error| refused(&error))?;
    let spool = Spool::of(fd).map_err(|why| refused(&why))?;
    if spool.is_cut() {
        // If standard error is closed, the message is lost.
        let _ = writeln!(
            io::stderr(),
            "pptop: {shown} went silent; the log received so far counts as complete"
        );
    }
    let run = spool.run(&name.to_string_lossy());
    Ok(Found { run, spool: Some(spool) })
}

/// The stream, opened anew if possible, so that its flags are not shared with another process.
fn opened(stream: Stream<'_>) -> io::Result<OwnedFd> {
    let path = match stream {
        Stream::Stdin => Path::new("/proc/self/fd/0"),
        Stream::Named(path) => path,
    };
    // A regular file may have been read in part; a socket cannot be opened again.
    let is_pipe = path.metadata().is_ok_and(|about| about.file_type().is_fifo());
    if matches!(stream, Stream::Stdin) && !is_pipe {
        return io::stdin().as_fd().try_clone_to_owned();
    }
    Ok(open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}
