#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

/// Tests count what ranks hold, as `pptop` does.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: pp_nn::memory::CountingAllocator<std::alloc::System> =
    pp_nn::memory::CountingAllocator(std::alloc::System);

mod batch;
mod boundary;
mod buckets;
mod clock;
mod config;
mod copies;
mod device;
mod error;
mod evaluation;
mod exchange;
#[cfg(feature = "fault-injection")]
mod fault;
mod gauge;
mod journal;
mod lane;
mod link;
mod per_rank;
mod post;
mod progress;
mod ranks;
mod recompute;
mod reduction;
mod rehearsal;
mod report;
mod sheet;
mod stage_run;
mod stages;
mod stash;
mod state;
mod thread;
mod ties;
mod training;
mod transport;
mod walk;
mod worker;
mod world;

pub use batch::Batch;
pub use config::{BUCKET_BYTES, Pace, RankConfig};
pub use device::DeviceSpec;
pub use error::{ExecError, RankError};
#[cfg(feature = "fault-injection")]
pub use fault::{Fault, FaultKind, FaultPoint};
pub use per_rank::PerRank;
pub use progress::{Doing, Progress, RankProgress, TimedProgress};
pub use ranks::{Ranks, check_threads};
pub use recompute::Recompute;
pub use rehearsal::{PlannedMemory, rehearse};
pub use report::{Evaluated, RankMemory, StageParameters, StepReport, UpdateReport, What};
pub use stash::{Held, Kept, Stash};
pub use state::{OptimizerState, Snapshot, StageState};
#[cfg(any(test, feature = "fault-injection"))]
pub use transport::threads_as_processes;
pub use transport::{InWorld, LABEL_WORDS, LinkError, Message, Port, Trouble, World};
pub use world::lost_rank;
