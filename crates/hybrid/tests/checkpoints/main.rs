//! Checkpoints on the disk: written, read back, broken, and interrupted at every operation.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "how many cases there were")]

mod broken;
mod faulty;
mod interrupted;
mod other_programs;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Shape, Tensor};
use pp_executor::StageState;
use pp_hybrid::checkpoint::{About, Checkpoint, CheckpointFolder, HostDisk, Restored, newest};
use pp_schedule::Stage;

/// The parameters of two stages, one on each rank.
const PARAMETERS: [&[(&str, &[usize])]; 2] =
    [&[("a.weight", &[3, 2]), ("a.bias", &[3])], &[("b.weight", &[5])]];

fn known() -> BTreeMap<String, Shape> {
    let all = PARAMETERS.into_iter().flatten();
    all.map(|(name, dims)| ((*name).to_owned(), Shape::from(*dims))).collect()
}

/// The states of two ranks after `step`: other numbers after each.
fn states(step: u64) -> Vec<Vec<StageState>> {
    let tensor = |dims: &[usize], offset: f64| {
        let n: usize = dims.iter().product();
        let values = (0..n).map(|i| (i as f64 + offset + step as f64 * 100.0).sqrt() as f32);
        Tensor::from_vec(values.collect::<Vec<_>>(), dims, &Device::Cpu).unwrap()
    };
    let of_stage = |(stage, parameters): (usize, &[(&str, &[usize])])| {
        let weights = parameters.iter().map(|(name, dims)| ((*name).to_owned(), tensor(dims, 0.1)));
        let moments = parameters
            .iter()
            .map(|(name, dims)| ((*name).to_owned(), [tensor(dims, 0.2), tensor(dims, 0.3)]));
        vec![StageState {
            stage: Stage(stage as u32),
            weights: weights.collect(),
            moments: moments.collect(),
        }]
    };
    PARAMETERS.into_iter().enumerate().map(of_stage).collect()
}

fn about(step: u64) -> About {
    About {
        step,
        optimizer_steps: step,
        optimizer: "adam".to_owned(),
        run: "test".to_owned(),
        written_unix_ms: 1_796_000_000_000 + step,
        elapsed_seconds: step as f64 / 3.0,
        job: serde_json::json!({"model": "test", "peak": 1e-3 / 3.0}),
    }
}

fn write(dir: &Path, step: u64, keep: Option<usize>) -> Checkpoint {
    let folder = CheckpointFolder::take(dir, &HostDisk).unwrap();
    folder.write(&HostDisk, &states(step), &about(step), keep).unwrap().checkpoint
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// Whether a restored state has the bits of `states(step)`.
fn is_of(restored: &Restored, step: u64) -> bool {
    let expected = states(step);
    let mut stages = expected.iter().flatten();
    restored.optimizer_steps == step
        && restored.weights.len() == known().len()
        && stages.all(|of| {
            let weights = of.weights.iter();
            let mut same = weights.map(|(name, w)| bits(&restored.weights[name]) == bits(w));
            let mut moments = of.moments.iter();
            same.all(|same| same)
                && moments.all(|(name, both)| {
                    let there = &restored.moments[name];
                    both.iter().zip(there).all(|(left, right)| bits(left) == bits(right))
                })
        })
}

fn is_whole(checkpoint: &Checkpoint) -> bool {
    is_of(&checkpoint.load(&known()).unwrap(), checkpoint.manifest().step)
}

#[test]
fn what_was_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let written = write(dir.path(), 7, None);
    let found = newest(dir.path()).unwrap();
    assert!(found.refused.is_empty());
    let found = found.checkpoint.unwrap();
    assert_eq!(found.manifest(), written.manifest());
    assert_eq!(found.path(), dir.path().join("step-00000007"));
    assert!(is_whole(&found));
    let manifest = found.manifest();
    assert_eq!((manifest.sequence, manifest.parameters), (1, 14));
    assert_eq!(manifest.job["peak"].as_f64(), Some(1e-3 / 3.0));
    let names: Vec<&str> = manifest.files.iter().map(|file| file.name.as_str()).collect();
    let expected = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "optimizer-00001-of-00002.safetensors",
        "optimizer-00002-of-00002.safetensors",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_newest_stay_and_the_newest_is_the_one_written_last() {
    let dir = tempfile::tempdir().unwrap();
    for step in [10, 20, 30] {
        write(dir.path(), step, Some(2));
    }
    let names = || {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| name != ".lock");
        names.sort();
        names
    };
    assert_eq!(names(), ["step-00000020", "step-00000030"]);
    // A run that goes on from step 10 is newer than step 30 of the run before.
    write(dir.path(), 20, None);
    assert_eq!(names(), ["step-00000020", "step-00000020-2", "step-00000030"]);
    let found = newest(dir.path()).unwrap().checkpoint.unwrap();
    assert_eq!(found.path(), dir.path().join("step-00000020-2"));
}

#[test]
fn one_run_at_a_time_writes_into_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let first = CheckpointFolder::take(dir.path(), &HostDisk).unwrap();
    let error = CheckpointFolder::take(dir.path(), &HostDisk).unwrap_err();
    assert!(error.to_string().starts_with("a run still writes checkpoints into "), "{error}");
    drop(first);
    CheckpointFolder::take(dir.path(), &HostDisk).unwrap();
}
