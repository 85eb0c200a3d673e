//! Where a rank computes.

use std::fmt;

use candle_core::{Device, Result};

use crate::lane::Lane;
#[cfg(test)]
use crate::lane::double::Double;

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
    /// A device with a queue, played by the processor.
    #[cfg(test)]
    Double {
        /// The number of the device.
        ordinal: u32,
    },
}

impl DeviceSpec {
    /// Makes the device. Call it on the thread that will compute.
    ///
    /// # Errors
    /// If there is no such device, no driver, or this build has no CUDA.
    pub fn make(self) -> Result<Device> {
        Ok(self.lane()?.device().clone())
    }

    /// Makes the device, and the queue of this thread on it.
    ///
    /// # Errors
    /// As [`Self::make`].
    pub(crate) fn lane(self) -> Result<Lane> {
        match self {
            Self::Cpu { .. } => Ok(Lane::Host(Device::Cpu)),
            #[cfg(feature = "cuda")]
            Self::Cuda { ordinal } => Lane::cuda(ordinal),
            // candle has the words for it.
            #[cfg(not(feature = "cuda"))]
            Self::Cuda { ordinal } => Ok(Lane::Host(Device::new_cuda(ordinal as usize)?)),
            #[cfg(test)]
            Self::Double { ordinal } => Ok(Lane::Queue(Box::new(Double::new(ordinal)))),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu { index } => write!(f, "cpu:{index}"),
            Self::Cuda { ordinal } => write!(f, "cuda:{ordinal}"),
            #[cfg(test)]
            Self::Double { ordinal } => write!(f, "double:{ordinal}"),
        }
    }
}
