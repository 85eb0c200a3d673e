//! A trainer whose ranks may be processes: process 0 leads, and all others follow.
//!
//! Before process 0 does anything in which other ranks take part, it says so, and every process
//! does the same. What is to be done next, process 0 alone decides. The others say only whether a
//! signal has reached them.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use pp_executor::{ExecError, InWorld, Progress};
use pp_hybrid::{Evaluation, ModelState, StepOutcome, Trainer, TrainerError};
use pp_telemetry::{Collected, Event, Line};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};

use crate::checkpoints::parts::{PartWriter, Probe};
use crate::data::{DataSet, Samples};
use crate::error::TrainError;
use crate::session::Prepared;
use crate::stopping::Signals;

/// Tells the other processes where the run is recorded. Each process keeps in a file
/// there what its rank is doing. `None` if there are no other processes.
pub(crate) fn give_dir(prepared: &Prepared, dir: &Path) -> Result<Option<PathBuf>, TrainError> {
    let Some(InWorld(world)) = prepared.world() else { return Ok(None) };
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    world.broadcast(Some(dir.as_os_str().as_bytes().to_vec())).map_err(TrainError::World)?;
    Ok(Some(dir))
}

/// The folder of the processes' files, as process 0 tells it.
pub(crate) fn take_dir(prepared: &Prepared) -> Result<Option<PathBuf>, TrainError> {
    let Some(InWorld(world)) = prepared.world() else { return Ok(None) };
    let bytes = world.broadcast(None).map_err(TrainError::World)?;
    let dir = PathBuf::from(OsString::from_vec(bytes));
    // On a host that does not see the folder, nothing is kept.
    Ok(Some(dir).filter(|dir| dir.is_dir()))
}

/// What all processes do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The next step.
    Step,
    /// An evaluation of the held-out samples.
    Evaluate,
    /// The weights go to process 0.
    Weights,
    /// The gradients go to process 0.
    Gradients,
    /// Each process copies its part of a checkpoint, and writes it where process 0 says.
    Snapshot,
    /// Each process looks for a file that process 0 has written.
    Look,
    /// Nothing more: the run is over.
    End,
}

impl Order {
    const ALL: [Self; 7] = [
        Self::Step,
        Self::Evaluate,
        Self::Weights,
        Self::Gradients,
        Self::Snapshot,
        Self::Look,
        Self::End,
    ];

    fn bit(self) -> u64 {
        1 << (self as u32)
    }

    fn of(bits: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|order| bits & order.bit() != 0)
    }
}

/// What a process says that sees the file of process 0.
const SEEN: &[u8] = b"seen";

/// The signals that a follower tells of, from this bit on.
const SIGNALS: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGUSR2];
const SIGNALS_AT: usize = 32;
const CHECKPOINT_BIT: u64 = 1 << 63;

/// The trainer of process 0, or of the only process.
pub(crate) struct Crew {
    trainer: Trainer,
    /// Whether ranks are processes.
    has_followers: bool,
    /// What followers were asked for by signals.
    signal: Option<i32>,
    wants_checkpoint: bool,
    /// What samplers of other processes have seen.
    heard: Vec<Event>,
}

impl Crew {
    pub(crate) fn new(trainer: Trainer, has_followers: bool) -> Self {
        Self { trainer, has_followers, signal: None, wants_checkpoint: false, heard: Vec::new() }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.trainer.progress()
    }

