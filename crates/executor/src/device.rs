//! Where a rank computes.

use std::fmt;

use candle_core::{Device, Result, Tensor};

/// A device that a rank makes for itself, on its own thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceSpec {
    /// The rank's own thread.
    Cpu {
        /// A number for people: the rank's place on the device map.
        index: u32,
    },
    /// A CUDA device, with a stream of the rank's own.
    Cuda {
        /// CUDA's number of the device.
        ordinal: u32,
    },
}

impl DeviceSpec {
    /// Makes the device. Call it on the thread that will compute.
    ///
    /// # Errors
    /// If there is no such device, no driver, or this build has no CUDA.
    pub fn make(self) -> Result<Device> {
        match self {
            Self::Cpu { .. } => Ok(Device::Cpu),
            Self::Cuda { ordinal } => Device::new_cuda_with_stream(ordinal as usize),
        }
    }
}

/// The tensor on `device`. Between two CUDA devices it goes through the host: candle's direct copy
/// needs peer access, which it never asks the driver for (candle issue 3524).
///
/// # Errors
/// If a copy fails.
pub(crate) fn bring(tensor: &Tensor, device: &Device) -> Result<Tensor> {
    if tensor.device().is_cuda() && device.is_cuda() && !tensor.device().same_device(device) {
        return tensor.to_device(&Device::Cpu)?.to_device(device);
    }
    tensor.to_device(device)
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu { index } => write!(f, "cpu:{index}"),
            Self::Cuda { ordinal } => write!(f, "cuda:{ordinal}"),
        }
    }
}
