//! `pptop replay`: plays a recorded run again.

use std::ffi::OsString;

use pptop::monitor::Watch;

use super::CliError;
use super::settings::{Look, ScreenFlags};
use super::which::find;

/// What is played, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// latest, the start of a run id, a run folder, a log file, or - for a log on standard input
    #[arg(value_name = "RUN|FILE|-")]
    run: OsString,
    /// Playback speed, 0.01 to 10000 times that of the run
    #[arg(long, value_name = "X", default_value = "1", value_parser = speed)]
    speed: f64,
    /// Step to start at
    #[arg(long, value_name = "step=N", value_parser = start)]
    start: Option<u64>,
    /// Start again at the end
    #[arg(long = "loop")]
    is_loop: bool,
    #[command(flatten)]
    screen: ScreenFlags,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok().filter(|speed| (0.01..=10_000.0).contains(speed));
    speed.ok_or_else(|| "use a number from 0.01 to 10000".to_owned())
}

fn start(text: &str) -> Result<u64, String> {
    let step = text.strip_prefix("step=").unwrap_or(text);
    step.parse().map_err(|_| "use step=N, the number of a step".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let config = args.screen.config()?;
    let found = find(&args.run)?;
    if !super::has_screen() {
        let message =
            "a replay needs a terminal; use pptop export csv or pptop attach --plain for lines";
        return Err(CliError::Usage(message.to_owned()));
    }
    // What cannot be read is refused before there is a screen.
    super::standing::model_of(&found)?;
    let (run, spool) = found.into_parts();
    let (speed, start, is_loop) = (args.speed, args.start, args.is_loop);
    let watch = Watch::Replay { run: Box::new(run), speed, start, is_loop };
    let ended = Look::of(&config).watch(vec![watch], true);
    // What came through a pipe is read until here.
    drop(spool);
    ended
}
