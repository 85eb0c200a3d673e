//! When a run writes checkpoints, and the thread that writes them.
//!
//! A checkpoint passes three events. It is *requested*: by its interval, a monitor, a signal, or
//! the end of the run. It is *copied* between two steps, while the ranks wait. It is *durable* once
//! a thread in the background has written, synced and verified it, while the ranks train on.

pub(crate) mod parts;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[cfg(feature = "fault-injection")]
use pp_executor::Fault;
use pp_executor::{InWorld, LinkError};
use pp_hybrid::ModelState;
use pp_hybrid::checkpoint::{
    About, CheckpointError, CheckpointFolder, Disk, Draft, HostDisk, Written, write_part,
};

use self::parts::{Hurried, Probe, call_off, gather, tell};
use crate::error::TrainError;
use crate::starting::Ready;

/// The folder for checkpoints, in the folder of a run that names no other.
pub const CHECKPOINTS: &str = "checkpoints";
/// Checkpoints that stay, unless the options say otherwise.
pub const KEEP: usize = 3;
/// What a checkpoint takes beside its tensors.
const HEADS_BYTES: u64 = 1 << 20;

/// When a run writes checkpoints, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// Their folder; `None` takes `checkpoints` in the folder of the run.
    pub dir: Option<PathBuf>,
    /// The interval; `None` writes them on request only.
    pub every: Option<Every>,
    /// How many of the newest stay; `None` takes [`KEEP`].
    pub keep: Option<usize>,
    /// Whether one is written after the last step.
    pub at_end: bool,
}

/// The interval of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// After each multiple of so many steps.
    Steps(u64),
    /// After the first step that ends so long after the last checkpoint.
    Time(Duration),
}

impl CheckpointOptions {
    /// Whether the run was asked for checkpoints. It then also writes one when it is stopped.
    pub fn is_asked(&self) -> bool {
        self.dir.is_some() || self.every.is_some() || self.at_end
    }
}

/// The checkpoints of one run.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    options: CheckpointOptions,
    dir: PathBuf,
    /// Locked by this run once it writes its first checkpoint.
    folder: Option<Arc<CheckpointFolder>>,
    writing: Option<Writing>,
    /// The step and the moment of the last checkpoint, written or not.
    last: (u64, Instant),
    durable: Option<Durable>,
    /// What the run waits for.
    waiting: Waiting,
    /// The processes of the run, where there are several.
    world: Option<InWorld>,
    /// Stages of the model, and bytes of a checkpoint of it.
    n_stages: usize,
    n_bytes: u64,
    /// Whether all processes have seen the folder.
    is_seen: bool,
    hurried: Hurried,
    /// A failure of the writing, for tests.
    #[cfg(feature = "fault-injection")]
    fault: Option<Fault>,
}

/// A checkpoint that the background thread is writing.
#[derive(Debug)]
struct Writing {
    step: u64,
    begun: Instant,
    thread: JoinHandle<Result<Written, CheckpointError>>,
}

/// The last checkpoint that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Its last step.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
}

/// The result of the background thread.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) step: u64,
    /// Seconds from the copy to the disk.
    pub(crate) seconds: f64,
    pub(crate) written: Result<Written, CheckpointError>,
}

impl Checkpoints {
    /// Checkpoints of a run in `run_dir` whose last step so far is `step`.
    pub(crate) fn new(options: CheckpointOptions, run_dir: &Path, step: u64) -> Self {
        let dir = options.dir.clone().unwrap_or_else(|| run_dir.join(CHECKPOINTS));
        let last = (step, Instant::now());
        Self {
            options,
            dir,
            folder: None,
            writing: None,
            last,
            durable: None,
            waiting: Waiting::default(),
            world: None,
            n_stages: 0,
            n_bytes: 0,
            is_seen: false,
            hurried: Hurried::default(),
            #[cfg(feature = "fault-injection")]
            fault: None,
        }
    }

