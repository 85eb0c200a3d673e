//! What is done beside the loop, so that the screen never waits for it: requests to the run, and files.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use pp_telemetry::{ExportFormat, Follower, Request, StepRange, ask, export};
use ratatui::buffer::Buffer;

/// What came of an errand, and whether it went well.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) note: String,
    pub(crate) is_good: bool,
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

    fn send(&self, run: usize, errand: impl FnOnce() -> Result<String, String> + Send + 'static) {
        let sender = self.sender.clone();
        let work = move || {
            let (note, is_good) = match errand() {
                Ok(note) => (note, true),
                Err(note) => (note, false),
            };
            // Where nobody listens any more, nobody wants to know.
            let _ = sender.send(Outcome { note, is_good, run });
        };
        if let Err(error) = thread::Builder::new().name("errand".to_owned()).spawn(work) {
            let note = format!("cannot do this now: {error}");
            let _ = self.sender.send(Outcome { note, is_good: false, run });
        }
    }

    /// Asks a run for something.
    pub(crate) fn ask(&self, run: usize, (socket, id): (PathBuf, String), request: Request) {
        self.send(run, move || {
            let what = match request {
                Request::Ping => "the run answers",
                Request::Stop => "the run was asked to end",
                Request::Checkpoint => "the run was asked for a checkpoint",
                Request::CheckpointAndStop => "the run was asked for a checkpoint, and to end",
            };
            ask(&socket, &id, request)
                .map(|when| format!("{what}: {when}"))
                .map_err(|e| e.to_string())
        });
    }

    /// Writes a step as a Chrome trace into the folder of the run.
    pub(crate) fn export_trace(&self, run: usize, log: PathBuf, dir: &Path, step: u64) {
        let path = dir.join(format!("step-{step}.trace.json"));
        self.send(run, move || {
            let write = |file: &mut fs::File| {
                let steps: StepRange = step.to_string().parse().map_err(io::Error::other)?;
                let mut out = io::BufWriter::new(file);
                let mut log = Follower::new(&log);
                export(&mut log, ExportFormat::ChromeTrace, Some(steps), &mut out)
                    .map_err(io::Error::other)?;
                out.flush()
            };
            written(&path, write)
        });
    }

    /// Writes a screen into the folder of the run.
    pub(crate) fn snapshot(&self, run: usize, buffer: &Buffer, dir: &Path, step: u64) {
        let text = text_of(buffer);
        let path = dir.join(format!("screen-{step}.txt"));
        self.send(run, move || written(&path, |file| file.write_all(text.as_bytes())));
    }
}

/// Writes a file for its owner alone, in the place of one of that name.
fn written(
    path: &Path,
    write: impl FnOnce(&mut fs::File) -> io::Result<()>,
) -> Result<String, String> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let draft = path.with_extension("new");
    let done = fs::remove_file(&draft)
        .or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
        .and_then(|()| fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft))
        .and_then(|mut file| write(&mut file))
        .and_then(|()| fs::rename(&draft, path));
    match done {
        Ok(()) => Ok(format!("written: {}", path.display())),
        Err(error) => {
            // What is half written is of no use; there may be nothing.
            let _ = fs::remove_file(&draft);
            Err(format!("cannot write {}: {error}", path.display()))
        }
    }
}

/// The characters of a screen, without colours and without blanks at the ends of lines.
pub(crate) fn text_of(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.y..buffer.area.y + buffer.area.height {
        let line: String = (buffer.area.x..buffer.area.x + buffer.area.width)
            .map(|x| buffer[(x, y)].symbol())
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
