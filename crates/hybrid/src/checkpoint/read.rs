//! Reads checkpoints, and trusts none that it has not verified.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{Device, Shape, Tensor};
use rustix::fs::OFlags;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::MANIFEST;
use super::error::CheckpointError;
use super::manifest::{FileRecord, MANIFEST_BYTES_MAX, Manifest};
use super::write::{INDEX, MOMENTS, is_of_tensors};
use crate::hash::hex;

/// The most bytes that are read at a time.
const PIECE_BYTES: usize = 1 << 20;
/// What a file may have beside the numbers of its tensors: for each tensor a name, a type, a shape
/// and two offsets.
const HEAD_BYTES_PER_TENSOR: u64 = 1 << 10;
const HEAD_BYTES: u64 = 1 << 12;
/// The most files of a checkpoint: two for each stage, and the index.
const FILES_MAX: usize = 1 << 17;
/// No folder has had as many checkpoints.
const SEQUENCE_MAX: u64 = 1 << 53;

/// A checkpoint whose manifest is in order. Its other files have not been looked at.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    manifest: Manifest,
}

/// The state of a model and its optimizer, by the names of the parameters.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The weights.
    pub weights: BTreeMap<String, Tensor>,
    /// The first and the second moments; empty for SGD.
    pub moments: BTreeMap<String, [Tensor; 2]>,
    /// Steps that the optimizer has made.
    pub optimizer_steps: u64,
}

impl Checkpoint {
    /// Reads the manifest of the checkpoint in the folder `path`.
    ///
    /// # Errors
    /// There is none, or it is not as it was written.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let at = path.join(MANIFEST);
        let (file, len) = regular(&at)?;
        if len > MANIFEST_BYTES_MAX {
            let why = format!("it has {len} bytes, more than the {MANIFEST_BYTES_MAX} allowed");
            return Err(CheckpointError::broken(at, why));
        }
        let mut bytes = Vec::new();
        let read = file.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(CheckpointError::read(&at))?;
        let manifest = Manifest::from_bytes(&bytes, &at)?;
        let mut names = BTreeSet::new();
        for FileRecord { name, .. } in &manifest.files {
            let is_plain = !name.is_empty() && !name.contains(['/', '\0']) && name != MANIFEST;
            if !is_plain || !names.insert(name.as_str()) {
                return Err(CheckpointError::broken(at, format!("it names the file {name:?}")));
            }
        }
        if manifest.sequence > SEQUENCE_MAX {
            let why = format!("its number is {}, at most {SEQUENCE_MAX}", manifest.sequence);
            return Err(CheckpointError::broken(at, why));
        }
        if manifest.files.len() > FILES_MAX {
            let why = format!("it names {} files, at most {FILES_MAX}", manifest.files.len());
            return Err(CheckpointError::broken(at, why));
        }
        Ok(Self { path: path.to_owned(), manifest })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of all its files but the manifest.
    pub fn n_bytes(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }

    /// Verifies that the folder holds the files of the manifest, each with the right bytes, and
    /// nothing else. Reads 1 MiB at a time.
    ///
    /// # Errors
    /// The first file that is at fault.
    pub fn verify(&self) -> Result<(), CheckpointError> {
        self.refuse_foreign_files()?;
        for record in &self.manifest.files {
            self.content(record, &mut |_| ())?;
        }
        Ok(())
    }

    /// Loads the state of a model with the parameters `known`. Verifies each byte on the way.
    ///
    /// Takes the memory of the result and of the largest file. Nothing is read of a checkpoint that
    /// is larger than `known` needs.
    ///
    /// # Errors
    /// The first file that is at fault, or the first parameter that differs.
    pub fn load(&self, known: &BTreeMap<String, Shape>) -> Result<Restored, CheckpointError> {
        self.load_part(known, &|_| true)
    }

