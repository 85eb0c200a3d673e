//! A failure on purpose: what happens when a rank dies can be tested only by letting one die.

use pp_schedule::{Op, Rank};

use crate::error::RankError;

/// Which rank fails, and when.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The rank that fails, in every replica.
    pub rank: Rank,
    /// In this step.
    pub step: u64,
    /// At this op.
    pub op: Op,
    /// How.
    pub kind: FaultKind,
}

/// How a rank fails on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It returns an error.
    Error,
    /// It panics.
    Panic,
}

impl Fault {
    /// Fails if this is the place. Only the rank that is to fail asks.
    pub(crate) fn strike(self, step: u64, op: Op) -> Result<(), RankError> {
        if (self.step, self.op) != (step, op) {
            return Ok(());
        }
        match self.kind {
            FaultKind::Error => Err(RankError::Injected),
            FaultKind::Panic => panic!("a test asked for this panic"),
        }
    }
}
