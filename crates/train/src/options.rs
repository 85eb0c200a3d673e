//! The folder of a run, and its options beside the configuration.

use std::path::PathBuf;

use pp_devices::Library;
use pp_hybrid::OnNonfinite;
use pp_telemetry::Recorder;

use crate::checkpoints::CheckpointOptions;
use crate::error::TrainError;
use crate::stall::StallOptions;
use crate::stopping::Signals;

/// The folder that a run is recorded in.
#[derive(Clone, Debug)]
pub struct RunFolder {
    /// The id of the run.
    pub id: String,
    /// Its folder.
    pub dir: PathBuf,
    /// The recorder of its log.
    pub recorder: Recorder,
}

impl RunFolder {
    /// Makes a new folder among the kept runs, where `pptop attach` finds it.
    ///
    /// # Errors
    /// The folder of the kept runs is unknown, or cannot be written.
    pub fn create(model: &str) -> Result<Self, TrainError> {
        let (id, dir) = pp_telemetry::new_run_dir(model)?;
        Self::at(id, dir)
    }

    /// Takes the given folder, and makes it if it is missing.
    ///
    /// # Errors
    /// The folder cannot be written, or other users may write into it.
    pub fn at(id: String, dir: PathBuf) -> Result<Self, TrainError> {
        let recorder = pp_telemetry::recorder(&dir)?;
        Ok(Self { id, dir, recorder })
    }
}

/// A file that a run writes beside its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultFile {
    /// The path. If the name is taken by the end of the run, a free name beside it is used. If the
    /// folder is gone, the run's own folder is used.
    pub path: PathBuf,
    /// Its name in messages.
    pub called: String,
}

/// What happens when the loss or the gradient norm jumps, or the loss diverges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSpike {
    /// The run warns and goes on.
    #[default]
    Warn,
    /// The run warns and ends. No checkpoint has the step.
    Stop,
}

/// Makes the exit code and the reason of a run that does not start.
pub type Words = Box<dyn Fn(&TrainError) -> (i32, String)>;

/// The options of a run beside its configuration.
#[derive(Default)]
pub struct RunOptions {
    /// The signals that end it; `None` leaves all signals alone.
    pub signals: Option<Signals>,
    /// Bytes of text to generate after training.
    pub sample: Option<u32>,
    /// A file for the final weights.
    pub save: Option<ResultFile>,
    /// A file for batch, loss, gradients and weights of the first step.
    pub dump_step: Option<ResultFile>,
    /// When checkpoints are written, and where.
    pub checkpoints: CheckpointOptions,
    /// The job in the words of the program, which each checkpoint keeps. See [`JobRecord::words`].
    ///
    /// [`JobRecord::words`]: crate::JobRecord::words
    pub job_words: Vec<String>,
    /// What happens to a step whose loss or gradient norm is not finite.
    pub on_nonfinite: OnNonfinite,
    /// What happens when the loss or the gradient norm jumps, or the loss diverges.
    pub on_spike: OnSpike,
    /// What is done about ranks that stall.
    pub stalls: StallOptions,
    /// The restart that this run is, in a line, which goes into its log as a warning.
    pub restarted: Option<String>,
    /// Whether `save` and `dump_step` may replace existing files.
    pub force: bool,
    /// The library to query for GPUs.
    pub library: Library,
    /// The exit code and the reason in the log of a run that does not start; `None` takes those of
    /// the error.
    pub words: Option<Words>,
}