    /// Checkpoints of a run that is about to train. If it was asked for them, their folder has to
    /// be there, and to have room, before hours of training depend on it.
    ///
    /// # Errors
    /// As [`Checkpoints::take_folder`].
    pub(crate) fn ready(
        options: &CheckpointOptions,
        run_dir: &Path,
        ready: &Ready,
    ) -> Result<Self, TrainError> {
        let session = &ready.session;
        let mut checkpoints = Self::new(options.clone(), run_dir, session.steps_before());
        let stages = ready.trainer.stages();
        let of_first_copy = stages.iter().filter(|stage| stage.pipe.0 == 0);
        let optimizer = session.config.optimizer;
        checkpoints.n_bytes =
            of_first_copy.map(|of| of.bytes + optimizer.state_bytes(of.bytes)).sum();
        checkpoints.n_stages = session.plan.n_stages() as usize;
        checkpoints.world.clone_from(&session.config.world);
        #[cfg(feature = "fault-injection")]
        {
            let is_here = |fault: &Fault| {
                session.config.world.is_none()
                    || (fault.rank.0 == 0 && fault.replica.is_none_or(|replica| replica.0 == 0))
            };
            checkpoints.fault = session.config.fault.filter(is_here);
        }
        if options.is_asked() {
            let taken = checkpoints.take_folder();
            taken.map_err(|error| TrainError::Checkpoints(Box::new(error)))?;
        }
        Ok(checkpoints)
    }

    /// Makes and locks the folder, and asks for room for one checkpoint beside those that stay.
    ///
    /// # Errors
    /// The folder cannot be written, another run writes into it, or the disk is too full.
    pub(crate) fn take_folder(&mut self) -> Result<Arc<CheckpointFolder>, CheckpointError> {
        let folder = if let Some(folder) = &self.folder {
            Arc::clone(folder)
        } else {
            let folder = Arc::new(CheckpointFolder::take(&self.dir, &HostDisk)?);
            self.folder = Some(Arc::clone(&folder));
            folder
        };
        folder.ask_room(self.n_bytes + HEADS_BYTES)?;
        Ok(folder)
    }

    /// Their folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The step of the last one that was begun, here or in the run before.
    pub(crate) fn last_step(&self) -> u64 {
        self.last.0
    }

    /// Whether one is being written.
    pub(crate) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Whether that of `step` is being written, or is durable.
    pub(crate) fn is_begun(&self, step: u64) -> bool {
        let is_writing = self.writing.as_ref().is_some_and(|writing| writing.step == step);
        is_writing || self.durable.as_ref().is_some_and(|durable| durable.step == step)
    }

    /// Whether the last one that was begun is durable.
    pub(crate) fn is_last_durable(&self) -> bool {
        self.durable.as_ref().is_some_and(|durable| durable.step == self.last.0)
    }

    /// Whether the run was asked for checkpoints.
    pub(crate) fn is_asked(&self) -> bool {
        self.options.is_asked()
    }

    /// Whether one is due after `step`.
    pub(crate) fn is_due(&self, step: u64, is_last: bool) -> bool {
        let (last, at) = self.last;
        let by_interval = match self.options.every {
            None => false,
            Some(Every::Steps(n)) => step.is_multiple_of(n),
            Some(Every::Time(interval)) => at.elapsed() >= interval,
        };
        step > last && (by_interval || (is_last && self.options.at_end))
    }

    /// A file that all other processes have to see before they write into the folder; `None` if they
    /// have, or if there are none.
    ///
    /// # Errors
    /// As [`Checkpoints::take_folder`], or the file cannot be written.
    pub(crate) fn probe(&mut self) -> Result<Option<Probe>, CheckpointError> {
        if self.is_seen || self.world.is_none() {
            return Ok(None);
        }
        let folder = self.take_folder()?;
        Probe::write(folder.path()).map(Some)
    }

