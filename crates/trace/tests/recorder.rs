//! The recorder against a real disk: what it writes, and what it does when it cannot.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use pp_trace::{
    End, Event, Follower, Hello, Line, Log, LogSize, LogWriter, MarkMaker, MarkReader, Recorder,
    Span, SpanKind, SpanPolicy, TraceError,
};

/// A directory of its own for each test, removed at the end.
struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn run(&self) -> PathBuf {
        self.0.path().join("runs/one")
    }

    fn events(&self) -> Vec<Event> {
        let text = fs::read(self.run().join("events.jsonl")).unwrap();
        assert!(text.is_empty() || text.ends_with(b"\n"), "the last line is whole");
        text.split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| match Event::parse(line).unwrap() {
                Line::Event(event) => event,
                Line::Unknown => panic!("unknown kind: {}", String::from_utf8_lossy(line)),
            })
            .collect()
    }
}

fn span(step: u64, rank: u32, mb: u32) -> Span {
    Span {
        step,
        replica: 0,
        rank,
        stage: rank,
        mb,
        op: SpanKind::F,
        start_ns: 10,
        dur_ns: 5,
        cpu_ns: 5,
        bytes: 0,
        starved_ns: 0,
    }
}

fn log(message: &str) -> Event {
    Event::Log(Log { message: message.to_owned(), ..Log::default() })
}

fn finished() -> End {
    End { reason: "finished".to_owned(), ..End::default() }
}

#[test]
fn events_of_all_threads_are_written_in_the_order_of_each() {
    let dir = TestDir::new();
    let recorder = Recorder::without_marks(&dir.run()).unwrap();
    thread::scope(|scope| {
        for rank in 0..4 {
            let recorder = recorder.clone();
            scope.spawn(move || (0..500).for_each(|mb| recorder.span(span(1, rank, mb))));
        }
    });
    recorder.finish(finished());
    recorder.record(log("too late"));

    let events = dir.events();
    assert_eq!(events.len(), 2001);
    assert_eq!(events.last(), Some(&Event::End(finished())));
    for rank in 0..4 {
        let of_rank: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Span(span) if span.rank == rank => Some(span.mb),
                _ => None,
            })
            .collect();
        assert_eq!(of_rank, (0..500).collect::<Vec<_>>());
    }
    assert_eq!(recorder.dropped(), 0);
    assert_eq!(recorder.take_warning(), None);
}

#[test]
fn files_and_directories_are_for_their_owner_only() {
    let dir = TestDir::new();
    Recorder::without_marks(&dir.run()).unwrap().finish(finished());
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.run()), 0o700);
    assert_eq!(mode(dir.run().join("events.jsonl")), 0o600);
    assert_eq!(mode(dir.run().join("status.json")), 0o600);
}

#[test]
fn a_live_reader_sees_a_line_at_once_and_the_summary_says_how_it_stands() {
    let dir = TestDir::new();
    let recorder = Recorder::without_marks(&dir.run()).unwrap();
    recorder.record(Event::Hello(Box::new(Hello {
        run: "one".to_owned(),
        steps: 9,
        ..Hello::default()
    })));
    let deadline = Instant::now() + Duration::from_secs(5);
    while dir.events().is_empty() {
        assert!(Instant::now() < deadline, "nothing was written");
        thread::sleep(Duration::from_millis(5));
    }
    recorder.finish(End { code: 1, reason: "a rank failed".to_owned(), ..End::default() });
    let status: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.run().join("status.json")).unwrap()).unwrap();
    assert_eq!(status["run"], "one");
    assert_eq!(status["state"], "ended");
    assert_eq!(status["code"], 1);
    assert_eq!(status["steps"], 9);
}

#[test]
fn a_symbolic_link_in_place_of_the_log_is_refused() {
    let dir = TestDir::new();
    fs::create_dir_all(dir.run()).unwrap();
    let elsewhere = dir.0.path().join("elsewhere");
    fs::write(&elsewhere, "untouched").unwrap();
    symlink(&elsewhere, dir.run().join("events.jsonl")).unwrap();
    let error = Recorder::without_marks(&dir.run()).unwrap_err();
    assert!(matches!(error, TraceError::File { .. }), "{error}");
    assert_eq!(fs::read_to_string(elsewhere).unwrap(), "untouched");
}

