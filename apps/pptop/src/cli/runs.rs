//! `pptop runs`: the runs that are kept.

use std::io::{IsTerminal as _, stdout};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use crossterm::terminal;
use pp_telemetry::{Continues, Run, list_runs, runs_dir, tidy};
use pptop::config::Config;
use pptop::monitor::Watch;
use pptop::monitor::runs::{COLUMNS_OF_TEXT, Chosen, ListLaunch, Row, choose, table};
use serde_json::json;

use super::settings::{Look, config};
use super::sizes::natural;
use super::which::WhichRun;
use super::{CliError, one_line, print, print_json};

/// What to do with the runs that are kept.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List all runs, the newest first
    List(ListArgs),
    /// Describe a run without reading its log
    Info(InfoArgs),
    /// Compress the logs of runs that ended ten minutes ago or earlier, and remove the oldest runs
    /// beyond the limits
    Prune(PruneArgs),
}

/// Flags of `list`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// Flags of `info`.
#[derive(Debug, clap::Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    which: WhichRun,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Flags of `prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Number of runs to keep [default: as configured, else 100]
    #[arg(long, value_name = "N", value_parser = natural)]
    keep_runs: Option<u64>,
    /// Megabytes to keep over all runs [default: as configured, else 1000]
    #[arg(long, value_name = "MB", value_parser = natural)]
    keep_mb: Option<u64>,
    /// Remove runs older than DAYS [default: as configured, else 30]
    #[arg(long, value_name = "DAYS", value_parser = natural)]
    keep_days: Option<u64>,
    /// Print what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::List(args) => list(args),
        Command::Info(args) => info(args),
        Command::Prune(args) => prune(args),
    }
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

fn unreadable(dir: &Path, error: &std::io::Error) -> CliError {
    let dir = one_line(&dir.display().to_string());
    CliError::Usage(format!(
        "cannot use {dir:?}: {error}; set PPTOP_STATE_DIR to a readable and writable folder"
    ))
}

/// All runs, the newest first, and where they are.
fn all() -> Result<(Vec<Run>, PathBuf), CliError> {
    let dir = runs_dir().map_err(failed)?;
    let runs = list_runs(&dir).map_err(|error| unreadable(&dir, &error))?;
    Ok((runs, dir))
}

/// The runs whose processes are there, the newest first.
pub(crate) fn live() -> Result<Vec<Run>, CliError> {
    let (mut runs, _) = all()?;
    runs.retain(|run| run.standing().is_alive());
    Ok(runs)
}

/// Lists the runs where none is live, and says what one can do.
pub(crate) fn listed_with_hint() -> Result<(), CliError> {
    list(&ListArgs { json: false })?;
    let train = if cfg!(feature = "train") { "pptop train starts one, " } else { "" };
    print(&format!(
        "\nno run is live; {train}pptop demo shows one on simulated devices, pptop replay RUN plays a recorded one\n"
    ))
}

/// The runs as a list that one moves in; a run that was watched leads back to it.
pub(crate) fn chosen_from(config: &Config) -> Result<(), CliError> {
    let (runs, dir) = all()?;
    if runs.is_empty() {
        return listed_with_hint();
    }
    let mut state = None;
    loop {
        let look = Look::of(config);
        let launch = ListLaunch {
            runs_dir: &dir,
            theme: look.theme,
            keymap: &look.keymap,
            mouse: look.mouse,
            interval: look.interval,
        };
        let chosen = choose(&launch, &mut state)
            .map_err(|error| CliError::Failed(format!("the list of runs failed: {error:#}")))?;
        let (watch, read_only) = match chosen {
            Chosen::LayOver(runs) => {
                look.compare(runs.map(Watch::Found).into())?;
                continue;
            }
            Chosen::Nothing => return Ok(()),
            Chosen::Signalled(code) => return Err(CliError::Code(code as u8)),
            Chosen::Open(run) => (Watch::Found(run), false),
            Chosen::Replay(run) => {
                let (speed, start, is_loop) = (1.0, None, false);
                (Watch::Replay { run, speed, start, is_loop }, true)
            }
        };
        look.watch(vec![watch], read_only)?;
    }
}

fn list(args: &ListArgs) -> Result<(), CliError> {
    let (runs, dir) = all()?;
    if args.json {
        return print_json(&runs.iter().map(of_run).collect::<Vec<_>>());
    }
    if runs.is_empty() {
        return print(&format!("no runs in {}; pptop train starts one\n", dir.display()));
    }
    let rows: Vec<Row> = runs.into_iter().map(Row::of).collect();
    let (head, lines) = table(&rows, n_columns());
    let mut text = head + "\n";
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    let resumed = rows.iter().filter_map(|row| Some((&row.run.id, continues(&row.run)?)));
    for (id, before) in resumed {
        text.push_str(&one_line(&format!("{id} continues {before}")));
        text.push('\n');
    }
    print(&text)
}

/// The run and the step that a run resumes from, by its summary.
fn continues(run: &Run) -> Option<&Continues> {
    run.status.as_ref()?.continues.as_ref()
}

