//! Writes one checkpoint into a folder that has no other name yet.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::thread;

use pp_executor::StageState;
use pp_schedule::Stage;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::disk::{Disk, DiskFile};
use super::error::CheckpointError;
use super::manifest::{Continued, FileRecord, Manifest, Recent};
use super::{MANIFEST, SCHEMA};
use crate::hash::hex;
use crate::tensors::write_tensors;

/// The index of the weights, in Hugging Face's format.
pub const INDEX: &str = "model.safetensors.index.json";
/// What the names of a parameter's moments end in. These are PyTorch's names.
pub(crate) const MOMENTS: [&str; 2] = [".exp_avg", ".exp_avg_sq"];

const BUFFER_BYTES: usize = 1 << 20;

/// The facts of a checkpoint beside its tensors.
#[derive(Clone, Debug)]
pub struct About {
    /// The last step that is in it.
    pub step: u64,
    /// Steps that the optimizer has made.
    pub optimizer_steps: u64,
    /// The optimizer.
    pub optimizer: String,
    /// The id of the run.
    pub run: String,
    /// The checkpoints that led to the run. See [`Manifest::continues`].
    pub continues: Vec<Continued>,
    /// The losses of the last steps. See [`Manifest::recent`].
    pub recent: Vec<Recent>,
    /// When it is written, in milliseconds since 1970.
    pub written_unix_ms: u64,
    /// Seconds of training so far, over all runs that led to it.
    pub elapsed_seconds: f64,
    /// The job, in the words of the program that trains it.
    pub job: serde_json::Value,
    /// Files that belong beside the weights, so that other programs can load the model: names and
    /// contents.
    pub companions: Vec<(String, Vec<u8>)>,
}

impl About {
    /// What the files of the stages of a model of `n_stages` stages say of it.
    pub fn of_stages(&self, n_stages: usize) -> StageFacts {
        let (optimizer, optimizer_steps) = (self.optimizer.clone(), self.optimizer_steps);
        StageFacts { n_stages, optimizer, optimizer_steps }
    }

    /// Whether a checkpoint led to the one that this is of: it is of the same run, or a run before
    /// it wrote it before it was continued.
    pub(crate) fn comes_from(&self, other: &Manifest) -> bool {
        let of_before = |before: &Continued| before.run == other.run && other.step <= before.step;
        other.run == self.run || self.continues.iter().any(of_before)
    }
}

/// The files of some stages of a checkpoint, as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    files: Vec<FileRecord>,
    weights: Vec<WeightRecord>,
}

/// A weight, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WeightRecord {
    name: String,
    file: String,
    numbers: u64,
    bytes: u64,
}

/// What the files of stages say beside their tensors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageFacts {
    /// The number of stages of the whole model.
    pub n_stages: usize,
    /// The optimizer.
    pub optimizer: String,
    /// Steps that it has made.
    pub optimizer_steps: u64,
}

/// Writes the files of some stages into `dir`, the folder of a [`Draft`](super::Draft). Each of
/// `ranks`, the stages of one rank, is written by a thread of its own. The parts of a checkpoint may
/// be written by several processes.
///
/// # Errors
/// A file cannot be written.
pub fn write_part(
    disk: &dyn Disk,
    dir: &Path,
    ranks: &[Vec<StageState>],
    facts: &StageFacts,
) -> Result<Part, CheckpointError> {
    let written: Vec<Result<Vec<FileRecord>, CheckpointError>> = thread::scope(|scope| {
        let of_rank = |stages| move || write_stages(disk, dir, stages, facts);
        let threads: Vec<_> = ranks.iter().map(|stages| scope.spawn(of_rank(stages))).collect();
        let panicked = || CheckpointError::broken(dir, "the thread that writes it panicked");
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(panicked()))
        };
        threads.into_iter().map(join).collect()
    });
    let mut part = Part::default();
    for of_rank in written {
        part.files.extend(of_rank?);
    }
    for of in ranks.iter().flatten() {
        let file = shard("model", of.stage, facts.n_stages);
        part.weights.extend(of.weights.iter().map(|(name, tensor)| WeightRecord {
            name: name.clone(),
            file: file.clone(),
            numbers: tensor.elem_count() as u64,
            bytes: (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64,
        }));
    }
    Ok(part)
}

