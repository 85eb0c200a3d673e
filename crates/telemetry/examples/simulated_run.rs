//! Writes the log of a run that never happened: 1F1B on four ranks with eight micro-batches.
//!
//! `cargo run -p pp-telemetry --example simulated_run > events.jsonl` makes the fixture of the
//! monitor's tests.

#![expect(clippy::unwrap_used, reason = "the events are of this program's own making")]

use std::io::{Write as _, stdout};

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Job, Times, run};

fn main() -> std::io::Result<()> {
    let job =
        Job { steps: 120, span_every: 20, jitter_per_mille: 60, ends: true, ..Job::one_f_one_b() };
    let times = Times {
        forward_ns: 12_000_000,
        backward_ns: 24_000_000,
        link_ns: 800_000,
        optim_ns: 2_000_000,
    };
    let mut text = Vec::new();
    for event in run(&job, times) {
        event.write_line(&mut text).unwrap();
    }
    stdout().write_all(&text)
}
