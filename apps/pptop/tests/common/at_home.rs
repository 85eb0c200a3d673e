//! The program in a folder of its own.

use std::path::Path;
use std::process::Command;

/// `pptop` with the words of `line`, which keeps its state and its configuration in `home`, and
/// finds the files there.
pub(crate) fn pptop(home: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pptop"));
    command.args(line.split_whitespace()).current_dir(home);
    command.env("PPTOP_STATE_DIR", home).env("XDG_CONFIG_HOME", home).env("HOME", home);
    command
}
