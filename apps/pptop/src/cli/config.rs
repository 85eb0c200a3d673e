//! `pptop config`: the configuration file, and what holds.

use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use pp_telemetry::{NotWritten, Taken, WholeFile};
use pptop::config::{
    COLORED, Config, ConfigError, Setting, Source, TEMPLATE, check_file, config_path,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::refusal::excerpt;
use super::settings::ScreenFlags;
use super::{CliError, print, print_json};

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a file with every setting, each commented out with its default
    Init(InitArgs),
    /// Print the settings in force, and where each comes from
    Print(PrintArgs),
    /// Check a file; exit code 2 with the line of the first mistake
    Validate(ValidateArgs),
    /// Print the path of the file
    Path,
}

/// Flags of `init`.
#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// Flags of `print`.
#[derive(Debug, clap::Args)]
pub(crate) struct PrintArgs {
    #[command(flatten)]
    screen: ScreenFlags,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Flags of `validate`.
#[derive(Debug, clap::Args)]
pub(crate) struct ValidateArgs {
    /// File to check [default: the one in use]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Init(args) => init(args),
        Command::Print(args) => print_settings(args),
        Command::Validate(args) => validate(args),
        Command::Path => print(&format!("{}\n", own_path()?.display())),
    }
}

fn own_path() -> Result<PathBuf, ConfigError> {
    config_path(|name| std::env::var_os(name))
}

fn init(args: &InitArgs) -> Result<(), CliError> {
    let path = own_path()?;
    let there = || {
        let shown = excerpt(&path.to_string_lossy());
        CliError::Usage(format!("{shown} already exists; add --force to replace it"))
    };
    if !args.force && path.symlink_metadata().is_ok() {
        return Err(there());
    }
    let is_written = write(&path, args.force).map_err(|mut refused| {
        refused.remedy.get_or_insert("set XDG_CONFIG_HOME to a writable folder");
        refused
    })?;
    if is_written { print(&format!("{}\n", path.display())) } else { Err(there()) }
}

/// Writes the template; with `force` in the place of a file that is there. Whether it is written.
fn write(path: &Path, force: bool) -> Result<bool, NotWritten> {
    let failed = |error: io::Error| NotWritten {
        path: path.to_owned(),
        why: error.to_string(),
        remedy: None,
    };
    let dir = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let mut file = WholeFile::private(path)?;
    file.write_all(TEMPLATE.as_bytes()).map_err(failed)?;
    if force { file.finish(Taken::Replaced).map(|_| true) } else { file.finish_new() }
}

fn validate(args: &ValidateArgs) -> Result<(), CliError> {
    let path = args.file.clone().map_or_else(own_path, Ok)?;
    let actions: Vec<_> = pptop::monitor::action_names().collect();
    if check_file(&path, &actions)? {
        return print(&format!("{}: valid\n", path.display()));
    }
    if args.file.is_none() {
        return print(&format!("{}: does not exist; the defaults apply\n", path.display()));
    }
    Err(CliError::Usage(format!(
        "{} does not exist; name a configuration file, or create one with pptop config init",
        excerpt(&path.to_string_lossy())
    )))
}

/// A setting in a line of its own.
struct Row {
    name: String,
    value: Value,
    source: Source,
}

fn row<T: Serialize>(name: &str, setting: &Setting<T>) -> Row {
    let value = serde_json::to_value(&setting.value).unwrap_or_default();
    Row { name: name.to_owned(), value, source: setting.source }
}

fn library_shown(library: &Setting<Option<PathBuf>>) -> Setting<Option<String>> {
    let shown = library.value.as_ref().map(|path| path.to_string_lossy().into_owned());
    Setting { value: shown, source: library.source }
}

fn rows(config: &Config) -> Vec<Row> {
    let mut rows = vec![
        row("theme", &config.theme),
        row("color", &config.color),
        row("ascii", &config.ascii),
        row("mouse", &config.mouse),
        row("interval_ms", &config.interval_ms),
        row("nvml", &config.nvml),
        // JSON cannot hold a path that is no text.
        row("nvml_lib", &library_shown(&config.nvml_lib)),
        row("keep.runs", &config.keep_runs),
        row("keep.mb", &config.keep_mb),
        row("keep.days", &config.keep_days),
    ];
    for (action, keys) in &config.keys {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        rows.push(Row { name: format!("keys.{action}"), value: json!(keys), source: Source::File });
    }
    for (name, color) in COLORED.iter().zip(config.colors) {
        if let Some(color) = color {
            rows.push(Row {
                name: format!("colors.{name}"),
                value: json!(color),
                source: Source::File,
            });
        }
    }
    rows
}

/// A value as it is written in the file.
fn written(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        value => value.to_string(),
    }
}

fn print_settings(args: &PrintArgs) -> Result<(), CliError> {
    let config = args.screen.config()?;
    let rows = rows(&config);
    if args.json {
        let settings: serde_json::Map<String, Value> = rows
            .into_iter()
            .map(|row| (row.name, json!({"value": row.value, "source": row.source})))
            .collect();
        let file = config.file.as_ref().map(|path| path.to_string_lossy());
        return print_json(&json!({"file": file, "settings": settings}));
    }
    let lines: Vec<[String; 3]> = rows
        .iter()
        .map(|row| [row.name.clone(), written(&row.value), row.source.name().to_owned()])
        .collect();
    let width = |column: usize| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
    };
    let (names, values) = (width(0), width(1));
    let mut text = match &config.file {
        Some(path) => format!("# {}\n", path.display()),
        None => "# no configuration file\n".to_owned(),
    };
    for [name, value, source] in &lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<names$}  {value:<values$}  {source}");
    }
    print(&text)
}
