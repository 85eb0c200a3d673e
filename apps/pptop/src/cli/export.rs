//! `pptop export`: a recorded run in the formats of other programs.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use pp_telemetry::{Event, ExportError, ExportFormat, Follower, Run, StepRange, export};

use super::CliError;
use super::output::{Output, write_failed};
use super::refusal::excerpt;
use super::which::WhichRun;

/// What a run is written as.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Trace for Perfetto and Chrome: a track per rank, a slice per span, an arrow per tensor waited for
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
}

/// Flags of a format that is about steps.
#[derive(Debug, clap::Args)]
pub(crate) struct StepsArgs {
    #[command(flatten)]
    plain: PlainArgs,
    /// Export these steps only, both included; 10.. and ..20 have an open end
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
    /// What one rank did from one moment to another
    Spans,
}

/// Flags of `tensorboard`.
#[derive(Debug, clap::Args)]
pub(crate) struct TensorBoardArgs {
    #[command(flatten)]
    which: WhichRun,
    /// File to write, or a directory, such as that of --logdir, for a file with the name that TensorBoard expects
    #[arg(short, long, value_name = "DIRECTORY|FILE|-", default_value = "-")]
    output: PathBuf,
    /// Export these steps only, both included; 10.. and ..20 have an open end
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
        Command::Prometheus(args) => {
            let run = args.which.find()?;
            write(&run, ExportFormat::Prometheus, None, output(&args.output)?)
        }
        Command::Tensorboard(args) => tensorboard(args),
    }
}

fn of_steps(args: &StepsArgs, format: ExportFormat) -> Result<(), CliError> {
    let run = args.plain.which.find()?;
    write(&run, format, args.steps, output(&args.plain.output)?)
}

fn output(path: &Path) -> Result<Output, CliError> {
    if path == Path::new("-") { Ok(Output::stdout()) } else { Output::file(path) }
}

fn tensorboard(args: &TensorBoardArgs) -> Result<(), CliError> {
    let run = args.which.find()?;
    let output = if args.output == Path::new("-") {
        Output::stdout_for_bytes()?
    } else if args.output.is_dir() {
        let seconds = started_unix_seconds(&run)?;
        // Named after the run's beginning, so that a later export takes the place of an earlier one.
        Output::file(&args.output.join(format!("events.out.tfevents.{seconds:010}.pptop")))?
    } else {
        Output::file(&args.output)?
    };
    write(&run, ExportFormat::TensorBoard, args.steps, output)
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
) -> Result<(), CliError> {
    // A reader waits for a log that isn't there yet; here it never will be.
    run.log.symlink_metadata().map_err(|failed| {
        let log = excerpt(&run.log.display().to_string());
        CliError::Usage(format!("cannot read {log}: {failed}; name a run with a log"))
    })?;
    let n_bad = export(&mut format.follow(&run.log), format, steps, &mut output)
        .map_err(|failed| told(run, failed))?;
    output.finish()?;
    if n_bad > 0 {
        // Where standard error is closed there is nobody left to tell.
        let _ = writeln!(
            io::stderr(),
            "pptop: left out {n_bad} lines of {} that are no events",
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
