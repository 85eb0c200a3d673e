//! Failures on purpose: a test makes a rank fail at a chosen op.

use pp_schedule::{Op, Rank};

use crate::error::RankError;

/// A rank that fails on purpose, and the op at which it fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The rank that fails, in every replica.
    pub rank: Rank,
    /// The step in which it fails.
    pub step: u64,
    /// The op at which it fails.
    pub op: Op,
    /// The kind of failure.
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
    /// Fails at the chosen step and op. The caller is the chosen rank.
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
