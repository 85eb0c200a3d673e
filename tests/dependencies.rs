//! Schedules, logs and the monitor are of use without tensors: they must not depend on candle.
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
    for package in ["pp-schedule", "pp-telemetry", "pp-devices"] {
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
    // What trains does: this test can fail.
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
