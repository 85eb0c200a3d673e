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
use pp_hybrid::checkpoint::{
    About, Checkpoint, CheckpointFolder, Continued, HostDisk, Part, Restored, is_busy, list,
    newest, write_part,
};
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
        continues: Vec::new(),
        recent: Vec::new(),
        written_unix_ms: 1_796_000_000_000 + step,
        elapsed_seconds: step as f64 / 3.0,
        job: serde_json::json!({"model": "test", "peak": 1e-3 / 3.0}),
        companions: Vec::new(),
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
    // A run that resumes from step 10 is newer than step 30 of the run before.
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

#[test]
fn checkpoints_of_another_training_stay_and_so_do_those_after_a_fork() {
    let dir = tempfile::tempdir().unwrap();
    let folder = CheckpointFolder::take(dir.path(), &HostDisk).unwrap();
    let write = |run: &str, step, continues: &[(&str, u64)]| {
        let of = |&(run, step): &(&str, u64)| Continued { run: run.to_owned(), step };
        let continues = continues.iter().map(of).collect();
        let about = About { run: run.to_owned(), continues, ..about(step) };
        folder.write(&HostDisk, &states(step), &about, Some(1)).unwrap()
    };
    write("other", 5, &[]);
    write("first", 10, &[]);
    write("first", 20, &[]);
    // A fork from a step that is gone: what the first run made after it is not its own.
    write("fork", 15, &[("first", 10)]);
    write("fork", 16, &[("first", 10)]);
    // One that resumes from the last step takes its place.
    write("next", 30, &[("other", 2), ("first", 20)]);
    let there: Vec<(String, u64)> = list(dir.path())
        .unwrap()
        .into_iter()
        .map(|found| found.checkpoint.unwrap())
        .map(|checkpoint| (checkpoint.manifest().run.clone(), checkpoint.manifest().step))
        .collect();
    let there: Vec<(&str, u64)> = there.iter().map(|(run, step)| (run.as_str(), *step)).collect();
    assert_eq!(there, [("other", 5), ("fork", 16), ("next", 30)]);
}

/// Whatever has the name of a checkpoint, nothing outside the folder is ever removed.
#[test]
fn what_a_link_leads_to_stays() {
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("mine"), "mine").unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in [".step-00000001.draft", ".step-00000002.removed", "step-00000003"] {
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join(name)).unwrap();
    }
    std::fs::create_dir_all(dir.path().join(".step-00000004.removed/deep/er")).unwrap();
    let folder = CheckpointFolder::take(dir.path(), &HostDisk).unwrap();
    let written = folder.write(&HostDisk, &states(9), &about(9), Some(1)).unwrap();
    assert!(is_whole(&written.checkpoint));
    // A rest that cannot be removed is told, and costs no checkpoint.
    let told = written.not_removed.unwrap().to_string();
    assert!(told.contains(".step-00000004.removed"), "{told}");
    assert_eq!(std::fs::read_to_string(elsewhere.path().join("mine")).unwrap(), "mine");
    assert!(!dir.path().join(".step-00000001.draft").exists());
    assert_eq!(list(dir.path()).unwrap().len(), 1, "a link is no checkpoint");
}

#[test]
fn a_folder_is_made_for_its_owner_and_one_that_others_may_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("a/b");
    assert!(!is_busy(&dir));
    let folder = CheckpointFolder::take(&dir, &HostDisk).unwrap();
    assert!(is_busy(&dir));
    drop(folder);
    assert!(!is_busy(&dir));
    let mode = |dir: &Path| std::fs::metadata(dir).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&above.path().join("a"))), (0o700, 0o700));
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o770)).unwrap();
    let refused = CheckpointFolder::take(&dir, &HostDisk).unwrap_err();
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("others may write to it"), "{why}");
}

#[test]
fn a_number_that_no_folder_reaches_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = write(dir.path(), 3, None);
    broken::reseal(checkpoint.path(), |manifest| manifest["sequence"] = u64::MAX.into());
    let why = Checkpoint::open(checkpoint.path()).unwrap_err().to_string();
    assert!(why.contains("18446744073709551615"), "{why}");
    assert!(is_whole(&write(dir.path(), 4, Some(1))));
}

