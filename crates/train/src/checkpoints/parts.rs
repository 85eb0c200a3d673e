//! A checkpoint that several processes write: each writes the stages of its own rank, and process 0
//! makes a checkpoint of the parts.
//!
//! Process 0 makes a hidden folder and tells all others where it is. Each process writes its part in
//! the background and sends process 0 a note of its files. When all notes are there, process 0
//! writes the index and the manifest, and gives the folder its name. So no process ever holds more
//! than its own part of the model, and all of them must see the same folder.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[cfg(feature = "fault-injection")]
use pp_executor::{Fault, FaultPoint};
use pp_executor::{InWorld, LinkError, Trouble};
use pp_hybrid::ModelState;
use pp_hybrid::checkpoint::{CheckpointError, HostDisk, Part, StageFacts, write_part};
use serde::{Deserialize, Serialize};

use super::{refuse_nonfinite, yield_to_ranks};
use crate::error::causes;

/// How often process 0 looks for notes.
const LOOK: Duration = Duration::from_millis(20);
/// How long it still waits for that of a process that is lost: its note may be on its way.
const OF_LOST: Duration = Duration::from_secs(2);
/// How long it still waits for those of all others once the run has failed.
const OF_OTHERS: Duration = Duration::from_mins(1);

/// What process 0 tells the others of a checkpoint that begins.
#[derive(Serialize, Deserialize)]
struct Begun {
    /// The bytes of the path of the folder for the parts.
    dir: Vec<u8>,
    step: u64,
    facts: StageFacts,
}

/// What a process tells process 0 of its part.
#[derive(Serialize, Deserialize)]
struct Note {
    step: u64,
    /// Its files, or the reason why there are none.
    part: Result<Part, String>,
}

/// Where processes look for a file that process 0 has written, and what has to be in it.
#[derive(Serialize, Deserialize)]
struct Seen {
    path: Vec<u8>,
    token: String,
}

fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, LinkError> {
    serde_json::to_vec(value).map_err(|error| LinkError(error.to_string()))
}

fn from_bytes<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, LinkError> {
    serde_json::from_slice(bytes).map_err(|error| LinkError(error.to_string()))
}

/// Tells all other processes where to write their parts.
pub(super) fn tell(
    world: &InWorld,
    dir: &Path,
    step: u64,
    facts: StageFacts,
) -> Result<(), LinkError> {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let begun = Begun { dir: dir.as_os_str().as_bytes().to_vec(), step, facts };
    world.0.broadcast(Some(to_bytes(&begun)?)).map(drop)
}

/// Tells all other processes that there will be no checkpoint.
pub(super) fn call_off(world: &InWorld) -> Result<(), LinkError> {
    world.0.broadcast(Some(Vec::new())).map(drop)
}

/// The parts of all processes, or the first error and whether all processes are done with theirs.
pub(super) fn gather(
    world: &InWorld,
    step: u64,
    own: Result<Part, CheckpointError>,
    is_hurried: &AtomicBool,
) -> Result<Vec<Part>, (CheckpointError, bool)> {
    let InWorld(world) = world;
    let mut parts: Vec<Option<Result<Part, String>>> = Vec::new();
    parts.resize_with(world.size() as usize, || None);
    let elsewhere = |process: usize, why: String| {
        let host = world.hosts().get(process).cloned().unwrap_or_default();
        CheckpointError::Elsewhere { process: process as u32, host, why }
    };
    let mut hurried: Option<Instant> = None;
    loop {
        for (from, bytes) in world.notes() {
            let note: Result<Note, _> = serde_json::from_slice(&bytes);
            // A note of another step is of a checkpoint that was given up.
            if let (Ok(note), Some(place)) = (note, parts.get_mut(from as usize))
                && note.step == step
            {
                *place = Some(note.part);
            }
        }
        let is_missing = |process: usize| parts.get(process).is_some_and(Option::is_none);
        let Some(missing) = (1..parts.len()).find(|&process| is_missing(process)) else { break };
        let trouble = world.trouble();
        if is_hurried.load(Ordering::Relaxed) || trouble.is_some() {
            let since = hurried.get_or_insert_with(Instant::now).elapsed();
            let lost = match trouble {
                Some(Trouble::Lost { index, .. }) => Some(index as usize),
                _ => None,
            };
            if let Some(lost) = lost.filter(|&lost| is_missing(lost) && since >= OF_LOST) {
                let why = "it was lost before its part was written".to_owned();
                return Err((elsewhere(lost, why), false));
            }
            if since >= OF_OTHERS {
                let why = "its part was not written in time, and the run has failed".to_owned();
                return Err((elsewhere(missing, why), false));
            }
        }
        std::thread::sleep(LOOK);
    }
    let mut whole = vec![own.map_err(|error| (error, true))?];
    for (process, part) in parts.into_iter().enumerate().skip(1) {
        match part {
            Some(Ok(part)) => whole.push(part),
            Some(Err(why)) => return Err((elsewhere(process, why), true)),
            None => {}
        }
    }
    Ok(whole)
}

