//! The command line, with one file for each command. This file has what all of them share: reading
//! arguments, writing output, and showing refusals.
//!
//! Bad input ends with exit code 2 and one line on standard error (a grid may follow after a blank
//! line). A run that fails ends with exit code 1. Data goes to standard output, everything else to
//! standard error. A reader that goes away is no error.

mod attach;
mod bubble;
#[cfg(feature = "train")]
mod checkpoint;
#[cfg(feature = "train")]
mod checkpoints;
mod collect;
#[cfg(feature = "train")]
mod compare;
mod completions;
mod config;
#[cfg(feature = "train")]
mod convert;
mod costs;
#[cfg(feature = "train")]
mod data;
mod demo;
#[cfg(feature = "train")]
mod devices;
mod doctor;
mod endings;
#[cfg(feature = "train")]
mod evaluate;
mod export;
#[cfg(feature = "train")]
mod gpus;
#[cfg(feature = "train")]
mod guards;
mod help;
mod import;
#[cfg(feature = "train")]
mod job;
#[cfg(feature = "train")]
mod kernels;
#[cfg(feature = "train")]
mod launch;
#[cfg(feature = "train")]
mod learned;
mod lines;
mod man;
mod output;
mod outputs;
#[cfg(feature = "train")]
mod processes;
mod refusal;
mod replay;
mod report;
#[cfg(feature = "train")]
mod restarts;
#[cfg(feature = "train")]
mod run_folder;
mod runs;
mod schedule;
mod settings;
mod sizes;
mod snapshot;
#[cfg(feature = "train")]
mod stalls;
mod standing;
#[cfg(feature = "train")]
mod story;
#[cfg(feature = "train")]
mod train;
#[cfg(feature = "train")]
mod training;
mod typed;
mod which;

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use pp_schedule::{ScheduleError, clean, clean_lines, to_json};
use pptop::ability::{Ability, in_ascii};

/// Pipeline-parallel training with a live view of every rank.
#[derive(Debug, Parser)]
#[command(
    name = "pptop",
    version,
    about,
    disable_version_flag = true,
    after_help = "\
Without a command, pptop attaches to the live run. With several live runs, n and p switch between them.
If no run is live, it lists the recorded runs. pptop help COMMAND explains a command.",
    disable_help_subcommand = true,
    subcommand_required = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print the version
    #[arg(short = 'v', visible_short_alias = 'V', long = "version", action = clap::ArgAction::Version)]
    is_version: Option<bool>,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model on a pipeline, and watch the run
    #[cfg(feature = "train")]
    Train(Box<train::Args>),
    /// Start a run in several processes with their launcher, and start it again when it fails
    #[cfg(feature = "train")]
    Launch(launch::Args),
    /// Train the same job under several schedules, and compare them
    #[cfg(feature = "train")]
    Compare(Box<compare::Args>),
    /// Compute the bubble of schedules, under its three names, by formula and by simulation
    Bubble(bubble::Args),
    /// Draw, check, simulate or export a schedule
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Attach to a run, live or finished; several names attach to several runs
    Attach(attach::Args),
    /// Replay a recorded run
    Replay(replay::Args),
    /// Print the state of a run: a screen, a picture, or numbers
    Snapshot(snapshot::Args),
    /// Diagnose a run: what costs most, why, and what to try; exit code 1 if a bound is missed
    Report(report::Args),
    /// Watch a simulated run: no GPU, no model, nothing kept
    Demo(demo::Args),
    /// List, describe and prune recorded runs
    #[command(subcommand)]
    Runs(runs::Command),
    /// List, show, verify and export checkpoints
    #[cfg(feature = "train")]
    #[command(subcommand)]
    Checkpoint(checkpoint::Command),
    /// Evaluate a model on a text, without training
    #[cfg(feature = "train")]
    Evaluate(evaluate::Args),
    /// Show what a model would see of a text: tokens, lengths, and how rows are filled
    #[cfg(feature = "train")]
    Data(data::Args),
    /// Convert a GGUF file into the folder of a model
    #[cfg(feature = "train")]
    Convert(convert::Args),
    /// Merge another framework's per-rank files into one log
    Collect(collect::Args),
    /// Import traces of other programs as a recorded run
    #[command(subcommand)]
    Import(import::Command),
    /// Export a recorded run as trace, table, scalars, picture or metrics
    #[command(subcommand)]
    Export(export::Command),
    /// List the devices that ranks can use, and why others cannot be used
    #[cfg(feature = "train")]
    Devices(devices::Args),
    /// Check this machine and the settings; exit code 1 for a warning, 2 for a failure
    Doctor(doctor::Args),
    /// Create, print and check the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Print a script that completes commands and flags in a shell
    Completions(completions::Args),
    /// Print the manual page, or write all pages into a folder
    Man(man::Args),
    /// Print the help of a command
    Help(help::Args),
}

