//! `pptop doctor`: what could go wrong here, and what to do about it.
//!
//! Each check is a function of what was found; only the functions named `look` touch the system.
//! Exit code 0 when all is well, 1 when something is of less use than it could be, 2 when something
//! will not work.

mod machine;
mod places;
mod screen;

use std::fmt::Write as _;

use pp_telemetry::{Keep, list_runs, memory_available, runs_dir};
use pptop::config::Config;
use serde::Serialize;
use serde_json::json;

use super::{CliError, print, print_json, settings};

/// Checks what training and watching need.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// All is well.
    Pass,
    /// It works, but not as well as it could.
    Warn,
    /// Something will not work.
    Fail,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do, unless all is well.
    todo: Option<String>,
}

impl Check {
    fn pass(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Pass, found: found.into(), todo: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), todo: Some(todo.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, found: found.into(), todo: Some(todo.into()) }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let checks = look();
    let worst = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Pass);
    if args.json {
        print_json(&json!({"verdict": worst, "checks": checks}))?;
    } else {
        print(&told(&checks))?;
    }
    match worst {
        Verdict::Pass => Ok(()),
        Verdict::Warn => Err(CliError::Code(1)),
        Verdict::Fail => Err(CliError::Code(2)),
    }
}

fn look() -> Vec<Check> {
    let config = settings::config();
    let config = config.as_ref();
    let kept = config.map_or_else(|_| Keep::default(), Config::keep);
    let state = pp_telemetry::state_dir().map(|path| places::Place::look(&path));
    let free_bytes = state.as_ref().ok().and_then(|place| place.free_bytes);
    let sockets = places::Place::look_itself(&pp_telemetry::socket_place());
    let runs = runs_dir().map_err(|error| error.to_string()).and_then(|dir| {
        let runs = list_runs(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(runs.iter().map(|run| (run.id.clone(), run.standing())).collect())
    });
    let variables = places::VARIABLES.map(|name| (name, std::env::var_os(name)));
    let mut checks = vec![
        places::variables(&variables),
        places::state_dir(state.as_ref().map_err(ToString::to_string)),
        places::free_space(free_bytes, kept.bytes),
        places::socket_dir(&sockets),
        places::socket_path(&sockets.path),
        places::runs(runs),
        config_file(config),
    ];
    checks.extend(screen::checks(&screen::Screen::look(
        config.ok().and_then(pptop::config::Config::ascii_said),
    )));
    #[cfg(feature = "train")]
    checks.push(machine::kernels(&pp_train::kernels_kept()));
    checks.extend([
        machine::cores(machine::look_at_cores()),
        machine::clock(machine::look_at_clock()),
        machine::starved(std::fs::read_to_string("/proc/self/schedstat").ok().as_deref()),
        machine::memory(memory_available()),
        machine::nvml(&machine::Nvml::look(config.ok())),
    ]);
    checks
}

fn config_file(config: Result<&Config, &CliError>) -> Check {
    const NAME: &str = "config";
    match config {
        Ok(config) => match &config.file {
            Some(path) => Check::pass(NAME, format!("{} is valid", path.display())),
            None => Check::pass(NAME, "no file; the defaults apply"),
        },
        Err(CliError::Usage(why) | CliError::Failed(why)) => {
            Check::fail(NAME, why, "correct it; pptop config validate checks the file again")
        }
        Err(CliError::Code(code)) => Check::fail(NAME, format!("exit code {code}"), "pptop config"),
    }
}

/// All checks as lines, what to do below each.
fn told(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    // What was found may hold names that anybody chose.
    let plain = |text: &str| pp_schedule::clean(text).into_owned();
    let mut text = String::new();
    for Check { name, verdict, found, todo } in checks {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}  {name:<width$}  {}", verdict.name(), plain(found));
        if let Some(todo) = todo {
            let _ = writeln!(text, "{:>at$}{}", "to do: ", plain(todo), at = width + 15);
        }
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let [n_pass, n_warn, n_fail] = [Verdict::Pass, Verdict::Warn, Verdict::Fail].map(count);
    let _ = writeln!(text, "{n_pass} pass, {n_warn} warn, {n_fail} fail");
    text
}

#[cfg(test)]
mod tests {
    use pptop::config::Config;

    use super::*;

    #[test]
    fn a_configuration_with_a_mistake_fails() {
        let config = Config::load(|_| None, &[]).unwrap();
        assert_eq!(config_file(Ok(&config)).verdict, Verdict::Pass);
        let file = Config { file: Some("/c.toml".into()), ..config };
        assert_eq!(config_file(Ok(&file)).found, "/c.toml is valid");
        let refused = CliError::Usage("line 3: no".to_owned());
        let check = config_file(Err(&refused));
        assert_eq!((check.verdict, check.found.as_str()), (Verdict::Fail, "line 3: no"));
    }

    #[test]
    fn what_to_do_stands_below_what_was_found() {
        let checks = [
            Check::pass("cores", "2"),
            Check::warn("memory", "little\n", "buy more"),
            Check::fail("x", "broken", "mend it"),
        ];
        assert_eq!(
            told(&checks),
            "pass  cores   2\nwarn  memory  little\u{fffd}\n              to do: buy more\nfail  x       broken\n              \
             to do: mend it\n1 pass, 1 warn, 1 fail\n"
        );
        assert!(Verdict::Pass < Verdict::Warn && Verdict::Warn < Verdict::Fail);
    }
}
