//! The same jobs in pptop, in PyTorch's pipelines and in plain candle, in turns:
//! `just bench-peers`.
//!
//! First every candidate runs a few times, and of each program the fastest is taken. Then these run
//! in turns, so that a machine that becomes slower becomes slower for all. Reported are medians,
//! their spread over the rounds, and the ratio of each round.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

mod jobs;
#[path = "../numbers.rs"]
mod numbers;
#[path = "../pptop.rs"]
mod pptop;
#[path = "../results.rs"]
mod results;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use pp_telemetry::Processor;
use serde_json::{Value, json};

use jobs::{JOBS, Job, Model, words};
use numbers::median;

fn main() -> anyhow::Result<()> {
    let rounds = match std::env::args().nth(1) {
        Some(rounds) => rounds.parse().context("the number of rounds")?,
        None => 7,
    };
    let wanted: Vec<String> = std::env::args().skip(2).collect();
    let known = || JOBS.map(|job| job.name).join(", ");
    for name in &wanted {
        let is_known = JOBS.iter().any(|job| job.name == name);
        ensure!(is_known, "no job {name}: choose from {}", known());
    }
    let is_wanted = |job: &&Job| wanted.is_empty() || wanted.iter().any(|name| name == job.name);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let programs = Programs {
        pptop: pptop::build()?,
        candle: std::env::current_exe()?.with_file_name("plain_candle"),
        python: root.join(".venv/bin/python"),
        script: root.join("benches/peers/pipeline.py"),
        smollm2: root.join("target/smollm2").display().to_string(),
    };
    ensure!(programs.python.is_file(), "no PyTorch in .venv: benches/peers/run.sh brings it");
    let processor = Processor::here();
    for job in JOBS.iter().filter(is_wanted) {
        let found = programs.compare(job, rounds)?;
        keep(&processor, &programs, found)?;
    }
    Ok(())
}

/// Writes what was found of a job. Other jobs keep what was measured before on this kind of
/// processor.
fn keep(processor: &Processor, programs: &Programs, found: Value) -> anyhow::Result<()> {
    let path = results::of_processor("peers", processor);
    let mut jobs = if path.is_file() {
        let before: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        before["jobs"].as_array().cloned().context("a file of results without jobs")?
    } else {
        Vec::new()
    };
    jobs.retain(|job| job["job"] != found["job"]);
    jobs.push(found);
    jobs.sort_by_key(|job| JOBS.iter().position(|known| job["job"] == known.name));
    let machine = pptop::json(&programs.pptop, &["devices"])?;
    let found = json!({"processor": processor.to_string(), "machine": machine, "jobs": jobs});
    std::fs::write(&path, serde_json::to_string_pretty(&found)? + "\n")
        .with_context(|| path.display().to_string())?;
    println!("written: {}", path.display());
    Ok(())
}

struct Programs {
    pptop: PathBuf,
    candle: PathBuf,
    python: PathBuf,
    script: PathBuf,
    /// The folder of `SmolLM2`.
    smollm2: String,
}

/// One way to train.
#[derive(Clone)]
struct Way {
    program: &'static str,
    args: Vec<String>,
}

impl Way {
    fn label(&self) -> String {
        let shown = self.args.iter().filter(|a| !a.starts_with("--"));
        format!("{} {}", self.program, shown.cloned().collect::<Vec<_>>().join(" "))
    }
}

