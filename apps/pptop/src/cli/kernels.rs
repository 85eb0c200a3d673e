//! What multiplies matrices: forced by a flag, or measured once on this kind of processor and kept.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use pp_nn::{Kernel, Kernels, KernelsError, tune};
use pptop::whole_file::{Taken, WholeFile};
use serde::{Deserialize, Serialize};

use super::CliError;
use super::refusal::choice;

/// The file of choices, in the state folder.
const FILE: &str = "kernels.json";
/// No file of choices is longer.
const BYTES_MAX: u64 = 1 << 20;

/// What `--kernels` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum KernelsArg {
    /// What was measured here, now or before.
    #[default]
    Auto,
    /// The rule by the features of the processor.
    Rule,
    /// These.
    These(Kernels),
}

/// Reads `--kernels`.
pub(crate) fn kernels(text: &str) -> Result<KernelsArg, String> {
    let kernels = match text {
        "auto" => return Ok(KernelsArg::Auto),
        "rule" => return Ok(KernelsArg::Rule),
        text => text.parse::<Kernels>().map_err(|error| {
            let names = || ["auto", "rule"].into_iter().chain(Kernel::ALL.map(Kernel::name));
            match error {
                KernelsError::Kernel(name) if name == text => {
                    choice(text, &names().collect::<Vec<_>>())
                }
                other => other.to_string(),
            }
        })?,
    };
    match kernels.missing() {
        None => Ok(KernelsArg::These(kernels)),
        Some(Kernel::Blas) if cfg!(feature = "blas") => {
            Err("there is no BLAS library; install one, or name it in PPTOP_BLAS_LIB".to_owned())
        }
        Some(Kernel::Blas) => {
            Err("this build has no BLAS; build it with --features blas".to_owned())
        }
        Some(kernel) => Err(format!("this processor has no {kernel}; choose another kernel")),
    }
}

/// The kernels of a run, and where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) kernels: Kernels,
    /// For people: `forced`, `measured now`.
    pub(crate) how: &'static str,
    is_new: bool,
}

impl Chosen {
    /// Keeps what was measured now for the next run on this kind of processor.
    ///
    /// A choice that cannot be kept is measured again, and comes out the same: that is no reason to stop.
    pub(crate) fn keep(&self) {
        if let (true, Some(path)) = (self.is_new, place()) {
            let _ = keep(&path, &processor(), self.kernels);
        }
    }
}

/// Finds the kernels that `wanted` asks for; where nobody has measured on this kind of processor
/// yet, that is done now.
pub(crate) fn choose(wanted: KernelsArg) -> Chosen {
    match wanted {
        KernelsArg::These(kernels) => Chosen { kernels, how: "forced", is_new: false },
        KernelsArg::Rule => {
            let kernels = Kernels::for_processor();
            Chosen { kernels, how: "by the rule for this processor", is_new: false }
        }
        KernelsArg::Auto => match place().as_deref().and_then(|path| kept(path, &processor())) {
            Some(kernels) => Chosen { kernels, how: "measured before", is_new: false },
            None => Chosen { kernels: tune().kernels, how: "measured now", is_new: true },
        },
    }
}

/// What `pptop doctor` tells of the choice for this processor; measures nothing.
pub(crate) fn found() -> (String, Option<Kernels>) {
    let processor = processor();
    let kept = place().as_deref().and_then(|path| kept(path, &processor));
    (processor, kept)
}

fn place() -> Option<PathBuf> {
    pp_telemetry::state_dir().ok().map(|dir| dir.join(FILE))
}

/// Choices by processor.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Choices(BTreeMap<String, String>);

fn read(path: &Path) -> Choices {
    let is_small = std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= BYTES_MAX);
    let text = is_small.then(|| std::fs::read_to_string(path).ok()).flatten();
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// The choice for this processor, if this build has all of its kernels.
fn kept(path: &Path, processor: &str) -> Option<Kernels> {
    let kernels: Kernels = read(path).0.get(processor)?.parse().ok()?;
    kernels.missing().is_none().then_some(kernels)
}

