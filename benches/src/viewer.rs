//! What watching costs, each promise with its bound: `just measure` runs it. A live run of eight
//! ranks is recorded and watched in a terminal that tmux stands in for; a log of a gigabyte is
//! opened and played; the recorder is timed. What is missed ends the program with code 1. With
//! words behind it only the parts whose names have one of them: live, policy, long, recorder.
#![expect(clippy::print_stdout, reason = "a measurement is read on standard output")]

mod pptop;
#[path = "viewer/run.rs"]
mod run;
#[path = "viewer/terminal.rs"]
mod terminal;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use pp_telemetry::{
    EVENTS_FILE, Follower, Keep, LOG_BYTES_MAX, LogSize, Model, Replay, STATUS_FILE, SpanPolicy,
    tidy,
};

use run::{N_RANKS, Simulated, write};
use terminal::{Terminal, Usage};

/// Share of a core that a monitor may take.
const CORE_MAX: f64 = 0.03;
/// Memory that it may take.
const MIB_MAX: f64 = 60.0;
/// How long it is watched in each view.
const WATCH: Duration = Duration::from_secs(20);
/// How long it may settle in a view before that.
const SETTLE: Duration = Duration::from_secs(3);
/// Steps of the run for which the log is kept small.
const STEPS: u64 = 10_000;
/// Bytes of the long log.
const LONG_BYTES: u64 = 1_000_000_000;
/// How long it may take until the last step of it is there, or any other.
const OPEN_SECONDS_MAX: f64 = 2.0;
/// How fast it is played.
const SPEED: f64 = 100.0;
/// A replay may take so many times as long as it should, with the start of the program.
const LATE_MAX: f64 = 1.2;
/// Share of a step that its recording may take.
const RECORD_MAX: f64 = 0.01;
/// Of so many tries the fastest counts: whatever else the machine does only adds.
const TRIES: usize = 3;

/// What is measured, and the most that it may be.
struct Promise {
    name: String,
    value: f64,
    most: f64,
    unit: &'static str,
}

fn promise(name: impl Into<String>, value: f64, most: f64, unit: &'static str) -> Promise {
    Promise { name: name.into(), value, most, unit }
}

fn main() -> anyhow::Result<()> {
    let only: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| name.contains(o.as_str()));
    let pptop = pptop::build()?;
    let run = Simulated::new()?;
    println!(
        "a step: {N_RANKS} ranks, {} spans, {:.0} ms",
        run.n_spans(),
        run.step_seconds() * 1e3
    );
    let mut missed = 0;
    let mut tell = |promises: Vec<Promise>| {
        for Promise { name, value, most, unit } in promises {
            let is_kept = value <= most;
            let word = if is_kept { "ok    " } else { "MISSED" };
            println!("{word} {name:<46} {value:.3} {unit}   wanted: at most {most} {unit}");
            missed += usize::from(!is_kept);
        }
    };
    if wanted("recorder") {
        tell(recorder(&run)?);
    }
    if wanted("policy") {
        tell(policy(&run)?);
    }
    if wanted("long") {
        tell(long(&pptop, &run)?);
    }
    if wanted("live") {
        tell(live(&pptop, &run)?);
    }
    if missed > 0 {
        println!("{missed} promises were missed");
        std::process::exit(1);
    }
    println!("all promises were kept");
    Ok(())
}

/// What one call of `Recorder::span` takes, and all of one rank's in a step against the step.
fn recorder(run: &Simulated) -> anyhow::Result<Vec<Promise>> {
    let folder = tempfile::tempdir()?;
    let recorder = pp_telemetry::recorder(&folder.path().join("run"))?;
    let mut ns = f64::INFINITY;
    for step in 1..=20 {
        let spans: Vec<_> = run.spans(step).collect();
        let began = Instant::now();
        for span in &spans {
            recorder.span(*span);
        }
        ns = ns.min(began.elapsed().as_secs_f64() * 1e9 / spans.len() as f64);
        // The queue is to be empty again.
        thread::sleep(Duration::from_millis(60));
    }
    anyhow::ensure!(recorder.dropped() == 0, "{} spans were dropped", recorder.dropped());
    let of_rank = run.n_spans() as f64 / f64::from(N_RANKS);
    let of_step = of_rank * ns * 1e-9 / run.step_seconds();
    println!("       recorder: {ns:.0} ns a span");
    Ok(vec![promise("recorder: share of a rank's step", of_step * 100.0, RECORD_MAX * 100.0, "%")])
}

