//! The same jobs in pptop, in PyTorch's pipelines and in plain candle, in turns:
//! `just bench-peers`.
//!
//! First every candidate runs three times, and of each program the fastest is taken. Then these run
//! in turns, so that a machine that becomes slower becomes slower for all. Reported are medians,
//! their spread over the rounds, and the ratio of each round.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

mod numbers;
mod pptop;
mod results;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use pp_telemetry::Processor;
use serde_json::{Value, json};

use numbers::median;

/// Of each run the first steps find their sizes.
const WARM_UP: usize = 2;

/// What a model is on both sides.
#[derive(Clone, Copy)]
enum Model {
    /// The notebook's job.
    SeedMlp,
    /// Layers, width and context; 8 heads.
    Gpt(u32, u32, u32),
}

struct Job {
    name: &'static str,
    model: Model,
    /// Samples of a step, and the micro-batches that they are cut into.
    batch: u32,
    micro_batches: u32,
    ours: &'static [&'static [&'static str]],
    theirs: &'static [&'static [&'static str]],
    steps: usize,
    /// Cuts for plain candle; none where it is left out.
    candle: &'static [&'static str],
}

/// Schedules of ours that may be the fastest.
const OURS: &[&[&str]] = &[
    &["--schedule", "1f1b"],
    &["--schedule", "zb-h1"],
    &["--schedule", "zb-h2"],
    &["--schedule", "zb-v"],
    &["--schedule", "interleaved-1f1b"],
    &["--schedule", "interleaved-zb"],
    &["--schedule", "auto"],
    &["--schedule", "auto", "--virtual-stages", "2"],
];

/// PyTorch's schedules, with a cut into two stages and one into four.
macro_rules! theirs {
    ($two:literal, $four:literal $(, $other:literal)*) => {
        &[
            &["--schedule", "gpipe", "--cut", $two],
            &["--schedule", "1f1b", "--cut", $two],
            $(&["--schedule", "1f1b", "--cut", $other],)*
            &["--schedule", "interleaved-1f1b", "--cut", $four],
            &["--schedule", "looped-bfs", "--cut", $four],
            &["--schedule", "interleaved-zb", "--cut", $four],
            &["--schedule", "zb-v", "--cut", $four],
            &["--schedule", "dualpipe-v", "--cut", $four],
        ]
    };
}

const fn seed_mlp(name: &'static str, batch: u32, micro_batches: u32, steps: usize) -> Job {
    let theirs: &[&[&str]] = theirs!("4,4", "3,1,1,3", "3,5");
    Job {
        name,
        model: Model::SeedMlp,
        batch,
        micro_batches,
        ours: OURS,
        theirs,
        steps,
        candle: &[],
    }
}

const JOBS: [Job; 5] = [
    Job { candle: &["3", "4"], ..seed_mlp("seed-mlp 256/32", 256, 32, 10) },
    seed_mlp("seed-mlp 512/16", 512, 16, 10),
    seed_mlp("seed-mlp 2048/8", 2048, 8, 6),
    Job {
        name: "gpt",
        model: Model::Gpt(8, 256, 128),
        batch: 16,
        micro_batches: 8,
        ours: OURS,
        theirs: theirs!("5,5", "3,2,2,3"),
        steps: 8,
        candle: &["5"],
    },
    Job {
        name: "gpt wide",
        model: Model::Gpt(6, 512, 256),
        batch: 8,
        micro_batches: 8,
        ours: OURS,
        theirs: theirs!("4,4", "2,2,2,2"),
        steps: 6,
        candle: &[],
    },
];

impl Job {
    /// What both programs call it.
    fn model(&self) -> &'static str {
        match self.model {
            Model::SeedMlp => "seed-mlp",
            Model::Gpt(..) => "gpt",
        }
    }

    /// Flags that both programs have.
    fn sizes(&self) -> Vec<String> {
        let mut flags = vec![("--batch-size", self.batch), ("--micro-batches", self.micro_batches)];
        if let Model::Gpt(layers, width, context) = self.model {
            let sizes = [("--layers", layers), ("--width", width), ("--context", context)];
            flags.extend(sizes.into_iter().chain([("--heads", 8)]));
        }
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_string()]).collect()
    }

    /// Flags of pptop on so many ranks, without the schedule.
    fn of_pptop(&self, ranks: &str) -> Vec<String> {
        let own: &[&str] = match self.model {
            Model::SeedMlp => &["--preset", "seed"],
            Model::Gpt(..) => &["--model", "gpt", "--optimizer", "adam"],
        };
        [words(own), self.sizes(), words(&["--partition", "time", "--pp", ranks])].concat()
    }

    /// Flags of PyTorch's program, without the schedule.
    fn of_pytorch(&self) -> Vec<String> {
        let own: &[&str] = match self.model {
            Model::SeedMlp => &["--clip-norm", "1"],
            Model::Gpt(..) => &[],
        };
        [words(&["--job", self.model()]), self.sizes(), words(own)].concat()
    }
}

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

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(ToString::to_string).collect()
}

impl Programs {
    fn compare(&self, job: &Job, rounds: usize) -> anyhow::Result<Value> {
        println!("{}: two ranks, one thread each", job.name);
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
        let alone = [
            Way { program: "pptop alone", args: Vec::new() },
            Way { program: "pytorch alone", args: Vec::new() },
        ];
        chosen.extend(alone);
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
        Ok(json!({
            "job": job.name, "rounds": rounds, "unix_seconds": results::unix_seconds(), "rows": rows, "alone_compute_seconds": compute,
            "alone_optimizer_seconds": optimizer,
        }))
    }

    /// The way with the fastest single step in three runs each, in turns. A core may be slow for
    /// seconds (`just bench-speeds`). The median of a run is good only if the cores were fast
    /// during most of it; one step out of twelve meets fast cores far more often.
    fn fastest(&self, job: &Job, ways: &[Way]) -> anyhow::Result<Way> {
        let mut seconds = vec![f64::INFINITY; ways.len()];
        for _ in 0..3 {
            for (way, least) in ways.iter().zip(&mut seconds) {
                let parts = self.run(job, way, 4)?;
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
        let steps = (steps + WARM_UP).to_string();
        match way.program {
            "pptop" => self.train(&[job.of_pptop("2"), way.args.clone()].concat(), &steps),
            "pptop alone" => self.train(&job.of_pptop("1"), &steps),
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
                Parts::read(&output(&mut command)?)
            }
            _ => {
                let mut command = Command::new(&self.candle);
                command.env("RAYON_NUM_THREADS", "1").arg(job.model()).arg(&steps).args(&way.args);
                Parts::read(&output(&mut command)?)
            }
        }
    }

    /// pptop as a user runs it, recording and all.
    fn train(&self, args: &[String], steps: &str) -> anyhow::Result<Parts> {
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
        parts.seconds.drain(..WARM_UP);
        parts.compute = median(&compute[WARM_UP + 1..]);
        parts.optimizer = median(&optimizer[WARM_UP + 1..]);
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
    fn read(text: &str) -> anyhow::Result<Self> {
        let line = text.lines().rfind(|line| line.starts_with('{')).context("no line of JSON")?;
        let value: Value = serde_json::from_str(line)?;
        let list = |key: &str| -> Vec<f64> {
            let numbers = value[key].as_array().map(Vec::as_slice).unwrap_or_default();
            numbers.iter().filter_map(Value::as_f64).skip(WARM_UP).collect()
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
