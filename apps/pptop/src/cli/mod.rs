//! The command line: one file a command. Here is what all of them share: how arguments are read, how output is written, and how
//! a refusal looks.
//!
//! Bad input ends with exit code 2 and one line on standard error (a grid may follow after a blank line), a run that fails with
//! exit code 1. Data goes to standard output, everything else to standard error. A reader that goes away is no error.

mod attach;
mod bubble;
#[cfg(feature = "train")]
mod compare;
mod completions;
mod config;
mod costs;
mod demo;
#[cfg(feature = "train")]
mod devices;
mod doctor;
mod export;
#[cfg(feature = "train")]
mod gpus;
#[cfg(feature = "train")]
mod job;
mod lines;
mod man;
mod output;
#[cfg(feature = "train")]
mod phases;
mod refusal;
mod replay;
mod report;
mod runs;
mod schedule;
mod settings;
mod sizes;
mod snapshot;
mod standing;
#[cfg(feature = "train")]
mod stopping;
#[cfg(feature = "train")]
mod story;
#[cfg(feature = "train")]
mod train;
#[cfg(feature = "train")]
mod training;
mod which;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use pp_schedule::ScheduleError;

/// Pipeline-parallel training that one can see.
#[derive(Debug, Parser)]
#[command(
    name = "pptop",
    version,
    about,
    after_help = "\
Without a command, on a terminal, pptop watches the run that is live. Several are watched at once: n and p choose, and the
first line of a view says run 1 of N. Where none is live it lists those that are recorded.",
    disable_help_subcommand = true,
    subcommand_required = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model on a pipeline, and watch it
    #[cfg(feature = "train")]
    Train(Box<train::Args>),
    /// Train the same job under several schedules, and compare
    #[cfg(feature = "train")]
    Compare(Box<compare::Args>),
    /// How much of the time is bubble: all three numbers, from formulas and from simulation
    Bubble(bubble::Args),
    /// Draw, check, simulate or export a schedule
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Watch a run that is there already, live or over; several at once with several names
    Attach(attach::Args),
    /// Play a recorded run again
    Replay(replay::Args),
    /// How a run stands now: a screen as text or picture, or its numbers
    Snapshot(snapshot::Args),
    /// What is wrong with a run, why, and what to do; exit code 1 when a bound is missed
    Report(report::Args),
    /// Watch simulated devices: no GPU, no model, no log that stays
    Demo(demo::Args),
    /// The runs that are kept: list, info, prune
    #[command(subcommand)]
    Runs(runs::Command),
    /// Write a recorded run as a trace, a table, scalars, a picture or metrics
    #[command(subcommand)]
    Export(export::Command),
    /// What can be used here, and why not
    #[cfg(feature = "train")]
    Devices(devices::Args),
    /// What could go wrong here, and what to do about it; exit code 1 for a warning, 2 for a failure
    Doctor(doctor::Args),
    /// The configuration file: init, print, validate, path
    #[command(subcommand)]
    Config(config::Command),
    /// A script that completes commands and flags in a shell
    Completions(completions::Args),
    /// Manual pages: the main one, or all of them into a folder
    Man(man::Args),
}

impl Command {
    fn run(self) -> Result<(), CliError> {
        match self {
            #[cfg(feature = "train")]
            Self::Train(args) => train::run(*args),
            #[cfg(feature = "train")]
            Self::Compare(args) => compare::run(&args),
            #[cfg(feature = "train")]
            Self::Devices(args) => devices::run(&args),
            Self::Attach(args) => attach::run(&args),
            Self::Replay(args) => replay::run(&args),
            Self::Snapshot(args) => snapshot::run(&args),
            Self::Report(args) => report::run(&args),
            Self::Demo(args) => demo::run(&args),
            Self::Runs(command) => runs::run(&command),
            Self::Export(command) => export::run(&command),
            Self::Bubble(args) => bubble::run(&args),
            Self::Schedule(command) => schedule::run(&command),
            Self::Doctor(args) => doctor::run(&args),
            Self::Config(command) => config::run(&command),
            Self::Completions(args) => completions::run(&args, program()),
            Self::Man(args) => man::run(&args, program()),
        }
    }
}

/// How a command ends when it does not end well.
#[derive(Debug)]
pub(crate) enum CliError {
    /// Bad input: what is wrong and what would be accepted. Exit code 2.
    Usage(String),
    /// The work itself failed. Exit code 1.
    Failed(String),
    /// Everything has been said already: this exit code, without a word.
    Code(u8),
}

impl From<ScheduleError> for CliError {
    fn from(refused: ScheduleError) -> Self {
        Self::Usage(refused.to_string())
    }
}

/// A negative number is the value of the flag before it, so that the refusal can say what that flag accepts.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let takes_value = |arg: &clap::Arg| !arg.is_positional() && arg.get_action().takes_values();
    let allow = |arg: clap::Arg| {
        let takes_value = takes_value(&arg);
        arg.allow_negative_numbers(takes_value)
    };
    command.mut_args(allow).mut_subcommands(with_negative_numbers)
}

/// All that the command line accepts.
fn program() -> clap::Command {
    with_negative_numbers(Cli::command())
}

/// Reads the command line, runs the command and says how it ended.
pub(crate) fn main() -> ExitCode {
    // Without the handler such a limit ends the program as it does any other.
    let _ = pptop::signals::survive_file_size_limit();
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.len() <= 1 && has_screen() {
        return exit(attach::alone());
    }
    let mut command = program();
    let parsed = command.try_get_matches_from_mut(&args).and_then(|matches| {
        Cli::from_arg_matches(&matches).map_err(|refused| refused.format(&mut command))
    });
    let ended = match parsed {
        Ok(cli) => cli.command.run(),
        Err(refused) => match refused.kind() {
            clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion => {
                print(&refused.render().to_string())
            }
            _ => Err(CliError::Usage(refusal::of_arguments(&refused, &Cli::command(), &args))),
        },
    };
    exit(ended)
}

/// Says how a command ended, and gives its exit code.
fn exit(ended: Result<(), CliError>) -> ExitCode {
    let (message, code) = match ended {
        Ok(()) => return ExitCode::SUCCESS,
        Err(CliError::Code(code)) => return ExitCode::from(code),
        Err(CliError::Usage(message)) => (message, 2),
        Err(CliError::Failed(message)) => (message, 1),
    };
    // Where standard error is closed there is nobody left to tell.
    let _ = writeln!(io::stderr(), "{}", refusal::shown(&message));
    ExitCode::from(code)
}

/// Writes to standard output. A reader that has gone away ends the command quietly.
///
/// # Errors
/// [`CliError::Failed`] where standard output cannot take it, a full disk for example.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    // A log may say anything, also what a terminal would obey.
    let text = text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "\u{fffd}");
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|failed| {
        match failed.kind() {
            io::ErrorKind::BrokenPipe => CliError::Code(0),
            _ => CliError::Failed(format!("cannot write to standard output: {failed}")),
        }
    })
}

/// A text of a log or a folder's name as a part of one line.
pub(crate) fn one_line(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Whether standard output is a terminal that can show a screen.
pub(crate) fn has_screen() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes a value as one line of JSON to standard output.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let json = serde_json::to_string(value)
        .map_err(|failed| CliError::Failed(format!("cannot write JSON: {failed}")))?;
    print(&format!("{json}\n"))
}
