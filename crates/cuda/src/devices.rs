//! The devices of this machine.

use candle_core::cuda::cudarc::driver::result::{self, DriverError, device};
use candle_core::cuda::cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

/// The least version of the driver's interface that can run the kernels of this program, as the
/// driver counts it. Kernels are in the instruction set that NVIDIA's compiler 13.0 writes (PTX ISA
/// 9.0). Drivers from 580 on know it.
pub const DRIVER_NEEDED: i32 = 13_000;

/// The least generation of GPUs that the kernels are for: Ampere (`CUDA_COMPUTE_CAP=80`).
const CAPABILITY_NEEDED: i32 = 8;

/// The number of CUDA devices that can be used.
///
/// # Errors
/// The reason why no device can be used, in one line without a full stop.
pub fn devices() -> Result<u32, String> {
    libraries()?;
    let version = driver_version().map_err(words)?;
    if version < DRIVER_NEEDED {
        let dotted = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
        return Err(format!(
            "the NVIDIA driver knows CUDA up to {}, but the kernels of this program need {}: driver 580 or newer",
            dotted(version),
            dotted(DRIVER_NEEDED)
        ));
    }
    result::init().map_err(words)?;
    let n = device::get_count().map_err(words)?.unsigned_abs();
    for ordinal in 0..n {
        let (major, minor) = compute_capability(ordinal).map_err(words)?;
        if major < CAPABILITY_NEEDED {
            return Err(format!(
                "cuda:{ordinal} has compute capability {major}.{minor}, but the kernels of this program need {CAPABILITY_NEEDED}.0 or later; CUDA_VISIBLE_DEVICES can leave it out"
            ));
        }
    }
    if n == 0 { Err("the NVIDIA driver reports no device".to_owned()) } else { Ok(n) }
}

fn compute_capability(ordinal: u32) -> Result<(i32, i32), DriverError> {
    let found = device::get(ordinal as i32)?;
    // SAFETY: `found` is a device that CUDA gave just now.
    unsafe {
        Ok((
            device::get_attribute(found, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            device::get_attribute(found, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ))
    }
}

/// Whether the libraries are there that every training run needs.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn libraries() -> Result<(), String> {
    use pp_cuda_loader::Library;

    for library in [Library::Driver, Library::Blas, Library::Rand] {
        library.open().map_err(|missing| match library {
            Library::Driver => format!("no NVIDIA driver is installed: {missing}"),
            _ => missing.to_string(),
        })?;
    }
    Ok(())
}

/// Elsewhere the program does not start without them.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn libraries() -> Result<(), String> {
    Ok(())
}

fn driver_version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: the driver writes one number to the address, and may be asked before `cuInit`.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(version)
}

/// The name of a driver's error alone, since its debug form is a structure.
fn words(error: DriverError) -> String {
    format!("the NVIDIA driver answers {:?}", error.0)
}

/// The names of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gpu {
    /// The bytes of its UUID.
    pub uuid: Option<[u8; 16]>,
    /// Domain, bus and device of its address on the bus.
    pub pci: Option<(u32, u32, u32)>,
}

/// The names of the device that CUDA counts as `ordinal`. What CUDA does not report is `None`.
pub fn gpu(ordinal: u32) -> Gpu {
    let ordinal = i32::try_from(ordinal).ok();
    let found = ordinal.and_then(|ordinal| result::init().and_then(|()| device::get(ordinal)).ok());
    let Some(found) = found else { return Gpu::default() };
    let number = |attribute| {
        // SAFETY: `found` is a device that CUDA gave just now.
        let number = unsafe { device::get_attribute(found, attribute) };
        number.ok().and_then(|number| u32::try_from(number).ok())
    };
    let pci = || {
        Some((
            number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?,
        ))
    };
    // The type of C's characters has a sign on some machines.
    let uuid = device::get_uuid(found).ok().map(|uuid| uuid.bytes.map(|byte| byte as u8));
    Gpu { uuid, pci: pci() }
}

/// Calls `counted` with the bytes of each block of device memory when it is allocated, and with
/// their negative when it is released, on the thread that does so. Returns whether this system
/// allows that.
pub fn count_memory(counted: fn(i64)) -> bool {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        pp_cuda_loader::count_memory(counted);
        true
    }
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    {
        let _ = counted;
        false
    }
}
