//! Runs the real `pptop` and reads its JSON: what is measured is what users get.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The release build of `pptop`, made now if need be.
///
/// # Errors
/// If it does not build.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The same selection of packages as `cargo run --release --bin pptop`: one build of candle.
    let status = Command::new(cargo).args(["build", "--release", "--bin", "pptop"]).status()?;
    if !status.success() {
        bail!("pptop does not build");
    }
    let this = std::env::current_exe()?;
    let beside = this.with_file_name("pptop");
    if !beside.is_file() {
        bail!("{} is missing", beside.display());
    }
    Ok(beside)
}

/// Standard output of `pptop ARGS`.
///
/// # Errors
/// If it does not end with 0.
pub(crate) fn run(pptop: &PathBuf, args: &[&str]) -> anyhow::Result<String> {
    // What it is compared with computes on the processor.
    let output = Command::new(pptop).args(args).env("PPTOP_DEVICE", "cpu").output()?;
    if !output.status.success() {
        bail!("pptop {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).context("pptop wrote something that is no text")
}

/// `pptop ARGS --json`, whose output is one JSON value.
///
/// # Errors
/// If it does not end with 0 or does not write JSON.
pub(crate) fn json(pptop: &PathBuf, args: &[&str]) -> anyhow::Result<Value> {
    let mut args = args.to_vec();
    args.push("--json");
    serde_json::from_str(&run(pptop, &args)?).context("pptop did not write JSON")
}
