//! Where a step's time goes, against what the machine can do: `just bench`.
//!
//! For seed-mlp and gpt on two ranks: F, I and W of each rank beside what their matrix products alone take (the faster of candle's and
//! ours, the same shapes, weights that are not in the cache, on both cores at once); waiting, copying, the optimizer and the rest;
//! the window beside the simulation with the measured times. Then, in pairs: what recording costs, and what pinning gains.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

mod products;
mod subject;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use pp_hybrid::StepOutcome;
use pp_telemetry::{Recorder, SpanKind};
use serde_json::{Value, json};

use products::{Matrices, Product, ceilings, products_alone};
use subject::{RANKS, Run, Subject, subjects};

#[global_allocator]
static ALLOCATOR: pp_nn::memory::CountingAllocator<mimalloc::MiMalloc> =
    pp_nn::memory::CountingAllocator(mimalloc::MiMalloc);

/// What one rank spent in spans of some kinds in a step.
fn spent(outcome: &StepOutcome, rank: u32, kinds: &[SpanKind]) -> f64 {
    let of = outcome.spans.iter().filter(|s| s.rank == rank && kinds.contains(&s.op));
    of.map(|s| s.dur_ns as f64 / 1e9).sum()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Where the step's time goes.
fn account(subject: &Subject, rounds: usize) -> anyhow::Result<Value> {
    const PHASES: [(SpanKind, &str); 3] =
        [(SpanKind::F, "F"), (SpanKind::I, "I"), (SpanKind::W, "W")];
    let mut run = Run::new(subject, Recorder::disabled(), false)?;
    let [first, second] = &subject.products;
    let mut matrices = [Matrices::new(first)?, Matrices::new(second)?];
    let mut alone: [[Vec<f64>; 3]; 2] = Default::default();
    let mut outcomes = Vec::new();
    let mut windows = Vec::new();
    for _ in 0..rounds {
        let outcome = run.step()?;
        windows.push(outcome.bubble.window_seconds / run.simulated(&outcome)?);
        outcomes.push(outcome);
        for (alone, found) in alone.iter_mut().zip(products_alone(&mut matrices)?) {
            for (alone, found) in alone.iter_mut().zip(found) {
                alone.push(found * subject.micro_batches as f64);
            }
        }
    }
    let of_step =
        |f: &dyn Fn(&StepOutcome) -> f64| median(&outcomes.iter().map(f).collect::<Vec<_>>());
    let step = of_step(&|o| o.seconds);
    println!("{}: a step takes {:.1} ms", subject.name, 1e3 * step);
    println!(
        "  {:<6} {:>9} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9}",
        "rank", "compute", "products", "ratio", "wait", "copy", "optimizer", "rest"
    );
    let mut ranks = Vec::new();
    for rank in 0..RANKS {
        let ms = |kinds: &[SpanKind]| 1e3 * of_step(&|o| spent(o, rank, kinds));
        let of_rank = &alone[rank as usize];
        let gemms: f64 = of_rank.iter().map(|a| 1e3 * median(a)).sum();
        let compute: f64 = PHASES.iter().map(|(kind, _)| ms(&[*kind])).sum();
        let wait = ms(&[SpanKind::WaitAct, SpanKind::WaitGrad]);
        let copy = ms(&[SpanKind::Send, SpanKind::Recv]);
        let optimizer = ms(&[SpanKind::Optim]);
        let rest = 1e3 * step - compute - wait - copy - optimizer;
        println!(
            "  {rank:<6} {compute:>9.1} {gemms:>9.1} {:>7.2} {wait:>9.1} {copy:>9.2} {optimizer:>9.1} {rest:>9.1}",
            compute / gemms
        );
        let phases: Vec<Value> = PHASES
            .iter()
            .zip(of_rank)
            .map(|((kind, name), alone)| {
                let (spans, alone) = (ms(&[*kind]), 1e3 * median(alone));
                println!("    {name}    {spans:>9.1} {alone:>9.1} {:>7.2}", spans / alone);
                json!({"phase": name, "spans_ms": spans, "products_ms": alone, "ratio": spans / alone})
            })
            .collect();
        ranks.push(json!({
            "rank": rank, "phases": phases, "compute_ms": compute, "products_ms": gemms, "ratio": compute / gemms,
            "wait_ms": wait, "copy_ms": copy, "optimizer_ms": optimizer, "rest_ms": rest,
        }));
    }
    let flops: f64 = subject.products.iter().flatten().map(Product::flops).sum();
    let flops = 3.0 * flops * subject.micro_batches as f64;
    let window = median(&windows);
    println!("  window by simulated window {window:.3}; {:.1} GFLOP a step\n", flops / 1e9);
    Ok(json!({
        "job": subject.name, "step_ms": 1e3 * step, "ranks": ranks, "window_by_simulated": window, "flops": flops,
    }))
}

/// How a run differs from a plain one.
#[derive(Clone, Copy)]
enum Variant {
    Plain,
    Recorded,
    Pinned,
}

/// The median of some steps of a run that is built for it: where its memory lies is part of the chance.
fn steps_of(subject: &Subject, variant: Variant) -> anyhow::Result<f64> {
    const STEPS: usize = 3;
    let folder = std::env::temp_dir().join(format!("pptop-account-{}", std::process::id()));
    let recorder = match variant {
        Variant::Recorded => Recorder::create(&folder)?,
        Variant::Plain | Variant::Pinned => Recorder::disabled(),
    };
    let mut run = Run::new(subject, recorder, matches!(variant, Variant::Pinned))?;
    let seconds: Vec<f64> =
        (0..STEPS).map(|_| Ok(run.step()?.seconds)).collect::<anyhow::Result<_>>()?;
    drop(run);
    let _ = std::fs::remove_dir_all(&folder);
    Ok(median(&seconds))
}

/// Plain runs beside plain ones, recorded ones and pinned ones, in turns: the ratio of each pair.
fn pairs(subject: &Subject, n: usize) -> anyhow::Result<Vec<Value>> {
    let variants = [
        ("plain once more", Variant::Plain),
        ("recorded", Variant::Recorded),
        ("pinned", Variant::Pinned),
    ];
    let mut ratios = vec![Vec::new(); variants.len()];
    for _ in 0..n {
        let plain = steps_of(subject, Variant::Plain)?;
        for ((_, variant), ratios) in variants.iter().zip(&mut ratios) {
            ratios.push(steps_of(subject, *variant)? / plain);
        }
    }
    let mut found = Vec::new();
    for ((what, _), mut ratios) in variants.into_iter().zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        let (low, high) = (ratios[n / 4], ratios[n - 1 - n / 4]);
        println!(
            "  {what:<16} {:.4} of the time of a plain run, half of {n} pairs between {low:.4} and {high:.4}",
            median(&ratios)
        );
        found.push(
            json!({"what": what, "pairs": n, "median": median(&ratios), "quartiles": [low, high]}),
        );
    }
    println!();
    Ok(found)
}

fn main() -> anyhow::Result<()> {
    ensure!(candle_core::utils::get_num_threads() == 1, "RAYON_NUM_THREADS must be 1");
    let (flops, bytes) = ceilings();
    println!(
        "one core: {:.1} GFLOP/s in a product of 1024 x 1024, {:.1} GB/s read\n",
        flops / 1e9,
        bytes / 1e9
    );
    let mut accounts = Vec::new();
    let mut compared = Vec::new();
    for subject in &subjects()? {
        accounts.push(account(subject, 9)?);
        compared.push(json!({"job": subject.name, "pairs": pairs(subject, 20)?}));
    }
    let found = json!({
        "core": {"flops_per_second": flops, "bytes_per_second": bytes}, "accounts": accounts, "pairs": compared,
    });
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/account.json");
    std::fs::write(&path, serde_json::to_string_pretty(&found)? + "\n")
        .with_context(|| path.display().to_string())?;
    println!("written: benches/results/account.json");
    Ok(())
}