    /// What samplers of other processes have seen since the last call.
    pub(crate) fn heard(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.heard)
    }

    /// A signal that reached a follower.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.signal
    }

    /// Whether a signal asked a follower for a checkpoint, since the last call.
    pub(crate) fn take_checkpoint(&mut self) -> bool {
        std::mem::take(&mut self.wants_checkpoint)
    }

    fn order(&mut self, order: Order) -> Result<(), TrainerError> {
        if self.has_followers {
            let (bits, said) = self.trainer.agree(order.bit(), Vec::new())?;
            self.heard.extend(
                said.iter().flat_map(|lines| lines.split(|&byte| byte == b'\n')).filter_map(
                    |line| match Event::parse(line) {
                        Ok(Line::Event(event)) => Some(event),
                        _ => None,
                    },
                ),
            );
            let mut signals = SIGNALS.into_iter().enumerate();
            let found = signals.find(|(at, _)| bits & (1 << (SIGNALS_AT + at)) != 0);
            self.signal = self.signal.or(found.map(|(_, signal)| signal));
            self.wants_checkpoint |= bits & CHECKPOINT_BIT != 0;
        }
        Ok(())
    }

    /// See [`Trainer::step`].
    pub(crate) fn step<F>(&mut self, step: u64, data: F) -> Result<StepOutcome, TrainerError>
    where
        F: FnOnce() -> candle_core::Result<(Vec<Tensor>, Tensor)>,
    {
        self.order(Order::Step)?;
        self.trainer.step(step, data)
    }

    /// See [`Trainer::evaluate_while`].
    pub(crate) fn evaluate_while(
        &mut self,
        pieces: &[Samples],
        goes_on: impl FnMut(usize) -> bool,
    ) -> Result<Option<Evaluation>, TrainerError> {
        self.order(Order::Evaluate)?;
        self.trainer.evaluate_while(pieces, goes_on)
    }

    /// See [`Trainer::weights`].
    pub(crate) fn weights(&mut self) -> Result<Vec<(String, Tensor)>, TrainerError> {
        self.order(Order::Weights)?;
        self.trainer.weights()
    }

    /// See [`Trainer::gradients`].
    pub(crate) fn gradients(&mut self) -> Result<Vec<(String, Tensor)>, TrainerError> {
        self.order(Order::Gradients)?;
        self.trainer.gradients()
    }

    /// See [`Trainer::snapshot`].
    pub(crate) fn snapshot(&mut self) -> Result<ModelState, TrainerError> {
        self.order(Order::Snapshot)?;
        self.trainer.snapshot()
    }

    /// Lets all other processes look for a file. Returns the hosts that do not see it.
    pub(crate) fn look(
        &mut self,
        probe: &Probe,
        world: &InWorld,
    ) -> Result<Vec<String>, TrainerError> {
        self.order(Order::Look)?;
        probe.show(world).map_err(ExecError::from)?;
        let (_, said) = self.trainer.agree(0, Vec::new())?;
        let hosts = world.0.hosts().iter().skip(1).zip(said);
        let mut without: Vec<String> = hosts
            .filter(|(_, said)| said.as_slice() != SEEN)
            .map(|(host, _)| host.clone())
            .collect();
        without.sort();
        without.dedup();
        Ok(without)
    }

    /// Lets the followers go.
    pub(crate) fn end(&mut self) -> Result<(), TrainerError> {
        self.order(Order::End)
    }
}

/// The work of a process that does not lead.
pub(crate) struct Follower<'a> {
    pub(crate) trainer: Trainer,
    pub(crate) data: &'a dyn DataSet,
    pub(crate) batch: usize,
    /// Steps before the run.
    pub(crate) n_before: u64,
    pub(crate) pieces: Vec<Samples>,
    pub(crate) signals: Option<Signals>,
    /// What the samplers of this process have seen.
    pub(crate) collected: Collected,
    pub(crate) parts: PartWriter,
}

impl Follower<'_> {
    /// Does what process 0 says, until it says that the run is over.
    pub(crate) fn follow(mut self) -> Result<(), TrainerError> {
        let mut step = self.n_before;
        loop {
            let asked = self.asked();
            let seen = self.seen();
            match Order::of(self.trainer.agree(asked, seen)?.0) {
                Some(Order::Step) => {
                    step += 1;
                    let data = || self.data.batch(step, self.batch);
                    match self.trainer.step(step, data) {
                        // What follows from it, process 0 decides.
                        Ok(_) | Err(TrainerError::NotFinite(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                Some(Order::Evaluate) => {
                    let signals = self.signals.clone();
                    let is_asked = || signals.as_ref().and_then(Signals::signal).is_some();
                    self.trainer.evaluate_while(&self.pieces, |_| !is_asked())?;
                }
                Some(Order::Weights) => drop(self.trainer.weights()?),
                Some(Order::Gradients) => drop(self.trainer.gradients()?),
                Some(Order::Snapshot) => {
                    let state = self.trainer.snapshot()?;
                    self.parts.begin(state).map_err(ExecError::from)?;
                }
                Some(Order::Look) => {
                    let finds = self.parts.finds().map_err(ExecError::from)?;
                    let said = if finds { SEEN } else { &[] };
                    self.trainer.agree(0, said.to_vec())?;
                }
                Some(Order::End) | None => {
                    self.parts.wait();
                    return Ok(());
                }
            }
        }
    }

    /// Lines of the log for process 0.
    fn seen(&self) -> Vec<u8> {
        let lines = self.collected.take().into_iter().filter_map(|event| event.to_json().ok());
        lines.collect::<Vec<_>>().join("\n").into_bytes()
    }

    /// The signals that have reached this process.
    fn asked(&self) -> u64 {
        let Some(signals) = &self.signals else { return 0 };
        let at = signals.signal().and_then(|signal| SIGNALS.iter().position(|&s| s == signal));
        let signal = at.map_or(0, |at| 1 << (SIGNALS_AT + at));
        signal | if signals.take_checkpoint() { CHECKPOINT_BIT } else { 0 }
    }
}
