//! Failures on purpose: a test makes a rank fail at a chosen point of a step.

use std::str::FromStr;
use std::time::Duration;

use pp_schedule::{Op, Rank, Replica};
use rustix::process::{Signal, getpid, kill_process};

use crate::error::RankError;

/// A rank that fails on purpose, and the point at which it fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The rank that fails.
    pub rank: Rank,
    /// The replica in which it fails; `None` for all of them.
    pub replica: Option<Replica>,
    /// The step in which it fails, or after which a checkpoint fails.
    pub step: u64,
    /// The point at which it fails.
    pub at: FaultPoint,
    /// The kind of failure.
    pub kind: FaultKind,
}

/// A point at which a rank can fail on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultPoint {
    /// An op of the step.
    Op(Op),
    /// The mean of the gradients over all copies of the model.
    Reduce,
    /// The optimizer step.
    Optimizer,
    /// The copy of the state for a checkpoint.
    Copy,
    /// The writing of a checkpoint in the background, which is no rank's work. The owner of the
    /// ranks strikes it.
    Write,
}

/// How a rank fails on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It returns an error.
    Error,
    /// It panics.
    Panic,
    /// It kills the process with SIGKILL.
    Kill,
    /// It stops the process with SIGSTOP.
    Stop,
    /// It sleeps, and never goes on.
    Hang,
}

impl FromStr for FaultPoint {
    type Err = <Op as FromStr>::Err;

    /// An op such as `1F3`, or `reduce`, `optimizer`, `copy` or `write`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "reduce" => Self::Reduce,
            "optimizer" => Self::Optimizer,
            "copy" => Self::Copy,
            "write" => Self::Write,
            op => Self::Op(op.parse()?),
        })
    }
}

impl Fault {
    /// Fails at the chosen step and point. The caller is the chosen rank, or writes the checkpoint.
    ///
    /// # Errors
    /// [`RankError::Injected`], if that is the kind of failure.
    ///
    /// # Panics
    /// If that is the kind of failure.
    pub fn strike(self, step: u64, at: FaultPoint) -> Result<(), RankError> {
        if (self.step, self.at) != (step, at) {
            return Ok(());
        }
        match self.kind {
            FaultKind::Error => Err(RankError::Injected),
            FaultKind::Panic => panic!("a test asked for this panic"),
            FaultKind::Kill => {
                // Nothing catches SIGKILL, so that it cannot fail.
                let _ = kill_process(getpid(), Signal::KILL);
                sleep_for_ever()
            }
            FaultKind::Stop => {
                // As above.
                let _ = kill_process(getpid(), Signal::STOP);
                // The system may take a moment to stop this thread as well.
                std::thread::sleep(Duration::from_millis(200));
                Ok(())
            }
            FaultKind::Hang => sleep_for_ever(),
        }
    }
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_hours(1));
    }
}
