//! Models by name, with their defaults and their options.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pp_train::{Defaults, Workload};

use crate::error::ModelError;

/// A model that can be chosen by name. A new one is a file with such a value, and a line in
/// [`MODELS`](crate::MODELS).
#[derive(Debug)]
pub struct Model {
    /// Its name.
    pub name: &'static str,
    /// A description in half a line.
    pub about: &'static str,
    /// The defaults of a run.
    pub defaults: Defaults,
    /// The options that it takes.
    pub options: &'static [ModelOption],
    /// The defaults of these options, as text for people.
    pub own_defaults: fn() -> String,
    /// Makes the workload. Options that the model does not take are ignored.
    ///
    /// # Errors
    /// Sizes that do not fit each other.
    pub make: fn(&Options) -> Result<Arc<dyn Workload>, ModelError>,
}

/// A job by name: a model, and what differs from its defaults.
#[derive(Debug)]
pub struct Preset {
    /// The model.
    pub model: &'static Model,
    /// Steps between changes of the learning rate.
    pub lr_step: u64,
    /// The factor of each change.
    pub lr_gamma: f64,
    /// The largest norm of the gradient of the whole model.
    pub clip_norm: f64,
    /// Steps between two lines of a run.
    pub log_every: u64,
}

/// An option of a model: for a command line, `--name VALUE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelOption {
    /// Its name, as on the command line.
    pub name: &'static str,
    /// The placeholder for its value in a help text.
    pub value_name: &'static str,
    /// A description in one line.
    pub help: &'static str,
    /// The kind of its value.
    pub kind: Kind,
    /// Its place in a help text.
    pub group: Group,
}

/// The kind of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number of at least 1.
    Count,
    /// A number from 0 to below 1.
    Rate,
    /// A time in milliseconds.
    Milliseconds,
    /// A file.
    File,
    /// A rank, and a factor above 0.
    RankFactor,
    /// It is given or not.
    Flag,
}

/// The place of an option in a help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Among the few important ones that come first, at this place.
    First(usize),
    /// Among those about models.
    Model,
    /// Below a heading of its own.
    Own(&'static str),
}

/// The value of an option.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of [`Kind::Count`].
    Count(u32),
    /// Of [`Kind::Rate`].
    Rate(f64),
    /// Of [`Kind::Milliseconds`].
    Milliseconds(f64),
    /// Of [`Kind::File`].
    File(PathBuf),
    /// Of [`Kind::RankFactor`].
    RankFactor(u32, f64),
    /// Of [`Kind::Flag`].
    Flag(bool),
}

/// The options that were given, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    given: BTreeMap<&'static str, Value>,
    folder: Option<PathBuf>,
}

impl Options {
    /// Names the folder that a model is read from.
    pub fn set_folder(&mut self, folder: &Path) {
        self.folder = Some(folder.to_owned());
    }

    /// The folder that a model is read from.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Gives an option a value.
    pub fn set(&mut self, option: &ModelOption, value: Value) {
        self.given.insert(option.name, value);
    }

    /// Adds those of `others`.
    pub fn extend(&mut self, others: &Self) {
        self.given.extend(others.given.iter().map(|(&name, value)| (name, value.clone())));
    }

    /// Whether an option was given.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The value of an option of [`Kind::Count`].
    pub fn count(&self, name: &str) -> Option<usize> {
        match self.given.get(name) {
            Some(&Value::Count(count)) => Some(count as usize),
            _ => None,
        }
    }

    /// The value of an option of [`Kind::Rate`].
    pub fn rate(&self, name: &str) -> Option<f64> {
        match self.given.get(name) {
            Some(&Value::Rate(rate)) => Some(rate),
            _ => None,
        }
    }

    /// The value of an option of [`Kind::Milliseconds`].
    pub fn time(&self, name: &str) -> Option<Duration> {
        match self.given.get(name) {
            Some(&Value::Milliseconds(ms)) => Some(Duration::from_secs_f64(ms / 1000.0)),
            _ => None,
        }
    }

    /// The value of an option of [`Kind::File`].
    pub fn file(&self, name: &str) -> Option<&Path> {
        match self.given.get(name) {
            Some(Value::File(path)) => Some(path),
            _ => None,
        }
    }

    /// Whether an option of [`Kind::Flag`] was given.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.given.get(name), Some(Value::Flag(true)))
    }

    /// The value of an option of [`Kind::RankFactor`].
    pub fn rank_factor(&self, name: &str) -> Option<(u32, f64)> {
        match self.given.get(name) {
            Some(&Value::RankFactor(rank, factor)) => Some((rank, factor)),
            _ => None,
        }
    }

    /// The options that name files, with their paths.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.given.iter().filter_map(|(&name, value)| match value {
            Value::File(path) => Some((name, path.as_path())),
            _ => None,
        })
    }
}
