//! What is known of the GPUs.

use std::collections::VecDeque;

use pp_trace::Gpu;

use crate::mark_v1::{GpuV1, GpusV1};

/// Looks that are kept for a chart.
pub const HISTORY_LOOKS: usize = 120;
/// GPUs that are kept at most: a machine with more does not exist, a broken log might.
const GPUS_MAX: usize = 1024;

/// One GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuState {
    /// The newest look, with the last known value of what it did not bring.
    pub latest: Gpu,
    /// Utilisation at the last looks, oldest first; a look that failed is absent.
    utilisation: VecDeque<Option<f64>>,
    power: VecDeque<Option<f64>>,
    temperature: VecDeque<Option<f64>>,
    /// The energy counter at the first look.
    first_joules: Option<f64>,
}

impl GpuState {
    fn new(gpu: &Gpu) -> Self {
        Self {
            latest: gpu.clone(),
            utilisation: VecDeque::new(),
            power: VecDeque::new(),
            temperature: VecDeque::new(),
            first_joules: gpu.energy_joules,
        }
    }

    fn push(&mut self, gpu: &Gpu) {
        keep(&mut self.utilisation, gpu.utilisation);
        keep(&mut self.power, gpu.power_watts);
        keep(&mut self.temperature, gpu.temperature_celsius);
        self.first_joules = self.first_joules.or(gpu.energy_joules);
        // A GPU that is gone keeps its name and its size.
        let before = std::mem::take(&mut self.latest);
        self.latest = Gpu {
            pci: gpu.pci.clone().or(before.pci),
            name: gpu.name.clone().or(before.name),
            total_bytes: gpu.total_bytes.or(before.total_bytes),
            ..gpu.clone()
        };
    }

    /// Utilisation at the last looks, oldest first.
    pub fn utilisation(&self) -> impl ExactSizeIterator<Item = Option<f64>> {
        self.utilisation.iter().copied()
    }

    /// Watts at the last looks, oldest first.
    pub fn power(&self) -> impl ExactSizeIterator<Item = Option<f64>> {
        self.power.iter().copied()
    }

    /// Degrees at the last looks, oldest first.
    pub fn temperature(&self) -> impl ExactSizeIterator<Item = Option<f64>> {
        self.temperature.iter().copied()
    }

    /// Joules since the run began, by the device's own counter.
    pub fn joules(&self) -> Option<f64> {
        Some(self.latest.energy_joules? - self.first_joules?)
    }
}

fn keep(history: &mut VecDeque<Option<f64>>, value: Option<f64>) {
    if history.len() >= HISTORY_LOOKS {
        history.pop_front();
    }
    history.push_back(value);
}

/// All GPUs, in the order in which they were first seen.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Gpus {
    states: Vec<GpuState>,
}

impl Gpus {
    /// Whether they keep their bounds: those that were read from a log might not.
    pub(crate) fn is_bounded(&self) -> bool {
        self.states.len() <= GPUS_MAX
            && self.states.iter().all(|state| {
                [&state.utilisation, &state.power, &state.temperature]
                    .iter()
                    .all(|history| history.len() <= HISTORY_LOOKS)
            })
    }

    pub(crate) fn push(&mut self, gpu: &Gpu) {
        let at = match self.states.iter().position(|state| state.latest.uuid == gpu.uuid) {
            Some(at) => at,
            None if self.states.len() < GPUS_MAX => {
                self.states.push(GpuState::new(gpu));
                self.states.len() - 1
            }
            None => return,
        };
        self.states[at].push(gpu);
    }

    pub(crate) fn states(&self) -> &[GpuState] {
        &self.states
    }

    /// The one with this name of its own, or at this address.
    pub(crate) fn find(&self, uuid: Option<&str>, pci: Option<&str>) -> Option<&GpuState> {
        let by_uuid = |uuid: &str| self.states.iter().find(|state| state.latest.uuid == uuid);
        let by_pci = |pci: &str| {
            self.states.iter().find(|state| {
                state.latest.pci.as_deref().is_some_and(|other| same_address(other, pci))
            })
        };
        uuid.and_then(by_uuid).or_else(|| pci.and_then(by_pci))
    }
}

impl From<&Gpus> for GpusV1 {
    fn from(gpus: &Gpus) -> Self {
        let saved = |state: &GpuState| GpuV1 {
            latest: state.latest.clone(),
            utilisation: state.utilisation.clone(),
            power: state.power.clone(),
            temperature: state.temperature.clone(),
            first_joules: state.first_joules,
        };
        Self { states: gpus.states.iter().map(saved).collect() }
    }
}

impl From<GpusV1> for Gpus {
    fn from(saved: GpusV1) -> Self {
        let state = |saved: GpuV1| GpuState {
            latest: saved.latest,
            utilisation: saved.utilisation,
            power: saved.power,
            temperature: saved.temperature,
            first_joules: saved.first_joules,
        };
        Self { states: saved.states.into_iter().map(state).collect() }
    }
}

/// `0000:10:00.0` and `00000000:10:00.0` are one address: the domain is written with four digits or
/// eight.
fn same_address(one: &str, other: &str) -> bool {
    let plain = |address: &str| address.trim_start_matches('0').to_ascii_lowercase();
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(uuid: &str, utilisation: Option<f64>) -> Gpu {
        Gpu { uuid: uuid.to_owned(), utilisation, ..Gpu::default() }
    }

    #[test]
    fn a_gpu_that_goes_and_returns_keeps_its_name() {
        let mut gpus = Gpus::default();
        let named =
            Gpu { name: Some("H100".to_owned()), total_bytes: Some(80), ..gpu("a", Some(0.5)) };
        gpus.push(&named);
        gpus.push(&Gpu { error: Some("GPU is lost".to_owned()), ..gpu("a", None) });
        let state = &gpus.states()[0];
        assert_eq!(state.latest.name.as_deref(), Some("H100"));
        assert_eq!(state.latest.error.as_deref(), Some("GPU is lost"));
        assert_eq!(state.utilisation().collect::<Vec<_>>(), [Some(0.5), None]);
        gpus.push(&gpu("a", Some(0.25)));
        assert_eq!(gpus.states().len(), 1);
        assert_eq!(gpus.states()[0].latest.error, None);
    }

    #[test]
    fn addresses_are_compared_without_their_padding() {
        let mut gpus = Gpus::default();
        gpus.push(&Gpu { pci: Some("00000000:1A:00.0".to_owned()), ..gpu("a", None) });
        assert!(gpus.find(None, Some("0000:1a:00.0")).is_some());
        assert!(gpus.find(Some("b"), Some("0000:1b:00.0")).is_none());
        assert!(gpus.find(Some("a"), None).is_some());
    }

    #[test]
    fn memory_stays_bounded() {
        let mut gpus = Gpus::default();
        for at in 0..2000 {
            gpus.push(&gpu(&at.to_string(), None));
            gpus.push(&gpu("0", Some(1.0)));
        }
        assert_eq!(gpus.states().len(), GPUS_MAX);
        assert_eq!(gpus.states()[0].utilisation().len(), HISTORY_LOOKS);
    }
}
