//! Where a run is recorded, and what it does beside training.

use std::path::PathBuf;

use pp_devices::Library;
use pp_telemetry::Recorder;

use crate::error::TrainError;
use crate::stopping::Signals;

/// Where a run is recorded.
#[derive(Clone, Debug)]
pub struct RunFolder {
    /// The id of the run.
    pub id: String,
    /// Its folder.
    pub dir: PathBuf,
    /// What writes the log there.
    pub recorder: Recorder,
}

impl RunFolder {
    /// A new folder where runs are kept, so that `pptop attach` finds it.
    ///
    /// # Errors
    /// Where runs are kept is not known, or nothing can be written there.
    pub fn create(model: &str) -> Result<Self, TrainError> {
        let (id, dir) = pp_telemetry::new_run_dir(model)?;
        Self::at(id, dir)
    }

    /// A folder of one's own choice, which is made if it is missing.
    ///
    /// # Errors
    /// Nothing can be written there, or others may write there.
    pub fn at(id: String, dir: PathBuf) -> Result<Self, TrainError> {
        let recorder = pp_telemetry::recorder(&dir)?;
        Ok(Self { id, dir, recorder })
    }
}

/// A file that a run writes beside its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultFile {
    /// Where. If the name is taken by then, a free one beside it is used; if the folder is gone,
    /// the run's own.
    pub path: PathBuf,
    /// What messages call it.
    pub called: String,
}

/// How a run that does not start is told: the exit code, and the reason.
pub type Words = Box<dyn Fn(&TrainError) -> (i32, String)>;

/// What a run does beside training.
#[derive(Default)]
pub struct RunOptions {
    /// The signals that end it; `None` leaves all signals alone.
    pub signals: Option<Signals>,
    /// Bytes of text to make after training.
    pub sample: Option<u32>,
    /// A file for the final weights.
    pub save: Option<ResultFile>,
    /// A file for batch, loss, gradients and weights of the first step.
    pub dump_step: Option<ResultFile>,
    /// Whether these two may replace files that are there.
    pub force: bool,
    /// Whom to ask about GPUs.
    pub library: Library,
    /// How the log tells that the run does not start, where the error's own text will not do.
    pub words: Option<Words>,
}
