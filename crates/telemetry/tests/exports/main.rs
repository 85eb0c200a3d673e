//! A run in the formats of other programs: each is read back, and holds what the log holds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::float_cmp, reason = "a number that was written comes back as it was")]

mod chrome_trace;
mod common;
mod csv;
mod prometheus;
#[path = "../common/mod.rs"]
mod simulated;
mod svg;
mod tensorboard;

use std::io::Write as _;

use common::{TIMES, job, written};
use pp_telemetry::{ExportFormat, Follower, export};
use simulated::{Job, run};
use tempfile::NamedTempFile;

#[test]
fn steps_that_are_not_there_are_refused_before_anything_is_written() {
    let formats = [
        ExportFormat::ChromeTrace,
        ExportFormat::StepsCsv,
        ExportFormat::SpansCsv,
        ExportFormat::TensorBoard,
        ExportFormat::Svg,
    ];
    for format in formats {
        let refused = written(&run(&job(), TIMES), format, Some("7..9")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "no step of 7..9 is in the log; it has steps 1..4",
            "{format:?}"
        );
        let refused = written(&[], format, Some("7..9")).unwrap_err();
        assert!(refused.to_string().contains("it has no finished step yet"));
    }
}

/// A file that is gone when the test is over; its name ends in `name`.
fn test_file(name: &str, content: &[u8]) -> NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(name).tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

#[test]
fn a_log_is_exported_from_its_file_plain_or_compressed() {
    let events = run(&Job { steps: 12, ..job() }, TIMES);
    let mut log = Vec::new();
    for event in &events {
        event.write_line(&mut log).unwrap();
    }
    log.extend_from_slice(b"{\"ev\":\"later\"}\nno event\n{\"ev\":\"step\",\"st");
    let plain = test_file("plain.jsonl", &log);
    let packed = test_file("packed.jsonl.zst", &zstd::encode_all(&log[..], 3).unwrap());
    for format in [
        ExportFormat::ChromeTrace,
        ExportFormat::StepsCsv,
        ExportFormat::SpansCsv,
        ExportFormat::TensorBoard,
        ExportFormat::Svg,
        ExportFormat::Prometheus,
    ] {
        let wanted = written(&events, format, None).unwrap();
        for file in [&plain, &packed] {
            let mut bytes = Vec::new();
            let n_bad = export(&mut format.follow(file.path()), format, None, &mut bytes).unwrap();
            assert_eq!((n_bad, bytes == wanted), (1, true), "{format:?}");
        }
    }
}

#[test]
fn what_is_no_log_is_refused() {
    let export_of = |content: &[u8], name| {
        let file = test_file(name, content);
        let mut bytes = Vec::new();
        let done =
            export(&mut Follower::new(file.path()), ExportFormat::StepsCsv, None, &mut bytes);
        done.map(|_| bytes.len()).map_err(|refused| refused.to_string())
    };
    let refused = export_of(b"one\ntwo\n", "poem.txt").unwrap_err();
    assert_eq!(refused, "none of 2 lines is an event; name the log of a run");
    let newer = export_of(b"{\"ev\":\"hello\",\"schema\":99}\n", "newer.jsonl").unwrap_err();
    assert!(newer.contains("schema 99") && newer.contains("use a newer version"), "{newer}");
    let broken = export_of(b"not a frame", "broken.jsonl.zst").unwrap_err();
    assert!(broken.contains("cannot read") && broken.contains("; name a log"), "{broken}");
    // A log in which nothing has happened yet is one.
    assert!(export_of(b"", "empty.jsonl").unwrap() > 0);
}
