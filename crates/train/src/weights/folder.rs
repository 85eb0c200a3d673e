//! The weights of a folder: one file, or several with an index that says where each tensor is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor, bail};
use pp_hybrid::checkpoint::INDEX;
use pp_hybrid::first_nonfinite;
use pp_nn::{Ties, Values};
use serde::Deserialize;

use super::{WeightsError, head};

/// The file with all tensors of a model, where other programs look for it.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The most bytes of an index.
const INDEX_BYTES_MAX: usize = 64 << 20;
/// Bytes that are compared at once.
const PIECE_BYTES: usize = 1 << 20;
/// The most files of a model.
const FILES_MAX: usize = 10_000;

/// The part of an index that is used.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Where the tensors of a model are. Each is read when it is asked for, and nothing is kept.
#[derive(Debug)]
pub(super) struct WeightFolder {
    files: Vec<PathBuf>,
    /// The file of each tensor, and its place and shape there.
    tensors: BTreeMap<String, (usize, head::Place, Shape)>,
    takes_nonfinite: bool,
}

impl WeightFolder {
    /// Reads the heads of the files, and compares them with the model and the index.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub(super) fn open(
        folder: &Path,
        known: &BTreeMap<String, Shape>,
        ties: &Ties,
        takes_nonfinite: bool,
    ) -> Result<Self, WeightsError> {
        // A single file comes first, as in other programs: somebody may have saved it beside others.
        let (index, has_whole) = (folder.join(INDEX), folder.join(WEIGHTS_FILE).exists());
        let has_index = !has_whole && index.exists();
        let index = has_index.then(|| read_index(&index)).transpose()?;
        let names: BTreeSet<String> = match &index {
            Some(index) => index.weight_map.values().cloned().collect(),
            None if has_whole => BTreeSet::from([WEIGHTS_FILE.to_owned()]),
            None => {
                return Err(WeightsError::Folder(format!(
                    "it has neither {WEIGHTS_FILE} nor {INDEX}"
                )));
            }
        };
        let mut left: BTreeSet<&str> = known.keys().map(String::as_str).collect();
        let (mut files, mut tensors) = (Vec::new(), BTreeMap::new());
        for name in &names {
            let path = folder.join(name);
            let places = head::read(&path, known, ties, &mut left).map_err(|source| {
                WeightsError::File { name: name.clone(), source: Box::new(source) }
            })?;
            for (tensor, place) in places {
                let said = index.as_ref().map(|index| index.weight_map.get(&tensor));
                if said.is_some_and(|said| said != Some(name)) {
                    return Err(WeightsError::Folder(format!(
                        "{tensor} is in {name}, and {INDEX} does not say so"
                    )));
                }
                let shape = known[ties.get(&tensor).unwrap_or(&tensor)].clone();
                tensors.insert(tensor, (files.len(), place, shape));
            }
            files.push(path);
        }
        if let Some(name) = left.first() {
            return Err(WeightsError::Absent { name: (*name).to_owned() });
        }
        let found = Self { files, tensors, takes_nonfinite };
        for (second, first) in ties.iter().filter(|(second, _)| found.tensors.contains_key(*second))
        {
            if !found.are_alike(first, second)? {
                return Err(WeightsError::Folder(format!(
                    "{second} is not {first}, and the model ties them"
                )));
            }
        }
        Ok(found)
    }

    /// Whether two tensors have the same bytes. They are read a piece at a time.
    fn are_alike(&self, one: &str, other: &str) -> Result<bool, WeightsError> {
        let place = |name: &str| self.tensors.get(name).map(|(file, place, _)| (*file, place));
        let (Some((file, at)), Some((other_file, other_at))) = (place(one), place(other)) else {
            return Ok(false);
        };
        let n_bytes = at.bytes.end - at.bytes.start;
        if at.dtype != other_at.dtype || n_bytes != other_at.bytes.end - other_at.bytes.start {
            return Ok(false);
        }
        let (file, other_file) =
            (File::open(&self.files[file])?, File::open(&self.files[other_file])?);
        let (mut piece, mut other_piece) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
        for first in (0..n_bytes).step_by(PIECE_BYTES) {
            let n = PIECE_BYTES.min((n_bytes - first) as usize);
            file.read_exact_at(&mut piece[..n], at.bytes.start + first)?;
            other_file.read_exact_at(&mut other_piece[..n], other_at.bytes.start + first)?;
            if piece[..n] != other_piece[..n] {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn read_index(path: &Path) -> Result<Index, WeightsError> {
    let text = pp_telemetry::input::read(path, INDEX_BYTES_MAX)?;
    let refused = |why: String| WeightsError::Folder(format!("{INDEX}: {why}"));
    let index: Index = serde_json::from_slice(&text)
        .map_err(|error| refused(format!("it cannot be read: {error}")))?;
    let names: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    if names.is_empty() || names.len() > FILES_MAX {
        return Err(refused(format!("it names {} files", names.len())));
    }
    // A name that leads out of the folder could be any file of the machine.
    let is_plain = |name: &&&str| {
        Path::new(name).file_name().is_some_and(|file| file == **name) && !name.contains('\0')
    };
    match names.iter().find(|name| !is_plain(name)) {
        None => Ok(index),
        Some(name) => Err(refused(format!("{name:.80?} is no name of a file in this folder"))),
    }
}

impl Values for WeightFolder {
    fn value(&self, name: &str) -> TensorResult<Option<Tensor>> {
        let Some((file, place, shape)) = self.tensors.get(name) else { return Ok(None) };
        let path = &self.files[*file];
        let mut bytes = vec![0; (place.bytes.end - place.bytes.start) as usize];
        let read =
            File::open(path).and_then(|file| file.read_exact_at(&mut bytes, place.bytes.start));
        if let Err(error) = read {
            bail!("cannot read {name} from {}: {error}", path.display());
        }
        let tensor = Tensor::from_raw_buffer(&bytes, place.dtype, shape.dims(), &Device::Cpu)?;
        drop(bytes);
        let tensor = tensor.to_dtype(DType::F32)?;
        if !self.takes_nonfinite && first_nonfinite([(&name.to_owned(), &tensor)])?.is_some() {
            bail!("{name} is not finite in {}", path.display());
        }
        Ok(Some(tensor))
    }
}
