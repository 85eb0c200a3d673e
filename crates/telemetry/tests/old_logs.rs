//! Logs that the program of 2026-11-29 wrote, when marks had no version: they are read as before.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write as _;
use std::path::Path;

use pp_telemetry::{Follower, LogMark, Model, Replay};
use serde_json::Value;
use tempfile::NamedTempFile;

const RUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/seed-mlp-p2-m4");
/// The only mark of a log of 20 MB, and the last lines of that log.
const TAIL: &[u8] = include_bytes!("fixtures/mark.jsonl");

fn fold(mut follower: Follower) -> Model {
    let mut model = Model::new();
    while !follower.poll(|event| model.apply(&event)).unwrap().at_end {}
    assert_eq!((follower.n_bad_lines(), follower.n_unknown_lines()), (0, 0));
    model
}

/// The rows of the table that the old program exported.
fn rows() -> Vec<Vec<String>> {
    let text = fs::read_to_string(Path::new(RUN).join("steps.csv")).unwrap();
    text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

#[test]
fn an_old_log_is_replayed_step_by_step_to_the_same_numbers() {
    let log = Path::new(RUN).join("events.jsonl");
    let whole = fold(Follower::new(&log));
    let mut rows = rows();
    let names = rows.remove(0);
    let column = |name: &str| names.iter().position(|n| n == name).unwrap();
    let (step, loss, seconds) = (column("step"), column("loss"), column("seconds"));
    assert_eq!(rows.len() as u64, whole.step());
    let mut replay = Replay::new(&log);
    let mut model = Model::new();
    for row in rows {
        let at: u64 = row[step].parse().unwrap();
        replay.play_to_step(at, |event| model.apply(&event)).unwrap();
        let last = model.steps().last().unwrap();
        assert_eq!((last.step, last.loss.unwrap().to_string()), (at, row[loss].clone()));
        assert_eq!(last.seconds.to_string(), row[seconds]);
    }
    replay.play_to_step(u64::MAX, |event| model.apply(&event)).unwrap();
    assert!(replay.is_over());
    assert_eq!(model, whole);
    assert_eq!(model.end().map(|end| end.reason.as_str()), Some("finished"));
}

/// The line of the old mark, and what follows.
fn mark() -> (&'static [u8], &'static [u8]) {
    let end = TAIL.iter().position(|&byte| byte == b'\n').unwrap();
    (&TAIL[..end], &TAIL[end + 1..])
}

/// The content of a mark, without its checksum and its version.
fn body(line: &[u8]) -> Value {
    let mut value: Value = serde_json::from_slice(line).unwrap();
    let object = value.as_object_mut().unwrap();
    object.remove("crc32c").unwrap();
    object.remove("version");
    value
}

#[test]
fn a_mark_without_a_version_is_read_and_written_again_as_version_1() {
    let (line, _) = mark();
    let read = LogMark::parse(line).unwrap();
    let again = read.to_index().unwrap();
    assert_eq!(body(again.line()), body(line));
    let value: Value = serde_json::from_slice(again.line()).unwrap();
    assert_eq!(value["version"], 1);
    assert_eq!(LogMark::parse(again.line()).unwrap(), read);
}

/// Lines of an unknown kind, `n_bytes` in all.
fn padding(n_bytes: usize) -> Vec<u8> {
    const LINE: usize = 1 << 20;
    let mut text = Vec::new();
    while text.len() < n_bytes {
        let left = n_bytes - text.len();
        // What is left for the last line has to hold one.
        let n = if left < 2 * LINE { left } else { LINE };
        let (head, tail) = (b"{\"ev\":\"note\",\"pad\":\"", b"\"}\n");
        text.extend_from_slice(head);
        text.resize(text.len() + n - head.len() - tail.len(), b'x');
        text.extend_from_slice(tail);
    }
    text
}

/// A file that is gone when the test is over.
fn test_file(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

/// The log of the mark, with other lines in place of those before it.
fn log_with(mark: &[u8], offset: u64, rest: &[u8]) -> Vec<u8> {
    // Some steps have to follow the mark at which one begins.
    [&padding(offset as usize), mark, b"\n", &padding(5 << 20), rest].concat()
}

fn begun_at(mut follower: Follower) -> (u64, Model) {
    let mut model = Model::new();
    let mut begun = None;
    loop {
        let poll = follower.poll(|event| model.apply(&event)).unwrap();
        begun.get_or_insert(follower.n_bytes().saturating_sub(1 << 20));
        if poll.at_end {
            return (begun.unwrap(), model);
        }
    }
}

#[test]
fn a_reader_begins_at_a_mark_without_a_version() {
    let (line, rest) = mark();
    let read = LogMark::parse(line).unwrap();
    let offset = read.frames[0].offset;
    let file = test_file(&log_with(line, offset, rest));
    for follower in
        [Follower::from_last_mark(file.path()), Follower::from_first_mark(file.path(), [offset])]
    {
        let (begun, model) = begun_at(follower);
        assert_eq!(begun, offset);
        assert!(model.step() > read.step);
        assert_eq!(model.frames(), read.frames);
        assert_eq!(model.hello(), read.model.hello());
        assert_eq!(model.end().map(|end| end.steps), Some(model.step()));
    }
}

/// An older layout that is no longer read, or one of a later program: the log is read from its
/// beginning.
#[test]
fn a_mark_that_is_no_longer_read_is_passed_over() {
    let (line, rest) = mark();
    let offset = LogMark::parse(line).unwrap().frames[0].offset;
    let text = std::str::from_utf8(line).unwrap();
    let at = text.find("\"step\"").unwrap();
    for (what, changed) in [
        ("a later version", format!("\"version\":2,{}", &text[at..])),
        ("another layout", text[at..].replace("\"n_events\"", "\"events\"")),
    ] {
        let check = crc32c::crc32c(changed.as_bytes());
        let changed = format!("{{\"ev\":\"index\",\"crc32c\":\"{check:08x}\",{changed}");
        assert!(LogMark::parse(changed.as_bytes()).is_err(), "{what}");
        let file = test_file(&log_with(changed.as_bytes(), offset, rest));
        let (begun, model) = begun_at(Follower::from_last_mark(file.path()));
        assert_eq!((begun, model.hello().is_none()), (0, true), "{what}");
        let mut follower = Follower::new(file.path());
        while !follower.poll(|_| {}).unwrap().at_end {}
        assert_eq!(follower.n_bad_lines(), 0, "{what}: it is as it was written");
    }
}