#[test]
fn parts_of_several_writers_make_the_checkpoint_of_one() {
    let (one, many) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = write(one.path(), 7, None);
    let folder = CheckpointFolder::take(many.path(), &HostDisk).unwrap();
    let (about, states) = (about(7), states(7));
    let facts = about.of_stages(2);
    let draft = folder.begin(&HostDisk, 7).unwrap();
    // The later stage first: the order of parts does not matter.
    let parts = states.chunks(1).rev();
    let parts = parts.map(|of| write_part(&HostDisk, draft.dir(), of, &facts).unwrap());
    // A part travels as text.
    let parts = parts.map(|part| serde_json::to_string(&part).unwrap());
    let parts: Vec<Part> = parts.map(|text| serde_json::from_str(&text).unwrap()).collect();
    assert!(newest(many.path()).unwrap().checkpoint.is_none(), "a draft is no checkpoint");
    let made = folder.finish(&HostDisk, draft, parts, 2, &about, None).unwrap().checkpoint;
    // The format's library writes the facts of a file in any order, so hashes may differ.
    let facts = |checkpoint: &Checkpoint| {
        let mut manifest = checkpoint.manifest().clone();
        manifest.files.iter_mut().for_each(|file| file.sha256.clear());
        manifest
    };
    assert_eq!(facts(&made), facts(&whole));
    assert!(is_whole(&made));
}

#[test]
fn a_checkpoint_with_a_part_too_few_or_too_many_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let folder = CheckpointFolder::take(dir.path(), &HostDisk).unwrap();
    let (about, states) = (about(7), states(7));
    let facts = about.of_stages(2);
    for twice in [false, true] {
        let draft = folder.begin(&HostDisk, 7).unwrap();
        let part = write_part(&HostDisk, draft.dir(), &states[..1], &facts).unwrap();
        let parts = if twice { vec![part.clone(), part] } else { vec![part] };
        let refused = folder.finish(&HostDisk, draft, parts, 2, &about, None).unwrap_err();
        assert!(refused.to_string().contains("files were written for 2 stages"), "{refused}");
        let there = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(there, 1, "the lock alone");
    }
}

#[test]
fn what_belongs_beside_the_weights_is_a_part_of_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    // More bytes than all tensors.
    let tokenizer = vec![b'x'; 1 << 20];
    let companions =
        vec![("config.json".to_owned(), b"{}".to_vec()), ("tokenizer.json".to_owned(), tokenizer)];
    let folder = CheckpointFolder::take(dir.path(), &HostDisk).unwrap();
    let about_it = About { companions, ..about(7) };
    let written = folder.write(&HostDisk, &states(7), &about_it, None).unwrap().checkpoint;
    let checkpoint = Checkpoint::open(written.path()).unwrap();
    checkpoint.verify().unwrap();
    assert_eq!(checkpoint.load(&known()).unwrap().optimizer_steps, 7);
    assert_eq!(checkpoint.weights().unwrap().len(), known().len());
    let at = checkpoint.path().join("config.json");
    assert_eq!(std::fs::read(&at).unwrap(), b"{}");
    std::fs::write(&at, b"[]").unwrap();
    for refused in [checkpoint.verify().unwrap_err(), checkpoint.load(&known()).unwrap_err()] {
        assert!(refused.to_string().contains("config.json"), "{refused}");
    }
    // Whoever takes a part of the tensors reads no companions.
    checkpoint.load_part(&known(), &|name: &str| name.starts_with("b.")).unwrap();
    for name in ["model.safetensors.index.json", "manifest.json", "x.safetensors"] {
        let companions = vec![(name.to_owned(), Vec::new())];
        let refused = folder.write(&HostDisk, &states(8), &About { companions, ..about(8) }, None);
        assert!(refused.is_err(), "{name}");
    }
}

#[test]
fn a_part_is_loaded_from_its_own_files_alone() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = write(dir.path(), 7, None);
    let of_second = |name: &str| name.starts_with("b.");
    let whole = checkpoint.load(&known()).unwrap();
    let check = || {
        let part = checkpoint.load_part(&known(), &of_second).unwrap();
        assert_eq!(part.weights.keys().collect::<Vec<_>>(), ["b.weight"]);
        assert_eq!(part.moments.keys().collect::<Vec<_>>(), ["b.weight"]);
        assert_eq!(bits(&part.weights["b.weight"]), bits(&whole.weights["b.weight"]));
        assert_eq!(part.optimizer_steps, 7);
    };
    check();
    // What is wrong elsewhere, whoever reads it finds.
    let other = checkpoint.path().join("model-00001-of-00002.safetensors");
    let bytes = std::fs::read(&other).unwrap();
    std::fs::write(&other, vec![0; bytes.len()]).unwrap();
    check();
    assert!(checkpoint.load(&known()).is_err());
    std::fs::write(&other, bytes).unwrap();
    for name in ["model.safetensors.index.json", "optimizer-00002-of-00002.safetensors"] {
        let own = checkpoint.path().join(name);
        let mut bytes = std::fs::read(&own).unwrap();
        bytes[9] ^= 1;
        std::fs::write(&own, &bytes).unwrap();
        let refused = checkpoint.load_part(&known(), &of_second).unwrap_err().to_string();
        assert!(refused.contains(name), "{refused}");
        bytes[9] ^= 1;
        std::fs::write(&own, &bytes).unwrap();
    }
    let none = checkpoint.load_part(&known(), &|_| false).unwrap();
    assert!(none.weights.is_empty() && none.moments.is_empty());
}
