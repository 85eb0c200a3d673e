//! The same jobs in pptop, in PyTorch's pipelines and in plain candle, in turns: `just bench-peers`.
//!
//! First every candidate runs twice, and of each program the fastest is taken. Then these run in turns, so that a machine that becomes
//! slower becomes slower for all. Reported are medians, their spread over the rounds, and the ratio of each round.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

mod pptop;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

/// Of each run the first steps find their sizes.
const WARM_UP: usize = 2;

struct Job {
    name: &'static str,
    /// What PyTorch's program and that of plain candle call it.
    model: &'static str,
    /// Flags of pptop, without the schedule.
    pptop: &'static [&'static str],
    ours: &'static [&'static [&'static str]],
    torch: &'static [&'static str],
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
    &["--schedule", "auto"],
    &["--schedule", "auto", "--virtual-stages", "2"],
];
/// PyTorch's, with cuts of the eight layers of `seed-mlp`.
const THEIRS_OF_MLP: &[&[&str]] = &[
    &["--schedule", "gpipe", "--cut", "4,4"],
    &["--schedule", "1f1b", "--cut", "4,4"],
    &["--schedule", "1f1b", "--cut", "3,5"],
    &["--schedule", "interleaved-1f1b", "--cut", "3,1,1,3"],
    &["--schedule", "looped-bfs", "--cut", "3,1,1,3"],
    &["--schedule", "interleaved-zb", "--cut", "3,1,1,3"],
    &["--schedule", "zb-v", "--cut", "3,1,1,3"],
    &["--schedule", "dualpipe-v", "--cut", "3,1,1,3"],
];

const JOBS: [Job; 5] = [
    Job {
        name: "seed-mlp 256/32",
        model: "seed-mlp",
        pptop: &["--preset", "seed", "--pp", "2", "--partition", "time"],
        ours: OURS,
        torch: &["--batch-size", "256", "--micro-batches", "32", "--clip-norm", "1"],
        theirs: THEIRS_OF_MLP,
        steps: 10,
        candle: &["3", "4"],
    },
    Job {
        name: "seed-mlp 512/16",
        model: "seed-mlp",
        pptop: &[
            "--preset",
            "seed",
            "--pp",
            "2",
            "--partition",
            "time",
            "--batch-size",
            "512",
            "--micro-batches",
            "16",
        ],
        ours: OURS,
        torch: &["--batch-size", "512", "--micro-batches", "16", "--clip-norm", "1"],
        theirs: THEIRS_OF_MLP,
        steps: 10,
        candle: &[],
    },
    Job {
        name: "seed-mlp 2048/8",
        model: "seed-mlp",
        pptop: &[
            "--preset",
            "seed",
            "--pp",
            "2",
            "--partition",
            "time",
            "--batch-size",
            "2048",
            "--micro-batches",
            "8",
        ],
        ours: OURS,
        torch: &["--batch-size", "2048", "--micro-batches", "8", "--clip-norm", "1"],
        theirs: THEIRS_OF_MLP,
        steps: 6,
        candle: &[],
    },
    Job {
        name: "gpt",
        model: "gpt",
        pptop: &[
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
            "--optimizer",
            "adam",
            "--pp",
            "2",
            "--partition",
            "time",
        ],
        ours: &[
            &["--schedule", "1f1b"],
            &["--schedule", "zb-h1"],
            &["--schedule", "zb-h2"],
            &["--schedule", "auto"],
            &["--schedule", "auto", "--virtual-stages", "2"],
            &["--schedule", "zb-v"],
        ],
        torch: &["--batch-size", "16", "--micro-batches", "8"],
        theirs: &[
            &["--schedule", "gpipe", "--cut", "5,5"],
            &["--schedule", "1f1b", "--cut", "5,5"],
            &["--schedule", "interleaved-1f1b", "--cut", "3,2,2,3"],
            &["--schedule", "looped-bfs", "--cut", "3,2,2,3"],
            &["--schedule", "interleaved-zb", "--cut", "3,2,2,3"],
            &["--schedule", "zb-v", "--cut", "3,2,2,3"],
            &["--schedule", "dualpipe-v", "--cut", "3,2,2,3"],
        ],
        steps: 8,
        candle: &["5"],
    },
    Job {
        name: "gpt wide",
        model: "gpt",
        pptop: &[
            "--model",
            "gpt",
            "--layers",
            "6",
            "--width",
            "512",
            "--heads",
            "8",
            "--context",
            "256",
            "--batch-size",
            "8",
            "--micro-batches",
            "8",
            "--optimizer",
            "adam",
            "--pp",
            "2",
            "--partition",
            "time",
        ],
        ours: &[
            &["--schedule", "1f1b"],
            &["--schedule", "zb-h1"],
            &["--schedule", "auto"],
            &["--schedule", "auto", "--virtual-stages", "2"],
            &["--schedule", "zb-v"],
        ],
        torch: &[
            "--layers",
            "6",
            "--width",
            "512",
            "--heads",
            "8",
            "--context",
            "256",
            "--batch-size",
            "8",
            "--micro-batches",
            "8",
        ],
        theirs: &[
            &["--schedule", "gpipe", "--cut", "4,4"],
            &["--schedule", "1f1b", "--cut", "4,4"],
            &["--schedule", "interleaved-1f1b", "--cut", "2,2,2,2"],
            &["--schedule", "looped-bfs", "--cut", "2,2,2,2"],
            &["--schedule", "interleaved-zb", "--cut", "2,2,2,2"],
            &["--schedule", "zb-v", "--cut", "2,2,2,2"],
            &["--schedule", "dualpipe-v", "--cut", "2,2,2,2"],
        ],
        steps: 6,
        candle: &[],
    },
];

