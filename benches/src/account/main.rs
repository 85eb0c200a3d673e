//! Where a step's time goes, against what the machine can do: `just bench`.
//!
//! For seed-mlp and gpt on two ranks: F, I and W of each rank, in processor time of its thread,
//! beside what their matrix products alone take: each by the fastest of candle, our kernels and
//! PyTorch, the same shapes, weights that are not in the cache, on both cores at once. Then
//! waiting, copying, the optimizer and the rest; the window beside the simulation with the measured
//! times; and, in pairs, what recording costs and what pinning gains.
//!
//! PyTorch takes part where `benches/peers/run.sh` has brought it.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

#[path = "../numbers.rs"]
mod numbers;
mod products;
#[path = "../results.rs"]
mod results;
mod subject;

use anyhow::{Context as _, ensure};
use pp_hybrid::StepOutcome;
use pp_telemetry::{Processor, Recorder, SpanKind};
use serde_json::{Value, json};

use numbers::median;
use products::{Alone, Matrices, Product, Sums, ceilings, products_alone};
use subject::{RANKS, Run, Subject, subjects};

#[global_allocator]
static ALLOCATOR: pp_nn::memory::CountingAllocator<mimalloc::MiMalloc> =
    pp_nn::memory::CountingAllocator(mimalloc::MiMalloc);

/// What the thread of one rank worked in spans of some kinds in a step.
fn worked(outcome: &StepOutcome, rank: u32, kinds: &[SpanKind]) -> f64 {
    let of = outcome.spans.iter().filter(|s| s.rank == rank && kinds.contains(&s.op));
    of.map(|s| s.cpu_ns as f64 / 1e9).sum()
}

/// What one rank spent in spans of some kinds in a step.
fn spent(outcome: &StepOutcome, rank: u32, kinds: &[SpanKind]) -> f64 {
    let of = outcome.spans.iter().filter(|s| s.rank == rank && kinds.contains(&s.op));
    of.map(|s| s.dur_ns as f64 / 1e9).sum()
}

/// Where the step's time goes.
fn account(subject: &Subject, rounds: usize) -> anyhow::Result<Value> {
    const PHASES: [(SpanKind, &str); 3] =
        [(SpanKind::F, "F"), (SpanKind::I, "I"), (SpanKind::W, "W")];
    let mut run = Run::new(subject, Recorder::disabled(), false)?;
    let [first, second] = &subject.products;
    let mut matrices = [Matrices::new(first)?, Matrices::new(second)?];
    let mut alone: [Vec<Alone>; 2] = Default::default();
    let mut outcomes = Vec::new();
    let mut windows = Vec::new();
    for _ in 0..rounds {
        let outcome = run.step()?;
        windows.push(outcome.bubble.window_seconds / run.simulated(&outcome)?);
        outcomes.push(outcome);
        for (alone, found) in alone.iter_mut().zip(products_alone(&mut matrices)?) {
            alone.push(found);
        }
    }
    let of_step =
        |f: &dyn Fn(&StepOutcome) -> f64| median(&outcomes.iter().map(f).collect::<Vec<_>>());
    let step = of_step(&|o| o.seconds);
    println!("{}: a step takes {:.1} ms", subject.name, 1e3 * step);
    println!(
        "  {:<6} {:>9} {:>9} {:>7} {:>9} {:>9} {:>9}",
        "rank", "spans", "products", "ratio", "by candle", "by ours", "PyTorch"
    );
    let mut ranks = Vec::new();
    for rank in 0..RANKS {
        let ms = |kinds: &[SpanKind]| 1e3 * of_step(&|o| spent(o, rank, kinds));
        let sums = Sums::of(&matrices[rank as usize], &alone[rank as usize]);
        // Milliseconds of a step.
        let products = |of_phase: &[f64; 3], phases: &[usize]| {
            let sum = phases.iter().map(|&phase| of_phase[phase]).sum::<f64>();
            1e3 * sum * subject.micro_batches as f64
        };
        let row = |name: &str, spans: f64, phases: &[usize]| -> Value {
            let fastest = products(&sums.fastest, phases);
            let by_candle = products(&sums.candle, phases);
            let by_ours = products(&sums.ours, phases);
            let by_pytorch = sums.pytorch.map(|pytorch| products(&pytorch, phases));
            let ratio = spans / fastest;
            println!(
                "  {name:<6} {spans:>9.1} {fastest:>9.1} {ratio:>7.2} {by_candle:>9.1} {by_ours:>9.1} {:>9}",
                by_pytorch.map_or("absent".to_owned(), |ms| format!("{ms:.1}"))
            );
            json!({
                "phase": name, "spans_ms": spans, "products_ms": fastest, "ratio": ratio,
                "by_candle_ms": by_candle, "by_ours_ms": by_ours, "by_pytorch_ms": by_pytorch,
            })
        };
        let cpu = |kinds: &[SpanKind]| 1e3 * of_step(&|o| worked(o, rank, kinds));
        let phases: Vec<Value> = PHASES
            .iter()
            .enumerate()
            .map(|(phase, (kind, name))| row(&format!("{rank} {name}"), cpu(&[*kind]), &[phase]))
            .collect();
        let all = PHASES.map(|(kind, _)| kind);
        let sum = row(&format!("{rank} sum"), cpu(&all), &[0, 1, 2]);
        let wait = ms(&[SpanKind::WaitAct, SpanKind::WaitGrad]);
        let copy = ms(&[SpanKind::Send, SpanKind::Recv]);
        let optimizer = ms(&[SpanKind::Optim]);
        // Of each step, so that a slow one does not count here what another has in its parts.
        let parts = [
            &all[..],
            &[SpanKind::WaitAct, SpanKind::WaitGrad],
            &[SpanKind::Send, SpanKind::Recv],
            &[SpanKind::Optim],
        ]
        .concat();
        let rest = 1e3 * of_step(&|o| o.seconds - spent(o, rank, &parts));
        println!(
            "         wait {wait:.1}, copy {copy:.2}, optimizer {optimizer:.1}, rest {rest:.1} ms"
        );
        ranks.push(json!({
            "rank": rank, "phases": phases, "sum": sum,
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

/// The median of some steps of a run that is built for it: where its memory lies is part of the
/// chance.
fn steps_of(subject: &Subject, variant: Variant) -> anyhow::Result<f64> {
    const STEPS: usize = 3;
    let folder = tempfile::tempdir()?;
    let recorder = match variant {
        Variant::Recorded => pp_telemetry::recorder(&folder.path().join("run"))?,
        Variant::Plain | Variant::Pinned => Recorder::disabled(),
    };
    let mut run = Run::new(subject, recorder, matches!(variant, Variant::Pinned))?;
    let seconds: Vec<f64> =
        (0..STEPS).map(|_| Ok(run.step()?.seconds)).collect::<anyhow::Result<_>>()?;
    drop(run);
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
    let processor = Processor::here();
    let found = json!({
        "processor": processor.to_string(), "unix_seconds": results::unix_seconds(),
        "core": {"flops_per_second": flops, "bytes_per_second": bytes}, "accounts": accounts, "pairs": compared,
    });
    let path = results::of_processor("account", &processor);
    std::fs::write(&path, serde_json::to_string_pretty(&found)? + "\n")
        .with_context(|| path.display().to_string())?;
    println!("written: {}", path.display());
    Ok(())
}
