//! The timed promises, each with its bound: `just measure`. A line that misses is tried once more;
//! what misses twice ends the program with code 1. Wants a quiet machine.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

mod checkpoints;
mod numbers;
mod pptop;
mod replicas;

use std::path::PathBuf;

use anyhow::Context as _;
use pp_schedule::{Costs, RankShare, ScheduleName, import_csv, simulate};
use serde_json::Value;

use numbers::median;

/// What is measured, what it should be, how far off it may be.
struct Promise {
    name: String,
    value: f64,
    wanted: f64,
    /// `None`: at least `wanted`.
    within: Option<f64>,
}

impl Promise {
    fn is_kept(&self) -> bool {
        match self.within {
            Some(within) => (self.value - self.wanted).abs() <= within,
            None => self.value >= self.wanted,
        }
    }
}

fn main() -> anyhow::Result<()> {
    // The same selection of packages as `cargo run --release --bin pptop`: one build of candle.
    let pptop = pptop::build()?;
    let only: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| name.contains(o.as_str()));
    let mut missed = 0;
    for (p, m) in [(4u32, 16u32), (8, 32)] {
        for schedule in ScheduleName::ALL.into_iter().filter(|name| name.trains()) {
            let name = format!("sleep {schedule} p={p} m={m}");
            if wanted(&name) {
                missed += attempt(|| sleep(&pptop, &name, schedule, p, m))?;
            }
        }
    }
    for p in [4u32, 8] {
        let name = format!("sleep in turns p={p}");
        if wanted(&name) {
            missed += attempt(|| in_turns(&pptop, &name, p))?;
        }
    }
    for schedule in [ScheduleName::OneFOneB, ScheduleName::ZbH1, ScheduleName::ZbV] {
        let name = format!("sleep mean {schedule}");
        if wanted(&name) {
            missed += attempt(|| mean(&pptop, &name, schedule))?;
        }
    }
    if wanted("sleep many ranks") {
        missed += attempt(|| many_ranks(&pptop))?;
    }
    if wanted("sleep attribution") {
        missed += attempt(|| attribution(&pptop))?;
    }
    if wanted("gpt speed-up") {
        missed += attempt(|| speed_up(&pptop))?;
    }
    if wanted("gpt learns") {
        missed += attempt(|| learns(&pptop))?;
    }
    if wanted("gpt random bytes") {
        missed += attempt(|| noise(&pptop))?;
    }
    if wanted("checkpoints") {
        missed += attempt(|| {
            let name =
                "gpt with a checkpoint every 10 steps: share of the speed without".to_owned();
            let value = checkpoints::share_of_speed(&pptop)?;
            Ok(vec![Promise { name, value, wanted: 0.97, within: None }])
        })?;
    }
    if wanted("wine") {
        missed += attempt(|| wine(&pptop))?;
    }
    if missed > 0 {
        println!("{missed} promises were missed");
        std::process::exit(1);
    }
    println!("all promises were kept");
    Ok(())
}

/// Measures, and once more if a promise was missed. How many are still missed.
fn attempt(measure: impl Fn() -> anyhow::Result<Vec<Promise>>) -> anyhow::Result<usize> {
    let mut promises = measure()?;
    if !promises.iter().all(Promise::is_kept) {
        for promise in &promises {
            println!("once more: {} was {:.4}", promise.name, promise.value);
        }
        promises = measure()?;
    }
    for promise in &promises {
        let bound = promise.within.map_or_else(
            || format!("at least {:.4}", promise.wanted),
            |w| format!("{:.4} within {w}", promise.wanted),
        );
        let word = if promise.is_kept() { "ok    " } else { "MISSED" };
        println!("{word} {:<40} {:.4}   wanted: {bound}", promise.name, promise.value);
    }
    Ok(promises.iter().filter(|p| !p.is_kept()).count())
}

/// How long each of F, I and W of a rank's share sleeps.
const SLEEP_MS: f64 = 4.0;

/// How far a measured bubble may be from the simulated one.
fn within(schedule: ScheduleName) -> f64 {
    if schedule == ScheduleName::InterleavedOneFOneB { 0.01 } else { 0.02 }
}