/// The log of a run of many steps with `--spans auto`: as long as the policy says, and no longer.
fn policy(run: &Simulated) -> anyhow::Result<Vec<Promise>> {
    let (n_spans_per_step, n_ranks) = (run.n_spans(), u64::from(N_RANKS));
    let size = LogSize { n_steps: STEPS, n_spans_per_step, n_ranks, n_steps_before: 0 };
    let folder = tempfile::tempdir()?;
    let run_dir = folder.path().join("run");
    let recorder = pp_telemetry::recorder(&run_dir)?;
    let every = recorder.set_span_policy(SpanPolicy::Auto, size);
    let began = Instant::now();
    let bytes = write(run, &recorder, &run_dir, STEPS, every, |_, step| step >= STEPS)?;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "       policy: {STEPS} steps, spans of each {every}th, {:.0} MB in {seconds:.1} s",
        bytes as f64 * 1e-6
    );
    let most = LOG_BYTES_MAX as f64 * 1e-6;
    Ok(vec![promise("policy: MB of a log with --spans auto", bytes as f64 * 1e-6, most, "MB")])
}

/// A gigabyte with the spans of every step: opened at its end, read in its middle, played.
fn long(pptop: &PathBuf, run: &Simulated) -> anyhow::Result<Vec<Promise>> {
    let folder = tempfile::tempdir()?;
    let run_dir = folder.path().join("one");
    let recorder = pp_telemetry::recorder(&run_dir)?;
    let began = Instant::now();
    let mut n_steps = 0;
    let bytes = write(run, &recorder, &run_dir, STEPS, 1, |bytes, step| {
        n_steps = step;
        bytes >= LONG_BYTES
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let of_span = bytes as f64 / (n_steps * run.n_spans()) as f64;
    println!(
        "       long: {n_steps} steps, {:.2} GB in {seconds:.1} s, {of_span:.0} bytes for each span",
        bytes as f64 * 1e-9
    );

    let dir = run_dir.display().to_string();
    let mut promises = Vec::new();
    let mut found = serde_json::Value::Null;
    let snapshot = fastest(|| {
        found = pptop::json(pptop, &["snapshot", &dir])?;
        Ok(())
    })?;
    anyhow::ensure!(found["step"] == n_steps, "the snapshot is of step {}", found["step"]);
    promises.push(promise("long: snapshot --json", snapshot, OPEN_SECONDS_MAX, "s"));
    let mut line = String::new();
    let attach = fastest(|| {
        line = pptop::run(pptop, &["attach", "--once", &dir])?;
        Ok(())
    })?;
    anyhow::ensure!(line.contains(&format!("step {n_steps}/")), "attach says {line:?}");
    promises.push(promise("long: attach --once", attach, OPEN_SECONDS_MAX, "s"));

    let log = run_dir.join(EVENTS_FILE);
    let frames = {
        let mut model = Model::new();
        let mut follower = Follower::from_last_mark(&log);
        while !follower.poll(|event| model.apply(&event))?.at_end {}
        model.frames().to_vec()
    };
    let step = n_steps / 2;
    let mut at_step = (Model::new(), Replay::new(&log));
    let seek = fastest(|| {
        let mut model = Model::new();
        let mut replay = Replay::before(&log, &frames, step);
        replay.play_to_step(step, |event| model.apply(&event))?;
        at_step = (model, replay);
        Ok(())
    })?;
    let (mut model, mut replay) = at_step;
    anyhow::ensure!(model.step() == step, "sought {step}, found {}", model.step());
    promises.push(promise("long: seek to the middle", seek, OPEN_SECONDS_MAX, "s"));
    // As the monitor plays: a hundred times as fast, in pieces of a tenth of a second.
    let tick = Duration::from_millis(100);
    let by_ns = tick.as_nanos() as f64 * SPEED;
    let began = Instant::now();
    let n_ticks = 10;
    for _ in 0..n_ticks {
        #[expect(clippy::cast_sign_loss, reason = "a time is not negative")]
        let mut by_ns = by_ns as u64;
        while replay.advance(by_ns, 20_000, |event| model.apply(&event))? > 0 {
            by_ns = 0;
        }
    }
    let share = began.elapsed().as_secs_f64() / (tick.as_secs_f64() * f64::from(n_ticks));
    println!("       long: at {SPEED}x {:.0} steps a second", SPEED / run.step_seconds());
    promises.push(promise("long: a second of 100x takes", share, 1.0, "s"));

    let start = format!("step={step}");
    if let Some(terminal) = Terminal::open(pptop, &["replay", &dir, "--start", &start])? {
        let seconds = terminal.wait_for(&format!("step {step}/"))?.as_secs_f64();
        promises.push(promise(
            "long: replay --start on the screen",
            seconds,
            OPEN_SECONDS_MAX,
            "s",
        ));
    }
    if let Some(terminal) = Terminal::open(pptop, &["replay", &dir, "--speed", &SPEED.to_string()])?
    {
        let seconds = terminal.wait_for(&format!("step {n_steps}/"))?.as_secs_f64();
        let of_its_time = seconds / (n_steps as f64 * run.step_seconds() / SPEED);
        promises.push(promise(
            "long: replay --speed 100 to the end, of its time",
            of_its_time,
            LATE_MAX,
            "times",
        ));
    }
    compress(folder.path(), &run_dir)?;
    let snapshot = fastest(|| {
        found = pptop::json(pptop, &["snapshot", &dir])?;
        Ok(())
    })?;
    anyhow::ensure!(found["step"] == n_steps, "the snapshot is of step {}", found["step"]);
    promises.push(promise("long: snapshot --json, compressed", snapshot, OPEN_SECONDS_MAX, "s"));
    Ok(promises)
}

/// Compresses the log of a run that has ended, as the monitor does after a while.
fn compress(all: &Path, one: &Path) -> anyhow::Result<()> {
    let hour_ago = SystemTime::now() - Duration::from_hours(1);
    for path in [&one.join(EVENTS_FILE), &one.join(STATUS_FILE), one] {
        File::open(path)?.set_modified(hour_ago)?;
    }
    let keep = Keep { bytes: u64::MAX, ..Keep::default() };
    let tidied = tidy(all, keep, false)?;
    anyhow::ensure!(tidied.compressed.len() == 1, "the log was not compressed: {tidied:?}");
    Ok(())
}

/// The fastest of some tries, in seconds.
fn fastest(mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        let began = Instant::now();
        work()?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// The monitor beside a run that goes on.
fn live(pptop: &Path, run: &Simulated) -> anyhow::Result<Vec<Promise>> {
    let folder = tempfile::tempdir()?;
    let run_dir = folder.path().join("run");
    let recorder = pp_telemetry::recorder(&run_dir)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let goes_on = scope.spawn(|| run.live(&recorder, &stop));
        let promises = watch(pptop, &run_dir);
        stop.store(true, Ordering::Release);
        let n_steps = goes_on.join().map_err(|_| anyhow::anyhow!("the run has panicked"))?;
        println!("       live: {n_steps} steps, {} events dropped", recorder.dropped());
        promises
    })
}

fn watch(pptop: &Path, dir: &Path) -> anyhow::Result<Vec<Promise>> {
    let dir = dir.display().to_string();
    let Some(terminal) = Terminal::open(pptop, &["attach", &dir])? else { return Ok(Vec::new()) };
    terminal.wait_for("LIVE")?;
    let mut promises = Vec::new();
    for (key, view) in [("1", "overview"), ("2", "timeline"), ("5", "bubble")] {
        terminal.press(key)?;
        thread::sleep(SETTLE);
        let before = Usage::of(terminal.pid())?;
        let began = Instant::now();
        thread::sleep(WATCH);
        let after = Usage::of(terminal.pid())?;
        let core = (after.cpu_seconds - before.cpu_seconds) / began.elapsed().as_secs_f64();
        anyhow::ensure!(terminal.screen()?.contains("LIVE"), "the monitor shows no live run");
        promises.push(promise(
            format!("live: {view}"),
            core * 100.0,
            CORE_MAX * 100.0,
            "% of a core",
        ));
    }
    let memory = Usage::of(terminal.pid())?.most_mib;
    promises.push(promise("live: memory", memory, MIB_MAX, "MiB"));
    Ok(promises)
}

/// Whether a program can be started at all.
fn is_there(program: &str, arg: &str) -> bool {
    Command::new(program).arg(arg).output().is_ok_and(|output| output.status.success())
}

/// A number in a file of `/proc`, after its name.
fn number_after(text: &str, name: &str) -> anyhow::Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).with_context(|| format!("no {name}"))
}