/// Writes what makes a checkpoint of the parts in `dir`: the index, and the manifest last.
pub(crate) fn seal(
    disk: &dyn Disk,
    dir: &Path,
    parts: Vec<Part>,
    n_stages: usize,
    about: &About,
    sequence: u64,
) -> Result<(), CheckpointError> {
    let weights = || parts.iter().flat_map(|part| &part.weights);
    let map: BTreeMap<&str, &str> = weights().map(|w| (w.name.as_str(), w.file.as_str())).collect();
    let total_size: u64 = weights().map(|weight| weight.bytes).sum();
    let parameters = weights().map(|weight| weight.numbers).sum();
    let index = serde_json::json!({
        "metadata": {"total_size": total_size},
        "weight_map": map,
    });
    let index = write_file(disk, dir, INDEX, |out| Ok(serde_json::to_writer(out, &index)?))?;
    let mut files: Vec<FileRecord> = parts.into_iter().flat_map(|part| part.files).collect();
    files.push(index);
    for (name, bytes) in &about.companions {
        if is_of_tensors(name) || name == MANIFEST {
            return Err(CheckpointError::broken(dir, format!("{name} is no name for a companion")));
        }
        files.push(write_file(disk, dir, name, |out| out.write_all(bytes))?);
    }
    files.sort_by(|left, right| left.name.cmp(&right.name));
    let n_files = files.len();
    files.dedup_by(|left, right| left.name == right.name);
    let n_others = 1 + about.companions.len();
    if files.len() != n_files || n_files != 2 * n_stages + n_others {
        let why = format!("{} files were written for {n_stages} stages", n_files - n_others);
        return Err(CheckpointError::broken(dir, why));
    }
    let About {
        step,
        optimizer_steps,
        optimizer,
        run,
        continues,
        recent,
        written_unix_ms,
        elapsed_seconds,
        job,
        companions: _,
    } = about.clone();
    let manifest = Manifest {
        schema: SCHEMA,
        sequence,
        step,
        optimizer_steps,
        optimizer,
        run,
        continues,
        recent,
        written_unix_ms,
        elapsed_seconds,
        parameters,
        job,
        files,
    };
    write_file(disk, dir, MANIFEST, |out| out.write_all(&manifest.to_bytes()?))?;
    disk.sync_dir(dir).map_err(CheckpointError::write(dir))
}

/// Whether a file has tensors, or says where they are.
pub(crate) fn is_of_tensors(name: &str) -> bool {
    name == INDEX || name.ends_with(".safetensors")
}

/// Writes the two files of each stage.
fn write_stages(
    disk: &dyn Disk,
    dir: &Path,
    stages: &[StageState],
    facts: &StageFacts,
) -> Result<Vec<FileRecord>, CheckpointError> {
    let n_stages = facts.n_stages;
    let mut files = Vec::with_capacity(2 * stages.len());
    for of in stages {
        // `transformers` loads a file only if its metadata has this key.
        let format = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let name = shard("model", of.stage, n_stages);
        let weights = |out: &mut dyn Write| write_tensors(out, &of.weights, &format).map(drop);
        files.push(write_file(disk, dir, &name, weights)?);
        let mut moments = Vec::with_capacity(2 * of.moments.len());
        for (name, both) in &of.moments {
            for (moment, tensor) in MOMENTS.into_iter().zip(both) {
                moments.push((format!("{name}{moment}"), tensor.clone()));
            }
        }
        let words = BTreeMap::from([
            ("optimizer".to_owned(), facts.optimizer.clone()),
            ("steps".to_owned(), facts.optimizer_steps.to_string()),
        ]);
        let name = shard("optimizer", of.stage, n_stages);
        files.push(write_file(disk, dir, &name, |out| {
            write_tensors(out, &moments, &words).map(drop)
        })?);
    }
    Ok(files)
}

/// The name of a stage's file. Numbers begin with 1, as Hugging Face has them.
pub(crate) fn shard(kind: &str, stage: Stage, n_stages: usize) -> String {
    format!("{kind}-{:05}-of-{n_stages:05}.safetensors", stage.0 + 1)
}

/// Writes and syncs one file.
fn write_file(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<FileRecord, CheckpointError> {
    let path = dir.join(name);
    let written = disk.create(&path).and_then(|file| {
        let counted = Counted { file, bytes: 0, hash: Sha256::new() };
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, counted);
        content(&mut out)?;
        let mut counted = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        counted.file.sync()?;
        Ok(counted)
    });
    let Counted { bytes, hash, .. } = written.map_err(CheckpointError::write(&path))?;
    Ok(FileRecord { name: name.to_owned(), bytes, sha256: hex(hash) })
}

/// Counts and hashes what passes.
struct Counted {
    file: Box<dyn DiskFile>,
    bytes: u64,
    hash: Sha256,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.bytes += n as u64;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