    /// The same, but only of the parameters that `is_wanted`. Reads the files that have some of them,
    /// and verifies no others.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_part(
        &self,
        known: &BTreeMap<String, Shape>,
        is_wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Restored, CheckpointError> {
        self.refuse_foreign_files()?;
        self.refuse_larger(known)?;
        let shards = self.shards_of(known, is_wanted)?;
        // Whoever takes all of it verifies all of it, files without tensors as well.
        let takes_all = known.keys().all(|name| is_wanted(name));
        let is_read = |of: &str| takes_all || shards.contains(of);
        let mut restored =
            Restored { optimizer_steps: self.manifest.optimizer_steps, ..Restored::default() };
        let mut moments: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
        for record in &self.manifest.files {
            // The index was read already.
            if record.name == INDEX || shard_of(record).is_some_and(|of| !is_read(of)) {
                continue;
            }
            if !is_of_tensors(&record.name) {
                if takes_all {
                    self.content(record, &mut |_| ())?;
                }
                continue;
            }
            let is_weights = is_weights(record);
            self.tensors(record, &mut |name, view| {
                let moment = MOMENTS.iter().position(|moment| name.ends_with(moment));
                let (parameter, moment) = match moment.filter(|_| !is_weights) {
                    Some(i) => (&name[..name.len() - MOMENTS[i].len()], Some(i)),
                    None => (name, None),
                };
                let Some(shape) = known.get(parameter) else {
                    return Err(Refusal(format!("the model has no {name}")));
                };
                if view.shape() != shape.dims() {
                    let (there, here) = (view.shape(), shape.dims());
                    return Err(Refusal(format!(
                        "{name} is {there:?} there, {here:?} in the model"
                    )));
                }
                if view.dtype() != Dtype::F32 {
                    return Err(Refusal(format!("{name} is {} there, F32 here", view.dtype())));
                }
                if !is_wanted(parameter) {
                    return Ok(());
                }
                let tensor = view.load(&Device::Cpu)?;
                let name = parameter.to_owned();
                let before = match moment {
                    _ if is_weights => restored.weights.insert(name, tensor),
                    Some(i) => moments.entry(name).or_default()[i].replace(tensor),
                    None => return Err(Refusal(format!("{name} is no moment"))),
                };
                match before {
                    None => Ok(()),
                    Some(_) => Err(Refusal(format!("{parameter} is in more than one file"))),
                }
            })?;
        }
        let absent = |name: &str| {
            CheckpointError::broken(&self.path, format!("it has no {name}, which the model has"))
        };
        let wanted = || known.keys().filter(|name| is_wanted(name));
        for name in wanted() {
            if !restored.weights.contains_key(name) {
                return Err(absent(name));
            }
        }
        for (name, both) in moments {
            let [Some(first), Some(second)] = both else {
                return Err(absent(&format!("second moment of {name}")));
            };
            restored.moments.insert(name, [first, second]);
        }
        let n_moments = restored.moments.len();
        if n_moments != 0 && n_moments != wanted().count() {
            let missing = wanted().find(|name| !restored.moments.contains_key(*name));
            return Err(absent(&format!("moments of {}", missing.map_or("", String::as_str))));
        }
        Ok(restored)
    }

    /// The shards that have some of the wanted parameters, by what follows `model` in their names: the
    /// moments of a parameter are in the shard of the same number.
    fn shards_of(
        &self,
        known: &BTreeMap<String, Shape>,
        is_wanted: &dyn Fn(&str) -> bool,
    ) -> Result<BTreeSet<String>, CheckpointError> {
        let index = self.manifest.files.iter().find(|record| record.name == INDEX);
        let missing = || CheckpointError::broken(&self.path, format!("it has no {INDEX}"));
        let index = index.ok_or_else(missing)?;
        let at = self.path.join(INDEX);
        let most = HEAD_BYTES + known.len() as u64 * HEAD_BYTES_PER_TENSOR;
        if index.bytes > most {
            let why = format!("it has {} bytes, the model needs at most {most}", index.bytes);
            return Err(CheckpointError::broken(at, why));
        }
        let mut bytes = Vec::new();
        self.content(index, &mut |piece| bytes.extend_from_slice(piece))?;
        let found: Index = serde_json::from_slice(&bytes)
            .map_err(|error| CheckpointError::broken(&at, format!("it is no index: {error}")))?;
        let wanted = found.weight_map.into_iter().filter(|(name, _)| is_wanted(name));
        let shard = |(_, file): (_, String)| file.strip_prefix(WEIGHTS).map(ToOwned::to_owned);
        Ok(wanted.filter_map(shard).collect())
    }

    /// Refuses a checkpoint with more bytes than a model with the parameters `known` needs: for each
    /// of them a weight, two moments, and what heads say of them.
    ///
    /// # Errors
    /// It is larger.
    pub fn refuse_larger(&self, known: &BTreeMap<String, Shape>) -> Result<(), CheckpointError> {
        let numbers: u64 = known.values().map(|shape| shape.elem_count() as u64).sum();
        let of_copy = numbers * 4 + known.len() as u64 * HEAD_BYTES_PER_TENSOR;
        let heads = self.manifest.files.len() as u64 * HEAD_BYTES;
        let most = (3 * of_copy).saturating_add(heads);
        // What belongs beside the weights is read in pieces, and has any size.
        let of_tensors = self.manifest.files.iter().filter(|file| is_of_tensors(&file.name));
        let bytes = of_tensors.map(|file| file.bytes).fold(0, u64::saturating_add);
        let found = self.manifest.parameters;
        if bytes <= most {
            return Ok(());
        }
        let why = if found == numbers {
            format!("its files have {bytes} bytes, the model needs at most {most}")
        } else {
            format!("it has {found} parameters, the model {numbers}")
        };
        Err(CheckpointError::broken(&self.path, why))
    }

