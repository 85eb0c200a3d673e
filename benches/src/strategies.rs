//! The strategies on `seed-mlp` and `gpt`, side by side: `just bench`. The numbers go to
//! `benches/results/strategies.json`, the tables to standard output.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

mod pptop;

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

fn main() -> anyhow::Result<()> {
    // The same selection of packages as `cargo run --release --bin pptop`: one build of candle.
    let pptop = pptop::build()?;
    let extra: Vec<String> = std::env::args().skip(1).collect();
    let mut results = Vec::new();
    for job in [
        &["compare", "--preset", "seed", "--pp", "2", "--steps", "12"][..],
        &["compare", "--model", "gpt", "--pp", "2", "--steps", "30"][..],
    ] {
        let mut args = job.to_vec();
        args.extend(extra.iter().map(String::as_str));
        let found = pptop::json(&pptop, &args)?;
        println!("pptop {}", args.join(" "));
        println!(
            "{:<18} {:>10} {:>10} {:>9} {:>10} {:>10} {:>10}",
            "strategy", "median ms", "p95 ms", "speed-up", "formula", "simulated", "measured"
        );
        for row in found["rows"].as_array().context("no rows")? {
            let ms = |key: &str| 1000.0 * row[key].as_f64().unwrap_or(f64::NAN);
            let bubble = |key: &str| {
                row["bubble_ratio"][key]
                    .as_f64()
                    .map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"))
            };
            println!(
                "{:<18} {:>10.1} {:>10.1} {:>8.2}x {:>10} {:>10} {:>10}",
                row["label"].as_str().unwrap_or_default(),
                ms("step_seconds_median"),
                ms("step_seconds_p95"),
                row["speedup"].as_f64().unwrap_or(f64::NAN),
                bubble("closed_form"),
                bubble("simulated"),
                bubble("measured")
            );
        }
        println!();
        results.push(json!({"command": format!("pptop {}", args.join(" ")), "result": found}));
    }
    write("strategies.json", &Value::Array(results))
}

fn write(name: &str, value: &Value) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(name);
    std::fs::write(&path, serde_json::to_string_pretty(value)? + "\n")
        .with_context(|| path.display().to_string())?;
    println!("written: benches/results/{name}");
    Ok(())
}
