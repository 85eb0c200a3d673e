//! Tensors by name, written so that hours of training are not lost to a name.
//!
//! Whether a result can be written is checked before the run begins. By its end the name may be
//! taken, or the folder gone. Then the result goes under a free name beside it, or into the run's
//! folder, and both the log and standard error say where it is.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use pp_telemetry::{Identity, NotWritten, Taken, WholeFile};
use safetensors::tensor::{Metadata, TensorInfo, View};

/// Tensors by name.
pub(crate) type Named = Vec<(String, Tensor)>;

/// A result that is on the disk.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) path: PathBuf,
    pub(crate) identity: Option<Identity>,
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
        about: &HashMap<String, String>,
    ) -> Result<Written, String> {
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
            Err(second) => Err(format!("{called}: {first}, nor in the run's folder: {second}")),
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
    about: &HashMap<String, String>,
) -> Result<Written, NotWritten> {
    write_tensors(&mut file, tensors, about).map_err(|error| file.failed(&error))?;
    let identity = file.identity().ok();
    Ok(Written { path: file.finish(taken)?, identity, why_elsewhere: None })
}

/// Writes tensors in the safetensors format one after another, without a second copy of all of
/// them. The library's own function would choose the name of the draft itself, and replace an
/// existing file.
fn write_tensors(
    file: &mut impl Write,
    tensors: &Named,
    about: &HashMap<String, String>,
) -> io::Result<()> {
    const ALIGNMENT: usize = 8;
    // The order of the library: wide types first, so that each is aligned, then by name.
    let mut sorted: Vec<&(String, Tensor)> = tensors.iter().collect();
    sorted.sort_by(|(left_name, left), (right_name, right)| {
        View::dtype(&right).cmp(&View::dtype(&left)).then_with(|| left_name.cmp(right_name))
    });
    let mut infos = Vec::with_capacity(sorted.len());
    let mut offset = 0;
    for (name, tensor) in &sorted {
        let end = offset + View::data_len(&tensor);
        let info = TensorInfo {
            dtype: View::dtype(&tensor),
            shape: View::shape(&tensor).to_vec(),
            data_offsets: (offset, end),
        };
        infos.push((name.clone(), info));
        offset = end;
    }
    let about = Some(about.clone()).filter(|about| !about.is_empty());
    let metadata = Metadata::new(about, infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for (_, tensor) in sorted {
        let bytes: Cow<'_, [u8]> = View::data(&tensor);
        file.write_all(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_library() {
        let tensor =
            |n: u32, dtype| Tensor::arange(0, n, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let tensors = vec![
            ("b.weight".to_owned(), tensor(3, DType::F32)),
            ("targets".to_owned(), tensor(5, DType::I64)),
            ("a".to_owned(), tensor(7, DType::F32).reshape((7, 1)).unwrap()),
            ("loss".to_owned(), Tensor::new(1.5_f32, &Device::Cpu).unwrap()),
            ("bytes".to_owned(), tensor(3, DType::U8)),
        ];
        for about in [HashMap::new(), HashMap::from([("step".to_owned(), "3".to_owned())])] {
            let mut bytes = Vec::new();
            write_tensors(&mut bytes, &tensors, &about).unwrap();
            let about = Some(about).filter(|about| !about.is_empty());
            assert_eq!(bytes, safetensors::serialize(tensors.clone(), about).unwrap());
        }
    }
}