    /// Notes which hosts have not seen the file.
    ///
    /// # Errors
    /// [`CheckpointError::NotShared`] if there are any.
    pub(crate) fn seen(&mut self, without: Vec<String>) -> Result<(), CheckpointError> {
        self.is_seen = without.is_empty();
        if self.is_seen {
            return Ok(());
        }
        Err(CheckpointError::NotShared { dir: self.dir.clone(), hosts: without })
    }

    /// Bytes of the tensors of a checkpoint.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Hands a copy to a background thread, which writes it. Other processes are told to write
    /// theirs.
    ///
    /// # Errors
    /// The folder cannot be used, or no thread can be started.
    pub(crate) fn begin(&mut self, state: ModelState, about: About) -> Result<(), CheckpointError> {
        self.last = (about.step, Instant::now());
        let begun = self.take_folder().and_then(|folder| {
            let draft = folder.begin(&self.disk(about.step), about.step)?;
            Ok((folder, draft))
        });
        let (folder, draft) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                self.call_off();
                return Err(error);
            }
        };
        if let Some(world) = &self.world {
            let told = tell(world, draft.dir(), about.step, about.of_stages(self.n_stages));
            told.map_err(|error| self.broken(&error))?;
        }
        self.write(folder, draft, state, about)
    }

    /// Tells other processes that there will be no checkpoint.
    pub(crate) fn call_off(&self) {
        if let Some(world) = &self.world {
            // A process that cannot be told is lost, and the next call says so.
            let _ = call_off(world);
        }
    }

    /// The run has failed: parts of other processes are waited for no longer than a minute.
    pub(crate) fn hurry(&self) {
        self.hurried.store(true, Ordering::Relaxed);
    }

    #[cfg_attr(
        not(feature = "fault-injection"),
        expect(clippy::unused_self, reason = "a fault is one of this run")
    )]
    fn disk(&self, step: u64) -> impl Disk + use<> {
        #[cfg(feature = "fault-injection")]
        let disk = crate::faulty_disk::FaultyDisk { fault: self.fault, step };
        #[cfg(not(feature = "fault-injection"))]
        let disk = {
            let _ = step;
            HostDisk
        };
        disk
    }

    fn broken(&self, error: &LinkError) -> CheckpointError {
        CheckpointError::Broken { path: self.dir.clone(), why: error.to_string() }
    }

    fn write(
        &mut self,
        folder: Arc<CheckpointFolder>,
        draft: Draft,
        state: ModelState,
        about: About,
    ) -> Result<(), CheckpointError> {
        let step = about.step;
        let keep = Some(self.options.keep.unwrap_or(KEEP));
        let disk = self.disk(step);
        let (world, n_stages) = (self.world.clone(), self.n_stages);
        let hurried = Arc::clone(&self.hurried);
        let write = move || {
            yield_to_ranks();
            let facts = about.of_stages(n_stages);
            let own = refuse_nonfinite(&state, folder.path())
                .and_then(|()| write_part(&disk, draft.dir(), &state.ranks, &facts));
            drop(state);
            let parts = match &world {
                Some(world) => gather(world, step, own, &hurried),
                None => own.map(|part| vec![part]).map_err(|error| (error, true)),
            };
            match parts {
                Ok(parts) => folder.finish(&disk, draft, parts, n_stages, &about, keep),
                Err((error, is_over)) => {
                    // A process that may still write into it leaves it to the next checkpoint.
                    if is_over {
                        folder.abandon(&disk, &draft);
                    }
                    Err(error)
                }
            }
        };
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(write);
        let thread =
            thread.map_err(|source| CheckpointError::Write { path: self.dir.clone(), source })?;
        self.writing = Some(Writing { step, begun: Instant::now(), thread });
        Ok(())
    }

    /// Notes that there is no checkpoint of `step`, for which one was due.
    pub(crate) fn pass_over(&mut self, step: u64) {
        self.last = (step, Instant::now());
    }

    /// The result of the background thread, if it has ended; with `wait`, once it has.
    pub(crate) fn settle(&mut self, wait: bool) -> Option<Settled> {
        let writing = self.writing.take_if(|writing| wait || writing.thread.is_finished())?;
        let Writing { step, begun, thread } = writing;
        let _waits = self.waiting.begin(step);
        let written = thread.join().unwrap_or_else(|_| Err(self.panicked()));
        if let Ok(written) = &written {
            let path = written.checkpoint.path().to_owned();
            self.durable = Some(Durable { step, path });
        }
        Some(Settled { step, seconds: begun.elapsed().as_secs_f64(), written })
    }

    /// The checkpoint that the run waits for, for another thread to look at.
    pub(crate) fn waiting(&self) -> Waiting {
        self.waiting.clone()
    }

    /// The last one that is durable.
    pub(crate) fn durable(&self) -> Option<&Durable> {
        self.durable.as_ref()
    }

    fn panicked(&self) -> CheckpointError {
        let why = "the thread that writes it panicked".to_owned();
        CheckpointError::Broken { path: self.dir.clone(), why }
    }
}

