//! The help of a command: `-h` shows the flags that matter first, `--help` and `pptop help` all of
//! them, in groups.

use std::ffi::OsString;

use super::{CliError, print};

/// The groups of flags behind those that matter first.
pub(crate) mod headings {
    /// What the model is made of.
    #[cfg(feature = "train")]
    pub(crate) const MODEL: &str = "Model";
    /// How the model is cut, and in which order its parts run.
    #[cfg(feature = "train")]
    pub(crate) const PIPELINE: &str = "Pipeline";
    /// How the weights change.
    #[cfg(feature = "train")]
    pub(crate) const OPTIMIZER: &str = "Optimizer";
    /// How a run can go on, and what happens when something goes wrong.
    #[cfg(feature = "train")]
    pub(crate) const CHECKPOINTS: &str = "Checkpoints and faults";
    /// What a run leaves behind.
    #[cfg(feature = "train")]
    pub(crate) const RECORD: &str = "Records and results";
    /// How ops and messages are timed.
    pub(crate) const COSTS: &str = "Costs";
    /// GPUs.
    #[cfg(feature = "train")]
    pub(crate) const GPUS: &str = "GPUs";
    /// The terminal.
    pub(crate) const SCREEN: &str = "Screen";
}

/// Which command to describe.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Command to describe, such as train or schedule show; without one, all commands
    #[arg(value_name = "COMMAND", num_args = 0..)]
    command: Vec<String>,
}

/// Runs `pptop help`: the same text as `--help`.
pub(crate) fn run(args: &Args, program: clap::Command) -> Result<(), CliError> {
    let mut command = built(program);
    for word in &args.command {
        let path = path_of(&command);
        command = match command.find_subcommand(word) {
            Some(inner) => inner.clone(),
            None => return Err(CliError::Usage(super::refusal::no_command(&command, &path, word))),
        };
    }
    print(&whole(command))
}

/// What `-h` or `--help` among the arguments asks for.
pub(crate) fn asked(program: clap::Command, args: &[OsString]) -> String {
    let mut command = built(program);
    let mut is_whole = false;
    for arg in args.iter().skip(1).filter_map(|arg| arg.to_str()) {
        if arg == "--" {
            break;
        }
        is_whole |= arg == "--help";
        if let Some(inner) = command.find_subcommand(arg) {
            command = inner.clone();
        }
    }
    if is_whole { whole(command) } else { short(command) }
}

/// A command whose parts know their whole names.
fn built(mut program: clap::Command) -> clap::Command {
    program.build();
    program
}

fn path_of(command: &clap::Command) -> String {
    command.get_bin_name().unwrap_or(command.get_name()).to_owned()
}

fn whole(mut command: clap::Command) -> String {
    let has_long = command.get_arguments().any(|arg| arg.get_long_help().is_some());
    // The long layout has a line of its own for every text; only long texts are worth it.
    if has_long {
        command.render_long_help().to_string()
    } else {
        command.render_help().to_string()
    }
}

/// The flags without a group; what else there is, in a line.
fn short(command: clap::Command) -> String {
    let is_more = |arg: &clap::Arg| arg.get_help_heading().is_some() && !arg.is_hide_set();
    let n_more = command.get_arguments().filter(|arg| is_more(arg)).count();
    let has_long = command.get_after_help().is_some()
        || command.get_arguments().any(|arg| arg.get_long_help().is_some());
    let path = path_of(&command);
    let is_root = path == command.get_name();
    if is_root || (n_more == 0 && !has_long) {
        return whole(command);
    }
    let more = match n_more {
        0 => format!("{path} --help says more."),
        _ => format!("{path} --help shows {n_more} more flags, in groups."),
    };
    let hide = |arg: clap::Arg| if is_more(&arg) { arg.hide(true) } else { arg };
    command.mut_args(hide).after_help(more).render_help().to_string()
}
