//! Where runs are kept.
//!
//! `PPTOP_STATE_DIR`, else `$XDG_STATE_HOME/pptop`, else `~/.local/state/pptop`; below it `runs/<id>/`, one directory a
//! run. A relative `PPTOP_STATE_DIR` is one below the working directory. A relative path in another
//! of these variables is ignored, as the XDG specification asks.

use std::env;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::error::TelemetryError;

/// Runs of one model that may begin within the same second.
const NAMES_MAX: u32 = 1000;

/// The directory of everything that outlives a run.
///
/// # Errors
/// [`TelemetryError::NoStateDir`] if no variable names one.
pub fn state_dir() -> Result<PathBuf, TelemetryError> {
    state_dir_from(|name| env::var_os(name).map(PathBuf::from))
}

fn state_dir_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, TelemetryError> {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    let own = variable("PPTOP_STATE_DIR").filter(|path| !path.as_os_str().is_empty());
    own.and_then(|path| std::path::absolute(path).ok())
        .or_else(|| absolute("XDG_STATE_HOME").map(|path| path.join("pptop")))
        .or_else(|| absolute("HOME").map(|path| path.join(".local/state/pptop")))
        .ok_or(TelemetryError::NoStateDir)
}

/// The directory that holds one directory for each run.
///
/// # Errors
/// [`TelemetryError::NoStateDir`] if no variable names one.
pub fn runs_dir() -> Result<PathBuf, TelemetryError> {
    Ok(state_dir()?.join("runs"))
}

/// Makes the directory of a new run of `model`, and gives the id of the run with it.
///
/// The id is the model's name and the time (UTC), with a number behind it when that name is taken.
///
/// # Errors
/// Where runs are kept is not known, or nothing can be made there.
pub fn new_run_dir(model: &str) -> Result<(String, PathBuf), TelemetryError> {
    new_run_dir_in(&runs_dir()?, model, Timestamp::now())
}

fn new_run_dir_in(
    runs: &Path,
    model: &str,
    now: Timestamp,
) -> Result<(String, PathBuf), TelemetryError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(runs)
        .map_err(|source| TelemetryError::Directory { path: runs.to_owned(), source })?;
    let base = format!("{}-{}", plain_name(model), utc_stamp(now));
    for attempt in 1..=NAMES_MAX {
        let id = if attempt == 1 { base.clone() } else { format!("{base}-{attempt}") };
        let path = runs.join(&id);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok((id, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(TelemetryError::Directory { path, source }),
        }
    }
    Err(TelemetryError::Taken { path: runs.to_owned(), tried: NAMES_MAX })
}

/// The letters, digits, `-` and `_` of a name, at most 40 of them; `run` if nothing is left.
fn plain_name(name: &str) -> String {
    let plain: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .take(40)
        .collect();
    let plain = plain.trim_start_matches('-');
    if plain.is_empty() { "run".to_owned() } else { plain.to_owned() }
}

/// `20261101-141233` for a moment in UTC.
fn utc_stamp(moment: Timestamp) -> String {
    moment.strftime("%Y%m%d-%H%M%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix_seconds, stamp) in [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_782_400, "20000229-000000"),
            (951_868_800, "20000301-000000"),
            (1_709_251_199, "20240229-235959"),
            (1_798_761_599, "20261231-235959"),
            (4_107_542_400, "21000301-000000"),
        ] {
            let moment = Timestamp::from_second(unix_seconds).unwrap();
            assert_eq!(utc_stamp(moment), stamp);
        }
    }

    #[test]
    fn names_hold_nothing_that_a_path_minds() {
        assert_eq!(plain_name("gpt"), "gpt");
        assert_eq!(plain_name("../-my model/ß"), "mymodel");
        assert_eq!(plain_name("--"), "run");
        assert_eq!(plain_name(""), "run");
    }

    #[test]
    fn the_first_absolute_variable_wins() {
        let with = |pairs: &'static [(&str, &str)]| {
            state_dir_from(move |name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
            })
        };
        assert_eq!(with(&[("PPTOP_STATE_DIR", "/a"), ("HOME", "/h")]).unwrap(), Path::new("/a"));
        assert_eq!(
            with(&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")]).unwrap(),
            Path::new("/x/pptop")
        );
        assert_eq!(
            with(&[("XDG_STATE_HOME", "relative"), ("HOME", "/h")]).unwrap(),
            Path::new("/h/.local/state/pptop")
        );
        let here = env::current_dir().unwrap();
        assert_eq!(with(&[("PPTOP_STATE_DIR", "s/t"), ("HOME", "/h")]).unwrap(), here.join("s/t"));
        assert_eq!(
            with(&[("PPTOP_STATE_DIR", ""), ("XDG_STATE_HOME", "/x")]).unwrap(),
            Path::new("/x/pptop")
        );
        assert!(matches!(with(&[]), Err(TelemetryError::NoStateDir)));
    }

    #[test]
    fn two_runs_of_one_second_get_two_directories() {
        let home = tempfile::tempdir().unwrap();
        let runs = home.path().join("runs");
        let (first, first_dir) = new_run_dir_in(&runs, "gpt", Timestamp::UNIX_EPOCH).unwrap();
        let (second, second_dir) = new_run_dir_in(&runs, "gpt", Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(
            (first.as_str(), second.as_str()),
            ("gpt-19700101-000000", "gpt-19700101-000000-2")
        );
        assert!(first_dir.is_dir() && second_dir.is_dir());
    }
}