impl Programs {
    fn compare(&self, job: &Job, rounds: usize) -> anyhow::Result<Value> {
        println!("{}: two ranks, one thread each", job.name);
        ensure!(
            job.model != Model::SmolLm2 || Path::new(&self.smollm2).join("config.json").is_file(),
            "no model in {}: benches/peers/run.sh brings it",
            self.smollm2
        );
        let ways = |program, of: &[&[&str]]| {
            of.iter().map(|args| Way { program, args: words(args) }).collect::<Vec<_>>()
        };
        let mut chosen = vec![
            self.fastest(job, &ways("pptop", job.ours))?,
            self.fastest(job, &ways("pytorch", job.theirs))?,
        ];
        let cut = |cut: &&str| Way { program: "candle", args: words(&[cut]) };
        if !job.candle.is_empty() {
            chosen.push(self.fastest(job, &job.candle.iter().map(cut).collect::<Vec<_>>())?);
        }
        if job.with_alone {
            let alone = ["pptop alone", "pytorch alone"];
            chosen.extend(alone.map(|program| Way { program, args: Vec::new() }));
        }
        let mut medians = vec![Vec::new(); chosen.len()];
        let mut parts: Vec<Vec<Parts>> = vec![Vec::new(); chosen.len()];
        for _ in 0..rounds {
            for (way, (medians, parts)) in chosen.iter().zip(medians.iter_mut().zip(&mut parts)) {
                let measured = self.run(job, way, job.steps)?;
                medians.push(median(&measured.seconds));
                parts.push(measured);
            }
        }
        let mut rows = Vec::new();
        println!(
            "  {:<34} {:>10} {:>19} {:>24}",
            "in turns", "median ms", "least to most ms", "pptop is faster by"
        );
        for (way, of_way) in chosen.iter().zip(&medians) {
            let base = if way.program.ends_with("alone") {
                &medians[chosen.len() - 2]
            } else {
                &medians[0]
            };
            let ratios: Vec<f64> =
                of_way.iter().zip(base).map(|(theirs, ours)| theirs / ours).collect();
            let (low, high) = spread(of_way);
            let (least, most) = spread(&ratios);
            println!(
                "  {:<34} {:>10.1} {:>9.1} {:>9.1} {:>9.2}x {:>6.2} {:>6.2}",
                way.label(),
                1e3 * median(of_way),
                1e3 * low,
                1e3 * high,
                median(&ratios),
                least,
                most
            );
            rows.push(json!({
                "way": way.label(), "step_seconds": of_way, "median": median(of_way), "ratio": median(&ratios),
                "ratio_least": least, "ratio_most": most,
            }));
        }
        let mut found = json!({
            "job": job.name, "rounds": rounds, "unix_seconds": results::unix_seconds(), "rows": rows,
        });
        if !job.with_alone {
            return Ok(found);
        }
        let of = |i: usize, f: &dyn Fn(&Parts) -> f64| {
            median(&parts[i].iter().map(f).collect::<Vec<_>>())
        };
        let n = chosen.len();
        let compute: Vec<f64> = [n - 2, n - 1].iter().map(|&i| of(i, &|p| p.compute)).collect();
        let optimizer: Vec<f64> = [n - 2, n - 1].iter().map(|&i| of(i, &|p| p.optimizer)).collect();
        println!(
            "  alone, forward and backward: pptop {:.1} ms, pytorch {:.1} ms, {:.2}x",
            1e3 * compute[0],
            1e3 * compute[1],
            compute[1] / compute[0]
        );
        println!(
            "  alone, Adam: pptop {:.2} ms, pytorch {:.2} ms, pptop takes {:.2} of it\n",
            1e3 * optimizer[0],
            1e3 * optimizer[1],
            optimizer[0] / optimizer[1]
        );
        found["alone_compute_seconds"] = json!(compute);
        found["alone_optimizer_seconds"] = json!(optimizer);
        Ok(found)
    }

    /// The way with the fastest single step of the job's first look, in turns. A core may be slow
    /// for seconds (`just bench-speeds`). The median of a run is good only if the cores were fast
    /// during most of it; one step out of several meets fast cores far more often.
    fn fastest(&self, job: &Job, ways: &[Way]) -> anyhow::Result<Way> {
        let mut seconds = vec![f64::INFINITY; ways.len()];
        let (runs, steps) = job.first_look;
        for _ in 0..runs {
            for (way, least) in ways.iter().zip(&mut seconds) {
                let parts = self.run(job, way, steps)?;
                *least = parts.seconds.iter().copied().fold(*least, f64::min);
            }
        }
        for (way, seconds) in ways.iter().zip(&seconds) {
            println!("  {:<34} {:>10.1}", way.label(), 1e3 * seconds);
        }
        let best = ways.iter().zip(&seconds).min_by(|(_, a), (_, b)| a.total_cmp(b));
        Ok(best.context("nothing to choose from")?.0.clone())
    }

