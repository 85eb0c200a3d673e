//! Parsers of numbers, and of the contents of named files.

use std::path::Path;

use super::CliError;
use super::refusal::excerpt;

/// A time, a latency or a part: any finite number of at least zero.
pub(crate) fn cost(text: &str) -> Result<f64, String> {
    let refused = || "use a finite number of at least 0".to_owned();
    text.parse::<f64>().ok().filter(|cost| cost.is_finite() && *cost >= 0.0).ok_or_else(refused)
}

/// A whole file, unless it is longer than `bytes_max`.
pub(crate) fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, CliError> {
    let refused = |why: &dyn std::fmt::Display| {
        CliError::Usage(format!(
            "cannot read {}: {why}; name a file that can be read",
            excerpt(&path.display().to_string())
        ))
    };
    pp_telemetry::input::read(path, bytes_max).map_err(|failed| refused(&failed))
}