/// The runs that resume from this one, the newest first, each with its step.
fn continued_by(run: &Run) -> Vec<(String, u64)> {
    let runs = run.dir.parent().and_then(|dir| list_runs(dir).ok()).unwrap_or_default();
    let goes_on = |other: Run| {
        let before = continues(&other).filter(|before| before.run == run.id)?;
        Some((other.id.clone(), before.step))
    };
    runs.into_iter().filter_map(goes_on).collect()
}

/// Columns of the terminal; what goes elsewhere fits a usual one.
fn n_columns() -> usize {
    let terminal = stdout().is_terminal().then(terminal::size).and_then(Result::ok);
    terminal.map_or(COLUMNS_OF_TEXT, |(columns, _)| (columns as usize).max(COLUMNS_OF_TEXT / 2))
}

fn of_run(run: &Run) -> serde_json::Value {
    let row = Row::of(run.clone());
    json!({
        "id": run.id,
        "state": run.standing().state(),
        "standing": run.standing().name(),
        // JSON holds text alone.
        "dir": run.dir.to_string_lossy(),
        "log": run.log.to_string_lossy(),
        "bytes": run.bytes,
        "seconds": row.seconds,
        "step": row.steps.0,
        "steps": row.steps.1,
        "loss": row.loss.filter(|loss| loss.is_finite()),
        "schedule": row.schedule,
        "sizes": row.sizes,
        "continues": continues(run),
        "status": run.status,
    })
}

fn info(args: &InfoArgs) -> Result<(), CliError> {
    let run = args.which.find()?;
    let continued_by = continued_by(&run);
    if args.json {
        let by = |(run, step): &(String, u64)| json!({"run": run, "step": step});
        let mut about = of_run(&run);
        about["continued_by"] = continued_by.iter().map(by).collect();
        return print_json(&about);
    }
    let continues = continues(&run).map(|before| one_line(&before.to_string()));
    let status = run.status.clone().unwrap_or_default();
    let mut lines = vec![
        ("run", one_line(&run.id)),
        ("state", run.standing().to_string()),
        ("model", status.model),
        ("schedule", format!("{} p={} dp={}", status.schedule, status.pp, status.dp)),
        ("step", of_steps(status.step, status.steps)),
        ("loss", status.loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"))),
        ("process", format!("{} on {}", status.pid, status.host)),
        ("socket", status.socket.unwrap_or_else(|| "-".to_owned())),
        ("lost events", status.dropped.to_string()),
        ("log", format!("{} ({})", run.log.display(), size(run.bytes))),
    ];
    let mut more = |name, text: Option<String>| lines.extend(text.map(|text| (name, text)));
    more("continues", continues);
    for (other, step) in continued_by {
        more("continued by", Some(one_line(&format!("{other} from step {step}"))));
    }
    more("checkpoints", status.checkpoints.map(|dir| one_line(&dir)));
    more("saved", status.saved.map(|saved| one_line(&saved)));
    if run.status.is_none() {
        lines.retain(|(name, _)| matches!(*name, "run" | "log"));
    }
    let lines: Vec<String> =
        lines.iter().map(|(name, what)| format!("{name:<12} {what}\n")).collect();
    print(&lines.concat())
}

fn prune(args: &PruneArgs) -> Result<(), CliError> {
    let config = config()?;
    let keep = Config {
        keep_runs: config.keep_runs.or_flag(args.keep_runs),
        keep_mb: config.keep_mb.or_flag(args.keep_mb),
        keep_days: config.keep_days.or_flag(args.keep_days),
        ..config
    }
    .keep();
    let dir = runs_dir().map_err(failed)?;
    let done = tidy(&dir, keep, args.dry_run).map_err(|error| unreadable(&dir, &error))?;
    if done.is_busy {
        let message = "another pptop is pruning at the moment, so nothing was done; try again";
        return Err(CliError::Failed(message.to_owned()));
    }
    if args.json {
        print_json(&json!({
            "dry_run": args.dry_run,
            "removed": done.removed,
            "compressed": done.compressed,
            "left": done.left,
            "failed": done.failed,
        }))?;
    } else {
        let would = if args.dry_run { "would be " } else { "" };
        let mut text = String::new();
        for (ids, what) in [(&done.removed, "removed"), (&done.compressed, "compressed")] {
            text.extend(ids.iter().map(|id| format!("{} {would}{what}\n", one_line(id))));
        }
        text.extend(done.left.iter().map(|why| format!("{would}left: {}\n", one_line(why))));
        if text.is_empty() {
            "nothing to do\n".clone_into(&mut text);
        }
        print(&text)?;
    }
    if done.failed.is_empty() {
        return Ok(());
    }
    Err(CliError::Failed(done.failed.join("; ")))
}

/// Bytes, as one reads them.
fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b < 1e3 => format!("{bytes} B"),
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} GB", b / 1e9),
    }
}

/// `7 of 20`, or `7` where nobody has said how many there will be.
fn of_steps(step: u64, steps: u64) -> String {
    if steps == 0 { step.to_string() } else { format!("{step} of {steps}") }
}
