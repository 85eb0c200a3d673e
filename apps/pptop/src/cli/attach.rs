//! `pptop attach`: watches runs that are there already.

use std::ffi::OsString;

use pptop::monitor::Watch;

use super::CliError;
use super::lines::{Lines, follow};
use super::settings::{Look, ScreenFlags};
use super::which::{Found, find};

/// Which runs are watched, and how.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Args {
    /// latest, the start of a run id, the process id of a run, a run folder, a log file, or - for a
    /// log on standard input
    #[arg(value_name = "RUN|PID|FILE|-", default_value = "latest")]
    runs: Vec<OsString>,
    /// Attach read-only: this monitor can neither stop the run nor ask it for a checkpoint
    #[arg(long)]
    read_only: bool,
    /// Print lines instead of a screen, which is the default without a terminal
    #[arg(long)]
    plain: bool,
    /// Print one JSON object per line, as in the log: hello, step, eval, warn, end; with --once,
    /// print the same object as snapshot --json
    #[arg(long)]
    json: bool,
    /// Print one line with the state of the run, then exit
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    screen: ScreenFlags,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let config = args.screen.config()?;
    let mut found = args.runs.iter().map(|name| find(name)).collect::<Result<Vec<_>, _>>()?;
    let is_screen = !args.plain && !args.json && !args.once && super::has_screen();
    if is_screen {
        let (runs, spools): (Vec<_>, Vec<_>) = found.into_iter().map(Found::into_parts).unzip();
        let runs = runs.into_iter().map(|run| Watch::Found(Box::new(run))).collect();
        let ended = Look::of(&config).watch(runs, args.read_only);
        // What came through a pipe is read until here.
        drop(spools);
        return ended;
    }
    if found.len() > 1 {
        let message = "lines can follow only one run; name one run, or attach from a terminal";
        return Err(CliError::Usage(message.to_owned()));
    }
    let Some(run) = found.pop() else { return Ok(()) };
    let lines = if args.json { Lines::Json } else { Lines::Plain };
    follow(&run, lines, args.once)
}

/// What `pptop` without a command does on a terminal: watches the runs that are live, or opens a
/// list of those that are recorded.
pub(crate) fn alone() -> Result<(), CliError> {
    let config = super::settings::config()?;
    let live = super::runs::live()?;
    if live.is_empty() {
        return super::runs::chosen_from(&config);
    }
    let runs = live.into_iter().map(|run| Watch::Found(Box::new(run))).collect();
    Look::of(&config).watch(runs, false)
}