/// Two processes that measured at once write the same line; of different processors one may have to
/// measure again.
fn keep(path: &Path, processor: &str, kernels: Kernels) -> Result<(), CliError> {
    let mut choices = read(path);
    choices.0.insert(processor.to_owned(), kernels.to_string());
    let failed = |why: String| CliError::Failed(why);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|error| failed(error.to_string()))?;
    }
    let text = serde_json::to_string_pretty(&choices).map_err(|error| failed(error.to_string()))?;
    let mut file = WholeFile::private(path).map_err(|error| failed(error.to_string()))?;
    file.write_all((text + "\n").as_bytes()).map_err(|error| failed(error.to_string()))?;
    file.finish(Taken::Replaced).map_err(|error| failed(error.to_string()))?;
    Ok(())
}

/// What one choice is for: the processor by name and number, and the kernels that this build has on it.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let available = Kernel::ALL.into_iter().filter(|kernel| kernel.is_available());
    let available = available.map(Kernel::name).collect::<Vec<_>>().join(" ");
    format!("{} [{available}]", name_of_processor(&text))
}

/// `Intel(R) Xeon(R) Processor, GenuineIntel 6/207`, of a text like `/proc/cpuinfo`.
fn name_of_processor(text: &str) -> String {
    let of = |key: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim())
        })
    };
    match (of("model name"), of("vendor_id"), of("cpu family"), of("model")) {
        (Some(name), Some(vendor), Some(family), Some(model)) => {
            format!("{name}, {vendor} {family}/{model}")
        }
        (Some(name), ..) => name.to_owned(),
        // An ARM processor has numbers alone.
        _ => match (of("CPU implementer"), of("CPU part")) {
            (Some(maker), Some(part)) => format!("processor {maker}/{part}"),
            _ => std::env::consts::ARCH.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_kept_by_processor_and_only_where_this_build_has_its_kernels() {
        let dir = std::env::temp_dir().join(format!("pptop-kernels-{}", std::process::id()));
        let path = dir.join(FILE);
        assert_eq!(kept(&path, "one"), None);
        keep(&path, "one", Kernels::all(Kernel::Gemm)).unwrap();
        keep(&path, "other", Kernels::for_processor()).unwrap();
        assert_eq!(kept(&path, "one"), Some(Kernels::all(Kernel::Gemm)));
        assert_eq!(kept(&path, "other"), Some(Kernels::for_processor()));
        let neon =
            Kernels::all(if cfg!(target_arch = "x86_64") { Kernel::Neon } else { Kernel::Avx2 });
        keep(&path, "one", neon).unwrap();
        assert_eq!(kept(&path, "one"), None, "another build or machine wrote it");
        // What is no file of ours is replaced by one.
        std::fs::write(&path, "{\"one\": 3").unwrap();
        assert_eq!(kept(&path, "one"), None);
        keep(&path, "one", Kernels::all(Kernel::InPlace)).unwrap();
        assert_eq!(kept(&path, "one"), Some(Kernels::all(Kernel::InPlace)));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn processors_are_told_apart() {
        let intel = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Intel(R) Xeon(R) Processor\n";
        assert_eq!(name_of_processor(intel), "Intel(R) Xeon(R) Processor, GenuineIntel 6/207");
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n";
        assert_eq!(name_of_processor(arm), "processor 0x41/0xd40");
        assert_eq!(name_of_processor(""), std::env::consts::ARCH);
    }

    #[test]
    fn what_this_machine_does_not_have_is_refused_with_a_remedy() {
        assert_eq!(kernels("auto"), Ok(KernelsArg::Auto));
        assert_eq!(kernels("gemm"), Ok(KernelsArg::These(Kernels::all(Kernel::Gemm))));
        let absent = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
        assert!(kernels(absent).unwrap_err().contains("choose another kernel"));
        let slip = kernels("avx51").unwrap_err();
        assert!(slip.contains("avx512") && slip.contains("auto"), "{slip}");
        assert!(kernels("output=avx2").unwrap_err().contains("three for each product"));
    }
}
