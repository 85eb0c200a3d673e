//! What a training run is, as a library: a workload, its session, and the run that is recorded.
//!
//! A [`Workload`] is a model as a stack of layers, its loss, and its data. A [`Config`] says how it
//! is trained; what is left open has a default. [`train`] checks it, measures and cuts the model,
//! starts the ranks, and records the run where `pptop attach` and `pptop replay` find it. The steps
//! in between can be made one by one: [`Prepared`], [`Session`], [`Run`].
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use candle_core::{DType, Device, Result, Tensor};
//! use pp_nn::Linear;
//! use pp_partition::{LayerStack, single};
//! use pp_train::{
//!     BoxError, Config, DataSet, Job, MeanSquare, RunOptions, Samples, Topology, Workload,
//! };
//!
//! struct Line;
//!
//! impl DataSet for Line {
//!     fn batch(&self, _step: u64, size: usize) -> Result<Samples> {
//!         let x = Tensor::ones((size, 4), DType::F32, &Device::Cpu)?;
//!         Ok((vec![x.clone()], x))
//!     }
//! }
//!
//! impl Workload for Line {
//!     fn name(&self) -> &str {
//!         "line"
//!     }
//!
//!     fn layers(&self) -> Option<usize> {
//!         Some(2)
//!     }
//!
//!     fn job(&self, _seed: u64, _topology: &Topology) -> std::result::Result<Job, BoxError> {
//!         let mut stack = LayerStack::default();
//!         for name in ["a", "b"] {
//!             stack.push(name, move |builder| {
//!                 let linear = Linear::new(4, 4, builder.pp(name))?;
//!                 Ok(single(move |x, context| linear.forward(x, context)))
//!             });
//!         }
//!         Ok(Job::new(stack, MeanSquare, Line))
//!     }
//! }
//!
//! fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//!     pp_train::init()?;
//!     let config = Config { steps: 20, ..Config::new(Arc::new(Line)) };
//!     pp_train::train(config, RunOptions::default(), &mut |_: &pp_train::Notice<'_>| {})?;
//!     Ok(())
//! }
//! ```

#![cfg_attr(not(feature = "cuda"), forbid(unsafe_code))]

mod config;
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

// What a configuration and a workload are written with, so that their author needs no more crates.
pub use pp_devices::Library;
pub use pp_executor::{Fault, FaultKind, Recompute};
pub use pp_hybrid::{Evaluation, StepOutcome, Trainer};
pub use pp_schedule::{ScheduleName, Topology};