    fn run(&self, job: &Job, way: &Way, steps: usize) -> anyhow::Result<Parts> {
        let steps = (steps + job.warm_up).to_string();
        let ours = |ranks| job.of_pptop(ranks, &self.smollm2);
        match way.program {
            "pptop" => self.train(&[ours("2"), way.args.clone()].concat(), &steps, job.warm_up),
            "pptop alone" => self.train(&ours("1"), &steps, job.warm_up),
            "pytorch" | "pytorch alone" => {
                let mut command = Command::new(&self.python);
                command
                    .arg(&self.script)
                    .args(job.of_pytorch())
                    .args(["--steps", &steps])
                    .args(&way.args);
                if way.program == "pytorch alone" {
                    command.args(["--pp", "1"]);
                }
                Parts::read(&output(&mut command)?, job.warm_up)
            }
            _ => {
                let mut command = Command::new(&self.candle);
                command.env("RAYON_NUM_THREADS", "1").arg(job.model()).arg(&steps).args(&way.args);
                Parts::read(&output(&mut command)?, job.warm_up)
            }
        }
    }

    /// pptop as a user runs it, recording and all.
    fn train(&self, args: &[String], steps: &str, warm_up: usize) -> anyhow::Result<Parts> {
        let state = tempfile::tempdir()?;
        let folder = state.path().join("run");
        let folder_name =
            folder.to_str().context("a folder for temporary files that is no text")?;
        let mut all = vec!["train"];
        all.extend(args.iter().map(String::as_str));
        all.extend(["--steps", steps, "--headless", "--json", "--spans", "all"]);
        all.extend(["--run-dir", folder_name]);
        let text = pptop::run(&self.pptop, &all)?;
        let mut parts = Parts::default();
        for line in text.lines() {
            let event: Value = serde_json::from_str(line)?;
            if event["ev"] == "step" {
                parts.seconds.push(event["seconds"].as_f64().context("a step without seconds")?);
            }
        }
        let log = std::fs::read_to_string(folder.join("events.jsonl"))?;
        let mut compute = vec![0.0; parts.seconds.len() + 1];
        let mut optimizer = compute.clone();
        for line in log.lines().filter(|line| line.contains("\"ev\":\"span\"")) {
            let span: Value = serde_json::from_str(line)?;
            let step = span["step"].as_u64().unwrap_or(0) as usize;
            let seconds = span["dur_ns"].as_f64().unwrap_or(0.0) / 1e9;
            match span["op"].as_str() {
                Some("F" | "B" | "I" | "W") => compute[step] += seconds,
                Some("optim") => optimizer[step] += seconds,
                _ => {}
            }
        }
        parts.seconds.drain(..warm_up);
        parts.compute = median(&compute[warm_up + 1..]);
        parts.optimizer = median(&optimizer[warm_up + 1..]);
        Ok(parts)
    }
}

/// What one run took, without its warm-up. The parts are sums over ranks, and are compared on one
/// rank alone.
#[derive(Clone, Debug, Default)]
struct Parts {
    seconds: Vec<f64>,
    compute: f64,
    optimizer: f64,
}

impl Parts {
    fn read(text: &str, warm_up: usize) -> anyhow::Result<Self> {
        let line = text.lines().rfind(|line| line.starts_with('{')).context("no line of JSON")?;
        let value: Value = serde_json::from_str(line)?;
        let list = |key: &str| -> Vec<f64> {
            let numbers = value[key].as_array().map(Vec::as_slice).unwrap_or_default();
            numbers.iter().filter_map(Value::as_f64).skip(warm_up).collect()
        };
        let seconds = list("seconds");
        ensure!(!seconds.is_empty(), "no steps in {line}");
        let (compute, optimizer) =
            (median(&list("compute_seconds")), median(&list("optimizer_seconds")));
        Ok(Self { seconds, compute, optimizer })
    }
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn spread(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, 0.0), |(low, high), &v| (v.min(low), v.max(high)))
}
