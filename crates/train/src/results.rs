//! Tensors by name, written so that hours of training are not lost to a name.
//!
//! Whether a result can be written is checked before the run begins. By its end the name may be
//! taken, or the folder gone. Then the result goes under a free name beside it, or into the run's
//! folder, and both the log and standard error say where it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use pp_hybrid::write_tensors;
use pp_telemetry::{NotWritten, Taken, WholeFile};

use crate::error::ResultError;

/// Tensors by name.
pub(crate) type Named = Vec<(String, Tensor)>;

/// A result that is on the disk.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) path: PathBuf,
    /// The reason why it is not at the wanted path.
    pub(crate) why_elsewhere: Option<String>,
}

/// A result at a path that the options name.
pub(crate) struct Wanted<'a> {
    /// Its name in messages.
    pub(crate) called: &'a str,
    pub(crate) path: &'a Path,
    /// Whether an existing file may be replaced.
    pub(crate) force: bool,
    /// The folder of the run, which exists until the run ends.
    pub(crate) run_dir: &'a Path,
}

impl Wanted<'_> {
    /// Writes the result at its path, under a free name beside it, or into the run's folder.
    ///
    /// # Errors
    /// The result cannot be written at any of these places. The error has all reasons.
    pub(crate) fn write(
        &self,
        tensors: &Named,
        about: &BTreeMap<String, String>,
    ) -> Result<Written, ResultError> {
        let Self { called, path, force, run_dir } = *self;
        let taken = if force { Taken::Replaced } else { Taken::Stays };
        let file = WholeFile::shared(path);
        let first = match file.and_then(|file| write(file, taken, tensors, about)) {
            Ok(mut written) => {
                if written.path != path {
                    written.why_elsewhere = Some(format!(
                        "{called}: {} was taken meanwhile and stays; the result is in {}",
                        path.display(),
                        written.path.display()
                    ));
                }
                return Ok(written);
            }
            Err(failed) => failed,
        };
        let name = path.file_name().unwrap_or_default();
        let file = WholeFile::shared(&run_dir.join(name));
        match file.and_then(|file| write(file, Taken::Stays, tensors, about)) {
            Ok(mut written) => {
                written.why_elsewhere =
                    Some(format!("{called}: {first}; the result is in {}", written.path.display()));
                Ok(written)
            }
            Err(second) => Err(ResultError::NotWritten {
                called: called.to_owned(),
                at_path: Box::new(first),
                source: Box::new(second),
            }),
        }
    }
}

/// Writes tensors into a file, and gives it its name.
///
/// # Errors
/// The file cannot be written. Nothing has changed then.
pub(crate) fn write(
    mut file: WholeFile,
    taken: Taken,
    tensors: &Named,
    about: &BTreeMap<String, String>,
) -> Result<Written, NotWritten> {
    write_tensors(&mut file, tensors, about).map_err(|error| file.failed(&error))?;
    Ok(Written { path: file.finish(taken)?, why_elsewhere: None })
}
