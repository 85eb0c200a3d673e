//! The choice of matrix kernels: forced by a flag, or measured once per kind of processor and kept.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use pp_nn::{Kernel, Kernels, tune};
use pp_telemetry::{NotWritten, Processor, Taken, WholeFile};
use serde::{Deserialize, Serialize};

/// The file of choices, in the state folder.
const FILE: &str = "kernels.json";
/// No file of choices is longer.
const BYTES_MAX: u64 = 1 << 20;

/// The choice of a run's kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// Those that were measured as the fastest, now or in an earlier run.
    #[default]
    Auto,
    /// The rule by the features of the processor.
    Rule,
    /// The given ones.
    These(Kernels),
    /// Those of the checkpoint that the run resumes from.
    Kept(Kernels),
}

/// The kernels of a run, and where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The kernels.
    pub kernels: Kernels,
    /// The source of the choice as text, such as `forced` or `measured now`.
    pub how: &'static str,
    is_new: bool,
}

/// The reason why a choice of kernels is not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelsNotKept {
    /// The file of choices cannot be read or written, or its folder cannot be made.
    #[error("the choice of kernels is not kept: {}", path.display())]
    Io {
        /// The file or the folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The new file cannot take its place.
    #[error("the choice of kernels is not kept")]
    File(#[from] NotWritten),
}

impl Chosen {
    /// The choice of the process that leads this one.
    pub(crate) fn told(kernels: Kernels) -> Self {
        Self { kernels, how: "as process 0", is_new: false }
    }

    /// Keeps a choice that was measured now for the next run on this kind of processor.
    ///
    /// # Errors
    /// The choice cannot be written. The next run then measures again.
    pub fn keep(&self) -> Result<(), KernelsNotKept> {
        match place() {
            Some(path) if self.is_new => keep(&path, &processor(), self.kernels),
            _ => Ok(()),
        }
    }
}

/// Finds the kernels that `wanted` asks for. Without a kept choice for this kind of processor, it
/// measures now.
pub(crate) fn choose(wanted: KernelChoice) -> Chosen {
    match wanted {
        KernelChoice::These(kernels) => Chosen { kernels, how: "forced", is_new: false },
        KernelChoice::Kept(kernels) => {
            Chosen { kernels, how: "as in the checkpoint", is_new: false }
        }
        KernelChoice::Rule => {
            let kernels = Kernels::for_processor();
            Chosen { kernels, how: "by the rule for this processor", is_new: false }
        }
        KernelChoice::Auto => match place().as_deref().and_then(|path| kept(path, &processor())) {
            Some(kernels) => Chosen { kernels, how: "measured before", is_new: false },
            None => Chosen { kernels: tune().kernels, how: "measured now", is_new: true },
        },
    }
}

/// This processor with the kernels that this build has for it, and the kept choice. Measures
/// nothing.
pub fn kernels_kept() -> (String, Option<Kernels>) {
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

/// The kept choices. A file that is missing, or has another format, counts as empty.
fn read(path: &Path) -> io::Result<Choices> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Choices::default()),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).unwrap_or_default())
}

/// The choice for this processor, if this build has all of its kernels.
fn kept(path: &Path, processor: &str) -> Option<Kernels> {
    let kernels: Kernels = read(path).ok()?.0.get(processor)?.parse().ok()?;
    kernels.missing().is_none().then_some(kernels)
}

/// Adds a choice to the file. If two processes on different processors write at once, one entry may
/// be lost, and is measured again.
fn keep(path: &Path, processor: &str, kernels: Kernels) -> Result<(), KernelsNotKept> {
    let failed = |path: &Path, source| KernelsNotKept::Io { path: path.to_owned(), source };
    let mut choices = read(path).map_err(|error| failed(path, error))?;
    choices.0.insert(processor.to_owned(), kernels.to_string());
    if let Some(dir) = path.parent() {
        // Private, because runs are kept in the same folder.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|error| failed(dir, error))?;
    }
    let text = serde_json::to_string_pretty(&choices);
    let text = text.map_err(|error| failed(path, error.into()))? + "\n";
    let mut file = WholeFile::private(path)?;
    file.write_all(text.as_bytes()).map_err(|error| failed(path, error))?;
    file.finish(Taken::Replaced)?;
    Ok(())
}

/// The key of a choice: a kind of processor, the kernels that this build has on it, and its BLAS
/// library.
fn processor() -> String {
    let mut available = Vec::new();
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
        available.push(kernel.name());
        if let (Kernel::Blas, Ok(library)) = (kernel, Kernel::blas_library()) {
            available.push(library);
        }
    }
    format!("{} [{}]", Processor::here(), available.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_kept_by_processor_and_only_where_this_build_has_its_kernels() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state").join(FILE);
        assert_eq!(kept(&path, "one"), None);
        keep(&path, "one", Kernels::all(Kernel::Gemm)).unwrap();
        keep(&path, "other", Kernels::for_processor()).unwrap();
        assert_eq!(kept(&path, "one"), Some(Kernels::all(Kernel::Gemm)));
        assert_eq!(kept(&path, "other"), Some(Kernels::for_processor()));
        let neon =
            Kernels::all(if cfg!(target_arch = "x86_64") { Kernel::Neon } else { Kernel::Avx2 });
        keep(&path, "one", neon).unwrap();
        assert_eq!(kept(&path, "one"), None, "another build or machine wrote it");
        // A file of another format is replaced.
        std::fs::write(&path, "{\"one\": 3").unwrap();
        assert_eq!(kept(&path, "one"), None);
        keep(&path, "one", Kernels::all(Kernel::InPlace)).unwrap();
        assert_eq!(kept(&path, "one"), Some(Kernels::all(Kernel::InPlace)));
    }

    #[test]
    fn a_choice_that_is_not_kept_has_its_cause() {
        let home = tempfile::tempdir().unwrap();
        let refused = keep(home.path(), "one", Kernels::for_processor()).unwrap_err();
        let source = std::error::Error::source(&refused).unwrap();
        assert!(source.is::<io::Error>(), "{refused:?}");
        let told = format!("not kept: {}: not a regular file", home.path().display());
        assert!(crate::error::causes(&refused).ends_with(&told), "{refused:?}");
    }
}
