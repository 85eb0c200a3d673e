//! The options of models as flags, and the parsers of their values.

use clap::builder::{PathBufValueParser, TypedValueParser as _, ValueParser};
use clap::{Arg, ArgMatches, Command};
use pp_models::{Group, Kind, ModelOption, Options, Value};

use super::super::help::headings;
use super::super::sizes::count;
use super::defaults::models;

/// A finite number above zero.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    number.ok_or_else(|| "use a finite number above 0".to_owned())
}

/// A rate in `[0, 1)`.
fn rate(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| (0.0..1.0).contains(n));
    number.ok_or_else(|| "use a number from 0 to below 1".to_owned())
}

/// Milliseconds, zero included.
fn ms(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| (0.0..=3.6e6).contains(n));
    number.ok_or_else(|| "use milliseconds from 0 to 3600000".to_owned())
}

fn rank_factor(text: &str) -> Result<(u32, f64), String> {
    const FACTOR_MAX: f64 = 1e6;
    let refused = || {
        format!("use RANK:FACTOR with a factor above 0, at most {FACTOR_MAX}, for example 1:1.5")
    };
    let (rank, factor) = text.split_once(':').ok_or_else(refused)?;
    let factor = positive(factor).ok().filter(|&factor| factor <= FACTOR_MAX);
    Ok((rank.parse().map_err(|_| refused())?, factor.ok_or_else(refused)?))
}

fn parser(kind: Kind) -> ValueParser {
    match kind {
        Kind::Count => ValueParser::new(|text: &str| count(text).map(Value::Count)),
        Kind::Rate => ValueParser::new(|text: &str| rate(text).map(Value::Rate)),
        Kind::Milliseconds => ValueParser::new(|text: &str| ms(text).map(Value::Milliseconds)),
        Kind::File => PathBufValueParser::new().map(Value::File).into(),
        Kind::RankFactor => ValueParser::new(|text: &str| {
            rank_factor(text).map(|(rank, factor)| Value::RankFactor(rank, factor))
        }),
        Kind::Flag => ValueParser::new(|text: &str| {
            text.parse().map(Value::Flag).map_err(|_| "use true or false".to_owned())
        }),
    }
}

fn flag(option: &ModelOption) -> Arg {
    let flag = Arg::new(option.name)
        .long(option.name)
        .value_name(option.value_name)
        .help(option.help)
        .value_parser(parser(option.kind));
    let flag = match option.kind {
        Kind::Flag => flag.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => flag,
    };
    match option.group {
        Group::First(place) => flag.display_order(place),
        Group::Model => flag.help_heading(headings::MODEL),
        Group::Own(heading) => flag.help_heading(heading),
    }
}

/// The options of all models for which `is_here` holds, each once; those of the default model
/// first.
fn options(is_here: fn(Group) -> bool) -> Vec<&'static ModelOption> {
    let mut found: Vec<&ModelOption> = Vec::new();
    for option in models().into_iter().flat_map(|model| model.options) {
        if is_here(option.group) && !found.iter().any(|other| other.name == option.name) {
            found.push(option);
        }
    }
    found
}

/// Whether the option of a model with this name takes a file.
pub(super) fn is_file(name: &str) -> bool {
    let mut all = models().into_iter().flat_map(|model| model.options);
    all.any(|option| option.name == name && matches!(option.kind, Kind::File))
}

fn flags(command: Command, is_here: fn(Group) -> bool) -> Command {
    command.args(options(is_here).into_iter().map(flag))
}

fn given(matches: &ArgMatches, is_here: fn(Group) -> bool) -> Options {
    let mut given = Options::default();
    for option in options(is_here) {
        if let Some(value) = matches.get_one::<Value>(option.name) {
            given.set(option, value.clone());
        }
    }
    given
}

/// Makes a type for some of the options, which clap can flatten into a command.
macro_rules! part_of_the_options {
    ($(#[$doc:meta])* $name:ident, $is_here:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        pub(crate) struct $name(pub(crate) Options);

        impl clap::Args for $name {
            fn augment_args(command: Command) -> Command {
                flags(command, $is_here)
            }

            fn augment_args_for_update(command: Command) -> Command {
                flags(command, $is_here)
            }
        }

        impl clap::FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self(given(matches, $is_here)))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0.extend(&given(matches, $is_here));
                Ok(())
            }
        }
    };
}

part_of_the_options!(
    /// The options among the flags of a job.
    SharedOptions,
    |group| !matches!(group, Group::Own(_))
);

part_of_the_options!(
    /// The options with a heading of their own.
    OwnOptions,
    |group| matches!(group, Group::Own(_))
);
