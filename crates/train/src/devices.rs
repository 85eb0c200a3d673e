//! CUDA devices: the number that can be used, and the GPU behind each of CUDA's numbers.

/// The reason why no CUDA device can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoCuda {
    /// This program was built without the feature `cuda`.
    #[error("this program was built without CUDA")]
    NotBuilt,
    /// The machine has no CUDA device that works.
    #[error("no CUDA device can be used ({0})")]
    Unusable(String),
}

/// The number of CUDA devices that can be used. They stay the same for as long as the process lasts.
///
/// # Errors
/// The reason why no device can be used.
#[cfg(feature = "cuda")]
pub fn cuda_devices() -> Result<u32, NoCuda> {
    static FOUND: std::sync::OnceLock<Result<u32, NoCuda>> = std::sync::OnceLock::new();
    FOUND.get_or_init(|| pp_cuda::devices().map_err(NoCuda::Unusable)).clone()
}

/// The number of CUDA devices that can be used.
///
/// # Errors
/// The reason why no device can be used: this build has no CUDA.
#[cfg(not(feature = "cuda"))]
pub fn cuda_devices() -> Result<u32, NoCuda> {
    Err(NoCuda::NotBuilt)
}

/// The GPU behind one of CUDA's numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuName {
    /// The UUID, as NVML writes it.
    pub uuid: Option<String>,
    /// The address on the bus, as NVML writes it.
    pub pci: Option<String>,
}

/// The names of a CUDA device. They are empty if CUDA does not report them.
#[cfg(feature = "cuda")]
pub fn gpu_name(ordinal: u32) -> GpuName {
    let pp_cuda::Gpu { uuid, pci } = pp_cuda::gpu(ordinal);
    let address = |(domain, bus, device)| pp_devices::pci_address(domain, bus, device);
    GpuName { uuid: uuid.map(pp_devices::gpu_uuid), pci: pci.map(address) }
}

/// The names of a CUDA device. They are empty: this build has no CUDA.
#[cfg(not(feature = "cuda"))]
pub fn gpu_name(_ordinal: u32) -> GpuName {
    GpuName::default()
}
