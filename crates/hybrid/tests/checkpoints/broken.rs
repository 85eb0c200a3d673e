//! Checkpoints that are not as they were written.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use candle_core::Shape;
use pp_hybrid::checkpoint::{Checkpoint, CheckpointError, newest};

use crate::{is_whole, known, write};

/// The error of a checkpoint that is opened and loaded.
fn refused(path: &Path) -> Option<String> {
    let loaded = Checkpoint::open(path).and_then(|checkpoint| {
        let loaded = checkpoint.load(&known()).map(drop);
        assert_eq!(loaded.is_err(), checkpoint.verify().is_err(), "both read every byte");
        loaded
    });
    loaded.err().map(|error| error.to_string())
}

/// A small random number that is the same in every run.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn any_changed_byte_is_found_and_its_file_named() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = write(dir.path(), 3, None);
    let mut seed = 1;
    let mut n_changed = 0;
    let names = checkpoint.manifest().files.iter().map(|file| file.name.clone());
    for name in names.chain(["manifest.json".to_owned()]) {
        let path = checkpoint.path().join(&name);
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (random(&mut seed) % 8);
            fs::write(&path, &changed).unwrap();
            let why = refused(checkpoint.path()).unwrap_or_else(|| panic!("{name}, byte {at}"));
            assert!(why.contains(&name) && !why.contains('\n'), "{why}");
            n_changed += 1;
        }
        fs::write(&path, bytes).unwrap();
    }
    assert!(refused(checkpoint.path()).is_none());
    println!("{n_changed} changed bytes");
}

/// Breaks the file at a path.
type Fault = fn(&Path);

#[test]
fn a_file_that_is_cut_missing_foreign_renamed_or_a_link_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let older = write(dir.path(), 3, None);
    let names: Vec<String> = older.manifest().files.iter().map(|file| file.name.clone()).collect();
    let faults: [(&str, Fault); 8] = [
        ("cut to nothing", |path| fs::write(path, "").unwrap()),
        ("cut by a byte", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("longer by a byte", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, [&bytes[..], b" "].concat()).unwrap();
        }),
        ("missing", |path| fs::remove_file(path).unwrap()),
        ("renamed", |path| fs::rename(path, path.with_extension("old")).unwrap()),
        ("a link to the same bytes", |path| {
            let elsewhere = tempfile::NamedTempFile::new().unwrap().keep().unwrap().1;
            fs::rename(path, &elsewhere).or_else(|_| fs::copy(path, &elsewhere).map(drop)).unwrap();
            let _ = fs::remove_file(path);
            symlink(&elsewhere, path).unwrap();
        }),
        ("a folder", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("a pipe", |path| {
            fs::remove_file(path).unwrap();
            let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
            assert!(made.success());
        }),
    ];
    for name in names.iter().map(String::as_str).chain(["manifest.json"]) {
        for (fault, make) in faults {
            let newer = write(dir.path(), 4, None);
            make(&newer.path().join(name));
            let why = refused(newer.path()).unwrap_or_else(|| panic!("{name} is {fault}"));
            let stem = name.trim_end_matches("safetensors").trim_end_matches("json");
            assert!(why.contains(stem) && !why.contains('\n'), "{name} is {fault}: {why}");
            let found = newest(dir.path()).unwrap();
            assert_eq!(found.refused.len(), 1, "{name} is {fault}");
            let taken = found.checkpoint.unwrap();
            assert_eq!(taken.manifest().step, 3);
            assert!(is_whole(&taken));
            fs::remove_dir_all(newer.path()).unwrap();
        }
    }
    let newer = write(dir.path(), 4, None);
    fs::write(newer.path().join("notes.txt"), "mine").unwrap();
    let why = refused(newer.path()).unwrap();
    assert!(why.ends_with("notes.txt: it is no file of this checkpoint"), "{why}");
}

#[test]
fn another_model_is_refused_with_the_first_name_that_differs() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = write(dir.path(), 3, None);
    let why = |known| checkpoint.load(&known).unwrap_err().to_string();
    let mut more = known();
    more.insert("c".to_owned(), Shape::from(2));
    assert!(why(more).ends_with("it has no c, which the model has"));
    let mut fewer = known();
    fewer.remove("a.bias");
    assert!(why(fewer).ends_with("the model has no a.bias"));
    let mut other = known();
    other.insert("b.weight".to_owned(), Shape::from((5, 1)));
    assert!(why(other).ends_with("b.weight is [5] there, [5, 1] in the model"));
    // A model that is much smaller is refused before anything is read.
    let tiny = [("a.bias".to_owned(), Shape::from(1))].into();
    std::fs::write(checkpoint.path().join("optimizer-00001-of-00002.safetensors"), "").unwrap();
    let error = checkpoint.load(&tiny).unwrap_err();
    assert!(matches!(error, CheckpointError::Broken { .. }));
}