#[test]
fn a_symbolic_link_to_the_directory_is_followed_once() {
    let dir = TestDir::new();
    let elsewhere = dir.0.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::create_dir(dir.0.path().join("runs")).unwrap();
    symlink(&elsewhere, dir.run()).unwrap();
    Recorder::without_marks(&dir.run()).unwrap().finish(End::default());
    assert!(elsewhere.join("events.jsonl").is_file());
    // To nowhere, it is not made.
    fs::remove_file(dir.run()).unwrap();
    symlink(dir.0.path().join("nowhere"), dir.run()).unwrap();
    assert!(matches!(Recorder::without_marks(&dir.run()), Err(TraceError::Directory { .. })));
    assert!(!dir.0.path().join("nowhere").exists());
}

#[test]
fn a_disk_that_fails_stops_the_recording_and_leaves_one_warning() {
    let dir = TestDir::new();
    let recorder = Recorder::without_marks(&dir.run()).unwrap();
    // The summary is renewed by a rename, which a directory in its place prevents.
    thread::sleep(Duration::from_millis(100));
    let status = dir.run().join("status.json");
    fs::remove_file(&status).unwrap();
    fs::create_dir(&status).unwrap();
    fs::write(status.join("in the way"), "").unwrap();
    recorder.record(log("before"));
    let deadline = Instant::now() + Duration::from_secs(10);
    let warning = loop {
        if let Some(warning) = recorder.take_warning() {
            break warning;
        }
        assert!(Instant::now() < deadline, "no warning");
        thread::sleep(Duration::from_millis(20));
    };
    assert!(warning.starts_with("recording has stopped: "), "{warning}");
    assert_eq!(recorder.take_warning(), None);
    assert!(!recorder.is_recording());
    let began = Instant::now();
    (0..200_000).for_each(|mb| recorder.span(span(1, 0, mb)));
    recorder.finish(finished());
    assert!(began.elapsed() < Duration::from_secs(2));
}

/// What a full disk does is tried in a process of its own, by the program's tests; here a summary
/// that can't be replaced is written over.
#[test]
fn a_summary_without_room_for_a_second_one_is_written_over() {
    let dir = TestDir::new();
    let recorder = Recorder::without_marks(&dir.run()).unwrap();
    let status = dir.run().join("status.json");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !status.exists() {
        assert!(Instant::now() < deadline, "no summary");
        thread::sleep(Duration::from_millis(5));
    }
    let length = fs::metadata(&status).unwrap().len();
    assert!(length >= 2048, "it keeps room for what it may have to say: {length}");
    // A directory that is not empty stands where the new one is prepared.
    fs::create_dir_all(dir.run().join(".status.json.new/in the way")).unwrap();
    recorder.record(log("before"));
    recorder.finish(End { reason: "stopped by request after step 0".to_owned(), ..finished() });
    assert_eq!(recorder.take_warning(), None);
    let text = fs::read_to_string(&status).unwrap();
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&status["state"], &status["code"]), (&"ended".into(), &0.into()));
    assert_eq!(status["reason"], "stopped by request after step 0");
    assert_eq!(text.len() as u64, length, "in the room that it had");
}

#[test]
fn only_the_steps_of_the_policy_have_spans() {
    let dir = TestDir::new();
    let recorder = Recorder::without_marks(&dir.run()).unwrap();
    recorder.set_span_every(3);
    (1..=10).for_each(|step| recorder.span(span(step, 0, 0)));
    let k = recorder.set_span_policy(
        SpanPolicy::Auto,
        LogSize { n_steps: 1_000_000, n_spans_per_step: 100, n_ranks: 1, ..LogSize::default() },
    );
    assert!(k > 30, "{k}");
    assert!(
        recorder.wants_spans_of(20)
            && !recorder.wants_spans_of(21)
            && recorder.wants_spans_of(3 * k)
    );
    recorder.finish(finished());
    let steps: Vec<_> = dir
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Span(span) => Some(span.step),
            _ => None,
        })
        .collect();
    assert_eq!(steps, [3, 6, 9]);
}

#[test]
fn what_was_recorded_is_written_when_nobody_says_finish() {
    let dir = TestDir::new();
    let recorder = Recorder::without_marks(&dir.run()).unwrap();
    let clone = recorder.clone();
    recorder.record(log("one"));
    drop(recorder);
    clone.record(log("two"));
    drop(clone);
    assert_eq!(dir.events(), [log("one"), log("two")]);
}

