//! `pptop data`: what a model would see of a text.

use std::fmt::Write as _;
use std::path::PathBuf;

use pp_models::{Look, look, model_folder};
use pp_schedule::clean;
use serde_json::json;

use super::job::of_data;
use super::sizes::count;
use super::{CliError, print, print_json};

/// Flags of the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pptop data text.jsonl --model ./model                 counts, and the tokens of one document
  pptop data text.jsonl --model ./model --context 512   how well rows of 512 tokens are filled
  pptop data text.jsonl --model ./model --first 3 --json")]
pub(crate) struct Args {
    /// The text: a .jsonl file with a "text" in each line, or any other file as one document
    #[arg(value_name = "FILE")]
    data: PathBuf,
    /// The folder of the model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Tokens of a row [default: as many as the model takes]
    #[arg(long, value_name = "N", value_parser = count)]
    context: Option<u32>,
    /// Documents that are shown token by token
    #[arg(long, value_name = "N", default_value = "1")]
    first: usize,
    /// Leave out lines of a .jsonl that are no documents, and count them
    #[arg(long)]
    skip_bad_lines: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let context = args.context.map(|context| context as usize);
    let folder = model_folder(&args.model);
    let found = look(&folder, &args.data, context, args.first, args.skip_bad_lines)
        .map_err(|refused| CliError::Usage(of_data(&refused)))?;
    let Look { documents, held_out, skipped, tokens, lengths, rows, context, packed, first, texts } =
        found;
    let [shortest, middle, longest] = lengths;
    if args.json {
        let token = |(id, text, counts): &(u32, String, bool)| json!([id, text, counts]);
        let first: Vec<Vec<_>> = first.iter().map(|of| of.iter().map(token).collect()).collect();
        return print_json(&json!({
            "documents": documents,
            "held_out": held_out,
            "skipped_lines": skipped,
            "tokens": tokens,
            "shortest": shortest,
            "median": middle,
            "longest": longest,
            "context": context,
            "rows": rows,
            "packed": packed,
            "first": first,
            "texts": texts,
        }));
    }
    let mut text = format!(
        "documents  {documents}, {held_out} of them held out, {skipped} lines left out\n\
         tokens     {tokens}; a document has {shortest} to {longest}, {middle} in the middle\n\
         rows       {rows} of {context} tokens, {:.1} % of which have a token to predict\n",
        100.0 * packed
    );
    for (number, of) in (1..).zip(first) {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "\ndocument {number}\n  token  predicts  text");
        for (id, token, counts) in of {
            let predicts = if counts { "yes" } else { "-" };
            let _ = writeln!(text, "{id:>7}  {predicts:<8}  {}", clean(&format!("{token:?}")));
        }
    }
    print(&text)
}
