//! `pptop import`: traces of other programs as recorded runs.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use pp_telemetry::{
    EVENTS_FILE, ImportError, Run, Taken, WholeFile, import_chrome_trace, import_kineto,
    new_run_dir,
};

use super::collect::collect;
use super::{CliError, print};

/// What is imported.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Traces of PyTorch's profiler, one per rank; gzip is accepted
    Kineto(KinetoArgs),
    /// A trace that pptop export chrome-trace has written
    ChromeTrace(ChromeArgs),
}

/// Flags of `import kineto`.
#[derive(Debug, clap::Args)]
pub(crate) struct KinetoArgs {
    /// The traces of all ranks
    #[arg(value_name = "FILE", required = true)]
    traces: Vec<PathBuf>,
}

/// Flags of `import chrome-trace`.
#[derive(Debug, clap::Args)]
pub(crate) struct ChromeArgs {
    /// The trace
    #[arg(value_name = "FILE")]
    trace: PathBuf,
}

/// Runs the command.
pub(crate) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Kineto(args) => into_run("kineto", |dir| import_kineto(&args.traces, dir)),
        Command::ChromeTrace(args) => {
            into_run("chrome-trace", |dir| import_chrome_trace(&args.trace, dir))
        }
    }
}

/// Writes a new run from the files of ranks that `convert` makes.
fn into_run(
    name: &str,
    convert: impl FnOnce(&Path) -> Result<u64, ImportError>,
) -> Result<(), CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    // Beside the log that is made of them, so that there is room for both on one disk.
    let (id, dir) = new_run_dir(name).map_err(|error| failed(&error))?;
    let written = (|| {
        let parts = tempfile::Builder::new()
            .prefix("pptop-import-")
            .tempdir_in(&dir)
            .map_err(|error| failed(&error))?;
        convert(parts.path()).map_err(|error| match error {
            ImportError::Write { .. } => failed(&error),
            refused => CliError::Usage(refused.with_remedy()),
        })?;
        let run = Run::of(parts.path()).map_err(|error| failed(&error))?;
        let run = run.ok_or_else(|| CliError::Failed("no rank was found".to_owned()))?;
        let file = WholeFile::private(&dir.join(EVENTS_FILE)).map_err(|error| failed(&error))?;
        let (file, n_steps) = collect(&run, &id, file)?;
        file.finish(Taken::Stays).map_err(|error| failed(&error))?;
        Ok(n_steps)
    })();
    match written {
        Ok(n_steps) => print(&format!("{id}  {n_steps} steps\n")),
        Err(error) => {
            // Nothing is left of a run that was not made.
            let _ = std::fs::remove_dir_all(&dir);
            Err(error)
        }
    }
}
