//! Traces that are broken in every way are refused, and never more than that.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use pp_telemetry::{Event, Follower, ImportError, import_chrome_trace, import_kineto};
use proptest::prelude::*;
use tempfile::TempDir;

/// A trace of one rank with two stages, of two steps.
fn kineto() -> String {
    let mut events = Vec::new();
    for step in 0..2 {
        for (at, name) in ["0F0", "1F0", "1I0", "1W0", "0B0", "0SEND_F0"].iter().enumerate() {
            let ts = 1000 * step + 100 * at;
            events.push(format!(
                r#"{{"ph":"X","cat":"user_annotation","name":"PP:{name}","pid":1,"tid":1,"ts":{ts}.25,"dur":90.5,"args":{{"a":[1,{{}}]}}}}"#
            ));
            events.push(format!(
                r#"{{"ph":"X","cat":"cpu_op","name":"aten::mm","pid":1,"tid":1,"ts":{}.25,"dur":50}}"#,
                ts + 10
            ));
        }
    }
    format!(
        r#"{{"schemaVersion":1,"distributedInfo":{{"rank":0}},"baseTimeNanoseconds":17,"traceEvents":[{}]}}"#,
        events.join(",\n")
    )
}

/// A trace as `pptop` exports it.
fn chrome() -> String {
    let mut events = Vec::new();
    for step in 1..3 {
        for (at, (op, rank)) in [("F", 0), ("F", 1), ("B", 1), ("B", 0)].iter().enumerate() {
            events.push(format!(
                r#"{{"name":"{rank}{op}0","cat":"{op}","ph":"X","pid":0,"tid":{rank},"ts":{}.000,"dur":9.000,"args":{{"step":{step},"micro_batch":0,"stage":{rank},"bytes":0}}}}"#,
                step * 100 + at * 10
            ));
        }
        events.push(format!(
            r#"{{"name":"loss","ph":"C","pid":0,"ts":{}.000,"args":{{"loss":0.5}}}}"#,
            step * 100 + 50
        ));
    }
    format!("{{\"traceEvents\":[\n{}]}}", events.join(",\n"))
}

struct Place {
    dir: TempDir,
    trace: PathBuf,
}

impl Place {
    fn with(text: &[u8]) -> Self {
        let dir = TempDir::new().unwrap();
        let trace = dir.path().join("trace.json");
        fs::write(&trace, text).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        Self { dir, trace }
    }

    fn run(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    fn kineto(&self) -> Result<u64, ImportError> {
        import_kineto(std::slice::from_ref(&self.trace), &self.run())
    }

    fn chrome(&self) -> Result<u64, ImportError> {
        import_chrome_trace(&self.trace, &self.run())
    }

    /// All events of the run that was written.
    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut follower = Follower::new(&self.run());
        while !follower.poll(|event| events.push(event)).unwrap().at_end {}
        events
    }
}

#[test]
fn the_whole_traces_are_imported() {
    let place = Place::with(kineto().as_bytes());
    assert_eq!(place.kineto().unwrap(), 2);
    let spans = place.events().iter().filter(|event| matches!(event, Event::Span(_))).count();
    // Six actions, and a wait before four of them: neither a weight gradient nor a send waits.
    assert_eq!(spans, 2 * (6 + 4));
    let place = Place::with(chrome().as_bytes());
    assert_eq!(place.chrome().unwrap(), 2);
    let losses = place.events().into_iter().filter_map(|event| match event {
        Event::Step(step) => step.loss,
        _ => None,
    });
    assert_eq!(losses.collect::<Vec<_>>(), [0.5, 0.5]);
}

#[test]
fn a_trace_may_be_compressed() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(kineto().as_bytes()).unwrap();
    let bytes = gzip.finish().unwrap();
    assert_eq!(Place::with(&bytes).kineto().unwrap(), 2);
    // One that was cut.
    let cut = Place::with(&bytes[..bytes.len() / 2]).kineto();
    assert!(cut.is_err());
}

/// Each was once taken at its word: memory for four thousand million ranks, for a text as long as
/// the file, or a step counted up to.
#[test]
fn a_trace_cannot_claim_much_memory_or_time() {
    let span = |tid: u64, step: u64| {
        format!(
            r#"{{"cat":"F","ph":"X","pid":0,"tid":{tid},"ts":1,"dur":1,"args":{{"step":{step},"micro_batch":0,"stage":0}}}}"#
        )
    };
    for tid in [4_294_967_294_u64, 4_294_967_295, 65_536] {
        let refused = Place::with(format!("[{}]", span(tid, 1)).as_bytes()).chrome().unwrap_err();
        assert!(refused.to_string().contains("no operations"), "{refused}");
    }
    let far =
        Place::with(format!("[{},{}]", span(0, 1), span(0, 9_000_000_000_000_000)).as_bytes());
    far.chrome().unwrap();
    assert!(!far.events().is_empty());
    let long = format!(r#"{{"{}":1}}"#, "a".repeat(2 << 20));
    let refused = Place::with(long.as_bytes()).kineto().unwrap_err();
    assert!(refused.to_string().contains("more than 1 MiB"), "{refused}");
    // An escaped quote does not end a text.
    let long = format!(r#"{{"{}":1}}"#, r#"a\""#.repeat(1 << 20));
    assert!(Place::with(long.as_bytes()).kineto().is_err());
}

#[test]
fn overlapped_pairs_are_refused_by_name() {
    let pair = kineto().replace("PP:1I0", "PP:(1I0;0F0)OVERLAP_F_B");
    let refused = Place::with(pair.as_bytes()).kineto().unwrap_err();
    assert!(refused.to_string().contains("PP:(1I0;0F0)OVERLAP_F_B"), "{refused}");
}

#[test]
fn a_deep_one_is_refused() {
    for text in ["[", "{\"a\":", "{\"traceEvents\":[{\"args\":"] {
        let deep = text.repeat(200_000);
        assert!(matches!(Place::with(deep.as_bytes()).kineto(), Err(ImportError::Broken { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Bytes that are changed, added or cut off: each trace is taken or refused in one line.
    #[test]
    fn broken_traces_are_taken_or_refused(
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&b"0123456789-.eE\"{}[],:PFBIWXntru \\\x00\xff"[..]), 0..3_u8), 1..6),
        is_kineto in any::<bool>(),
        huge in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut text = if is_kineto { kineto() } else { chrome() }.into_bytes();
        if let Some(at) = huge {
            // A number of many digits in place of a digit.
            let digits: Vec<usize> = (0..text.len()).filter(|&at| text[at].is_ascii_digit()).collect();
            let at = digits[at.index(digits.len())];
            text.splice(at..=at, b"99999999999999999999999".iter().copied());
        }
        for (at, byte, how) in edits {
            let at = at.index(text.len());
            match how {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                _ => text.truncate(at.max(1)),
            }
        }
        let place = Place::with(&text);
        let result = if is_kineto { place.kineto() } else { place.chrome() };
        match result {
            Ok(_) => drop(place.events()),
            Err(error) => {
                let line = error.to_string();
                prop_assert!(!line.contains('\n') && !line.is_empty());
            }
        }
    }
}
