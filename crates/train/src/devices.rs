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

/// The number of CUDA devices that can be used.
///
/// # Errors
/// The reason why no device can be used.
pub fn cuda_devices() -> Result<u32, NoCuda> {
    if !candle_core::utils::cuda_is_available() {
        return Err(NoCuda::NotBuilt);
    }
    let usable = |ordinal: u32| {
        // candle's binding panics where the driver's library is missing or too old.
        let made = std::panic::catch_unwind(|| candle_core::Device::new_cuda(ordinal as usize));
        match made {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string().lines().next().unwrap_or("unknown").to_owned()),
            Err(_) => Err("the NVIDIA driver could not be loaded".to_owned()),
        }
    };
    // A panic there only means that no driver works, so it is not printed.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let first = usable(0);
    std::panic::set_hook(hook);
    first.map_err(NoCuda::Unusable)?;
    let mut count = 1;
    while usable(count).is_ok() {
        count += 1;
    }
    Ok(count)
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
    use candle_core::cuda::cudarc::driver::result::{self, device};
    use candle_core::cuda::cudarc::driver::sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID,
        CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
    };

    let found = result::init().and_then(|()| device::get(ordinal as i32));
    let Ok(found) = found else { return GpuName::default() };
    let number = |attribute| {
        // SAFETY: `found` is a device that CUDA gave just now.
        let number = unsafe { device::get_attribute(found, attribute) };
        number.ok().and_then(|number| u32::try_from(number).ok())
    };
    let pci = || {
        let domain = number(CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
        let bus = number(CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
        Some(pp_devices::pci_address(domain, bus, number(CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?))
    };
    let uuid = device::get_uuid(found).ok();
    // The type of C's characters has a sign on some machines.
    let uuid = uuid.map(|uuid| pp_devices::gpu_uuid(uuid.bytes.map(|byte| byte as u8)));
    GpuName { uuid, pci: pci() }
}

/// The names of a CUDA device. They are empty: this build has no CUDA.
#[cfg(not(feature = "cuda"))]
pub fn gpu_name(_ordinal: u32) -> GpuName {
    GpuName::default()
}