/// The median bubble of 5 steps after the first: as the step lines say, as the spans say, and as
/// the plan that ran has it by simulation.
fn sleep(
    pptop: &PathBuf,
    name: &str,
    schedule: ScheduleName,
    p: u32,
    m: u32,
) -> anyhow::Result<Vec<Promise>> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("run");
    let (p_text, m_text, dir_text) = (p.to_string(), m.to_string(), dir.display().to_string());
    let ms = SLEEP_MS.to_string();
    let args = [
        "train",
        "--headless",
        "--json",
        "--model",
        "sleep",
        "--sleep-forward-ms",
        &ms,
        "--sleep-input-grad-ms",
        &ms,
        "--sleep-weight-grad-ms",
        &ms,
        "--schedule",
        schedule.as_str(),
        "--pp",
        &p_text,
        "--micro-batches",
        &m_text,
        "--steps",
        "6",
        "--spans",
        "all",
        "--run-dir",
        &dir_text,
    ];
    let lines = pptop::run(pptop, &args)?;
    let steps: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let ratios: Vec<f64> = steps
        .iter()
        .filter(|e| e["ev"] == "step")
        .filter_map(|e| e["bubble_ratio"].as_f64())
        .skip(1)
        .collect();
    let events = std::fs::read_to_string(dir.join("events.jsonl")).context("the run's log")?;
    let spans: Vec<Value> = events
        .lines()
        .filter(|l| l.contains(r#""ev":"span""#))
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let again: Vec<f64> = (2..=6).map(|step| bubble(&spans, step, f64::from(p))).collect();
    let largest = ratios.iter().zip(&again).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    Ok(vec![
        Promise {
            name: name.to_owned(),
            value: median(&ratios),
            wanted: simulated(&steps[0])?,
            within: Some(within(schedule)),
        },
        Promise {
            name: format!("{name}: lines against spans"),
            value: largest,
            wanted: 0.0,
            within: Some(1e-9),
        },
    ])
}

/// The bubble of the plan in a run's first event, by simulation of equal ranks.
fn simulated(hello: &Value) -> anyhow::Result<f64> {
    let rows = hello["plan"].as_array().context("no plan")?;
    let rows: Vec<&str> = rows.iter().filter_map(Value::as_str).collect();
    let plan = import_csv("the run's plan", rows.join("\n").as_bytes(), None)?;
    let share = RankShare {
        forward: SLEEP_MS,
        input_grad: SLEEP_MS,
        weight_grad: SLEEP_MS,
        ..RankShare::default()
    };
    Ok(simulate(&plan, &Costs::per_rank_share(plan.topology(), &share))?.bubble_ratio)
}

/// 21 steps of each in turns: what splits the backward has less bubble than what does not, and what
/// has two stages a rank, or twice the memory, less than that; by half of what the simulation
/// promises at least.
fn in_turns(pptop: &PathBuf, name: &str, p: u32) -> anyhow::Result<Vec<Promise>> {
    let (p_text, m_text, limit) = (p.to_string(), (4 * p).to_string(), (2 * p).to_string());
    let args = [
        "compare",
        "--model",
        "sleep",
        "--schedules",
        "1f1b,zb-h1,zb-v,auto",
        "--memory-limit",
        &limit,
        "--pp",
        &p_text,
        "--micro-batches",
        &m_text,
        "--steps",
        "21",
        // 10 ms for each op of a rank with two stages.
        "--sleep-forward-ms",
        "20",
        "--sleep-input-grad-ms",
        "20",
        "--sleep-weight-grad-ms",
        "20",
    ];
    let found = pptop::json(pptop, &args)?;
    let rows = found["rows"].as_array().context("no rows")?;
    let number = |label: &str, key: &str| -> anyhow::Result<f64> {
        let row = rows.iter().find(|row| row["label"] == label).context("a row is missing")?;
        row["bubble_ratio"][key].as_f64().with_context(|| format!("{label}: no {key} bubble"))
    };
    let mut promises = Vec::new();
    for (worse, better) in [("1f1b", "zb-h1"), ("zb-h1", "zb-v"), ("zb-h1", "auto")] {
        let gain = |key| Ok::<_, anyhow::Error>(number(worse, key)? - number(better, key)?);
        promises.push(Promise {
            name: format!("{name}: {better} below {worse}"),
            value: gain("measured")?,
            wanted: gain("simulated")? / 2.0,
            within: None,
        });
    }
    Ok(promises)
}

/// `1 − Σ busy ÷ (p × window)` of one step, from the log alone.
fn bubble(spans: &[Value], step: u64, p: f64) -> f64 {
    let (mut first, mut last, mut busy) = (f64::INFINITY, 0.0f64, 0.0);
    for span in spans
        .iter()
        .filter(|s| s["step"] == step && matches!(s["op"].as_str(), Some("F" | "B" | "I" | "W")))
    {
        let (start, duration) = (
            span["start_ns"].as_f64().unwrap_or(f64::NAN),
            span["dur_ns"].as_f64().unwrap_or(f64::NAN),
        );
        first = first.min(start);
        last = last.max(start + duration);
        busy += duration;
    }
    1.0 - busy / (p * (last - first))
}

/// The mean of gradients of two replicas: how much of it lies beside the last ops, and how long the
/// whole step is idle.
fn mean(pptop: &PathBuf, name: &str, schedule: ScheduleName) -> anyhow::Result<Vec<Promise>> {
    let found = replicas::overlap(pptop, schedule)?;
    Ok(vec![
        at_least(&format!("{name}: beside the last ops"), 1.0 - found.behind, 0.8),
        Promise {
            name: format!("{name}: idle of step"),
            value: found.idle,
            wanted: found.simulated,
            within: Some(0.02),
        },
    ])
}

/// Up to 128 ranks in one process: how long they take to start, and what they send.
fn many_ranks(pptop: &PathBuf) -> anyhow::Result<Vec<Promise>> {
    let mut promises = Vec::new();
    let mut first: Option<f64> = None;
    for p in [8, 16, 32, 64] {
        let replicas::Many { start, messages } = replicas::many(pptop, p)?;
        println!("       sleep, {p} ranks x 2: first op after {start:.3} s");
        promises.push(Promise {
            name: format!("sleep many ranks: messages of {p} x 2"),
            value: messages,
            wanted: 1.0,
            within: Some(0.0),
        });
        // A process takes some time whatever it does.
        let per_rank = (start + 0.1) / f64::from(p);
        let Some(least) = first else {
            first = Some(per_rank);
            continue;
        };
        promises.push(at_least(
            &format!("sleep many ranks: start per rank, 8 x 2 over {p} x 2"),
            least / per_rank,
            1.0,
        ));
    }
    Ok(promises)
}

/// A headless run in a state directory of its own.
fn train(pptop: &PathBuf, args: &[&str]) -> anyhow::Result<String> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("run").display().to_string();
    pptop::run(pptop, &[&["train", "--headless", "--run-dir", &dir], args].concat())
}

