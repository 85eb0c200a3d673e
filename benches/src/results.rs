//! Where results go, a file for each kind of processor, and when they were measured.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pp_telemetry::Processor;

/// `benches/results/peers-intel-6-207.json`.
pub(crate) fn of_processor(what: &str, processor: &Processor) -> PathBuf {
    let parts = processor.parts.iter().map(|part| match part.as_str() {
        "GenuineIntel" => "intel".to_owned(),
        "AuthenticAMD" => "amd".to_owned(),
        other => other.to_lowercase(),
    });
    let slug = parts.collect::<Vec<_>>().join("-");
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(format!("{what}-{slug}.json"))
}

/// Seconds of Unix time.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
