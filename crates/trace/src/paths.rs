//! Where runs are kept.
//!
//! `PPTOP_STATE_DIR`, else `$XDG_STATE_HOME/pptop`, else `~/.local/state/pptop`; below it
//! `runs/<id>/`, one directory a run. A relative `PPTOP_STATE_DIR` is one below the working
//! directory. A relative path in another of these variables is ignored, as the XDG specification
//! asks.

use std::env;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::TraceError;

/// Runs of one model that may begin within the same second.
const NAMES_MAX: u32 = 1000;

/// The directory of everything that outlives a run.
///
/// # Errors
/// [`TraceError::NoStateDir`] if no variable names one.
pub fn state_dir() -> Result<PathBuf, TraceError> {
    state_dir_from(|name| env::var_os(name).map(PathBuf::from))
}

fn state_dir_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, TraceError> {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    let own = variable("PPTOP_STATE_DIR").filter(|path| !path.as_os_str().is_empty());
    own.and_then(|path| std::path::absolute(path).ok())
        .or_else(|| absolute("XDG_STATE_HOME").map(|path| path.join("pptop")))
        .or_else(|| absolute("HOME").map(|path| path.join(".local/state/pptop")))
        .ok_or(TraceError::NoStateDir)
}

/// The directory that holds one directory for each run.
///
/// # Errors
/// [`TraceError::NoStateDir`] if no variable names one.
pub fn runs_dir() -> Result<PathBuf, TraceError> {
    Ok(state_dir()?.join("runs"))
}

/// Makes the directory of a new run of `model`, and gives the id of the run with it.
///
/// The id is the model's name and the time (UTC), with a number behind it when that name is taken.
///
/// # Errors
/// Where runs are kept is not known, or nothing can be made there.
pub fn new_run_dir(model: &str) -> Result<(String, PathBuf), TraceError> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    new_run_dir_in(&runs_dir()?, model, seconds)
}

fn new_run_dir_in(
    runs: &Path,
    model: &str,
    unix_seconds: u64,
) -> Result<(String, PathBuf), TraceError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(runs)
        .map_err(|source| TraceError::Directory { path: runs.to_owned(), source })?;
    let base = format!("{}-{}", plain_name(model), utc_stamp(unix_seconds));
    for attempt in 1..=NAMES_MAX {
        let id = if attempt == 1 { base.clone() } else { format!("{base}-{attempt}") };
        let path = runs.join(&id);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok((id, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(TraceError::Directory { path, source }),
        }
    }
    Err(TraceError::Taken { path: runs.to_owned(), tried: NAMES_MAX })
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
fn utc_stamp(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil_date(days);
    format!(
        "{year:04}{month:02}{day:02}-{:02}{:02}{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// The Gregorian date (year, month, day) of a day counted from 1970-01-01.
///
/// Years are taken to begin in March, so that the leap day is the last of a year, and are counted
/// in eras of 400 years, which all have the same number of days.
pub fn civil_date(unix_days: u64) -> (u64, u64, u64) {
    const DAYS_OF_ERA: u64 = 146_097;
    let days = unix_days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
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
            assert_eq!(utc_stamp(unix_seconds), stamp);
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
        assert!(matches!(with(&[]), Err(TraceError::NoStateDir)));
    }

    #[test]
    fn two_runs_of_one_second_get_two_directories() {
        let runs = env::temp_dir().join(format!("pp-trace-paths-{}", std::process::id()));
        let (first, first_dir) = new_run_dir_in(&runs, "gpt", 0).unwrap();
        let (second, second_dir) = new_run_dir_in(&runs, "gpt", 0).unwrap();
        assert_eq!(
            (first.as_str(), second.as_str()),
            ("gpt-19700101-000000", "gpt-19700101-000000-2")
        );
        assert!(first_dir.is_dir() && second_dir.is_dir());
        std::fs::remove_dir_all(runs).unwrap();
    }
}