    /// Loads the weights alone, in the order of stages and names. Verifies their files.
    ///
    /// # Errors
    /// The first file that is at fault.
    pub fn weights(&self) -> Result<Vec<(String, Tensor)>, CheckpointError> {
        let mut weights = Vec::new();
        for record in self.manifest.files.iter().filter(|record| is_weights(record)) {
            self.tensors(record, &mut |name, view| {
                weights.push((name.to_owned(), view.load(&Device::Cpu)?));
                Ok(())
            })?;
        }
        Ok(weights)
    }

    /// Reads and verifies a file of tensors, and passes each of them to `take`.
    fn tensors(
        &self,
        record: &FileRecord,
        take: &mut dyn FnMut(&str, &TensorView<'_>) -> Result<(), Refusal>,
    ) -> Result<(), CheckpointError> {
        let at = self.path.join(&record.name);
        let broken = |why: String| CheckpointError::broken(&at, why);
        // As long as the file is: its size is compared first.
        let mut bytes = Vec::new();
        self.content(record, &mut |piece| {
            if bytes.is_empty() {
                bytes.reserve_exact(record.bytes as usize);
            }
            bytes.extend_from_slice(piece);
        })?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|error| broken(format!("it is no safetensors file: {error}")))?;
        // The library has them in the random order of a hash map.
        let mut tensors: Vec<_> = tensors.iter().collect();
        tensors.sort_unstable_by_key(|(name, _)| *name);
        for (name, view) in tensors {
            take(name, &view).map_err(|Refusal(why)| broken(why))?;
        }
        Ok(())
    }

    /// Refuses a file that the manifest does not name, and a missing one.
    fn refuse_foreign_files(&self) -> Result<(), CheckpointError> {
        let read = || CheckpointError::read(&self.path);
        let mut missing: BTreeSet<&str> =
            self.manifest.files.iter().map(|file| file.name.as_str()).collect();
        for entry in fs::read_dir(&self.path).map_err(read())? {
            let name = entry.map_err(read())?.file_name();
            let known = name.to_str().is_some_and(|name| missing.remove(name) || name == MANIFEST);
            if !known {
                let at = self.path.join(name);
                return Err(CheckpointError::broken(at, "it is no file of this checkpoint"));
            }
        }
        match missing.first() {
            None => Ok(()),
            Some(name) => Err(CheckpointError::broken(self.path.join(name), "it is missing")),
        }
    }

    /// Reads one file in pieces, and compares it with its record.
    fn content(
        &self,
        record: &FileRecord,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), CheckpointError> {
        let at = self.path.join(&record.name);
        let (mut file, len) = regular(&at)?;
        if len != record.bytes {
            let why = format!("it has {len} bytes, the manifest says {}", record.bytes);
            return Err(CheckpointError::broken(at, why));
        }
        let mut hash = Sha256::new();
        let mut piece = vec![0; PIECE_BYTES.min(len.max(1) as usize)];
        let mut found = 0;
        loop {
            let n = match file.read(&mut piece) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(CheckpointError::read(&at)(error)),
            };
            found += n as u64;
            if n == 0 || found > record.bytes {
                break;
            }
            hash.update(&piece[..n]);
            take(&piece[..n]);
        }
        if hex(hash) != record.sha256 || found != record.bytes {
            return Err(CheckpointError::broken(at, "its bytes are not those that were written"));
        }
        Ok(())
    }
}

/// The reason why a tensor is refused.
struct Refusal(String);

impl From<candle_core::Error> for Refusal {
    fn from(error: candle_core::Error) -> Self {
        Self(error.to_string())
    }
}

/// What the names of the files of weights and of moments begin with.
const WEIGHTS: &str = "model";
const OPTIMIZER: &str = "optimizer";

/// The part of the index that is read.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn is_weights(record: &FileRecord) -> bool {
    record.name.strip_prefix(WEIGHTS).is_some_and(|rest| rest.starts_with('-'))
}

/// What follows `model` or `optimizer` in the name of a file.
fn shard_of(record: &FileRecord) -> Option<&str> {
    [WEIGHTS, OPTIMIZER].into_iter().find_map(|kind| record.name.strip_prefix(kind))
}

/// Opens a regular file, and returns its size. Follows no link, and does not wait for a pipe.
fn regular(path: &Path) -> Result<(File, u64), CheckpointError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
    let open = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path);
    let file = match open {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(CheckpointError::broken(path, "it is a symbolic link"));
        }
        Err(error) => return Err(CheckpointError::read(path)(error)),
    };
    let about = file.metadata().map_err(CheckpointError::read(path))?;
    if !about.is_file() {
        return Err(CheckpointError::broken(path, "it is not a regular file"));
    }
    Ok((file, about.len()))
}
