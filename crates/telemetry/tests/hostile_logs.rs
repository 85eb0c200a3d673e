//! Logs that are cut off, changed, or none at all.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::{Job, Times, run};
use pp_telemetry::{Event, Follower, Hello, LogMark, Model, account};
use proptest::prelude::*;

const TIMES: Times =
    Times { forward_ns: 1_000_000, backward_ns: 2_000_000, link_ns: 0, optim_ns: 500_000 };

fn log_text() -> Vec<u8> {
    let mut text = Vec::new();
    for event in run(&Job { steps: 12, ..Job::one_f_one_b() }, TIMES) {
        event.write_line(&mut text).unwrap();
    }
    text
}

/// What can be read of a text, and how many of its lines are none.
fn read(name: &str, text: &[u8]) -> (Vec<Event>, u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("{name}.jsonl"));
    fs::write(&path, text).unwrap();
    let mut follower = Follower::new(&path);
    let mut events = Vec::new();
    while !follower.poll(|event| events.push(event)).unwrap().at_end {}
    (events, follower.n_bad_lines())
}

/// Lines with their line feed.
fn n_whole(text: &[u8]) -> usize {
    text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")).count()
}

/// What a run writes now and then, so that one can begin to read there.
fn mark() -> Vec<u8> {
    let model = fold(&run(&Job { steps: 2, ..Job::one_f_one_b() }, TIMES));
    let mark = LogMark { step: 2, frames: Vec::new(), model: Box::new(model) };
    mark.to_index().unwrap().line().to_vec()
}

/// The same as an older version wrote it, without a checksum: with one, no byte of it can be
/// changed.
fn old_mark() -> Vec<u8> {
    let text = String::from_utf8(mark()).unwrap();
    let body = text.find("\"step\"").unwrap();
    format!("{{\"ev\":\"index\",{}", &text[body..]).into_bytes()
}

/// A mark that no fold can have come to is no beginning.
#[test]
fn a_mark_that_promises_what_it_has_not_is_passed_over() {
    let text = String::from_utf8(old_mark()).unwrap();
    for (what, instead) in [("\"dp\":1", "\"dp\":4000000000"), ("\"pp\":4", "\"pp\":3")] {
        assert!(text.contains(what));
        let line = text.replacen(what, instead, 1);
        let Ok(pp_telemetry::Line::Event(event)) = Event::parse(line.as_bytes()) else {
            panic!("it is a mark")
        };
        let mut model = Model::new();
        model.apply(&event);
        assert!(model.hello().is_none() && account(&model).is_err(), "{instead}");
    }
}

/// Three megabytes once opened to terabytes.
#[test]
fn a_compressed_log_opens_to_no_more_than_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.jsonl.zst");
    let line = b"{\"ev\":\"log\",\"elapsed_ns\":5,\"message\":\"hello\"}\n";
    let text = line.repeat((70 << 20) / line.len());
    fs::write(&path, zstd::encode_all(&text[..], 1).unwrap()).unwrap();
    for mut follower in [Follower::new(&path), Follower::from_last_mark(&path)] {
        let refused = loop {
            match follower.poll(|_| {}) {
                Ok(poll) => assert!(!poll.at_end, "it was read to its end"),
                Err(refused) => break refused.to_string(),
            }
        };
        assert!(refused.contains("decompresses to more than 64 MiB"), "{refused}");
    }
}

/// What is kept for each two ranks of a plan would not fit anywhere.
#[test]
fn a_run_of_too_many_ranks_has_no_account_and_it_is_said_why() {
    let plan: Vec<String> = (0..2000).map(|stage| format!("{stage}F0")).collect();
    let hello = Hello { pp: 2000, dp: 1, micro_batches: 1, plan, ..Hello::default() };
    let mut model = Model::new();
    model.apply(&Event::Hello(Box::new(hello)));
    let why = account(&model).unwrap_err().to_string();
    assert_eq!(why, "the run has 2000 ranks; at most 1024 are analysed here");
    let hello = Hello {
        pp: 1,
        dp: 1,
        omitted: Some("the plan: it is long".to_owned()),
        ..Hello::default()
    };
    model.apply(&Event::Hello(Box::new(hello)));
    assert_eq!(account(&model).unwrap_err().to_string(), "the log leaves out the plan: it is long");
}

fn fold(events: &[Event]) -> Model {
    let mut model = Model::new();
    for event in events {
        model.apply(event);
    }
    model
}

#[test]
fn cut_at_every_byte_of_its_end_a_log_loses_only_the_torn_line() {
    let text = log_text();
    let (all, _) = read("whole", &text);
    for cut in text.len().saturating_sub(4096)..text.len() {
        let n_whole_lines = n_whole(&text[..cut]);
        let (events, n_bad) = read("cut", &text[..cut]);
        assert_eq!((events.len(), n_bad), (n_whole_lines, 0), "cut at byte {cut}");
        assert_eq!(events, all[..n_whole_lines]);
    }
}

#[test]
fn what_follows_a_torn_line_is_read() {
    let text = log_text();
    let (all, _) = read("whole2", &text);
    // A writer that was killed, and another that appends.
    let torn = text[..text.len() - 40].to_vec();
    let n_before = n_whole(&torn);
    let again = [&torn[..], b"\n", &text[..]].concat();
    let (events, n_bad) = read("torn", &again);
    assert_eq!((events.len(), n_bad), (n_before + all.len(), 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    /// One line, with some of its bytes changed: an event, an unknown kind or a refusal, and no
    /// panic, also in the fold.
    #[test]
    fn a_changed_line_never_panics(
        pick in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        thread_local! {
            static LINES: Vec<Vec<u8>> = log_text().split(|&byte| byte == b'\n')
                .filter(|line| !line.is_empty()).take(400).map(<[u8]>::to_vec)
                // A tenth of all lines are marks.
                .chain(std::iter::repeat_n(old_mark(), 40)).collect();
        }
        LINES.with(|lines| {
            let mut line = pick.get(lines).clone();
            for (at, byte) in changes {
                let at = at.index(line.len());
                line[at] = byte;
            }
            if is_cut {
                line.truncate(cut.index(line.len()));
            }
            if let Ok(pp_telemetry::Line::Event(event)) = Event::parse(&line) {
                let mut model = Model::new();
                // A `hello` that asks for a huge pipeline, spans of ranks that do not exist.
                let first: Event = match Event::parse(&lines[0]) {
                    Ok(pp_telemetry::Line::Event(event)) => event,
                    other => panic!("{other:?}"),
                };
                model.apply(&first);
                model.apply(&event);
                model.apply(&event);
                // Some begin to read at it, and go on.
                let mut late = Model::new();
                late.apply(&event);
                for line in lines.iter().skip(1).take(3) {
                    if let Ok(pp_telemetry::Line::Event(event)) = Event::parse(line) {
                        late.apply(&event);
                    }
                }
                let _ = (account(&late).is_ok(), late.slowest(), late.eta_seconds());
                let _ = (model.slowest(), model.eta_seconds(), model.peak_memory(), model.activity(0, 0));
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_in_a_log_hide_only_their_own_line(bytes in prop::collection::vec(any::<u8>(), 1..5000)) {
        let text = log_text();
        let (all, _) = read("random-whole", &text);
        let mixed = [&text[..], &bytes, b"\n", &text[..]].concat();
        let (events, _) = read("random", &mixed);
        prop_assert!(events.len() >= 2 * all.len());
        prop_assert_eq!(&events[events.len() - all.len()..], &all[..]);
        let model = fold(&events);
        prop_assert_eq!(model.step(), 12);
    }
}