#[test]
fn nothing_blocks_when_the_queue_is_full_and_the_loss_is_told() {
    let dir = TestDir::new();
    let recorder = Recorder::without_marks(&dir.run()).unwrap();
    let mut n_sent = 0_u64;
    let deadline = Instant::now() + Duration::from_secs(30);
    while recorder.dropped() == 0 {
        assert!(Instant::now() < deadline, "the queue never filled");
        recorder.span(span(1, 0, 0));
        n_sent += 1;
    }
    recorder.finish(finished());
    let events = dir.events();
    let n_spans = events.iter().filter(|event| matches!(event, Event::Span(_))).count() as u64;
    let told: Vec<_> = events
        .iter()
        .filter_map(
            |event| if let Event::Dropped(dropped) = event { Some(dropped.count) } else { None },
        )
        .collect();
    assert_eq!(told.last(), Some(&recorder.dropped()));
    assert_eq!(n_spans + recorder.dropped(), n_sent);
    assert!(matches!(events.last(), Some(Event::End(_))));
}

#[test]
fn a_disabled_recorder_takes_everything_and_keeps_nothing() {
    let recorder = Recorder::disabled();
    recorder.record(log("nowhere"));
    recorder.span(span(1, 0, 0));
    recorder.finish(finished());
    assert_eq!((recorder.dropped(), recorder.is_recording()), (0, false));
}

/// Makes marks that say how many events were before, and knows them again.
#[derive(Debug, Default)]
struct Counter(u64);

impl Counter {
    fn head(offset: u64) -> String {
        format!(r#"{{"ev":"index","at":{offset},"n":"#)
    }
}

impl MarkMaker for Counter {
    fn note(&mut self, _: &Event) {
        self.0 += 1;
    }

    fn every_bytes(&self) -> u64 {
        1000
    }

    fn write_mark(
        &mut self,
        offset: u64,
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let line = format!("{}{}}}", Self::head(offset), self.0);
        if line.len() <= bytes_max {
            into.extend_from_slice(line.as_bytes());
            into.push(b'\n');
        }
        Ok(line.len())
    }

    fn alarm(&self) -> Option<String> {
        Some(format!("{} events", self.0))
    }
}

impl MarkReader for Counter {
    fn is_intact(&self, line: &[u8]) -> bool {
        line.ends_with(b"}")
    }

    fn can_begin_at(&self, line: &[u8], offset: u64) -> bool {
        line.starts_with(Self::head(offset).as_bytes())
    }
}

/// Steps with a message each; the marks of the log, as numbers of events.
fn marks_of(dir: &TestDir, marks: Option<Box<dyn MarkMaker>>) -> Vec<u64> {
    let mut writer = LogWriter::create(&dir.run(), marks).unwrap();
    for step in 1..=50 {
        let line = format!(r#"{{"ev":"step","step":{step},"loss":1.0}}"#);
        let Line::Event(step) = Event::parse(line.as_bytes()).unwrap() else { panic!("{line}") };
        writer.push(&log("a")).unwrap();
        writer.push(&step).unwrap();
    }
    writer.flush().unwrap();
    writer.write_status().unwrap();
    let number = |event: &Event| {
        let Event::Index(index) = event else { return None };
        let value: serde_json::Value = serde_json::from_slice(index.line()).unwrap();
        value["n"].as_u64()
    };
    dir.events().iter().filter_map(number).collect()
}

#[test]
fn a_log_has_the_marks_of_whoever_makes_them() {
    static COUNTER: Counter = Counter(0);
    let dir = TestDir::new();
    let marks = marks_of(&dir, Some(Box::new(Counter::default())));
    assert!(marks.len() > 3 && marks.is_sorted(), "{marks:?}");
    let status = fs::read_to_string(dir.run().join("status.json")).unwrap();
    assert!(status.contains(r#""alarm":"100 events""#), "{status}");
    // A reader begins at any of them that its own reader of marks takes.
    let path = dir.run().join("events.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let offset = text.rfind("{\"ev\":\"index\"").unwrap() as u64;
    let mut follower = Follower::from_first_mark(&path, [offset + 1, offset], &COUNTER);
    let mut first = None;
    follower.poll(|event| first = first.take().or(Some(event))).unwrap();
    assert!(matches!(first, Some(Event::Index(_))), "{first:?}");
    // Without anybody there are none.
    let dir = TestDir::new();
    assert_eq!(marks_of(&dir, None), [0; 0]);
}
