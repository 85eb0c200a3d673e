//! Why no GPU can be watched.

use nvml_wrapper::error::NvmlError;
use thiserror::Error;

/// Why no GPU can be watched, in one line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NoGpus {
    /// Nobody wanted to know.
    #[error("NVML is switched off")]
    Off,
    /// There is no such library, or it is not for this machine.
    #[error("the NVIDIA driver's library cannot be loaded: {why}")]
    Library {
        /// What the system's loader said; it names the file.
        why: String,
    },
    /// A library, but not this one.
    #[error("{library} is not NVML: {why}")]
    NotNvml {
        /// The library.
        library: String,
        /// What it lacks.
        why: String,
    },
    /// NVML's error 9.
    #[error("the NVIDIA driver is not loaded (NVML error 9)")]
    DriverNotLoaded,
    /// NVML's error 18.
    #[error(
        "the NVIDIA driver's library and its kernel module have different versions (NVML error 18); restart the machine"
    )]
    VersionMismatch,
    /// The driver works, and has nothing to work on.
    #[error("the NVIDIA driver is loaded, but finds no GPU")]
    None,
    /// There are GPUs, but none tells as much as its UUID.
    #[error("none of the driver's {count} GPUs can be queried: {why}")]
    Unreachable {
        /// How many there are.
        count: u32,
        /// What the last one answered.
        why: String,
    },
    /// Any other error, known or not.
    #[error("NVML cannot be used: error {code} ({why})")]
    Code {
        /// NVML's number for it.
        code: u32,
        /// What it means.
        why: String,
    },
    /// A call that does not return.
    #[error("NVML does not answer")]
    Silent,
    /// The system has no thread for it.
    #[error("cannot start a thread to query NVML: {why}")]
    Thread {
        /// What the system said.
        why: String,
    },
}

impl NoGpus {
    /// What an error means that comes while the library is opened.
    pub(crate) fn of(error: NvmlError, library: &str) -> Self {
        match error {
            NvmlError::LibloadingError(error) => Self::Library { why: first_line(&error) },
            NvmlError::FailedToLoadSymbol(why) => {
                Self::NotNvml { library: library.to_owned(), why: first_line(&why) }
            }
            NvmlError::DriverNotLoaded => Self::DriverNotLoaded,
            NvmlError::LibRmVersionMismatch => Self::VersionMismatch,
            error => Self::Code { why: first_line(&error), code: error.into() },
        }
    }
}

/// The loader's messages may have several lines.
pub(crate) fn first_line(message: &impl ToString) -> String {
    message.to_string().lines().next().unwrap_or_default().to_owned()
}