/// The niceness of the thread that writes. At 10 it has a tenth of the weight of a rank: on a
/// machine with a core for each rank it works while ranks wait. Threads that it starts inherit it.
const NICENESS: i32 = 10;

/// Lets ranks go first on the cores that this thread shares with them.
fn yield_to_ranks() {
    // Where that is not possible, the checkpoint costs the ranks a little more time.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
}

/// Refuses a state that no run can resume from. Reading it takes a small part of the time that
/// writing it would.
fn refuse_nonfinite(state: &ModelState, dir: &Path) -> Result<(), CheckpointError> {
    let failed = |error: candle_core::Error| {
        let why = format!("its tensors cannot be read: {error}");
        CheckpointError::Broken { path: dir.to_owned(), why }
    };
    match state.first_nonfinite().map_err(failed)? {
        Some(name) => Err(CheckpointError::NotFinite { name: name.to_owned() }),
        None => Ok(()),
    }
}

/// The checkpoint that the run waits for, because it cannot go on before it is written. A clone
/// reads the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting(Arc<Mutex<Option<(u64, Instant)>>>);

/// The time in which a run waits.
struct Waits<'a>(&'a Waiting);

impl Waiting {
    fn begin(&self, step: u64) -> Waits<'_> {
        self.set(Some((step, Instant::now())));
        Waits(self)
    }

    /// Its step, and the moment at which the run began to wait.
    pub(crate) fn get(&self) -> Option<(u64, Instant)> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, waits: Option<(u64, Instant)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = waits;
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_due_at_its_interval_and_never_twice_after_one_step() {
        let dir = Path::new("run");
        let at = |every, at_end, after| {
            let options = CheckpointOptions { every, at_end, ..CheckpointOptions::default() };
            Checkpoints::new(options, dir, after)
        };
        let steps = at(Some(Every::Steps(10)), false, 20);
        let due: Vec<u64> = (20..45).filter(|&step| steps.is_due(step, false)).collect();
        assert_eq!(due, [30, 40]);
        assert!(!steps.is_due(45, true));
        assert!(at(None, true, 0).is_due(45, true));
        assert!(!at(None, true, 45).is_due(45, true));
        assert!(at(Some(Every::Time(Duration::ZERO)), false, 0).is_due(1, false));
        assert!(!at(Some(Every::Time(Duration::from_hours(1))), false, 0).is_due(1, false));
    }

    #[test]
    fn a_run_that_was_not_asked_has_a_place_for_requests_all_the_same() {
        let options = CheckpointOptions::default();
        assert!(!options.is_asked());
        assert_eq!(
            Checkpoints::new(options, Path::new("run"), 0).dir,
            Path::new("run/checkpoints")
        );
    }
}
