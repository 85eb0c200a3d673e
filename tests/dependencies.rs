//! The dependencies that each crate may have: schedules, logs and the monitor are built without
//! tensors, and a program that only writes events needs neither an analysis nor its exports.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

/// The crates that a package is built from, itself included, without what only its tests need.
fn crates_of(package: &str, flags: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none"])
        .args(["--package", package])
        .args(flags)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{package}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    text.lines().filter_map(name).collect()
}

fn tensors(crates: &[String]) -> Vec<&str> {
    let crates = crates.iter().map(String::as_str);
    crates.filter(|name| ["candle", "gemm"].iter().any(|start| name.starts_with(start))).collect()
}

#[test]
fn schedules_and_logs_need_no_tensors() {
    for package in ["pp-schedule", "pp-trace", "pp-telemetry", "pp-devices"] {
        let crates = crates_of(package, &[]);
        assert_eq!(crates[0], package);
        assert_eq!(tensors(&crates), [""; 0], "{package}");
    }
}

#[test]
fn the_monitor_alone_needs_no_tensors() {
    let light = crates_of("pptop", &["--no-default-features"]);
    assert!(light.iter().any(|name| name == "ratatui"), "{light:?}");
    assert_eq!(tensors(&light), [""; 0]);
    // The whole program needs them: this test can fail.
    let whole = crates_of("pptop", &[]);
    for name in ["candle-core", "candle-nn", "gemm"] {
        assert!(tensors(&whole).contains(&name), "{name} is not in {whole:?}");
    }
}

/// `ratatui` draws and `crossterm` reads the same terminal: with two versions of the latter, each
/// would keep its own queue of events and its own idea of the terminal's mode.
#[test]
fn there_is_one_version_of_crossterm() {
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock");
    let lock = std::fs::read_to_string(lock).unwrap();
    assert_eq!(lock.matches("name = \"crossterm\"\n").count(), 1);
}

#[test]
fn a_log_needs_serde_and_little_else() {
    let direct = |flags: &[&str]| {
        let mut names = crates_of("pp-trace", &[&["--depth", "1"], flags].concat());
        assert_eq!(names.remove(0), "pp-trace");
        names.sort_unstable();
        names
    };
    let few = ["memchr", "rustix", "serde", "serde_json", "thiserror"];
    assert_eq!(direct(&[]), few);
    assert_eq!(direct(&["--features", "zstd"]), [&few[..], &["zstd"]].concat());
    // With all that these need, and the macros that serde and thiserror are built with.
    let all = crates_of("pp-trace", &[]);
    assert!(all.len() < 30, "{all:?}");
    assert!(!all.iter().skip(1).any(|name| name.starts_with("pp-")), "{all:?}");
}

#[test]
fn whoever_records_needs_no_analysis() {
    const HEAVY: [&str; 4] = ["pp-telemetry", "prost", "crc32c", "zstd"];
    let heavy = |package: &str, flags: &[&str]| {
        let crates = crates_of(package, flags);
        HEAVY.into_iter().filter(|heavy| crates.iter().any(|name| name == heavy)).collect()
    };
    for package in ["pp-trace", "pp-executor", "pp-hybrid", "pp-devices"] {
        let found: Vec<&str> = heavy(package, &[]);
        assert_eq!(found, [""; 0], "{package}");
    }
    // What an export needs comes with its feature.
    let without: Vec<&str> = heavy("pp-telemetry", &[]);
    assert_eq!(without, ["pp-telemetry", "crc32c", "zstd"]);
    let with: Vec<&str> = heavy("pp-telemetry", &["--features", "tensorboard"]);
    assert_eq!(with, HEAVY);
}
