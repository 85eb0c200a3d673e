//! Which library is NVML, and how it is opened and closed.

use std::ffi::OsString;
use std::mem;
use std::path::PathBuf;

use nvml_wrapper::Nvml;

use crate::no_gpus::NoGpus;

/// The environment variable that names another library.
pub const LIBRARY_VARIABLE: &str = "PPTOP_NVML_LIB";
/// The library as the driver installs it.
pub const DEFAULT_LIBRARY: &str = "libnvidia-ml.so.1";

/// Which library is asked about GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Library {
    /// None.
    Off,
    /// The one that the driver installs.
    #[default]
    Installed,
    /// The library at this path.
    At(PathBuf),
}

impl Library {
    /// What is asked for: `off` before `given` before the environment ([`LIBRARY_VARIABLE`]) before
    /// the driver's own.
    pub fn choose(off: bool, given: Option<PathBuf>) -> Self {
        Self::among(off, given, std::env::var_os(LIBRARY_VARIABLE))
    }

    fn among(off: bool, given: Option<PathBuf>, variable: Option<OsString>) -> Self {
        let variable = || variable.filter(|path| !path.is_empty()).map(PathBuf::from);
        match given.or_else(variable) {
            _ if off => Self::Off,
            Some(path) => Self::At(path),
            None => Self::Installed,
        }
    }

    /// How it is named for people and for the loader; `None` where it is off.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Off => None,
            Self::Installed => Some(DEFAULT_LIBRARY.to_owned()),
            Self::At(path) => Some(path.display().to_string()),
        }
    }

    /// Opens the library, lets `work` use it, and closes it.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&Nvml) -> R) -> Result<R, NoGpus> {
        let path = match self {
            Self::Off => return Err(NoGpus::Off),
            Self::Installed => OsString::from(DEFAULT_LIBRARY),
            Self::At(path) => path.clone().into_os_string(),
        };
        let opened = Nvml::builder().lib_path(&path).init();
        let nvml = opened.map_err(|error| NoGpus::of(error, &path.to_string_lossy()))?;
        let result = work(&nvml);
        if nvml.lib().nvmlShutdown.is_err() {
            // The wrapper's drop calls what is not there, and panics. The library stays open
            // instead.
            mem::forget(nvml);
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_goes_before_the_environment() {
        let path = |name: &str| Some(PathBuf::from(name));
        let variable = |name: &str| Some(OsString::from(name));
        assert_eq!(Library::among(true, path("a"), variable("b")), Library::Off);
        assert_eq!(Library::among(false, path("a"), variable("b")), Library::At("a".into()));
        assert_eq!(Library::among(false, None, variable("b")), Library::At("b".into()));
        assert_eq!(Library::among(false, None, variable("")), Library::Installed);
        assert_eq!(Library::among(false, None, None), Library::Installed);
    }
}