fn main() -> anyhow::Result<()> {
    let rounds = match std::env::args().nth(1) {
        Some(rounds) => rounds.parse().context("the number of rounds")?,
        None => 7,
    };
    let wanted: Vec<String> = std::env::args().skip(2).collect();
    let is_wanted = |job: &&Job| wanted.is_empty() || wanted.iter().any(|name| name == job.name);
    ensure!(
        JOBS.iter().any(|job| is_wanted(&job)),
        "no such job: choose of {}",
        JOBS.map(|job| job.name).join(", ")
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let programs = Programs {
        pptop: pptop::build()?,
        candle: std::env::current_exe()?.with_file_name("plain_candle"),
        python: root.join(".venv/bin/python"),
        script: root.join("benches/peers/pipeline.py"),
        state: std::env::temp_dir().join(format!("pptop-peers-{}", std::process::id())),
    };
    ensure!(programs.python.is_file(), "no PyTorch in .venv: benches/peers/run.sh brings it");
    let mut results = Vec::new();
    for job in JOBS.iter().filter(is_wanted) {
        results.push(programs.compare(job, rounds)?);
    }
    let _ = std::fs::remove_dir_all(&programs.state);
    let processor = processor();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let path = dir.join(format!("peers-{}.json", processor.slug()));
    // Jobs that were not measured now keep what was measured before on this kind of processor.
    let mut jobs: Vec<Value> = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str::<Value>(&text)?["jobs"].as_array().cloned(),
        Err(_) => None,
    }
    .unwrap_or_default();
    for found in results {
        jobs.retain(|job| job["job"] != found["job"]);
        jobs.push(found);
    }
    let order = |job: &Value| JOBS.iter().position(|known| job["job"] == known.name);
    jobs.sort_by_key(order);
    let machine = pptop::json(&programs.pptop, &["devices"])?;
    let found = json!({"processor": processor.name(), "machine": machine, "jobs": jobs});
    std::fs::write(&path, serde_json::to_string_pretty(&found)? + "\n")
        .with_context(|| path.display().to_string())?;
    println!("written: {}", path.display());
    Ok(())
}

/// The processor of this machine, as the system names it.
struct Processor {
    vendor: String,
    family: String,
    model: String,
    name: String,
}

fn processor() -> Processor {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of = |key: &str| {
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        let value = pairs.into_iter().find(|(name, _)| name.trim() == key);
        value.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    Processor {
        vendor: of("vendor_id"),
        family: of("cpu family"),
        model: of("model"),
        name: of("model name"),
    }
}

impl Processor {
    fn slug(&self) -> String {
        let vendor = match self.vendor.as_str() {
            "GenuineIntel" => "intel",
            "AuthenticAMD" => "amd",
            other => other,
        };
        format!("{vendor}-{}-{}", self.family, self.model).to_lowercase()
    }

    fn name(&self) -> String {
        format!("{} (family {}, model {})", self.name, self.family, self.model)
    }
}

struct Programs {
    pptop: PathBuf,
    candle: PathBuf,
    python: PathBuf,
    script: PathBuf,
    state: PathBuf,
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

fn unix_seconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
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
            "job": job.name, "rounds": rounds, "unix_seconds": unix_seconds(), "rows": rows, "alone_compute_seconds": compute,
            "alone_optimizer_seconds": optimizer,
        }))
    }

    /// The way with the smallest median, of three runs each in turns: a machine that is slow for a while must not choose.
    fn fastest(&self, job: &Job, ways: &[Way]) -> anyhow::Result<Way> {
        let mut seconds = vec![f64::INFINITY; ways.len()];
        for _ in 0..3 {
            for (way, least) in ways.iter().zip(&mut seconds) {
                *least = least.min(median(&self.run(job, way, 4)?.seconds));
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
            "pptop" => self.train(job, &way.args, &steps),
            "pptop alone" => self.train(job, &words(&["--pp", "1"]), &steps),
            "pytorch" | "pytorch alone" => {
                let mut command = Command::new(&self.python);
                command
                    .arg(&self.script)
                    .args(["--job", job.model])
                    .args(job.torch)
                    .args(["--steps", &steps])
                    .args(&way.args);
                if way.program == "pytorch alone" {
                    command.args(["--pp", "1"]);
                }
                Parts::read(&output(&mut command)?)
            }
            _ => {
                let mut command = Command::new(&self.candle);
                command.env("RAYON_NUM_THREADS", "1").arg(job.model).arg(&steps).args(&way.args);
                Parts::read(&output(&mut command)?)
            }
        }
    }

    /// pptop as a user runs it, recording and all.
    fn train(&self, job: &Job, args: &[String], steps: &str) -> anyhow::Result<Parts> {
        let folder = self.state.join("run");
        let _ = std::fs::remove_dir_all(&folder);
        // What `args` says of the ranks replaces what the job says.
        let own = job.pptop.iter().position(|a| *a == "--pp").context("a job without --pp")?;
        let skipped = if args.first().is_some_and(|a| a == "--pp") { own..own + 2 } else { 0..0 };
        let of_job = job.pptop.iter().enumerate().filter(|(i, _)| !skipped.contains(i));
        let folder_name =
            folder.to_str().context("a folder for temporary files that is no text")?;
        let mut all = vec!["train"];
        all.extend(of_job.map(|(_, arg)| *arg));
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

/// What one run took, without its warm-up. The parts are sums over ranks, and are compared on one rank alone.
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

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, 0.0), |(low, high), &v| (v.min(low), v.max(high)))
}
