#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod batch;
mod boundary;
mod clock;
mod command;
mod config;
mod device;
mod error;
mod link;
mod ranks;
mod recompute;
mod rehearsal;
mod stage_run;
mod stash;
mod worker;

pub use batch::Batch;
pub use command::{
    Command, Evaluated, RankMemory, Reply, StageGradients, StageParameters, StepReport, What,
};
pub use config::{Fault, FaultKind, RankConfig};
pub use device::DeviceSpec;
pub use error::{ExecError, RankError};
pub use ranks::{Ranks, check_threads};
pub use recompute::Recompute;
pub use rehearsal::{PlannedMemory, rehearse};
pub use stash::{Held, Kept, Stash};