/// Writes a manifest as `change` makes it, with the right hash of its own.
pub(crate) fn reseal(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let at = path.join("manifest.json");
    let mut whole: serde_json::Value = serde_json::from_slice(&fs::read(&at).unwrap()).unwrap();
    change(&mut whole["manifest"]);
    let text = whole["manifest"].to_string();
    let hash = pp_hybrid::sha256_hex([text.as_bytes()]);
    fs::write(at, format!(r#"{{"manifest":{text},"sha256":"{hash}"}}"#)).unwrap();
}

/// Changes a manifest.
type Change = fn(&mut serde_json::Value);

/// Somebody made it so: its hashes are right, and nothing else is.
#[test]
fn a_manifest_with_absurd_sizes_or_names_is_refused_before_anything_is_read() {
    let faults: [(&str, Change); 9] = [
        ("18446744073709551615", |m| m["files"][0]["bytes"] = u64::MAX.into()),
        ("bytes", |m| m["files"][0]["bytes"] = 1_u64.into()),
        ("../../secret", |m| m["files"][0]["name"] = "../../secret".into()),
        ("/etc/passwd", |m| m["files"][0]["name"] = "/etc/passwd".into()),
        ("manifest.json", |m| m["files"][0]["name"] = "manifest.json".into()),
        ("model-00002", |m| m["files"][0]["name"] = m["files"][1]["name"].clone()),
        ("expected", |m| m["files"] = serde_json::json!({"a": 1})),
        ("schema 4000000000", |m| m["schema"] = 4_000_000_000_u64.into()),
        ("invalid type", |m| m["step"] = (-1).into()),
    ];
    for (told, fault) in faults {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = write(dir.path(), 3, None);
        reseal(checkpoint.path(), fault);
        let why = refused(checkpoint.path()).unwrap_or_else(|| panic!("{told}"));
        assert!(why.contains(told) || why.contains("invalid value"), "{told}: {why}");
        assert!(!why.contains('\n'), "{why}");
        let found = newest(dir.path()).unwrap();
        assert_eq!((found.checkpoint.is_none(), found.refused.len()), (true, 1), "{told}");
    }
    // A file of 16 EiB by its manifest, and a hole of a terabyte on the disk: refused by its size.
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = write(dir.path(), 3, None);
    let name = "optimizer-00001-of-00002.safetensors";
    let file = fs::OpenOptions::new().write(true).open(checkpoint.path().join(name)).unwrap();
    file.set_len(1 << 40).unwrap();
    let bytes = |m: &mut serde_json::Value| {
        for file in m["files"].as_array_mut().unwrap() {
            if file["name"] == name {
                file["bytes"] = (1_u64 << 40).into();
            }
        }
    };
    reseal(checkpoint.path(), bytes);
    let checkpoint = Checkpoint::open(checkpoint.path()).unwrap();
    let error = checkpoint.load(&known()).unwrap_err();
    assert!(error.to_string().contains("bytes, the model needs at most"), "{error}");
}

/// The head of a tensor file claims what cannot be; its hash in the manifest is right.
#[test]
fn a_head_with_absurd_sizes_is_refused() {
    for head in [
        r#"{"a.weight":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,24]}}"#,
        r#"{"a.weight":{"dtype":"F32","shape":[3,2],"data_offsets":[0,18446744073709551615]}}"#,
        r#"{"a.weight":{"dtype":"F32","shape":[3,2],"data_offsets":[24,0]}}"#,
        r#"{"a.weight":{"dtype":"F64","shape":[3,2],"data_offsets":[0,48]}}"#,
        r#"{"a.weight":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},"x":1}"#,
        "[[[[[[[[[[[[[[[[[[[[[[",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = write(dir.path(), 3, None);
        let name = "model-00001-of-00002.safetensors";
        for head_len in [head.len() as u64, u64::MAX, 1 << 40] {
            let bytes = [&head_len.to_le_bytes()[..], head.as_bytes(), &[0; 48]].concat();
            fs::write(checkpoint.path().join(name), &bytes).unwrap();
            reseal(checkpoint.path(), |m| {
                for file in m["files"].as_array_mut().unwrap() {
                    if file["name"] == name {
                        file["bytes"] = (bytes.len() as u64).into();
                        file["sha256"] = pp_hybrid::sha256_hex([&bytes[..]]).into();
                    }
                }
            });
            let made = Checkpoint::open(checkpoint.path()).unwrap();
            made.verify().unwrap();
            let why = made.load(&known()).unwrap_err().to_string();
            assert!(why.contains(name) && !why.contains('\n'), "{head} {head_len}: {why}");
        }
    }
}
