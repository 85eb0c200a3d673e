//! One GPU that is looked at again and again.

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, PcieUtilCounter, TemperatureSensor};
use nvml_wrapper::enums::gpm::GpmMetricId;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::gpm::gpm_metrics_get;
use nvml_wrapper::{Device, GpmSample, Nvml};
use pp_trace::Gpu;

use crate::metrics::{Answers, of_gpu, throttle};
use crate::no_gpus::NoGpus;

/// What only one sample in several asks for: such a call blocks for 20 ms.
const SLOW_EVERY: u64 = 5;

/// What never changes about a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) uuid: String,
    pub(crate) pci: Option<String>,
    pub(crate) name: Option<String>,
}

/// The GPUs of a machine.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) all: Vec<Facts>,
    /// That there are more, of which not even the names are known, and why.
    pub(crate) unreachable: Option<String>,
}

impl Facts {
    fn of(device: &Device<'_>) -> Result<Self, NvmlError> {
        Ok(Self {
            uuid: device.uuid()?,
            pci: device.pci_info().ok().map(|pci| pci.bus_id).filter(|pci| !pci.is_empty()),
            name: device.name().ok(),
        })
    }

    /// All GPUs that can be asked, in the driver's order.
    pub(crate) fn of_all(nvml: &Nvml) -> Result<Found, NoGpus> {
        let error = |error: NvmlError| NoGpus::of(error, "the library");
        let count = nvml.device_count().map_err(error)?;
        let mut all = Vec::new();
        let mut why = None;
        for index in 0..count {
            match nvml.device_by_index(index).and_then(|device| Self::of(&device)) {
                Ok(facts) => all.push(facts),
                Err(error) => why = Some(of_gpu(error)),
            }
        }
        match why {
            _ if count == 0 => Err(NoGpus::None),
            Some(why) if all.is_empty() => Err(NoGpus::Unreachable { count, why }),
            why => Ok(Found {
                unreachable: why.map(|why| {
                    let n = count as usize - all.len();
                    format!("{n} of the driver's {count} GPUs cannot be queried: {why}")
                }),
                all,
            }),
        }
    }

    /// A look that found nothing.
    pub(crate) fn without_answer(&self, error: String) -> Gpu {
        Gpu {
            uuid: self.uuid.clone(),
            pci: self.pci.clone(),
            name: self.name.clone(),
            error: Some(error),
            ..Gpu::default()
        }
    }
}

/// A GPU, and what has to be remembered between two looks.
pub(crate) struct Watched<'nvml> {
    nvml: &'nvml Nvml,
    pub(crate) facts: Facts,
    /// Absent while it is gone.
    device: Option<Device<'nvml>>,
    answers: Answers,
    /// The multiprocessors' counters at the look before.
    sample: Option<GpmSample<'nvml>>,
    n_looks: u64,
    /// Bytes a second over the bus, sent and received, when they were last asked for.
    pcie: [Option<f64>; 2],
}

impl<'nvml> Watched<'nvml> {
    pub(crate) fn new(nvml: &'nvml Nvml, facts: Facts) -> Self {
        Self {
            nvml,
            facts,
            device: None,
            answers: Answers::default(),
            sample: None,
            n_looks: 0,
            pcie: [None; 2],
        }
    }

    /// Asks for everything. A GPU that is gone is looked for again, by its UUID.
    pub(crate) fn look(&mut self) -> Gpu {
        let device = match self.device.take() {
            Some(device) => device,
            None => match self.nvml.device_by_uuid(self.facts.uuid.as_str()) {
                Ok(device) => device,
                Err(error) => return self.facts.without_answer(of_gpu(error)),
            },
        };
        let gpu = self.ask(&device);
        if let Some(error) = self.answers.lost() {
            self.sample = None;
            self.pcie = [None; 2];
            return self.facts.without_answer(error.to_owned());
        }
        self.device = Some(device);
        self.n_looks += 1;
        gpu
    }

