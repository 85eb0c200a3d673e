//! Cores, clocks, memory, GPUs.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pptop::config::Config;
use rustix::time::{ClockId, clock_getres};

use super::Check;

/// Ranks of the smallest pipeline.
const CORES_MIN: usize = 2;
/// A clock that is no finer rounds short ops.
const RESOLUTION_GOOD: Duration = Duration::from_micros(1);
/// A clock that is no finer cannot tell ops apart.
const RESOLUTION_MAX: Duration = Duration::from_millis(1);
/// The program itself, and a model that is of no use.
const MEMORY_MIN: u64 = 64 << 20;
/// The examples, with room.
const MEMORY_GOOD: u64 = 1 << 30;

/// The default folders of libraries on Linux systems.
const LIBRARY_DIRS: [&str; 10] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib64",
    "/usr/local/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
];
const LIBRARY_NAMES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// Cores that this process may use, by affinity and the limits of its groups.
pub(super) fn look_at_cores() -> usize {
    pp_telemetry::cores() as usize
}

/// Whether ranks can run side by side.
pub(super) fn cores(n: usize) -> Check {
    const NAME: &str = "cores";
    if n >= CORES_MIN {
        return Check::pass(NAME, format!("{n} can be used"));
    }
    Check::warn(
        NAME,
        format!("{n} can be used: ranks take turns, and no pipeline is faster than one rank"),
        format!(
            "give this process at least {CORES_MIN} (see taskset, or the limits of its container)"
        ),
    )
}

/// The matrix kernels for this processor.
#[cfg(feature = "train")]
pub(super) fn kernels((processor, chosen): &(String, Option<pp_nn::Kernels>)) -> Check {
    let chosen = match chosen {
        Some(kernels) => kernels.summary(),
        None => "not measured yet; pptop train measures it".to_owned(),
    };
    Check::pass("kernels", format!("{processor}: {chosen}"))
}

/// The finest step of the clock that spans are measured with.
pub(super) fn look_at_clock() -> Duration {
    let step = clock_getres(ClockId::Monotonic);
    Duration::new(step.tv_sec.unsigned_abs(), u32::try_from(step.tv_nsec).unwrap_or(0))
}

/// Whether spans can be measured.
pub(super) fn clock(resolution: Duration) -> Check {
    const NAME: &str = "clock";
    const TODO: &str = "boot with high-resolution timers (no highres=off)";
    let found = format!("monotonic, in steps of {resolution:?}");
    if resolution <= RESOLUTION_GOOD {
        Check::pass(NAME, found)
    } else if resolution <= RESOLUTION_MAX {
        Check::warn(NAME, format!("{found}: times of short ops are rounded"), TODO)
    } else {
        Check::fail(NAME, format!("{found}: ops cannot be measured"), TODO)
    }
}

/// Whether the system tells how long a thread waited for a core.
pub(super) fn starved(schedstat: Option<&str>) -> Check {
    const NAME: &str = "starved";
    let waited = schedstat.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    if waited.is_some() {
        return Check::pass(NAME, "/proc/self/schedstat tells how long threads wait for a core");
    }
    Check::warn(
        NAME,
        "/proc/self/schedstat cannot be read: starved time is estimated as wall time minus CPU time",
        "use a kernel with CONFIG_SCHED_INFO, and mount /proc",
    )
}

/// Whether a model fits.
pub(super) fn memory(available_bytes: Option<u64>) -> Check {
    const NAME: &str = "memory";
    let Some(free) = available_bytes else {
        return Check::warn(NAME, "the free memory is unknown", "mount /proc");
    };
    let found = format!("{} MiB are free", free >> 20);
    match free {
        0..MEMORY_MIN => Check::fail(NAME, found, "free at least 64 MiB"),
        MEMORY_MIN..MEMORY_GOOD => {
            Check::warn(NAME, found, "free some memory, or train small models: 1 GiB is enough")
        }
        _ => Check::pass(NAME, found),
    }
}

/// What is known of NVIDIA's library.
#[derive(Debug, Clone, Default)]
pub(super) struct Nvml {
    /// Whether it is not to be asked.
    is_off: bool,
    /// The one that the user named.
    named: Option<PathBuf>,
    /// The one that was found: the named one, else where the system has libraries.
    found: Option<PathBuf>,
    /// Whether the kernel has a driver.
    has_driver: bool,
}

impl Nvml {
    /// Looks for it.
    pub(super) fn look(config: Option<&Config>) -> Self {
        let named = config.and_then(|config| config.nvml_lib.value.clone());
        let mut dirs: Vec<PathBuf> = env::var_os("LD_LIBRARY_PATH")
            .map(|dirs| env::split_paths(&dirs).filter(|dir| dir.is_absolute()).collect())
            .unwrap_or_default();
        dirs.extend(LIBRARY_DIRS.map(PathBuf::from));
        Self {
            is_off: config.is_some_and(|config| !config.nvml.value),
            found: find(named.as_deref(), &dirs, Path::is_file),
            named,
            has_driver: Path::new("/proc/driver/nvidia/version").exists(),
        }
    }
}

