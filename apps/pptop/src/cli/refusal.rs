//! How bad input is told: one line that names the value and what would be accepted.

use std::ffi::OsString;

use clap::error::ErrorKind;

/// The longest first line.
const CHARS_MAX: usize = 300;

/// The longest message with a list in it: a list that was cut off would look complete.
const LIST_MAX: usize = CHARS_MAX - 20;

/// A message as it goes to standard error: the program's name in front, its first line within bounds. What follows after a blank
/// line, a grid, stays.
pub(crate) fn shown(message: &str) -> String {
    let (line, grid) = message.split_once("\n\n").unwrap_or((message, ""));
    let line = format!("pptop: {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
    let line = cut(&line, CHARS_MAX);
    if grid.is_empty() { line } else { format!("{line}\n\n{grid}") }
}

/// A text of at most `most` characters, with an ellipsis where it was cut.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// A value of the user's as it stands in a message: on one line, and not so long that it hides the rest.
pub(crate) fn excerpt(value: &str) -> String {
    const MOST: usize = 80;
    let clean: String =
        value.chars().take(MOST + 1).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    cut(&clean, MOST)
}

/// The line for arguments that could not be read.
pub(crate) fn of_arguments(
    refused: &clap::Error,
    root: &clap::Command,
    args: &[OsString],
) -> String {
    let command = command_of(root, args);
    let flags = || {
        let longs =
            command.get_arguments().filter_map(clap::Arg::get_long).map(|long| format!("--{long}"));
        longs.collect::<Vec<_>>().join(" ")
    };
    let subcommands =
        || command.get_subcommands().map(clap::Command::get_name).collect::<Vec<_>>().join(" ");
    match refused.kind() {
        ErrorKind::UnknownArgument => {
            let message = format!("{}; accepted: {}", said(refused), flags());
            if message.len() <= LIST_MAX {
                return message;
            }
            format!("{}; accepted: the flags of {} --help", said(refused), command.get_name())
        }
        ErrorKind::InvalidSubcommand => format!("{}; accepted: {}", said(refused), subcommands()),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            format!("{} needs a command; accepted: {}", command.get_name(), subcommands())
        }
        kind => {
            let message = said(refused);
            if message.contains("accepted: ") {
                return message;
            }
            let accepted = match kind {
                ErrorKind::MissingRequiredArgument => "the command with what is missing",
                ErrorKind::ArgumentConflict => "one of them",
                ErrorKind::TooManyValues => "the flag without a value",
                ErrorKind::InvalidUtf8 => "text in UTF-8",
                ErrorKind::InvalidValue => "a value after it",
                _ => "what its --help names",
            };
            format!("{message}; accepted: {accepted}")
        }
    }
}

/// What clap says about it, without its usage, its tips and its pointer to the help.
fn said(refused: &clap::Error) -> String {
    let text = refused.render().to_string();
    let lines = text.lines().map(str::trim);
    let lines = lines.take_while(|line| {
        !line.starts_with("Usage:") && !line.starts_with("For more information")
    });
    let lines: Vec<&str> =
        lines.filter(|line| !line.is_empty() && !line.starts_with("tip:")).collect();
    let line = lines.join(" ");
    let line = line.trim_start_matches("error: ");
    // Clap's word for a closed list, in ours.
    match line.split_once(" [possible values: ") {
        Some((fault, list)) => format!("{fault}; accepted: {}", list.trim_end_matches(']')),
        None => line.to_owned(),
    }
}

/// The innermost command that the arguments name.
fn command_of<'a>(root: &'a clap::Command, args: &[OsString]) -> &'a clap::Command {
    let words = args.iter().skip(1).filter_map(|arg| arg.to_str());
    words.fold(root, |command, word| command.find_subcommand(word).unwrap_or(command))
}
