//! Which run a command is about.

use pp_telemetry::{Run, find_run, runs_dir};

use super::CliError;

/// The run of a command that watches, reports or exports.
#[derive(Debug, clap::Args)]
pub(crate) struct WhichRun {
    /// latest, the start of a run id, a process id, a run folder, or a log file
    #[arg(value_name = "RUN|PID|FILE", default_value = "latest")]
    pub(crate) run: String,
}

impl WhichRun {
    /// The run.
    ///
    /// # Errors
    /// [`CliError::Usage`] with what can be named.
    pub(crate) fn find(&self) -> Result<Run, CliError> {
        find(&self.run)
    }
}

/// The run that a name means.
///
/// # Errors
/// As [`WhichRun::find`].
pub(crate) fn find(name: &str) -> Result<Run, CliError> {
    let runs = runs_dir().map_err(|error| CliError::Failed(error.to_string()))?;
    find_run(&runs, name).map_err(|refused| CliError::Usage(refused.to_string()))
}