/// The library that was named, else the first in these folders.
fn find(
    named: Option<&Path>,
    dirs: &[PathBuf],
    is_file: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let usual = LIBRARY_NAMES.map(Path::new).to_vec();
    let wanted = named.map_or(usual, |one| vec![one]);
    // As the loader does it: with a slash it is a path, without one a name.
    if let Some(path) = named.filter(|named| named.components().count() > 1) {
        return Some(path.to_owned()).filter(|path| is_file(path));
    }
    dirs.iter().flat_map(|dir| wanted.iter().map(|name| dir.join(name))).find(|path| is_file(path))
}

/// Whether GPUs can be watched.
pub(super) fn nvml(nvml: &Nvml) -> Check {
    const NAME: &str = "nvml";
    if nvml.is_off {
        return Check::pass(NAME, "off, as configured");
    }
    match (&nvml.found, &nvml.named) {
        (Some(found), _) => Check::pass(NAME, found.display().to_string()),
        (None, Some(named)) => Check::fail(
            NAME,
            format!("{} does not exist", named.display()),
            "correct or remove PPTOP_NVML_LIB, or nvml_lib in the configuration",
        ),
        (None, None) if nvml.has_driver => Check::warn(
            NAME,
            "the NVIDIA driver is loaded, but its library libnvidia-ml.so.1 was not found: GPUs cannot be monitored",
            "install the driver's library, or set PPTOP_NVML_LIB to its path",
        ),
        (None, None) => Check::pass(NAME, "no GPU: CPU runs only"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Pass, Warn};
    use super::*;

    #[test]
    fn a_pipeline_needs_two_cores() {
        for (n, verdict) in [(1, Warn), (2, Pass), (64, Pass)] {
            assert_eq!(cores(n).verdict, verdict, "{n}");
        }
        assert!(look_at_cores() > 0);
    }

    #[test]
    fn ops_need_a_fine_clock() {
        for (nanos, verdict) in
            [(1, Pass), (1_000, Pass), (1_001, Warn), (1_000_000, Warn), (4_000_000, Fail)]
        {
            assert_eq!(clock(Duration::from_nanos(nanos)).verdict, verdict, "{nanos}");
        }
        assert!(look_at_clock() > Duration::ZERO);
    }

    #[test]
    fn starved_time_needs_the_second_number() {
        for (text, verdict) in
            [(Some("1 2 3\n"), Pass), (Some("1"), Warn), (Some(""), Warn), (None, Warn)]
        {
            assert_eq!(starved(text).verdict, verdict, "{text:?}");
        }
    }

    #[test]
    fn a_model_needs_memory() {
        for (free, verdict) in [
            (Some(MEMORY_GOOD), Pass),
            (Some(MEMORY_GOOD - 1), Warn),
            (Some(MEMORY_MIN - 1), Fail),
            (None, Warn),
        ] {
            assert_eq!(memory(free).verdict, verdict, "{free:?}");
        }
    }

    #[test]
    fn a_machine_without_a_gpu_is_well() {
        let none = Nvml::default();
        let check = nvml(&none);
        assert_eq!((check.verdict, check.found.as_str()), (Pass, "no GPU: CPU runs only"));
        assert_eq!(nvml(&Nvml { has_driver: true, ..none.clone() }).verdict, Warn);
        let named = Nvml { named: Some("/n.so".into()), ..none.clone() };
        assert_eq!(nvml(&named).verdict, Fail);
        assert_eq!(nvml(&Nvml { is_off: true, ..named.clone() }).verdict, Pass);
        assert_eq!(nvml(&Nvml { found: Some("/n.so".into()), ..named }).verdict, Pass);
    }

    #[test]
    fn the_library_is_looked_for_as_the_loader_does() {
        let files = ["/a/libnvidia-ml.so", "/b/libnvidia-ml.so.1", "/b/other.so"];
        let is_file = |path: &Path| files.iter().any(|file| Path::new(file) == path);
        let dirs = ["/none", "/a", "/b"].map(PathBuf::from);
        let find = |named: Option<&str>| {
            find(named.map(Path::new), &dirs, is_file).map(|path| path.display().to_string())
        };
        assert_eq!(find(None).as_deref(), Some("/a/libnvidia-ml.so"));
        assert_eq!(find(Some("/b/other.so")).as_deref(), Some("/b/other.so"));
        assert_eq!(find(Some("other.so")).as_deref(), Some("/b/other.so"));
        assert_eq!(find(Some("/a/other.so")), None);
    }
}
