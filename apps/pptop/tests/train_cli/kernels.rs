//! The choice of matrix kernels: forced, measured, kept, and what it may change.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::home::{Events, Home};

const GPT: &str = "train --headless --json --run-dir run --model gpt --layers 2 --width 32 --heads 2 \
     --context 32 --batch-size 8 --micro-batches 4 --pp 2 --partition uniform --steps 3";

/// What is in the log of a run with these flags, in a folder of its own.
fn run(home: &Home, dir: &str, flags: &str) -> Events {
    home.stdout(&format!("{} {flags}", GPT.replace("--run-dir run", &format!("--run-dir {dir}"))));
    Events::of(&fs::read_to_string(home.path(&format!("{dir}/events.jsonl"))).unwrap())
}

/// Of two ranks in three steps.
fn packed_bytes(run: &Events) -> [u64; 6] {
    let memory = run.kind("mem");
    let bytes: Vec<u64> = memory.iter().map(|mem| mem["packed_bytes"].as_u64().unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn packed_weights_change_bytes_and_no_bits() {
    let home = Home::new();
    // Panels everywhere, whatever this processor has.
    let kernel = if cfg!(target_arch = "x86_64") { "avx2" } else { "neon" };
    let with = run(&home, "with", &format!("--kernels {kernel}"));
    let without = run(&home, "without", &format!("--kernels {kernel} --no-packed-weights"));
    let hash = |run: &Events| run.one("end")["weights_hash"].clone();
    assert!(hash(&with).is_string());
    assert_eq!(hash(&with), hash(&without));
    assert_eq!(with.one("hello")["kernels"], json!(kernel));
    assert!(packed_bytes(&with).iter().all(|&bytes| bytes > 0), "{:?}", packed_bytes(&with));
    assert_eq!(packed_bytes(&without), [0; 6]);
    // Nobody measured, so there is nothing to keep.
    assert!(!home.path("state/kernels.json").exists());
}

#[test]
fn a_choice_is_measured_once_and_kept_for_its_owner() {
    let home = Home::new();
    let first = run(&home, "first", "");
    let kept = home.path("state/kernels.json");
    let choices: Value = serde_json::from_str(&fs::read_to_string(&kept).unwrap()).unwrap();
    let choices: Vec<&Value> = choices.as_object().unwrap().values().collect();
    assert_eq!(choices, [&first.one("hello")["kernels"]]);
    for (path, mode) in [(home.path("state"), 0o700), (kept.clone(), 0o600)] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
    }
    // What is kept is taken as it is.
    let text = fs::read_to_string(&kept).unwrap();
    let other = text.replace(choices[0].as_str().unwrap(), "gemm");
    fs::write(&kept, &other).unwrap();
    assert_eq!(run(&home, "second", "").one("hello")["kernels"], json!("gemm"));
    assert_eq!(run(&home, "rule", "--kernels rule").kind("hello").len(), 1);
    assert_eq!(fs::read_to_string(&kept).unwrap(), other);
}

#[test]
fn a_choice_that_cannot_be_kept_is_told_and_costs_nothing() {
    let home = Home::new();
    fs::create_dir_all(home.path("state/kernels.json")).unwrap();
    let ran = home.run(&GPT.split_whitespace().collect::<Vec<_>>());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("the choice of kernels is not kept"), "{}", ran.stderr);
}

#[test]
fn layers_that_sleep_have_no_kernels() {
    let home = Home::new();
    let stdout = home.stdout(
        "train --headless --json --run-dir run --model sleep --pp 2 --micro-batches 2 --steps 2",
    );
    assert!(Events::of(&stdout).one("hello")["kernels"].is_null());
    assert!(!home.path("state/kernels.json").exists());
}
