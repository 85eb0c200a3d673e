//! `pptop convert`: a GGUF file as the folder of a model.

use std::path::PathBuf;

use super::job::of_data;
use super::{CliError, print};

/// Flags of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pptop convert model.gguf model   write config.json, the weights and the tokenizer
  pptop train --model ./model --data text.jsonl   train it")]
pub(crate) struct Args {
    /// The file, of the architecture llama, qwen2 or qwen3
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The folder to write: a new or an empty one
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let config = pp_models::convert(&args.file, &args.folder)
        .map_err(|refused| CliError::Usage(of_data(&refused)))?;
    print(&format!("{}  {} parameters\n", args.folder.display(), config.parameters()))
}
