//! `pptop demo`: the monitor on devices that do not exist.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use pp_schedule::{ScheduleName, Sizes};
use pp_telemetry::Run;
use pptop::demo::{Demo, Job};
use pptop::monitor::Watch;

use super::CliError;
use super::settings::{Look, ScreenFlags};
use super::sizes::count;

/// What the devices pretend to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Schedule by name
    #[arg(long, value_name = "NAME", default_value = "1f1b", value_parser = schedule)]
    schedule: ScheduleName,
    /// Ranks along the pipeline
    #[arg(long, value_name = "P", default_value = "4", value_parser = up_to_64)]
    pp: u32,
    /// Data-parallel replicas
    #[arg(long, value_name = "D", default_value = "1", value_parser = up_to_64)]
    dp: u32,
    /// Micro-batches of each replica in a step
    #[arg(short = 'm', long, value_name = "M", default_value = "8", value_parser = count)]
    micro_batches: u32,
    /// Steps to simulate
    #[arg(long, value_name = "N", default_value = "5000", value_parser = count)]
    steps: u32,
    #[command(flatten)]
    screen: ScreenFlags,
}

fn up_to_64(text: &str) -> Result<u32, String> {
    let number = text.parse::<u32>().ok().filter(|number| (1..=64).contains(number));
    number.ok_or_else(|| "use a whole number from 1 to 64".to_owned())
}

fn schedule(text: &str) -> Result<ScheduleName, String> {
    text.parse::<ScheduleName>().map_err(|refused| refused.to_string())
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let config = args.screen.config()?;
    if !super::has_screen() {
        let message = "a demo needs a terminal; run pptop snapshot for a screen as text";
        return Err(CliError::Usage(message.to_owned()));
    }
    let sizes = Sizes {
        n_ranks: args.pp,
        n_micro_batches: args.micro_batches,
        n_virtual_stages: args.schedule.default_virtual_stages(),
        interleave_group: None,
    };
    let plan = args.schedule.generate(&sizes)?;
    let failed =
        |error: &dyn std::fmt::Display| CliError::Failed(format!("cannot run the demo: {error}"));
    // The folder is removed when the demo is over.
    let folder = tempfile::Builder::new()
        .prefix("pptop-demo-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .map_err(|error| failed(&error))?;
    let job = Job { plan, dp: args.dp, steps: u64::from(args.steps) };
    let demo = Demo::start(job, folder.path()).map_err(|error| failed(&error))?;
    let run = Run::of(folder.path()).ok().flatten().ok_or_else(|| failed(&"it has no log"))?;
    let ended = Look::of(&config).watch(vec![Watch::Demo(Box::new(run))], true);
    drop(demo);
    ended
}
