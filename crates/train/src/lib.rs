#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "cuda"), forbid(unsafe_code))]

mod config;
mod cutting;
mod data;
mod devices;
mod ending;
mod error;
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
mod starting;
mod stopping;
mod synthesis;
mod weights;
mod workload;

pub use config::{Config, DeviceChoice, PlanSource};
pub use data::{DataSet, Samples};
pub use devices::{GpuName, NoCuda, cuda_devices, gpu_name};
pub use ending::{Finished, Stopped};
pub use error::{TrainError, causes};
pub use job::{Classes, Job, MeanSquare};
pub use kernels::{Chosen, KernelChoice, kernels_kept};
pub use observer::{Notice, Observer, Ready};
pub use options::{ResultFile, RunFolder, RunOptions, Words};
pub use process::init;
pub use profiles::Profiles;
pub use run::{Run, SAMPLE, train};
pub use session::{Prepared, Preparing, Session};
pub use signals::is_ignored;
pub use stopping::Signals;
pub use synthesis::Promise;
pub use workload::{BoxError, Defaults, KnownCosts, Workload};

// Types for configurations and workloads, so that their author needs no further crate.
pub use pp_devices::Library;
pub use pp_executor::Recompute;
#[cfg(feature = "fault-injection")]
pub use pp_executor::{Fault, FaultKind};
pub use pp_hybrid::{Evaluation, StepOutcome, Trainer};
pub use pp_schedule::{ScheduleName, Topology};
