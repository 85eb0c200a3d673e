//! `pptop checkpoint`: the checkpoints of a run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use pp_telemetry::civil_date;
use pp_train::checkpoint::{Checkpoint, CheckpointError, Found, list};
use pp_train::{JobRecord, causes, write_tensors};
use serde_json::{Value, json};

use super::checkpoints;
use super::endings::Content;
use super::output::{Output, write_failed};
use super::outputs::Files;
use super::{CliError, one_line, print, print_json};

/// What to do with checkpoints.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the checkpoints of a run or a folder by step; reads their manifests only
    List(Which),
    /// Show what is in a checkpoint: its job, its files, and what wrote it
    Show(Which),
    /// Check every byte of all checkpoints of a run or a folder, or of one; exit code 1 if one is
    /// broken
    Verify(Which),
    /// Write the weights of a checkpoint into one file, which --init and other programs read
    Export(ExportArgs),
}

/// Which checkpoints.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// latest, a run, a folder of checkpoints, or the folder of one checkpoint
    #[arg(value_name = "DIR|RUN", default_value = "latest")]
    which: OsString,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `export`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// latest, a run, a folder of checkpoints, or the folder of one checkpoint
    #[arg(value_name = "DIR|RUN", default_value = "latest")]
    which: OsString,
    /// File to write
    #[arg(short, long, value_name = "FILE.safetensors")]
    output: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::List(which) => list_all(which),
        Command::Show(which) => show(which),
        Command::Verify(which) => verify(which),
        Command::Export(args) => export(args),
    }
}

fn refused(error: &CheckpointError) -> CliError {
    CliError::Usage(causes(error))
}

/// All checkpoints that a name stands for, whole or not.
fn all(which: &Which) -> Result<Vec<Found>, CliError> {
    let path = Path::new(&which.which);
    if checkpoints::is_checkpoint(path) {
        return Ok(vec![Found { path: path.to_owned(), checkpoint: Checkpoint::open(path) }]);
    }
    list(&checkpoints::folder(&which.which)?).map_err(|error| refused(&error))
}

fn list_all(which: &Which) -> Result<(), CliError> {
    let found = all(which)?;
    if which.json {
        return print_json(&found.iter().map(about).collect::<Vec<_>>());
    }
    let mut text = format!("{:>9}  {:>8}  {:<20}  {:<28}  path\n", "step", "MB", "written", "run");
    for found in &found {
        let path = one_line(&found.path.display().to_string());
        let _ = match &found.checkpoint {
            Ok(checkpoint) => {
                let manifest = checkpoint.manifest();
                let megabytes = checkpoint.n_bytes() as f64 / 1e6;
                let written = date(manifest.written_unix_ms);
                let run = one_line(&manifest.run);
                let step = manifest.step;
                writeln!(text, "{step:>9}  {megabytes:>8.1}  {written:<20}  {run:<28}  {path}")
            }
            Err(error) => writeln!(text, "{:>9}  {}", "broken", one_line(&causes(error))),
        };
    }
    print(&text)
}

/// A checkpoint as JSON.
fn about(found: &Found) -> Value {
    let path = found.path.display().to_string();
    match &found.checkpoint {
        Ok(checkpoint) => {
            json!({"path": path, "bytes": checkpoint.n_bytes(), "manifest": checkpoint.manifest()})
        }
        Err(error) => json!({"path": path, "broken": causes(error)}),
    }
}

fn show(which: &Which) -> Result<(), CliError> {
    let checkpoint = checkpoints::find(&which.which)?;
    let manifest = checkpoint.manifest();
    if which.json {
        return print_json(&json!({
            "path": checkpoint.path().display().to_string(),
            "bytes": checkpoint.n_bytes(),
            "manifest": manifest,
        }));
    }
    let mut text = format!("{}\n", one_line(&checkpoint.path().display().to_string()));
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<14} {}", one_line(value));
    };
    line("step", &manifest.step.to_string());
    line("run", &manifest.run);
    line("written", &date(manifest.written_unix_ms));
    line("trained for", &format!("{:.1} s", manifest.elapsed_seconds));
    line("parameters", &manifest.parameters.to_string());
    let steps = manifest.optimizer_steps;
    line("optimizer", &format!("{}, {steps} steps", manifest.optimizer));
    if let Ok(job) = JobRecord::read(&checkpoint) {
        line("model", &job.model);
        line("schedule", &job.schedule);
        let replicas = if job.dp > 1 { format!(" x {} replicas", job.dp) } else { String::new() };
        line("ranks", &format!("{}{replicas}", job.pp));
        line("layers", &job.layers);
        line("batch", &format!("{} in {} micro-batches", job.batch_size, job.micro_batches));
        line("learning rate", &job.rate);
        line("steps planned", &job.steps.to_string());
        line("kernels", &job.kernels);
        line("flags", &job.words.join(" "));
    }
    for file in &manifest.files {
        let _ = writeln!(text, "  {:>12} {}", file.bytes, one_line(&file.name));
    }
    print(&text)
}

fn verify(which: &Which) -> Result<(), CliError> {
    let mut n_broken = 0;
    let mut answers = Vec::new();
    for Found { path, checkpoint } in all(which)? {
        let verified = checkpoint.and_then(|checkpoint| checkpoint.verify());
        let why = verified.err().map(|error| causes(&error));
        n_broken += usize::from(why.is_some());
        if which.json {
            answers.push(json!({"path": path.display().to_string(), "broken": why}));
        } else {
            let path = one_line(&path.display().to_string());
            match why {
                None => print(&format!("whole   {path}\n"))?,
                Some(why) => print(&format!("broken  {}\n", one_line(&why)))?,
            }
        }
    }
    if which.json {
        print_json(&answers)?;
    }
    if n_broken > 0 { Err(CliError::Code(1)) } else { Ok(()) }
}

fn export(args: &ExportArgs) -> Result<(), CliError> {
    let checkpoint = checkpoints::find(&args.which)?;
    let mut files = Files::new(args.force);
    files.run_dir(checkpoint.path());
    files.result("--output", &args.output, Content::Weights)?;
    files.check()?;
    let weights = checkpoint.weights().map_err(|error| refused(&error))?;
    let mut output = Output::bytes_to(&args.output, args.force)?;
    write_tensors(&mut output, &weights, &BTreeMap::new()).map_err(|e| write_failed(&e))?;
    output.finish(&args.output)
}

/// A moment in UTC, to the second.
fn date(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}
