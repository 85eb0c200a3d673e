//! `pptop evaluate`: the loss of a model on a text.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use pp_models::{Evaluated, model_folder};
use pp_partition::Cut;
use pp_telemetry::Recorder;
use pp_train::{Config, KernelChoice, Prepared, Profiles, TrainError, causes};
use serde::Serialize;

use super::job::{Spec, of_data};
use super::kernels::kernels;
use super::sizes::count;
use super::{CliError, print, print_json};

/// Flags of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each document is evaluated from its beginning, in pieces of at most the model's context. No special
tokens are added. The loss is the mean over all tokens that are predicted.

Examples:
  pptop evaluate ./model --data held-out.jsonl
  pptop evaluate ./model --data held-out.jsonl --pp 4 --json")]
pub(crate) struct Args {
    /// The folder of the model
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The text: a .jsonl file with a "text" in each line, or any other file as one document
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Ranks along the pipeline
    #[arg(long, value_name = "P", value_parser = count, default_value = "1")]
    pp: u32,
    /// Matrix kernels: auto, rule, or one by name
    #[arg(long, value_name = "KERNELS", value_parser = kernels)]
    kernels: Option<KernelChoice>,
    /// Leave out lines of a .jsonl that are no documents, and count them
    #[arg(long)]
    skip_bad_lines: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    /// Nats a token.
    loss: f64,
    /// Tokens that were predicted.
    tokens: u64,
    /// `e` to the loss.
    perplexity: f64,
    /// Pieces of text.
    sequences: usize,
    /// Lines that are no documents, and were left out.
    skipped_lines: usize,
    /// Ranks.
    pp: u32,
    /// Seconds that the evaluation took, loading left out.
    seconds: f64,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let folder = model_folder(&args.folder);
    let model = Evaluated::new(&folder, &args.data, args.skip_bad_lines)
        .map_err(|refused| CliError::Usage(of_data(&refused)))?;
    let skipped_lines = model.n_skipped();
    let config = Config {
        pp: Some(args.pp),
        micro_batches: args.pp,
        batch_size: Some(u64::from(args.pp)),
        steps: 1,
        cut: Cut::Parameters,
        kernels: args.kernels.unwrap_or_default(),
        packs_weights: false,
        init: Some(folder),
        ..Config::new(Arc::new(model))
    };
    let spec = Spec::of(config);
    let told = |error: TrainError| spec.told(&error);
    let mut profiles = Profiles::default();
    let prepared = Prepared::new(spec.config.clone()).map_err(told)?;
    let mut session = prepared.cut(&mut profiles, |_| {}).map_err(told)?;
    let pieces = session.job().data.validation(1).map_err(|error| told(error.into()))?;
    let mut trainer = session.trainer(Recorder::disabled(), Instant::now()).map_err(told)?;
    let begun = Instant::now();
    let evaluation = trainer.evaluate(&pieces).map_err(|error| CliError::Failed(causes(&error)))?;
    if !evaluation.loss.is_finite() {
        let loss = evaluation.loss;
        return Err(CliError::Failed(format!("the loss is {loss}: the model has no answer there")));
    }
    let found = Found {
        loss: evaluation.loss,
        tokens: evaluation.weight as u64,
        perplexity: evaluation.loss.exp(),
        sequences: pieces.len(),
        skipped_lines,
        pp: args.pp,
        seconds: begun.elapsed().as_secs_f64(),
    };
    if args.json {
        return print_json(&found);
    }
    let skipped = match skipped_lines {
        0 => String::new(),
        n => format!(", {n} lines left out"),
    };
    print(&format!(
        "{:.4} nats a token over {} tokens, perplexity {:.3}{skipped}\n",
        found.loss, found.tokens, found.perplexity
    ))
}
