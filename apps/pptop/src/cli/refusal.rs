//! How bad input is told: one line that names the value, what is wrong with it and what to do.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use pp_schedule::{clean, clean_lines, did_you_mean};

/// The longest first line.
const CHARS_MAX: usize = 300;

/// A message as it goes to standard error: the program's name in front, its first line within
/// bounds. What follows after a blank line, a grid, stays.
pub(crate) fn shown(message: &str) -> String {
    let (line, grid) = message.split_once("\n\n").unwrap_or((message, ""));
    let line = format!("pptop: {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
    // A quoted value may hold control characters that a terminal would obey.
    let line = cut(&clean(&line), CHARS_MAX);
    if grid.is_empty() { line } else { format!("{line}\n\n{}", clean_lines(grid)) }
}

/// A text of at most `most` characters, with an ellipsis where it was cut.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// A value of the user's as it stands in a message: on one line, and not so long that it hides the
/// rest.
pub(crate) fn excerpt(value: &str) -> String {
    const MOST: usize = 80;
    let beginning: String = value.chars().take(MOST + 1).collect();
    cut(&clean(&beginning), MOST)
}

/// What to write instead of a word that nothing knows: the one that was probably meant, and what
/// there is.
pub(crate) fn choice(given: &str, known: &[&str]) -> String {
    let all = match known {
        [all @ .., last] if !all.is_empty() => format!("{} or {last}", all.join(", ")),
        _ => known.concat(),
    };
    match did_you_mean(given, known.iter().copied()) {
        Some(meant) => format!("{meant} Use {all}"),
        None => format!("use {all}"),
    }
}

/// The line for arguments that could not be read.
pub(crate) fn of_arguments(
    refused: &clap::Error,
    root: &clap::Command,
    args: &[OsString],
) -> String {
    let (command, path) = command_of(root, args);
    let help = format!("see {path} --help");
    let arg = name_of(&text(refused, ContextKind::InvalidArg));
    match refused.kind() {
        ErrorKind::UnknownArgument if arg.starts_with('-') => {
            if let Some((flag, value)) = dashed_value(command, args, &arg) {
                return format!(
                    "{flag} is followed by {value}, which looks like a flag; write {flag}={value} if it is the value"
                );
            }
            let flags: Vec<String> = command.get_arguments().flat_map(flags_of).collect();
            let known = flags.iter().map(String::as_str);
            match did_you_mean(&arg, known) {
                Some(meant) => format!("{path} has no flag {arg}; {meant} See {path} --help"),
                None => format!("{path} has no flag {arg}; {help}"),
            }
        }
        ErrorKind::UnknownArgument => format!("{path} takes no argument '{arg}'; {help}"),
        ErrorKind::InvalidSubcommand => {
            no_command(command, &path, &text(refused, ContextKind::InvalidSubcommand))
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let names = command.get_subcommands().map(clap::Command::get_name);
            let names: Vec<&str> = names.collect();
            format!("{path} needs a command; the commands are {}", names.join(" "))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = excerpt(&text(refused, ContextKind::InvalidValue));
            let known = list(refused, ContextKind::ValidValue);
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let remedy = match std::error::Error::source(refused) {
                Some(why) => why.to_string(),
                None if known.is_empty() => help,
                None => choice(&value, &known),
            };
            if value.is_empty() && known.is_empty() && refused.kind() == ErrorKind::InvalidValue {
                return format!(
                    "{arg} needs a value; write {}",
                    text(refused, ContextKind::InvalidArg)
                );
            }
            // A parser of ours says what to use instead, or what is wrong and what to use; others
            // only what is wrong.
            let place = format!("invalid value '{value}' for {arg}");
            if remedy.contains("; ") {
                format!("{place}: {remedy}")
            } else if ["use ", "did you mean ", "see "].iter().any(|verb| remedy.starts_with(verb))
            {
                format!("{place}; {remedy}")
            } else {
                format!("{place}: {remedy}; see {path} --help")
            }
        }
        ErrorKind::NoEquals => {
            format!("{arg} takes its value after an equal sign; write {arg}=VALUE")
        }
        ErrorKind::TooManyValues => {
            let value = excerpt(&text(refused, ContextKind::InvalidValue));
            format!("{arg} takes no value '{value}'; write {arg} alone")
        }
        ErrorKind::ArgumentConflict => {
            let others = list(refused, ContextKind::PriorArg);
            let others: Vec<String> = others.iter().map(|other| name_of(other)).collect();
            if others.is_empty() || others.contains(&arg) {
                return format!("{arg} is given twice; give it once");
            }
            format!("{arg} cannot be used with {}; leave one of them out", others.join(" or "))
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = list(refused, ContextKind::InvalidArg);
            format!("{path} needs {}; {help}", missing.join(" "))
        }
        ErrorKind::InvalidUtf8 => "an argument is not text; write it in UTF-8".to_owned(),
        _ => format!("{}; {help}", said(refused)),
    }
}

/// The flag before an unknown one, if it takes a value: then that value begins with a hyphen.
fn dashed_value(
    command: &clap::Command,
    args: &[OsString],
    unknown: &str,
) -> Option<(String, String)> {
    let takes_value = |flag: &str| {
        command
            .get_arguments()
            .filter(|arg| arg.get_action().takes_values())
            .any(|arg| flags_of(arg).iter().any(|known| known == flag))
    };
    args.windows(2).find_map(|pair| {
        let (flag, value) = (pair[0].to_str()?, pair[1].to_str()?);
        (value.starts_with(unknown) && !value.starts_with("--") && takes_value(flag))
            .then(|| (flag.to_owned(), excerpt(value)))
    })
}

/// The refusal of a word that is not a command.
pub(crate) fn no_command(command: &clap::Command, path: &str, given: &str) -> String {
    let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let given = excerpt(given);
    match did_you_mean(&given, names.iter().copied()) {
        Some(meant) => format!("{path} has no command '{given}'; {meant} See {path} --help"),
        None if names.is_empty() => format!("{path} has no command '{given}'; see {path} --help"),
        None => format!("{path} has no command '{given}'; the commands are {}", names.join(" ")),
    }
}

/// A part of what clap knows about a refusal, as one text.
fn text(refused: &clap::Error, kind: ContextKind) -> String {
    list(refused, kind).join(" ")
}

/// A part of what clap knows about a refusal, as texts.
fn list(refused: &clap::Error, kind: ContextKind) -> Vec<String> {
    match refused.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        Some(ContextValue::StyledStr(text)) => vec![text.to_string()],
        _ => Vec::new(),
    }
}

/// The name of an argument without the name of its value.
fn name_of(arg: &str) -> String {
    let end = if arg.starts_with('-') { arg.find([' ', '=', '[']) } else { None };
    excerpt(&arg[..end.unwrap_or(arg.len())])
}

/// How an argument can be written.
fn flags_of(arg: &clap::Arg) -> Vec<String> {
    let longs = arg.get_long_and_visible_aliases().unwrap_or_default();
    longs.iter().map(|long| format!("--{long}")).collect()
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
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

/// The innermost command that the arguments name, and how it is called.
fn command_of<'a>(root: &'a clap::Command, args: &[OsString]) -> (&'a clap::Command, String) {
    let words = args.iter().skip(1).filter_map(|arg| arg.to_str());
    words.fold((root, root.get_name().to_owned()), |(command, path), word| {
        match command.find_subcommand(word) {
            Some(inner) => (inner, format!("{path} {}", inner.get_name())),
            None => (command, path),
        }
    })
}
