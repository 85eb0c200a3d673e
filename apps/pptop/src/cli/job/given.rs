//! The words of a job: its flags as they were given, so that a later run can begin with them.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args as _, Command, CommandFactory as _, FromArgMatches, Parser};

use super::args::JobArgs;
use super::spec::plan_file;
use crate::cli::checkpoints::CheckpointArgs;
use crate::cli::refusal::{self, excerpt};
use crate::cli::{CliError, note};

/// The flags of the job and its checkpoints that were given, each as one word: `--flag=value`.
///
/// Files have absolute paths. Initial weights are left out: a run that goes on has its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobWords(pub(crate) Vec<OsString>);

/// The flag of the schedule, which is not among those of [`JobArgs`].
const SCHEDULE: &str = "schedule";
/// What the flags begin with that ask for checkpoints.
const CHECKPOINT_FLAGS: &[u8] = b"--checkpoint-";

/// A job alone, to read its words again.
#[derive(Debug, Parser)]
#[command(name = "train", args_override_self = true, disable_help_flag = true)]
pub(crate) struct Flags {
    #[command(flatten)]
    pub(crate) job: JobArgs,
    #[command(flatten)]
    pub(crate) checkpoints: CheckpointArgs,
    #[arg(long, default_value = "1f1b")]
    pub(crate) schedule: OsString,
}

impl JobWords {
    /// Those of `matches`.
    fn of(matches: &ArgMatches) -> Self {
        let command = CheckpointArgs::augment_args(JobArgs::augment_args(Command::new("job")))
            .arg(Arg::new(SCHEDULE).long(SCHEDULE));
        let flags = command.get_arguments().filter(|arg| {
            let id = arg.get_id().as_str();
            // A fault is of one attempt, and not of the job.
            !matches!(id, "init" | "inject_fault")
                && matches.value_source(id) == Some(ValueSource::CommandLine)
        });
        Self(flags.flat_map(|arg| words(arg, matches)).collect())
    }

    /// The words as text, for checkpoints. A word that is not UTF-8 is left out; a run that was
    /// asked for checkpoints says so.
    pub(crate) fn texts(&self) -> Vec<String> {
        let is_asked =
            self.0.iter().any(|word| word.as_encoded_bytes().starts_with(CHECKPOINT_FLAGS));
        let text = |word: &OsString| {
            let text = word.to_str().map(ToOwned::to_owned);
            if text.is_none() && is_asked {
                let word = excerpt(&word.to_string_lossy());
                note(&format!(
                    "{word} cannot be kept in checkpoints: it is not UTF-8; name it again with --resume"
                ));
            }
            text
        };
        self.0.iter().filter_map(text).collect()
    }

    /// The job of a checkpoint, changed by the flags of this run, and the words of both together.
    ///
    /// # Errors
    /// [`CliError::Usage`] if a word is no flag of this version.
    pub(crate) fn onto(&self, kept: Vec<String>) -> Result<(Flags, Self), CliError> {
        let kept = kept.into_iter().map(OsString::from);
        let all = [OsString::from("train")].into_iter().chain(kept).chain(self.0.iter().cloned());
        let all: Vec<OsString> = all.collect();
        let parsed = Flags::command().try_get_matches_from(&all);
        let parsed =
            parsed.and_then(|found| Ok((Flags::from_arg_matches(&found)?, Self::of(&found))));
        parsed.map_err(|refused| {
            let told = refusal::of_arguments(&refused, &Flags::command(), &all);
            CliError::Usage(format!("--resume: the job of the checkpoint: {told}"))
        })
    }
}

/// The words of one flag.
fn words(arg: &Arg, matches: &ArgMatches) -> Vec<OsString> {
    let id = arg.get_id().as_str();
    let flag = format!("--{}", arg.get_long().unwrap_or(id));
    if !arg.get_action().takes_values() {
        return vec![flag.into()];
    }
    let values = matches.get_raw(id).into_iter().flatten();
    let word = |value: &OsStr| {
        let mut word = OsString::from(format!("{flag}="));
        let is_file = match id {
            SCHEDULE => plan_file(value).is_some(),
            "checkpoint_dir" => true,
            "model" => super::args::is_folder(value),
            _ => super::options::is_file(id),
        };
        match std::path::absolute(Path::new(value)) {
            Ok(path) if is_file => word.push(path),
            _ => word.push(value),
        }
        word
    };
    values.map(word).collect()
}

impl clap::Args for JobWords {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl FromArgMatches for JobWords {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self::of(matches))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::of(matches);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Train {
        #[command(flatten)]
        words: JobWords,
        #[command(flatten)]
        checkpoints: CheckpointArgs,
        #[command(flatten)]
        job: JobArgs,
        #[arg(long, default_value = "1f1b")]
        schedule: OsString,
        #[arg(long)]
        save: Option<OsString>,
    }

    fn train(line: &str) -> Train {
        Train::try_parse_from(["train"].into_iter().chain(line.split_whitespace())).unwrap()
    }

    #[test]
    fn a_job_is_the_flags_that_were_given_and_later_ones_win() {
        let first =
            train("--model seed-mlp --lr 0.1 --ranks 2 --recompute --pin --save x --init w");
        let kept = first.words.texts();
        let mut sorted = kept.clone();
        sorted.sort();
        assert_eq!(sorted, ["--lr=0.1", "--model=seed-mlp", "--pin", "--pp=2", "--recompute=all"]);
        let second = train("--lr 0.2 --schedule zb-v");
        let (Flags { job, schedule, .. }, both) = second.words.onto(kept).unwrap();
        let mut both = both.texts();
        both.sort();
        let expected = [
            "--lr=0.2",
            "--model=seed-mlp",
            "--pin",
            "--pp=2",
            "--recompute=all",
            "--schedule=zb-v",
        ];
        assert_eq!(both, expected);
        assert_eq!((job.lr, job.pp, job.pin), (Some(0.2), Some(2), true));
        assert_eq!(
            (job.model.unwrap().parts().0.name, schedule.to_str()),
            ("seed-mlp", Some("zb-v"))
        );
        assert!(job.init.is_none());
        let other = train("").words.onto(vec!["--no-such-flag=1".to_owned()]).unwrap_err();
        let CliError::Usage(text) = other else { panic!("{other:?}") };
        assert!(text.starts_with("--resume: the job of the checkpoint: "), "{text}");
    }

    #[test]
    fn files_are_found_from_another_folder_as_well() {
        let given = train("--data book.txt --schedule plan.csv --checkpoint-dir kept --keep 2");
        let here = std::env::current_dir().unwrap();
        let path = |name: &str| here.join(name).display().to_string();
        let mut words = given.words.texts();
        words.sort();
        let expected = [
            format!("--checkpoint-dir={}", path("kept")),
            format!("--data={}", path("book.txt")),
            "--keep=2".to_owned(),
            format!("--schedule={}", path("plan.csv")),
        ];
        assert_eq!(words, expected);
    }
}
