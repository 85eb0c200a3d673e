//! GPUs, by what never changes about them: CUDA's number says which device a rank computes on, UUID and address which GPU that is.

use std::path::{Path, PathBuf};

use pp_devices::Library;

use super::help::headings;

/// Where numbers of GPUs come from.
#[derive(Debug, clap::Args)]
pub(crate) struct NvmlArgs {
    /// The NVML library.
    #[arg(
        long,
        value_name = "PATH",
        help_heading = headings::GPUS,
        help = "NVML library to load; a name without a slash is a file here if there is one, else the loader's [default: PPTOP_NVML_LIB, else the driver's own]"
    )]
    nvml_lib: Option<PathBuf>,
    /// Do not load NVML: no numbers of GPUs
    #[arg(long, help_heading = headings::GPUS)]
    no_nvml: bool,
}

impl NvmlArgs {
    /// The library as a file, where it is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.nvml_lib.as_deref()
    }

    /// The library that the flags name, or else the configuration.
    pub(crate) fn library(&self, config: &pptop::config::Config) -> Library {
        let flag = self.nvml_lib.as_deref().map(|path| Some(file_or_name(path)));
        let path = config.nvml_lib.clone().or_flag(flag).value;
        let asks = config.nvml.clone().or_flag(self.no_nvml.then_some(false)).value;
        Library::choose(!asks, path)
    }
}

/// What the flag means: a name without a slash is a file in the working directory if there is one
/// of that name, and else one that the loader looks for. In the environment and in the
/// configuration such a name is always the loader's: these hold wherever one is.
fn file_or_name(path: &Path) -> PathBuf {
    let here = Path::new(".").join(path);
    let is_name = path.components().count() == 1 && !path.has_root();
    if is_name && here.is_file() { here } else { path.to_owned() }
}

/// Which GPU one of CUDA's numbers means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GpuName {
    pub(crate) uuid: Option<String>,
    pub(crate) pci: Option<String>,
}

/// The names of a CUDA device; empty where CUDA does not tell them.
#[cfg(feature = "cuda")]
pub(crate) fn gpu_name(ordinal: u32) -> GpuName {
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

/// The names of a CUDA device, of which there is none in this build.
#[cfg(not(feature = "cuda"))]
pub(crate) fn gpu_name(_ordinal: u32) -> GpuName {
    GpuName::default()
}
