//! Writing, with an interruption at every operation on the disk.

use std::path::Path;

use pp_hybrid::checkpoint::{CheckpointFolder, HostDisk, newest};
use tempfile::TempDir;

use crate::faulty::{Fault, Faulty};
use crate::{about, is_whole, states, write};

/// A folder with as many checkpoints as there are steps.
fn folder_with(steps: &[u64]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for &step in steps {
        write(dir.path(), step, None);
    }
    dir
}

/// Writes a checkpoint of step 9, keeping one. Returns the disk and whether it was said to be
/// durable.
fn attempt(dir: &Path, fault: Fault) -> (Faulty, bool) {
    let disk = Faulty::new(dir, fault);
    let folder = CheckpointFolder::take(dir, &disk);
    let written = folder.and_then(|folder| folder.write(&disk, &states(9), &about(9), Some(1)));
    (disk, written.is_ok())
}

/// Checks what a run finds in `dir` that looks for a checkpoint now.
fn check(dir: &Path, older: &[u64], was_durable: bool, case: &str) {
    let found = newest(dir).unwrap();
    match found.checkpoint {
        Some(checkpoint) => {
            let step = checkpoint.manifest().step;
            assert!(is_whole(&checkpoint), "{case}");
            assert!(step == 9 || older.last() == Some(&step) && !was_durable, "{case}: {step}");
        }
        None => assert!(older.is_empty() && !was_durable, "{case}: none is left"),
    }
    // No half has a name, so nothing had to be refused.
    assert!(found.refused.is_empty(), "{case}: {:?}", found.refused);
    // And the next run can write here.
    let folder = CheckpointFolder::take(dir, &HostDisk).unwrap();
    let next = folder.write(&HostDisk, &states(12), &about(12), Some(1)).unwrap();
    assert!(is_whole(&next.checkpoint) && next.not_removed.is_none(), "{case}");
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [".lock", "step-00000012"], "{case}");
}

#[test]
fn once_one_was_durable_a_whole_one_is_there_whatever_is_interrupted() {
    let mut n_cases = 0;
    for older in [&[][..], &[5], &[4, 5]] {
        let n_ops = attempt(folder_with(older).path(), Fault::None).0.n_ops();
        for at in 0..=n_ops {
            for fault in [Fault::Once(at), Fault::Full(at), Fault::Killed(at)] {
                let dir = folder_with(older);
                let (_, was_durable) = attempt(dir.path(), fault);
                assert!(was_durable || at < n_ops);
                check(dir.path(), older, was_durable, &format!("{older:?} {fault:?}"));
                n_cases += 1;
            }
            // The power fails. First nothing survives that was not synced, then all, then some.
            for survivors in 0..8_u64 {
                let dir = folder_with(older);
                let (disk, was_durable) = attempt(dir.path(), Fault::Killed(at));
                let after = tempfile::tempdir().unwrap();
                let mut seed = survivors * 1000 + at as u64;
                let mut survives = || match survivors {
                    0 => false,
                    1 => true,
                    _ => {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        seed >> 63 == 1
                    }
                };
                disk.after_power_loss(after.path(), &mut survives);
                let case = format!("{older:?} power fails at {at}, survivors {survivors}");
                check(after.path(), older, was_durable, &case);
                n_cases += 1;
            }
        }
        println!("{} older: {n_ops} operations", older.len());
    }
    println!("{n_cases} interruptions");
}
