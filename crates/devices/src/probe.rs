//! One look at what there is, for `pptop devices` and for a diagnosis.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nvml_wrapper::Nvml;
use serde::Serialize;

use crate::library::Library;
use crate::no_gpus::NoGpus;
use crate::watched::Facts;

/// How long the driver may take: without its daemon it wakes all GPUs first.
const ANSWER_WAIT: Duration = Duration::from_secs(15);

/// What NVML knows of this machine, or why it knows nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Probe {
    /// The library that was asked; absent where none was to be asked.
    pub library: Option<String>,
    /// The version of the driver.
    pub driver: Option<String>,
    /// The newest CUDA that the driver can run, such as `13.0`.
    pub cuda: Option<String>,
    /// The GPUs, in the driver's order, which need not be CUDA's.
    pub gpus: Vec<ProbedGpu>,
    /// That there are more GPUs, of which nothing is known, and why.
    pub unreachable: Option<String>,
    /// Why there are none.
    pub why_none: Option<String>,
}

/// A GPU, by what never changes about it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ProbedGpu {
    /// What the driver calls it for ever.
    pub uuid: String,
    /// Its address on the bus.
    pub pci: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Bytes that it has.
    pub memory_bytes: Option<u64>,
    /// Bytes of them that nobody uses.
    pub memory_free_bytes: Option<u64>,
    /// What its multiprocessors can do, such as `9.0`.
    pub compute_capability: Option<String>,
}

/// Looks once. A driver that hangs is given up after some seconds.
pub fn probe(library: &Library) -> Probe {
    probe_within(library, ANSWER_WAIT)
}

fn probe_within(library: &Library, at_most: Duration) -> Probe {
    let (answer, answered) = channel();
    let asked = library.clone();
    let thread = thread::Builder::new().name("nvml probe".to_owned()).spawn(move || {
        // Nobody listens any more where this took too long.
        let _ = answer.send(asked.with(ask));
    });
    let found = match thread {
        Ok(_) => answered.recv_timeout(at_most).unwrap_or(Err(NoGpus::Silent)),
        Err(error) => Err(NoGpus::Thread { why: error.to_string() }),
    };
    let found =
        found.unwrap_or_else(|why| Probe { why_none: Some(why.to_string()), ..Probe::default() });
    Probe { library: library.name(), ..found }
}

fn ask(nvml: &Nvml) -> Probe {
    let mut probe = Probe {
        driver: nvml.sys_driver_version().ok(),
        cuda: nvml.sys_cuda_driver_version().ok().map(|version| {
            format!(
                "{}.{}",
                nvml_wrapper::cuda_driver_version_major(version),
                nvml_wrapper::cuda_driver_version_minor(version)
            )
        }),
        ..Probe::default()
    };
    match Facts::of_all(nvml) {
        Ok(found) => {
            probe.gpus = found.all.into_iter().map(|facts| about(nvml, facts)).collect();
            probe.unreachable = found.unreachable;
        }
        Err(why) => probe.why_none = Some(why.to_string()),
    }
    probe
}

fn about(nvml: &Nvml, facts: Facts) -> ProbedGpu {
    let device = nvml.device_by_uuid(facts.uuid.as_str()).ok();
    let memory = device.as_ref().and_then(|device| device.memory_info().ok());
    let capability = device.as_ref().and_then(|device| device.cuda_compute_capability().ok());
    ProbedGpu {
        uuid: facts.uuid,
        pci: facts.pci,
        name: facts.name,
        memory_bytes: memory.as_ref().map(|memory| memory.total),
        memory_free_bytes: memory.as_ref().map(|memory| memory.free),
        compute_capability: capability.map(|c| format!("{}.{}", c.major, c.minor)),
    }
}
