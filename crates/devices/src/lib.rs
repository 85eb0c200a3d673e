//! What the devices of a run are doing: GPUs through NVML, the threads of CPU ranks through the system, each asked
//! once or twice a second by a thread of its own, and told as events.
//!
//! ```text
//! NVML ─▶ GpuSampler ───┐
//!                       ├─▶ Event::Gpu, Event::Cpu ─▶ Recorder
//! /proc ─▶ ThreadSampler┘
//! ```
//!
//! A driver can be missing, old, or stuck. So the library is opened at run time and by name; whatever it does not tell
//! is absent in the event, with the reason; a call that hangs holds up neither the run nor its end, and after some
//! seconds the event says that the device does not answer.
//!
//! A GPU is known by its UUID or its address on the bus, never by its number: CUDA and NVML count differently.

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
