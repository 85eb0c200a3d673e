//! What checkpoints cost: steps with and without them, in turns.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::Value;

use super::numbers::median;
use super::pptop;

const ROUNDS: usize = 5;
/// Steps of each run; a checkpoint follows every tenth.
const STEPS: u32 = 41;

/// For each round, the seconds of a step without checkpoints over those with a checkpoint every ten
/// steps. The job is the `gpt` of `just bench-peers` on two ranks.
pub(crate) fn share_of_speed(pptop: &PathBuf) -> anyhow::Result<f64> {
    let mut shares = Vec::with_capacity(ROUNDS);
    for round in 1..=ROUNDS {
        let without = step_seconds(pptop, &[])?;
        let with = step_seconds(pptop, &["--checkpoint-every", "10"])?;
        println!("round {round}: {:.1} and {:.1} ms a step", 1e3 * without, 1e3 * with);
        shares.push(without / with);
    }
    Ok(median(&shares))
}

/// The seconds of a step, with all that happens between two steps. The first step finds its sizes
/// and does not count.
fn step_seconds(pptop: &PathBuf, checkpoints: &[&str]) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("run").display().to_string();
    let steps = STEPS.to_string();
    let mut args = vec![
        "train",
        "--headless",
        "--json",
        "--model",
        "gpt",
        "--layers",
        "8",
        "--width",
        "256",
        "--heads",
        "8",
        "--context",
        "128",
        "--batch-size",
        "16",
        "--micro-batches",
        "8",
        "--pp",
        "2",
        "--schedule",
        "zb-h1",
        "--eval-every",
        "1000",
        "--steps",
        &steps,
        "--run-dir",
        &dir,
    ];
    args.extend(checkpoints);
    let lines = pptop::run(pptop, &args)?;
    let ends: Vec<f64> = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["ev"] == "step")
        .filter_map(|event| event["elapsed_seconds"].as_f64())
        .collect();
    let (first, last) = (ends.first().context("no step")?, ends.last().context("no step")?);
    Ok((last - first) / (ends.len() - 1) as f64)
}
