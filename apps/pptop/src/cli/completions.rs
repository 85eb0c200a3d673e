//! `pptop completions`: what a shell needs to complete commands, flags and their values.

use clap_complete::Shell;

use super::{CliError, print};

/// Which shell completes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Shell to complete for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Runs the command: the script goes to standard output.
pub(crate) fn run(args: &Args, mut program: clap::Command) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "pptop", &mut script);
    print(&String::from_utf8_lossy(&script))
}