    fn ask(&mut self, device: &Device<'nvml>) -> Gpu {
        self.answers.begin();
        let utilisation = self.answers.ask("utilisation", || device.utilization_rates());
        let memory = self.answers.ask("used_bytes", || device.memory_info());
        let power = self.answers.ask("power_watts", || device.power_usage());
        let energy = self.answers.ask("energy_joules", || device.total_energy_consumption());
        let temperature =
            self.answers.ask("temperature_celsius", || device.temperature(TemperatureSensor::Gpu));
        let sm_clock = self.answers.ask("sm_clock_mhz", || device.clock_info(Clock::SM));
        let memory_clock =
            self.answers.ask("memory_clock_mhz", || device.clock_info(Clock::Memory));
        let reasons = self.answers.ask("throttle", || device.current_throttle_reasons());
        let processes = self.answers.ask("processes", || device.running_compute_processes_count());
        let [sm_active, tensor_active] = self.ask_gpm(device);
        if self.n_looks.is_multiple_of(SLOW_EVERY) {
            let counters = [
                ("pcie_sent_bytes_per_second", PcieUtilCounter::Send),
                ("pcie_received_bytes_per_second", PcieUtilCounter::Receive),
            ];
            self.pcie = counters.map(|(what, counter)| {
                let kilobytes = self.answers.ask(what, || device.pcie_throughput(counter));
                kilobytes.map(|kilobytes| f64::from(kilobytes) * 1e3)
            });
        }
        let [pcie_sent_bytes_per_second, pcie_received_bytes_per_second] = self.pcie;
        Gpu {
            elapsed_ns: 0,
            uuid: self.facts.uuid.clone(),
            pci: self.facts.pci.clone(),
            name: self.facts.name.clone(),
            utilisation: utilisation.map(|rates| f64::from(rates.gpu) / 100.0),
            sm_active,
            tensor_active,
            used_bytes: memory.as_ref().map(|memory| memory.used),
            total_bytes: memory.as_ref().map(|memory| memory.total),
            power_watts: power.map(|milliwatts| f64::from(milliwatts) / 1e3),
            energy_joules: energy.map(|millijoules| millijoules as f64 / 1e3),
            temperature_celsius: temperature.map(f64::from),
            sm_clock_mhz: sm_clock,
            memory_clock_mhz: memory_clock,
            throttle: throttle(reasons.unwrap_or(ThrottleReasons::empty())),
            pcie_sent_bytes_per_second,
            pcie_received_bytes_per_second,
            processes,
            unavailable: self.answers.unavailable(),
            error: None,
        }
    }

    /// The share of multiprocessors, and of tensor cores, that worked between the look before and
    /// this one.
    fn ask_gpm(&mut self, device: &Device<'nvml>) -> [Option<f64>; 2] {
        // Without this function the wrapper's sample panics when it is dropped.
        let can_free = self.nvml.lib().nvmlGpmSampleFree.is_ok();
        // It is enough to be told once that there is no such thing.
        let n_looks = self.n_looks;
        let sample = self.answers.ask("sm_active", || {
            if !can_free || (n_looks == 0 && !device.gpm_support()?) {
                return Err(NvmlError::NotSupported);
            }
            device.gpm_sample()
        });
        let before = self.sample.take();
        self.sample = sample;
        let (Some(before), Some(now)) = (&before, &self.sample) else {
            if self.answers.never_tells("sm_active") {
                let _: Option<()> =
                    self.answers.ask("tensor_active", || Err(NvmlError::NotSupported));
            }
            return [None; 2];
        };
        let metrics = [GpmMetricId::SmUtil, GpmMetricId::AnyTensorUtil];
        let found =
            self.answers.ask("sm_active", || gpm_metrics_get(self.nvml, before, now, &metrics));
        let mut found = found.unwrap_or_default().into_iter();
        ["sm_active", "tensor_active"].map(|what| {
            let found = found.next()?;
            let percent = self.answers.ask(what, || found)?.value;
            percent.is_finite().then_some(percent / 100.0)
        })
    }
}
