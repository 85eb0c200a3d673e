//! `pptop export`: a recorded run in the formats of other programs.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use pp_telemetry::{Event, ExportError, ExportFormat, Follower, Run, StepRange, export};

use super::CliError;
use super::endings::Content;
use super::output::{Output, write_failed};
use super::outputs::Files;
use super::refusal::excerpt;
use super::which::WhichRun;

/// What a run is written as.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Trace for Perfetto and Chrome: a track per rank, a slice per span, an arrow per tensor
    /// waited for
    ChromeTrace(StepsArgs),
    /// CSV with one line per step or per span
    Csv(CsvArgs),
    /// TensorBoard event file: loss, bubble, throughput, memory
    Tensorboard(TensorBoardArgs),
    /// Picture of the last step recorded in full, or of several steps
    Svg(StepsArgs),
    /// Latest state in the text format of Prometheus
    Prometheus(PlainArgs),
}

/// Flags of a format that is about the last state.
#[derive(Debug, clap::Args)]
pub(crate) struct PlainArgs {
    #[command(flatten)]
    which: WhichRun,
    /// File to write; - is standard output
    #[arg(short, long, value_name = "FILE|-", default_value = "-")]
    output: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// Flags of a format that is about steps.
#[derive(Debug, clap::Args)]
pub(crate) struct StepsArgs {
    #[command(flatten)]
    plain: PlainArgs,
    /// Export these steps only, both included; 10.. and ..20 are open-ended
    #[arg(long, value_name = "A..B")]
    steps: Option<StepRange>,
}

/// Flags of `csv`.
#[derive(Debug, clap::Args)]
pub(crate) struct CsvArgs {
    #[command(flatten)]
    steps: StepsArgs,
    /// What each line describes
    #[arg(long, value_enum, default_value_t = Rows::Steps)]
    what: Rows,
}

/// What a line of CSV is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// A step, with the validation that followed it
    Steps,
    /// A span of one rank: an operation, a transfer or a wait
    Spans,
}

/// Flags of `tensorboard`.
#[derive(Debug, clap::Args)]
pub(crate) struct TensorBoardArgs {
    #[command(flatten)]
    which: WhichRun,
    /// File to write, or a directory, such as TensorBoard's --logdir, that gets a file with the
    /// name that TensorBoard expects
    #[arg(short, long, value_name = "DIRECTORY|FILE|-", default_value = "-")]
    output: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// Export these steps only, both included; 10.. and ..20 are open-ended
    #[arg(long, value_name = "A..B")]
    steps: Option<StepRange>,
}

/// Runs the command.
pub(crate) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::ChromeTrace(args) => of_steps(args, ExportFormat::ChromeTrace),
        Command::Csv(CsvArgs { steps, what: Rows::Steps }) => {
            of_steps(steps, ExportFormat::StepsCsv)
        }
        Command::Csv(CsvArgs { steps, what: Rows::Spans }) => {
            of_steps(steps, ExportFormat::SpansCsv)
        }
        Command::Svg(args) => of_steps(args, ExportFormat::Svg),
        Command::Prometheus(args) => plain(args, ExportFormat::Prometheus, None),
        Command::Tensorboard(args) => tensorboard(args),
    }
}

fn of_steps(args: &StepsArgs, format: ExportFormat) -> Result<(), CliError> {
    plain(&args.plain, format, args.steps)
}

fn plain(args: &PlainArgs, format: ExportFormat, steps: Option<StepRange>) -> Result<(), CliError> {
    let found = args.which.find()?;
    check(&found, &args.output, args.force, format)?;
    write(&found, format, steps, Output::to(&args.output, args.force)?, &args.output)
}

fn tensorboard(args: &TensorBoardArgs) -> Result<(), CliError> {
    let found = args.which.find()?;
    let path = if args.output.is_dir() {
        let seconds = started_unix_seconds(&found)?;
        // Named after the run's beginning: TensorBoard reads files in this order.
        args.output.join(format!("events.out.tfevents.{seconds:010}.pptop"))
    } else {
        args.output.clone()
    };
    check(&found, &path, args.force, ExportFormat::TensorBoard)?;
    let output = Output::bytes_to(&path, args.force)?;
    write(&found, ExportFormat::TensorBoard, args.steps, output, &path)
}

/// An export replaces neither what it reads nor what belongs to a run, nor anything that it was not
/// told to.
fn check(run: &Run, path: &Path, force: bool, format: ExportFormat) -> Result<(), CliError> {
    let mut files = Files::new(force);
    files.input("the export", &run.log);
    files.run_dir(&run.dir);
    files.output("-o", path, content_of(format))?;
    files.check()
}

fn content_of(format: ExportFormat) -> Content {
    match format {
        ExportFormat::ChromeTrace => Content::Json,
        ExportFormat::StepsCsv | ExportFormat::SpansCsv => Content::Csv,
        ExportFormat::TensorBoard => Content::EventFile,
        ExportFormat::Svg => Content::Svg,
        ExportFormat::Prometheus => Content::Metrics,
    }
}

/// When a run began, as its first lines tell it; 0 where they do not.
fn started_unix_seconds(run: &Run) -> Result<u64, CliError> {
    let mut started_ms = None;
    Follower::new(&run.log)
        .poll(|event| {
            if let Event::Hello(hello) = event {
                started_ms.get_or_insert(hello.started_unix_ms);
            }
        })
        .map_err(|failed| told(run, failed.into()))?;
    Ok(started_ms.unwrap_or(0) / 1000)
}

fn write(
    run: &Run,
    format: ExportFormat,
    steps: Option<StepRange>,
    mut output: Output,
    path: &Path,
) -> Result<(), CliError> {
    // A reader waits for a log that isn't there yet; here it never will be.
    run.log.symlink_metadata().map_err(|failed| {
        let log = excerpt(&run.log.display().to_string());
        CliError::Usage(format!("cannot read {log}: {failed}; name a run with a log"))
    })?;
    let n_bad = export(&mut format.follow(&run.log), format, steps, &mut output)
        .map_err(|failed| told(run, failed))?;
    if format == ExportFormat::Prometheus {
        let text = super::standing::metrics(run);
        output.write_all(text.as_bytes()).map_err(|failed| write_failed(&failed))?;
    }
    output.finish(path)?;
    if n_bad > 0 {
        // If standard error is closed, the message is lost.
        let _ = writeln!(
            io::stderr(),
            "pptop: skipped {n_bad} lines of {} that are not events",
            excerpt(&run.log.display().to_string())
        );
    }
    Ok(())
}

fn told(run: &Run, failed: ExportError) -> CliError {
    match failed {
        ExportError::Write(failed) => write_failed(&failed),
        ExportError::Read(_) => CliError::Usage(failed.to_string()),
        other => CliError::Usage(format!("{}: {other}", excerpt(&run.id))),
    }
}
