#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod library;
mod metrics;
mod names;
mod no_gpus;
mod watched;

mod gpu_sampler;
mod probe;
mod samplers;
mod threads;

pub use gpu_sampler::GpuSampler;
pub use library::{DEFAULT_LIBRARY, LIBRARY_VARIABLE, Library};
pub use names::{gpu_uuid, pci_address};
pub use no_gpus::NoGpus;
pub use probe::{Probe, ProbedGpu, probe};
pub use samplers::{Options, Samplers};
pub use threads::{RankThread, ThreadSampler, rank_threads};
