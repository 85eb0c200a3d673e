//! Work beside the loop, for which the screen never waits: requests to the run, and files.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use pp_telemetry::{
    ExportFormat, Follower, ProvenRun, Request, StepRange, Taken, WholeFile, export,
};

/// The purpose of an errand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The run is to end.
    End,
    /// It is to do something else.
    Ask,
    /// A file is to be written.
    File,
}

/// What came of an errand, and whether it went well.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) note: String,
    pub(crate) is_good: bool,
    pub(crate) purpose: Purpose,
    /// Which run it was for.
    pub(crate) run: usize,
}

/// Errands that are being run.
#[derive(Debug)]
pub(crate) struct Errands {
    sender: Sender<Outcome>,
    receiver: Receiver<Outcome>,
}

impl Errands {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = channel();
        Self { sender, receiver }
    }

    /// Those that have come back.
    pub(crate) fn back(&self) -> impl Iterator<Item = Outcome> {
        self.receiver.try_iter()
    }

    fn send(
        &self,
        run: usize,
        purpose: Purpose,
        errand: impl FnOnce() -> Result<String, String> + Send + 'static,
    ) {
        let sender = self.sender.clone();
        let work = move || {
            let (note, is_good) = match errand() {
                Ok(note) => (note, true),
                Err(note) => (note, false),
            };
            // Without a receiver, the outcome is not needed.
            let _ = sender.send(Outcome { note, is_good, purpose, run });
        };
        if let Err(error) = thread::Builder::new().name("errand".to_owned()).spawn(work) {
            let note = format!("cannot do this now: {error}");
            let _ = self.sender.send(Outcome { note, is_good: false, purpose, run });
        }
    }

    /// Asks the run of a folder for something, once the process that listens is proven to be that
    /// run.
    pub(crate) fn ask(&self, run: usize, dir: PathBuf, request: Request) {
        self.send(run, purpose_of(request), move || {
            let what = match request {
                Request::Ping => "the run answers",
                Request::Stop => "the run was asked to end",
                Request::Checkpoint => "the run was asked for a checkpoint",
                Request::CheckpointAndStop => "the run was asked for a checkpoint, and to end",
            };
            let proven = ProvenRun::of(&dir).map_err(text_of)?;
            proven.ask(request).map(|when| format!("{what}: {when}")).map_err(text_of)
        });
    }

    /// Writes a step as a Chrome trace into a folder.
    pub(crate) fn export_trace(&self, run: usize, log: PathBuf, dir: &Path, step: u64) {
        let path = dir.join(format!("step-{step}.trace.json"));
        self.send(run, Purpose::File, move || {
            written(&path, |file| {
                let steps: StepRange = step.to_string().parse().map_err(text_of)?;
                let mut log = Follower::new(&log);
                export(&mut log, ExportFormat::ChromeTrace, Some(steps), file).map_err(text_of)?;
                Ok(())
            })
        });
    }

    /// Writes a screen into a folder.
    pub(crate) fn snapshot(&self, run: usize, text: String, dir: &Path, step: u64) {
        let path = dir.join(format!("screen-{step}.txt"));
        self.send(run, Purpose::File, move || {
            written(&path, |file| file.write_all(text.as_bytes()).map_err(text_of))
        });
    }
}

/// What a request is for.
pub(crate) fn purpose_of(request: Request) -> Purpose {
    match request {
        Request::Stop | Request::CheckpointAndStop => Purpose::End,
        Request::Ping | Request::Checkpoint => Purpose::Ask,
    }
}

fn text_of(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Writes a file for its owner alone; what has that name stays, and the file is beside it.
fn written(
    path: &Path,
    write: impl FnOnce(&mut WholeFile) -> Result<(), String>,
) -> Result<String, String> {
    let mut file = WholeFile::private(path).map_err(|refused| refused.to_string())?;
    write(&mut file).map_err(|why| file.failed(&why).to_string())?;
    let path = file.finish(Taken::Stays).map_err(|failed| failed.to_string())?;
    Ok(format!("written: {}", path.display()))
}
