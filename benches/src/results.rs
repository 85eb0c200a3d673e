//! Where results lie: a file for each kind of processor.

use std::path::{Path, PathBuf};

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