/// The validation losses of a run, and how long it took.
fn validation(lines: &str) -> anyhow::Result<(Vec<f64>, f64)> {
    let events: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let losses =
        events.iter().filter(|e| e["ev"] == "eval").filter_map(|e| e["loss"].as_f64()).collect();
    let end = events.iter().find(|e| e["ev"] == "end").context("no end")?;
    Ok((losses, end["wall_seconds"].as_f64().unwrap_or(f64::NAN)))
}

fn at_least(name: &str, value: f64, wanted: f64) -> Promise {
    Promise { name: name.to_owned(), value, wanted, within: None }
}

/// The default run: a trigram model of the same text has 1.96 nats a byte.
fn learns(pptop: &PathBuf) -> anyhow::Result<Vec<Promise>> {
    let (losses, seconds) = validation(&train(pptop, &["--json"])?)?;
    let last = losses.last().copied().unwrap_or(f64::NAN);
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    println!("       gpt: validation {losses:.4?} in {seconds:.0} s");
    Ok(vec![
        at_least("gpt learns: 1.95 less its validation loss", 1.95 - last, 0.0),
        at_least("gpt learns: 0.03 less last over best", 0.03 - (last - best), 0.0),
        at_least("gpt learns: evaluations", losses.len() as f64, 5.0),
        at_least("gpt learns: 240 s less its time", 240.0 - seconds, 0.0),
    ])
}

