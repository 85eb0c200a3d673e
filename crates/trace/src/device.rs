//! What a device and a rank's thread are doing, as they were asked once or twice a second.

use serde::{Deserialize, Serialize};

/// One look at a GPU. What the driver does not tell is absent; a share is 1 for all of it.
///
/// NVML counts a device as busy whenever any kernel is resident, over a sixth of a second to a
/// second: its utilisation does not show the bubble of a pipeline, and stands beside it only as a
/// cross-check.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// Time since the run began.
    pub elapsed_ns: u64,
    /// What the driver calls it for ever, such as `GPU-5f…`: devices are known by this, never by
    /// their number.
    pub uuid: String,
    /// Its address on the bus, such as `00000000:10:00.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Share of the time in which any kernel was resident.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utilisation: Option<f64>,
    /// Share of the multiprocessors that had work, where the device counts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sm_active: Option<f64>,
    /// Share of the cycles in which tensor cores worked, where the device counts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor_active: Option<f64>,
    /// Bytes in use by all processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// Bytes that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Watts that it draws.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_watts: Option<f64>,
    /// Joules since the driver was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_joules: Option<f64>,
    /// Degrees Celsius.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_celsius: Option<f64>,
    /// The clock of its multiprocessors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sm_clock_mhz: Option<u32>,
    /// The clock of its memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_clock_mhz: Option<u32>,
    /// Why its clocks are lower than they could be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub throttle: Vec<String>,
    /// Bytes a second that it sends over the bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie_sent_bytes_per_second: Option<f64>,
    /// Bytes a second that it receives over the bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie_received_bytes_per_second: Option<f64>,
    /// Processes that compute on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// What it does not tell, and why, by the name of the number: `NotSupported`, `NoPermission`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unavailable: Vec<Unavailable>,
    /// Why nothing is known of it at the moment: it is gone, or does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A number that a device does not tell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Unavailable {
    /// The number.
    pub what: String,
    /// Why.
    pub why: String,
}

/// One look at the thread of a rank, as the system counts it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Time since the run began.
    pub elapsed_ns: u64,
    /// The replica.
    pub replica: u32,
    /// The rank.
    pub rank: u32,
    /// Processor time so far.
    pub cpu_ns: u64,
    /// Time so far for which it was ready but had no core.
    pub run_queue_ns: u64,
    /// How often it gave up its core by itself, so far: it waited.
    pub voluntary_switches: u64,
    /// How often its core was taken from it, so far.
    pub involuntary_switches: u64,
}
