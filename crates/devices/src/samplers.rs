//! All that looks while a run goes on.

use std::time::{Duration, Instant};

use pp_trace::{Event, Log, Recorder};

use crate::gpu_sampler::GpuSampler;
use crate::library::Library;
use crate::threads::{RankThread, ThreadSampler};

/// What is looked at, and how often.
#[derive(Debug, Clone)]
pub struct Options {
    /// The library to query for GPUs.
    pub library: Library,
    /// Whether ranks compute on GPUs. If none does, GPUs are sampled only if the library was named.
    pub on_gpus: bool,
    /// The threads of the ranks.
    pub threads: Vec<RankThread>,
    /// The time between two looks.
    pub every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            library: Library::default(),
            on_gpus: false,
            threads: Vec::new(),
            every: Duration::from_secs(1),
        }
    }
}

impl Options {
    /// Whether anybody would want to know of GPUs here.
    fn wants_gpus(&self) -> bool {
        match self.library {
            Library::Off => false,
            Library::Installed => self.on_gpus,
            Library::At(_) => true,
        }
    }
}

/// Looks at devices and threads until it is dropped.
#[derive(Debug, Default)]
pub struct Samplers {
    _gpus: Option<GpuSampler>,
    _threads: Option<ThreadSampler>,
}

impl Samplers {
    /// Starts all looks; times count from `origin`. Nothing here can fail a run: what cannot be
    /// watched is a line of the log.
    pub fn start(options: Options, origin: Instant, recorder: &Recorder) -> Self {
        let sink = || {
            let recorder = recorder.clone();
            move |event| recorder.record(event)
        };
        let gpus = options
            .wants_gpus()
            .then(|| GpuSampler::start(options.library, options.every, origin, sink()));
        let start = |threads| ThreadSampler::start(threads, options.every, origin, sink());
        let threads = (!options.threads.is_empty()).then(|| start(options.threads)).transpose();
        let threads = threads.unwrap_or_else(|error| {
            recorder.record(Event::Log(Log {
                elapsed_ns: origin.elapsed().as_nanos() as u64,
                step: None,
                message: format!("the ranks' threads are not watched: {error}"),
            }));
            None
        });
        Self { _gpus: gpus, _threads: threads }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_gpus_is_quiet_unless_asked() {
        let wants =
            |library, on_gpus| Options { library, on_gpus, ..Options::default() }.wants_gpus();
        assert!(!wants(Library::Installed, false));
        assert!(wants(Library::Installed, true));
        assert!(wants(Library::At("x".into()), false));
        assert!(!wants(Library::Off, true));
    }
}