/// Nothing can be learned from noise: a model that does has seen the answers.
fn noise(pptop: &PathBuf) -> anyhow::Result<Vec<Promise>> {
    let file = tempfile::NamedTempFile::new()?;
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let bytes: Vec<u8> = (0..1 << 16)
        .map(|_| {
            // xorshift64* (Vigna 2016): any generator will do.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        })
        .collect();
    std::fs::write(&file, bytes)?;
    let lines = train(pptop, &["--json", "--data", &file.path().display().to_string()])?;
    let (losses, _) = validation(&lines)?;
    let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(vec![at_least("gpt random bytes: least validation loss", least, 5.5)])
}

/// How far the classifier of wines is above the most frequent class, over seeds.
fn wine(pptop: &PathBuf) -> anyhow::Result<Vec<Promise>> {
    let mut margins = Vec::new();
    for seed in ["0", "1", "2", "3", "4"] {
        let text = train(pptop, &["--model", "wine-mlp", "--seed", seed])?;
        let line = text
            .lines()
            .rev()
            .find(|l| l.contains("the most frequent class"))
            .context("no accuracy")?;
        let number = |after: &str| -> Option<f64> {
            line.split(after).nth(1)?.trim_start().split([' ', ')', ',']).next()?.parse().ok()
        };
        let accuracy = number("accuracy").context("no accuracy")?;
        margins.push(accuracy - number("class:").context("no majority")?);
    }
    let mean = margins.iter().sum::<f64>() / margins.len() as f64;
    let least = margins.iter().copied().fold(f64::INFINITY, f64::min);
    println!("       wine-mlp: above the most frequent class {margins:.4?}");
    Ok(vec![
        at_least("wine: margin, mean of 5 seeds", mean, 0.12),
        at_least("wine: margin, least of 5 seeds", least, 0.06),
    ])
}

/// Two ranks against one device with the same micro-batches.
fn speed_up(pptop: &PathBuf) -> anyhow::Result<Vec<Promise>> {
    let args = ["compare", "--model", "gpt", "--pp", "2", "--schedules", "1f1b", "--steps", "30"];
    let found = pptop::json(pptop, &args)?;
    let rows = found["rows"].as_array().context("no rows")?;
    let row = rows.iter().find(|r| r["label"] == "1f1b").context("no row 1f1b")?;
    let value = row["speedup"].as_f64().unwrap_or(f64::NAN);
    Ok(vec![Promise {
        name: "gpt speed-up, 2 ranks over one device".to_owned(),
        value,
        wanted: 1.5,
        within: None,
    }])
}

/// What a slow rank and a slow link add to the window of a step, and how much of it the report
/// finds there.
fn attribution(pptop: &PathBuf) -> anyhow::Result<Vec<Promise>> {
    let run = |flags: &[&str]| -> anyhow::Result<Value> {
        let folder = tempfile::tempdir()?;
        let dir = folder.path().join("run");
        let at = dir.to_str().context("the folder for temporary files has no name")?;
        let job = "train --headless --model sleep --pp 4 --micro-batches 8 --steps 12 --sleep-forward-ms 10 --sleep-input-grad-ms 10 --sleep-weight-grad-ms 10 --run-dir";
        let mut arguments: Vec<&str> = job.split(' ').collect();
        arguments.push(at);
        arguments.extend(flags);
        pptop::run(pptop, &arguments)?;
        pptop::json(pptop, &["report", at])
    };
    let seconds = |report: &Value, part: &str| {
        let window = &report["standing"]["window"];
        window[part].as_f64().with_context(|| format!("the report has no {part}"))
    };
    let even = run(&[])?;
    let slow = run(&["--sleep-slow-rank", "2:1.5"])?;
    let link = run(&["--sleep-link-ms", "4"])?;
    let window = seconds(&even, "seconds")?;
    let of_rank = slow["standing"]["window"]["imbalance_of_rank_seconds"][2]
        .as_f64()
        .context("the report has no imbalance of rank 2")?;
    let mut promises = vec![
        at_least(
            "sleep attribution: a rank 1.5 times as slow",
            of_rank / (seconds(&slow, "seconds")? - window),
            0.9,
        ),
        at_least(
            "sleep attribution: a link of 4 ms",
            (seconds(&link, "copy_seconds")? - seconds(&even, "copy_seconds")?)
                / (seconds(&link, "seconds")? - window),
            0.9,
        ),
    ];
    for (report, part, words) in [
        (&slow, "imbalance", ["rank 2", "a faster device"]),
        (&link, "copy", ["rank", "faster link"]),
    ] {
        let verdict = &report["verdict"];
        let said = format!("{} {}", verdict["why"], verdict["next"]);
        let is_named = verdict["part"] == part && words.iter().all(|word| said.contains(word));
        promises.push(at_least(
            &format!("sleep attribution: {part} named with its remedy"),
            f64::from(u8::from(is_named)),
            1.0,
        ));
    }
    Ok(promises)
}