impl Command {
    fn run(self) -> Result<(), CliError> {
        match self {
            #[cfg(feature = "train")]
            Self::Train(args) => train::run(*args),
            #[cfg(feature = "train")]
            Self::Launch(args) => launch::run(&args),
            #[cfg(feature = "train")]
            Self::Compare(args) => compare::run(&args),
            #[cfg(feature = "train")]
            Self::Devices(args) => devices::run(&args),
            #[cfg(feature = "train")]
            Self::Checkpoint(command) => checkpoint::run(&command),
            #[cfg(feature = "train")]
            Self::Evaluate(args) => evaluate::run(&args),
            #[cfg(feature = "train")]
            Self::Convert(args) => convert::run(&args),
            #[cfg(feature = "train")]
            Self::Data(args) => data::run(&args),
            Self::Attach(args) => attach::run(&args),
            Self::Replay(args) => replay::run(&args),
            Self::Snapshot(args) => snapshot::run(&args),
            Self::Report(args) => report::run(&args),
            Self::Demo(args) => demo::run(&args),
            Self::Runs(command) => runs::run(&command),
            Self::Collect(args) => collect::run(&args),
            Self::Import(command) => import::run(&command),
            Self::Export(command) => export::run(&command),
            Self::Bubble(args) => bubble::run(&args),
            Self::Schedule(command) => schedule::run(&command),
            Self::Doctor(args) => doctor::run(&args),
            Self::Config(command) => config::run(&command),
            Self::Completions(args) => completions::run(&args, program()),
            Self::Man(args) => man::run(&args, program()),
            Self::Help(args) => help::run(&args, program()),
        }
    }
}

/// The error of a command.
#[derive(Debug)]
pub(crate) enum CliError {
    /// Bad input, with the reason and what to do. Exit code 2.
    Usage(String),
    /// The work itself failed. Exit code 1.
    Failed(String),
    /// An exit code without a message: it has been written already.
    Code(u8),
}

impl From<ScheduleError> for CliError {
    fn from(refused: ScheduleError) -> Self {
        Self::Usage(refused.to_string())
    }
}

/// A negative number is the value of the flag before it, so that the refusal can say what that flag
/// accepts.
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
    let program = with_negative_numbers(Cli::command());
    #[cfg(feature = "train")]
    let program = program.mut_subcommand("compare", compare::grouped);
    program
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
        // Every process of a job would say the same.
        #[cfg(feature = "train")]
        Err(refused) if refused.use_stderr() && processes::is_repeating() => {
            // The launcher ends all processes when one ends like this: the first one speaks first.
            std::thread::sleep(std::time::Duration::from_secs(1));
            return ExitCode::from(2);
        }
        Err(refused) => match refused.kind() {
            clap::error::ErrorKind::DisplayHelp => print(&help::asked(program(), &args)),
            clap::error::ErrorKind::DisplayVersion => print(&refused.render().to_string()),
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
    // If standard error is closed, the message is lost.
    let shown = refusal::shown(&message);
    let _ = writeln!(io::stderr(), "{}", for_terminal(&shown, io::stderr().is_terminal()));
    ExitCode::from(code)
}

/// Writes a message to standard error, beside the output of the command. If standard error is
/// closed, the message is lost.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "pptop: {}", clean_lines(text));
}

/// Writes to standard output. A reader that has gone away ends the command quietly.
///
/// # Errors
/// [`CliError::Failed`] where standard output cannot take it, a full disk for example.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    // A log may hold control characters that a terminal would obey.
    let text = clean_lines(text);
    let text = for_terminal(&text, io::stdout().is_terminal());
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|failed| {
        match failed.kind() {
            io::ErrorKind::BrokenPipe => CliError::Code(0),
            _ => CliError::Failed(format!("cannot write to standard output: {failed}")),
        }
    })
}

/// A text as the terminal can show it, if it goes to one.
pub(crate) fn for_terminal(text: &str, is_terminal: bool) -> Cow<'_, str> {
    if is_terminal && !text.is_ascii() && Ability::of_environment().ascii.is_some() {
        in_ascii(text).into()
    } else {
        text.into()
    }
}

/// A text of a log or a folder's name as a part of one line.
pub(crate) fn one_line(text: &str) -> String {
    clean(text).into_owned()
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
    let json = to_json(value)
        .map_err(|failed| CliError::Failed(format!("cannot write JSON: {failed}")))?;
    print(&format!("{json}\n"))
}
