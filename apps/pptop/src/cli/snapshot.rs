//! `pptop snapshot`: how a run stands now, as a screen or as numbers.

use pp_telemetry::{ExportFormat, export};
use pptop::monitor::{Screenshot, Theme, View};

use super::refusal::choice;
use super::standing::{Standing, model_of};
use super::which::WhichRun;
use super::{CliError, print, print_json};

/// What is shown, and how.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Args {
    #[command(flatten)]
    which: WhichRun,
    /// View to print: overview, timeline, devices, loss, bubble or log
    #[arg(long, value_name = "VIEW", default_value = "overview", value_parser = view)]
    view: View,
    /// Size of the screen in columns and rows, up to 1000 each
    #[arg(long, value_name = "WxH", default_value = "160x50", value_parser = size)]
    size: (u16, u16),
    /// Print the numbers as one JSON object
    #[arg(long, group = "format")]
    json: bool,
    /// Print the numbers as two lines of CSV: names and values
    #[arg(long, group = "format")]
    csv: bool,
    /// Print the numbers in the text format of Prometheus
    #[arg(long, group = "format")]
    prometheus: bool,
    /// Print the screen as an SVG picture
    #[arg(long, group = "format")]
    svg: bool,
    /// Draw with ASCII characters only [default: as configured, else if the output is a terminal
    /// that supports nothing else; a file or a pipe gets UTF-8]
    #[arg(long)]
    ascii: bool,
}

fn view(text: &str) -> Result<View, String> {
    let named = |view: &View| view.title().eq_ignore_ascii_case(text);
    View::ALL.into_iter().find(named).ok_or_else(|| {
        let all = View::ALL.map(|view| view.title().to_lowercase());
        choice(text, &all.each_ref().map(String::as_str))
    })
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let parsed = text.split_once(['x', 'X']).and_then(|(width, height)| {
        let within = |text: &str| text.parse::<u16>().ok().filter(|n| (1..=1000).contains(n));
        Some((within(width)?, within(height)?))
    });
    parsed.ok_or_else(|| "use columns and rows from 1 to 1000, such as 80x24".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let run = args.which.find()?;
    if args.json {
        return print_json(&Standing::of(&run)?);
    }
    if args.csv {
        return csv(&Standing::of(&run)?);
    }
    if args.prometheus {
        let mut text = Vec::new();
        export(
            &mut ExportFormat::Prometheus.follow(&run.log),
            ExportFormat::Prometheus,
            None,
            &mut text,
        )
        .map_err(|error| CliError::Usage(error.to_string()))?;
        text.extend(super::standing::metrics(&run).bytes());
        return print(&String::from_utf8_lossy(&text));
    }
    let (model, _) = model_of(&run)?;
    let ascii = args.ascii || (!args.svg && super::settings::wants_ascii()?);
    let theme = Theme::plain(args.svg, ascii);
    let screenshot = Screenshot::of(&run, model, args.view, args.size, theme);
    print(&if args.svg { screenshot.svg() } else { screenshot.text() })
}

fn csv(standing: &Standing) -> Result<(), CliError> {
    let value = serde_json::to_value(standing)
        .map_err(|error| CliError::Failed(format!("cannot write the numbers: {error}")))?;
    let fields = value.as_object().into_iter().flatten();
    let plain: Vec<(&String, String)> = fields
        .filter_map(|(name, value)| match value {
            serde_json::Value::Null => Some((name, String::new())),
            serde_json::Value::String(text) => Some((name, quoted(text))),
            serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
            number => Some((name, number.to_string())),
        })
        .collect();
    let names: Vec<&str> = plain.iter().map(|(name, _)| name.as_str()).collect();
    let values: Vec<&str> = plain.iter().map(|(_, value)| value.as_str()).collect();
    print(&format!("{}\n{}\n", names.join(","), values.join(",")))
}

/// A text as one field.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
