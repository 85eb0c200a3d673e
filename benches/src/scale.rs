//! Do plans stay linear when they grow? `just bench` runs it: each fixed schedule at two sizes, the
//! second with four times the ops, generated, validated and simulated: with more ranks and
//! micro-batches, with more micro-batches alone, and with more ranks alone. Then 1F1B on 1,024
//! ranks with 8,192 micro-batches, with the memory that it takes. The numbers go to
//! `benches/results/scale.json`.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;
use pp_schedule::{Costs, RankShare, ScheduleName, Sizes, simulate};
use serde_json::{Value, json};

/// Four times the ops may take so many times as long.
const GROWTH_MAX: f64 = 5.5;
/// What the largest plan may take.
const SECONDS_MAX: f64 = 15.0;
const GIB_MAX: f64 = 6.0;
/// Of so many runs the fastest counts: whatever else the machine does only adds.
const RUNS: usize = 2;
/// The argument with which this program measures itself, alone in a process.
const LARGEST: &str = "--largest";

fn main() -> anyhow::Result<()> {
    if std::env::args().any(|arg| arg == LARGEST) {
        return largest();
    }
    let mut rows = Vec::new();
    let mut missed = 0;
    println!(
        "{:<18} {:>10} {:>10} {:>9} {:>9} {:>7}",
        "schedule", "ops", "4x ops", "s", "s", "ratio"
    );
    let names = ScheduleName::ALL.into_iter().filter(|name| !name.is_synthesised());
    // Both beyond the size up to which the lower bound is exact, then both within it, where it
    // costs more than all the rest, the more with memory limits. The last two: ranks alone, with
    // one micro-batch and with several.
    for (small, large, is_limited) in [
        ((512, 2048), (1024, 4096), false),
        ((2, 20_000), (2, 80_000), true),
        ((40_000, 1), (160_000, 1), false),
        ((8_000, 8), (32_000, 8), true),
    ] {
        for name in names.clone() {
            if !takes(name, small) || !takes(name, large) {
                continue;
            }
            let (n_small, seconds_small) = fastest(name, small, is_limited)?;
            let (n_large, seconds_large) = fastest(name, large, is_limited)?;
            let ratio = seconds_large / seconds_small;
            let limited = if is_limited { "within limits" } else { "" };
            println!(
                "{name:<18} {n_small:>10} {n_large:>10} {seconds_small:>9.3} {seconds_large:>9.3} {ratio:>7.2} {limited}"
            );
            missed += usize::from(ratio > GROWTH_MAX);
            rows.push(json!({
                "schedule": name.as_str(), "pp": [small.0, large.0], "micro_batches": [small.1, large.1], "ops": [n_small, n_large], "seconds": [seconds_small, seconds_large], "ratio": ratio,
                "memory_limit": is_limited,
            }));
        }
    }
    let output = Command::new(std::env::current_exe()?).arg(LARGEST).output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let largest: Value = serde_json::from_slice(&output.stdout).context("the largest plan")?;
    let number = |key: &str| largest[key].as_f64().unwrap_or(f64::NAN);
    println!(
        "1f1b, p=1024 m=8192: {} ops in {:.1} s and {:.2} GiB",
        number("ops"),
        number("seconds"),
        number("gib")
    );
    missed += usize::from(number("seconds") > SECONDS_MAX) + usize::from(number("gib") > GIB_MAX);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/scale.json");
    let results = json!({"growth": rows, "largest": largest});
    std::fs::write(&path, serde_json::to_string_pretty(&results)? + "\n")?;
    println!("written: benches/results/scale.json");
    anyhow::ensure!(missed == 0, "{missed} bounds were missed");
    Ok(())
}

/// Whether a schedule takes the size at all.
fn takes(name: ScheduleName, (n_ranks, n_micro_batches): (u32, u32)) -> bool {
    let n_virtual_stages = name.default_virtual_stages();
    let sizes = Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group: None };
    name.check(&sizes).is_ok()
}

fn fastest(name: ScheduleName, size: (u32, u32), is_limited: bool) -> anyhow::Result<(usize, f64)> {
    let mut best = (0, f64::INFINITY);
    for _ in 0..RUNS {
        let (n_ops, seconds) = play(name, size, is_limited)?;
        best = (n_ops, seconds.min(best.1));
    }
    Ok(best)
}

/// Generates, validates and simulates. How many ops, and how long it took.
fn play(
    name: ScheduleName,
    (n_ranks, n_micro_batches): (u32, u32),
    is_limited: bool,
) -> anyhow::Result<(usize, f64)> {
    let n_virtual_stages = name.default_virtual_stages();
    let sizes = Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group: None };
    let start = Instant::now();
    let plan = name.generate(&sizes)?;
    let memory_limit = is_limited.then(|| f64::from(n_micro_batches) / 2.0);
    let share = RankShare { memory_limit, ..RankShare::default() };
    let costs = Costs::per_rank_share(plan.topology(), &share);
    let simulation = simulate(&plan, &costs)?;
    let seconds = start.elapsed().as_secs_f64();
    anyhow::ensure!(simulation.lower_bound <= simulation.makespan, "{name}");
    Ok((plan.n_ops(), seconds))
}

fn largest() -> anyhow::Result<()> {
    let (n_ops, seconds) = play(ScheduleName::OneFOneB, (1024, 8192), false)?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line.context("no VmHWM")?.trim().trim_end_matches("kB").trim().parse()?;
    println!("{}", json!({"ops": n_ops, "seconds": seconds, "gib": kib / f64::from(1 << 20)}));
    Ok(())
}