/// Writes the parts of a process that does not lead.
pub(crate) struct PartWriter {
    world: InWorld,
    writing: Option<JoinHandle<()>>,
    #[cfg(feature = "fault-injection")]
    fault: Option<Fault>,
}

impl PartWriter {
    pub(crate) fn new(
        world: InWorld,
        #[cfg(feature = "fault-injection")] fault: Option<Fault>,
    ) -> Self {
        Self {
            world,
            writing: None,
            #[cfg(feature = "fault-injection")]
            fault,
        }
    }

    /// Hears of process 0 where the part goes, and begins to write it in the background.
    pub(crate) fn begin(&mut self, state: ModelState) -> Result<(), LinkError> {
        let bytes = self.world.0.broadcast(None)?;
        self.wait();
        if bytes.is_empty() {
            return Ok(());
        }
        let Begun { dir, step, facts } = from_bytes(&bytes)?;
        let dir = PathBuf::from(OsString::from_vec(dir));
        let world = self.world.clone();
        #[cfg(feature = "fault-injection")]
        let fault = self.fault;
        let write = move || {
            yield_to_ranks();
            let write = || {
                #[cfg(feature = "fault-injection")]
                if let Some(fault) = fault {
                    fault.strike(step, FaultPoint::Write).map_err(|error| causes(&error))?;
                }
                let part = refuse_nonfinite(&state, &dir)
                    .and_then(|()| write_part(&HostDisk, &dir, &state.ranks, &facts));
                part.map_err(|error| causes(&error))
            };
            // Process 0 waits for a note, whatever happens here.
            let part = catch_unwind(AssertUnwindSafe(write))
                .unwrap_or_else(|_| Err("the thread that writes it panicked".to_owned()));
            note(&world, step, part);
        };
        match std::thread::Builder::new().name("checkpoint".to_owned()).spawn(write) {
            Ok(thread) => self.writing = Some(thread),
            Err(error) => note(&self.world, step, Err(format!("no thread can write it: {error}"))),
        }
        Ok(())
    }

    /// Waits until the part that is being written is there, or until the run is over anyway.
    pub(crate) fn wait(&mut self) {
        let Some(thread) = self.writing.take() else { return };
        while !thread.is_finished() {
            if self.world.0.trouble().is_some() {
                // Nobody makes a checkpoint of it any more. The thread ends with the process.
                return;
            }
            std::thread::sleep(LOOK);
        }
        // Its panics were noted already.
        let _ = thread.join();
    }

    /// Looks for the file that process 0 has written. Returns whether it is there.
    pub(crate) fn finds(&self) -> Result<bool, LinkError> {
        let bytes = self.world.0.broadcast(None)?;
        let Seen { path, token } = from_bytes(&bytes)?;
        let path = PathBuf::from(OsString::from_vec(path));
        Ok(fs::read_to_string(path).is_ok_and(|found| found == token))
    }
}

/// Tells process 0 of a part. If that fails, process 0 notices that this process is gone.
fn note(world: &InWorld, step: u64, part: Result<Part, String>) {
    let _ = to_bytes(&Note { step, part }).and_then(|bytes| world.0.note(bytes));
}

/// A file in a folder that all processes have to see. It goes with this value.
pub(crate) struct Probe {
    path: PathBuf,
    token: String,
}

impl Probe {
    /// Writes it.
    pub(super) fn write(dir: &Path) -> Result<Self, CheckpointError> {
        let nanos = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let token = format!("{}-{nanos}", std::process::id());
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let path = dir.join(format!(".seen-{token}"));
        let written = fs::write(&path, &token);
        written.map_err(|source| CheckpointError::Write { path: path.clone(), source })?;
        Ok(Self { path, token })
    }

    /// Tells all other processes where it is.
    pub(crate) fn show(&self, world: &InWorld) -> Result<(), LinkError> {
        let path = self.path.as_os_str().as_bytes().to_vec();
        let seen = Seen { path, token: self.token.clone() };
        world.0.broadcast(Some(to_bytes(&seen)?)).map(drop)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // A file that stays is hidden and some bytes long.
        let _ = fs::remove_file(&self.path);
    }
}

/// Set when the run has failed: the parts of processes that are gone never come.
pub(super) type Hurried = Arc<AtomicBool>;
