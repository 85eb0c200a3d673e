//! `pptop launch`: starts several processes with their launcher, and starts them again when they
//! fail.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::Parser as _;

use super::restarts::Launched;
use super::sizes::natural;
use super::train;
use super::{Cli, CliError, Command};

/// What to start, and how often.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pptop launch --restarts 3 -- mpirun -np 4 pptop train --pp 2 --dp 2 --checkpoint-every 100
  pptop launch --restarts 3 -- mpirun -np 4 pptop train --pp 4 --checkpoint-every 100 \\
                            -- mpirun -np 2 pptop train --pp 2 --checkpoint-every 100

With a second command, restarts run that one. It may have other ranks: a checkpoint does not depend
on their number.")]
pub(crate) struct Args {
    /// Start the command again from its newest checkpoint when it fails, at most N times
    #[arg(long, value_name = "N", value_parser = natural, default_value = "0")]
    restarts: u64,
    /// The launcher with its command, and after another -- the command of restarts
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Finds `pptop train` in a command.
fn launched(command: &[OsString]) -> Result<Launched, CliError> {
    let is_pptop = |word: &OsStr| Path::new(word).file_stem() == Some(OsStr::new("pptop"));
    let at = command.windows(2).position(|two| is_pptop(&two[0]) && two[1] == "train");
    let Some(at) = at.filter(|&at| at > 0) else {
        let shown: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
        return Err(CliError::Usage(format!(
            "launch starts 'pptop train' with a launcher before it, such as mpirun -np 4 pptop train; '{}' is no such command",
            shown.join(" ")
        )));
    };
    let (launcher, words) = command.split_at(at + 1);
    Ok(Launched { launcher: launcher.to_vec(), words: words.to_vec() })
}

/// The arguments of `pptop train`.
fn args_of(launched: &Launched) -> Result<train::Args, CliError> {
    let words = [OsString::from("pptop")].into_iter().chain(launched.words.iter().cloned());
    let words: Vec<OsString> = words.collect();
    match Cli::try_parse_from(&words) {
        Ok(Cli { command: Command::Train(args), .. }) => Ok(*args),
        Ok(_) => Err(CliError::Usage("launch starts pptop train alone".to_owned())),
        Err(refused) => Err(CliError::Usage(super::refusal::of_arguments(
            &refused,
            &<Cli as clap::CommandFactory>::command(),
            &words,
        ))),
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let mut commands = args.command.split(|word| word == "--");
    let first = launched(commands.next().unwrap_or_default())?;
    let then = commands.next().map(launched).transpose()?.unwrap_or_else(|| first.clone());
    if commands.next().is_some() {
        let message = "launch takes at most two commands: the first one, and that of restarts";
        return Err(CliError::Usage(message.to_owned()));
    }
    // What is wrong with the second one is said before the first has run for hours.
    args_of(&then)?;
    train::supervise(args_of(&first)?, args.restarts, [first, then])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_launcher_and_the_words_of_the_run_are_told_apart() {
        let found = launched(&words("mpirun -np 4 ./bin/pptop train --pp 4")).unwrap();
        assert_eq!(found.launcher, words("mpirun -np 4 ./bin/pptop"));
        assert_eq!(found.words, words("train --pp 4"));
        args_of(&found).unwrap();
        for command in ["pptop train --pp 4", "mpirun -np 4 pptop bubble", "mpirun -np 4", ""] {
            assert!(launched(&words(command)).is_err(), "{command}");
        }
    }
}
