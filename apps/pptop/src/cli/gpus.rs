//! Where numbers of GPUs come from.

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
        help = "NVML library to load; a name without a slash is looked up in the working directory, then by the loader [default: PPTOP_NVML_LIB, else the driver's own]"
    )]
    nvml_lib: Option<PathBuf>,
    /// Do not load NVML: no GPU metrics
    #[arg(long, help_heading = headings::GPUS)]
    no_nvml: bool,
}

impl NvmlArgs {
    /// The path that the flag gives.
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

/// Resolves the value of the flag. A name without a slash is a file in the working directory if
/// there is one of that name. Otherwise the loader looks for it. In the environment and in the
/// configuration such a name is always the loader's, because both hold in every working directory.
fn file_or_name(path: &Path) -> PathBuf {
    let here = Path::new(".").join(path);
    let is_name = path.components().count() == 1 && !path.has_root();
    if is_name && here.is_file() { here } else { path.to_owned() }
}
