#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "cuda"), forbid(unsafe_code))]

mod checkpoints;
mod config;
mod continuing;
mod crew;
mod cutting;
mod data;
mod devices;
mod ending;
mod error;
#[cfg(feature = "fault-injection")]
mod faulty_disk;
mod hello;
mod job;
mod kernels;
pub mod limits;
mod observer;
mod opening;
mod options;
mod phases;
mod process;
mod profiles;
mod results;
mod run;
mod session;
mod signals;
mod stall;
mod starting;
mod stopping;
mod synthesis;
mod weights;
mod workload;

pub use checkpoints::{CHECKPOINTS, CheckpointOptions, Durable, Every, KEEP};
pub use config::{Config, DeviceChoice, PlanSource};
pub use continuing::{JobRecord, Resume, ResumeError};
pub use data::{DataSet, Samples};
pub use devices::{GpuName, NoCuda, cuda_devices, gpu_name};
pub use ending::{Finished, Stopped};
pub use error::{ResultError, TrainError, causes};
pub use job::{Classes, Job, MeanSquare, Tokens};
pub use kernels::{Chosen, KernelChoice, KernelsNotKept, kernels_kept};
pub use observer::{Notice, Observer, Ready};
pub use options::{OnSpike, ResultFile, RunFolder, RunOptions, Words};
pub use process::init;
pub use profiles::Profiles;
pub use run::{Run, SAMPLE, follow, train};
pub use session::{Prepared, Preparing, RankPlace, Session};
pub use signals::is_ignored;
pub use stall::{STALL_AFTER, StallOptions};
pub use stopping::Signals;
pub use synthesis::Promise;
pub use weights::{WEIGHTS_FILE, WeightsError, open_weights};
pub use workload::{BoxError, Defaults, KnownCosts, SampleLength, Workload};

// Types for configurations and workloads, so that their author needs no further crate.
pub use pp_devices::Library;
pub use pp_executor::{BUCKET_BYTES, InWorld, Recompute, Trouble, World, lost_rank};
#[cfg(feature = "fault-injection")]
pub use pp_executor::{Fault, FaultKind, FaultPoint};
pub use pp_hybrid::checkpoint;
pub use pp_hybrid::{
    Evaluation, NotFinite, OnNonfinite, StepOutcome, Trainer, sha256_hex, write_tensors,
};
pub use pp_schedule::{ScheduleName, Topology};
