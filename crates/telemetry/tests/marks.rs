//! What is written with marks is what readers find.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use pp_telemetry::{
    COMPRESSED_FILE, EVENTS_FILE, End, Event, Follower, Hello, LINE_BYTES_MAX, Log, LogMark,
    LogWriter, Marks, Model, Replay, Span, SpanKind, StageInfo, StepEvent,
};
use proptest::prelude::*;

/// A directory that goes with its test.
struct TestDir(PathBuf);

impl TestDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pp-telemetry-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const STEPS: u64 = 100;
const SPANS: u32 = 500;

fn span(step: u64, rank: u32, mb: u32) -> Span {
    let start_ns = step * 1_000_000 + u64::from(mb) * 1_000;
    let op = if mb.is_multiple_of(2) { SpanKind::F } else { SpanKind::B };
    let (stage, replica, cpu_ns, bytes, starved_ns) = (rank, 0, 900, 0, 0);
    Span { step, replica, rank, stage, mb, op, start_ns, dur_ns: 900, cpu_ns, bytes, starved_ns }
}

fn step(step: u64) -> Event {
    let loss = 1.0 / step as f32;
    Event::Step(StepEvent {
        step,
        loss: Some(loss),
        loss_bits: StepEvent::bits_of(loss),
        lr: Some(0.1),
        grad_norm: Some(f64::NAN),
        seconds: 0.001,
        elapsed_seconds: step as f64 * 0.001,
        samples: 8,
        tokens: 0,
        bubble_ratio: 0.3,
        idle_of_step: 0.4,
        starved_ratio: 0.0,
        window_seconds: 0.0009,
        dropped: 0,
    })
}

fn hello() -> Hello {
    let stage = |stage| StageInfo { stage, rank: stage, ..StageInfo::default() };
    let (stages, span_every) = (vec![stage(0), stage(1)], 1);
    Hello { schema: 1, pp: 2, dp: 1, steps: STEPS, stages, span_every, ..Hello::default() }
}

/// A log of many marks, as the writer thread would write it.
fn write(dir: &TestDir) -> io::Result<PathBuf> {
    let marks = Box::new(Marks::every(300_000));
    let mut writer = LogWriter::create(&dir.0, Some(marks)).map_err(io::Error::other)?;
    writer.push(&Event::Hello(Box::new(hello())))?;
    for at in 1..=STEPS {
        for mb in 0..SPANS / 2 {
            writer.push(&Event::Span(span(at, 0, mb)))?;
            writer.push(&Event::Span(span(at, 1, mb)))?;
        }
        if at.is_multiple_of(30) {
            writer.note_dropped(at)?;
        }
        writer.push(&step(at))?;
    }
    writer.flush()?;
    Ok(dir.0.join(EVENTS_FILE))
}

fn fold(mut follower: Follower) -> Model {
    let mut model = Model::new();
    while !follower.poll(|event| model.apply(&event)).is_ok_and(|poll| poll.at_end) {}
    assert_eq!(follower.n_bad_lines(), 0);
    model
}

/// What both show, but for the spans and what is made of them.
fn assert_same(part: &Model, whole: &Model) {
    assert_eq!(part.ranks(), whole.ranks());
    assert_eq!(part.loss(), whole.loss());
    assert_eq!(part.frames(), whole.frames());
    assert_eq!(part.step(), whole.step());
    assert_eq!(part.n_dropped(), whole.n_dropped());
    assert!(part.lost().eq(whole.lost()));
    assert_eq!(format!("{:?}", part.steps()), format!("{:?}", whole.steps()));
    assert_eq!(part.recorded().last_complete(), whole.recorded().last_complete());
    assert_eq!(part.activity(0, 1), whole.activity(0, 1));
}

#[test]
fn who_begins_at_a_mark_knows_what_was_before_it() -> io::Result<()> {
    let dir = TestDir::new("marks");
    let log = write(&dir)?;
    let whole = fold(Follower::new(&log));
    assert!(whole.frames().len() > 15, "{} marks", whole.frames().len());
    let last = Follower::from_last_mark(&log);
    let part = fold(last);
    assert!(part.n_events() < whole.n_events());
    assert_same(&part, &whole);
    for frame in whole.frames() {
        let part = fold(Follower::from_first_mark(&log, [frame.offset]));
        assert!(part.n_events() <= whole.n_events());
        assert_same(&part, &whole);
    }
    // Compressed, the same.
    let compressed = dir.0.join(COMPRESSED_FILE);
    std::fs::write(&compressed, zstd::encode_all(std::fs::File::open(&log)?, 1)?)?;
    assert_same(&fold(Follower::from_last_mark(&compressed)), &whole);
    Ok(())
}

#[test]
fn who_cannot_play_all_in_time_has_a_clock_that_waits() -> io::Result<()> {
    let dir = TestDir::new("slow");
    let log = write(&dir)?;
    let mut model = Model::new();
    let mut replay = Replay::new(&log);
    let mut play = |replay: &mut Replay, by_ns, n_max| {
        replay.advance(by_ns, n_max, |event| model.apply(&event)).map_err(io::Error::other)
    };
    assert_eq!(play(&mut replay, 50_000_000, 5_000)?, 5_000);
    assert_eq!(replay.clock_ns(), 50_000_000);
    replay.hold_clock(60_000_000);
    assert_eq!(replay.clock_ns(), 50_000_000);
    replay.hold_clock(0);
    let clock_ns = replay.clock_ns();
    assert!((9_000_000..12_000_000).contains(&clock_ns), "{clock_ns}");
    // All of that moment is played, and from there the clock goes on.
    play(&mut replay, 0, usize::MAX)?;
    replay.hold_clock(0);
    assert_eq!(replay.clock_ns(), clock_ns);
    assert!(play(&mut replay, 1_000_000, usize::MAX)? > 400);
    assert_eq!(replay.clock_ns(), clock_ns + 1_000_000);
    Ok(())
}

#[test]
fn what_is_played_until_a_moment_is_what_was_seen_then() -> io::Result<()> {
    let dir = TestDir::new("replay");
    let log = write(&dir)?;
    let whole = fold(Follower::new(&log));
    let mut played = Model::new();
    let mut replay = Replay::new(&log);
    replay.play_to_step(37, |event| played.apply(&event)).map_err(io::Error::other)?;
    assert_eq!(played.step(), 37);
    // The same from the mark before, and by the clock instead of by the step.
    let mut late = Model::new();
    let mut replay_late = Replay::before(&log, whole.frames(), 37);
    let clock_ns = replay.clock_ns();
    while replay_late
        .advance(clock_ns - replay_late.clock_ns(), usize::MAX, |event| late.apply(&event))
        .map_err(io::Error::other)?
        > 0
    {}
    assert!(late.n_events() < played.n_events() + 1);
    assert_eq!(late.ranks(), played.ranks());
    assert_eq!(late.loss(), played.loss());
    assert_eq!(late.step(), 37);
    replay.play_to_step(u64::MAX, |event| played.apply(&event)).map_err(io::Error::other)?;
    assert!(replay.is_over());
    assert_same(&played, &whole);
    assert_eq!(played.n_events(), whole.n_events());
    Ok(())
}

/// Reads as far as it goes, whatever some of the lines are.
fn fold_what_there_is(mut follower: Follower) -> Model {
    let mut model = Model::new();
    while !follower.poll(|event| model.apply(&event)).unwrap().at_end {}
    model
}

/// Where the marks of a log are, each with its line feed.
fn marks(log: &[u8]) -> Vec<Range<usize>> {
    let mut at = 0;
    let mut marks = Vec::new();
    for line in log.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(br#"{"ev":"index","#) {
            marks.push(at..at + line.len());
        }
        at += line.len();
    }
    marks
}

/// A log of 9 MB, written once, and where its marks are.
fn long_log() -> &'static (Vec<u8>, Vec<Range<usize>>) {
    static LOG: std::sync::OnceLock<(Vec<u8>, Vec<Range<usize>>)> = std::sync::OnceLock::new();
    LOG.get_or_init(|| {
        let dir = TestDir::new("long");
        let text = std::fs::read(write(&dir).unwrap()).unwrap();
        let marks = marks(&text);
        (text, marks)
    })
}

/// Where the part of a mark begins that its checksum covers.
const CHECKED_FROM: usize = r#"{"ev":"index","crc32c":"00000000","#.len();

type Damage = fn(&mut Vec<u8>, &Range<usize>);

fn both_ways(path: &Path, steps: &[u64]) {
    let whole = fold_what_there_is(Follower::new(path));
    let late = fold_what_there_is(Follower::from_last_mark(path));
    assert_same(&late, &whole);
    for &step in steps {
        let play = |mut replay: Replay| {
            let mut model = Model::new();
            replay.play_to_step(step, |event| model.apply(&event)).unwrap();
            model
        };
        let played = play(Replay::new(path));
        let late = play(Replay::before(path, whole.frames(), step));
        assert_eq!((late.step(), late.ranks()), (played.step(), played.ranks()), "step {step}");
        assert_eq!(late.loss(), played.loss());
    }
}

/// One damaged mark once hid the whole log.
#[test]
fn a_mark_that_cannot_be_read_is_passed_over_for_the_one_before() {
    let (text, marks) = long_log();
    let dir = TestDir::new("damaged");
    std::fs::create_dir(&dir.0).unwrap();
    let path = dir.0.join("a.jsonl");
    let compressed = dir.0.join("a.jsonl.zst");
    let begun_at = |path: &Path| {
        let mut follower = Follower::from_last_mark(path);
        let first = follower.poll(|_| {}).map(|_| follower.n_bytes()).unwrap();
        (first as usize).saturating_sub(1 << 20)
    };
    std::fs::write(&path, text).unwrap();
    let whole = begun_at(&path);
    let last = marks.iter().position(|mark| mark.start == whole).expect("it begins at a mark");
    let damages: [(&str, Damage); 8] = [
        ("cut off", |log, mark| {
            log.drain(mark.end - 100..mark.end - 1);
        }),
        ("a line feed within", |log, mark| log[mark.start + mark.len() / 2] = b'\n'),
        ("another digit", |log, mark| {
            let at = (mark.start + 200..mark.end).find(|&at| log[at].is_ascii_digit()).unwrap();
            log[at] = if log[at] == b'1' { b'2' } else { b'1' };
        }),
        ("no text", |log, mark| log[mark.start + 300] = 0xff),
        ("a later version", |log, mark| {
            // The checksum is that of the line as a later program might write it.
            let body = mark.start + CHECKED_FROM;
            assert!(log[body..].starts_with(b"\"version\":1,"));
            log[body + b"\"version\":".len()] = b'2';
            let check = format!("{:08x}", crc32c::crc32c(&log[body..mark.end - 1]));
            log[body - 10..body - 2].copy_from_slice(check.as_bytes());
        }),
        ("zeros", |log, mark| log[mark.start + 20..mark.end - 1].fill(0)),
        ("another kind", |log, mark| log[mark.start + 8] = b'x'),
        ("joined with the line before", |log, mark| log[mark.start - 1] = b' '),
    ];
    for (what, damage) in damages {
        let mut log = text.clone();
        damage(&mut log, &marks[last]);
        std::fs::write(&path, &log).unwrap();
        assert_eq!(begun_at(&path), marks[last - 1].start, "{what}");
        // With the line before the mark an operation is lost: later marks know of it, and whoever
        // reads all lines does not.
        let has_all_lines = what != "joined with the line before";
        let steps = if has_all_lines { &[20, STEPS / 2, STEPS][..] } else { &[20] };
        both_ways(&path, steps);
        std::fs::write(&compressed, zstd::encode_all(&log[..], 1).unwrap()).unwrap();
        both_ways(&compressed, &steps[1.min(steps.len() - 1)..][..1]);
        // All of them: from the beginning.
        for mark in marks.iter().rev().filter(|mark| mark.start != marks[last].start) {
            damage(&mut log, mark);
        }
        std::fs::write(&path, &log).unwrap();
        assert_eq!(begun_at(&path), 0, "{what}");
        both_ways(&path, &[20]);
    }
}

/// What is right by its checksum can be wrong all the same: a mark of another place, another run,
/// another log.
#[test]
fn a_mark_that_belongs_elsewhere_is_passed_over() {
    let (text, marks) = long_log();
    let dir = TestDir::new("elsewhere");
    std::fs::create_dir(&dir.0).unwrap();
    let path = dir.0.join("a.jsonl");
    // The first mark again in the place of all later ones, each a line of its own.
    let mut log = text.clone();
    for mark in marks[1..].iter().rev() {
        log.splice(mark.clone(), text[marks[0].clone()].iter().copied());
    }
    std::fs::write(&path, &log).unwrap();
    both_ways(&path, &[30]);
    // A line before all: every mark is elsewhere than it says.
    std::fs::write(&path, [b"{\"ev\":\"note\"}\n", &text[..]].concat()).unwrap();
    both_ways(&path, &[30]);
    // The text of a mark within a message.
    let mut log = text.clone();
    let line = text[marks[3].clone()].to_vec();
    let message = String::from_utf8(line).unwrap();
    Event::Log(Log { elapsed_ns: 0, step: None, message: format!("\n{message}") })
        .write_line(&mut log)
        .unwrap();
    log.extend_from_slice(&text[marks[5].end..]);
    std::fs::write(&path, &log).unwrap();
    both_ways(&path, &[]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// Whatever bytes of marks change, a reader that starts at a mark sees the same as a reader of
    /// the whole log.
    #[test]
    fn damaged_marks_never_change_what_is_seen(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..12),
        from_the_last in any::<bool>(),
        step in 2..STEPS,
    ) {
        let (text, marks) = long_log();
        let mut log = text.clone();
        for (mark, at, byte) in changes {
            let mark = if from_the_last { &marks[marks.len() * 2 / 3 - mark.index(4)] } else { mark.get(marks) };
            // Often where much is decided: in the first bytes.
            let at = if byte.is_multiple_of(3) { at.index(80) } else { at.index(mark.len()) };
            log[mark.start + at] = byte;
        }
        let dir = TestDir::new("changed");
        std::fs::create_dir(&dir.0).unwrap();
        let path = dir.0.join("a.jsonl");
        std::fs::write(&path, &log).unwrap();
        both_ways(&path, &[step]);
    }
}

fn small_writer(dir: &TestDir, line_bytes_max: usize) -> LogWriter {
    let marks = Box::new(Marks::every(200_000));
    LogWriter::create(&dir.0, Some(marks)).unwrap().with_line_bytes_max(line_bytes_max)
}

fn longest_line(dir: &TestDir) -> usize {
    let text = std::fs::read(dir.0.join(EVENTS_FILE)).unwrap();
    text.split(|&byte| byte == b'\n').map(<[u8]>::len).max().unwrap_or(0)
}

/// Issue 10, number 18: a plan of 130,000 micro-batches makes a hello of more than 16 MiB, which no
/// reader took.
#[test]
fn what_the_recorder_writes_its_reader_takes() {
    const MOST: usize = 300_000;
    let with_plan = |n_cells: usize| {
        let row: Vec<String> = (0..n_cells).map(|mb| format!("0F{mb}")).collect();
        Hello { plan: vec![row.join(","), String::new()], ..hello() }
    };
    // The longest plan that a hello has room for: a mark, which holds more, has none.
    let has_room = |n_cells: &usize| {
        let hello = Event::Hello(Box::new(with_plan(*n_cells)));
        hello.to_json().unwrap().len() < MOST
    };
    let n_fit = (38_000..39_500).rev().find(has_room).unwrap();
    // Of the plan alone, of everything, and of a plan that fits a line but with the rest no mark.
    let all = Hello { model: "m".repeat(2 * MOST), ..with_plan(10) };
    for (name, hello, has_plan, marks_have_plan) in [
        ("plan", with_plan(60_000), false, false),
        ("all", all, false, false),
        ("mark", with_plan(n_fit), true, false),
        ("short", with_plan(10), true, true),
    ] {
        let dir = TestDir::new(&format!("hello-{name}"));
        let mut writer = small_writer(&dir, MOST);
        writer.push(&Event::Hello(Box::new(hello))).unwrap();
        for at in 1..=60 {
            (0..SPANS / 2).for_each(|mb| writer.push(&Event::Span(span(at, 0, mb))).unwrap());
            writer.push(&step(at)).unwrap();
        }
        writer.flush().unwrap();
        assert!(longest_line(&dir) <= MOST, "{name}: {}", longest_line(&dir));
        let log = dir.0.join(EVENTS_FILE);
        let whole = fold(Follower::new(&log));
        let hello = whole.hello().unwrap();
        assert_eq!(hello.plan.is_empty(), !has_plan, "{name}");
        assert_eq!(hello.omitted.is_some(), !has_plan, "{name}: {:?}", hello.omitted);
        assert!(!whole.frames().is_empty(), "{name}");
        let frame = whole.frames()[0];
        let late = fold(Follower::from_first_mark(&log, [frame.offset]));
        assert_eq!(late.step(), 60);
        assert!(late.n_events() <= whole.n_events(), "{name}");
        let hello = late.hello().unwrap();
        assert_eq!(hello.plan.is_empty(), !marks_have_plan, "{name}");
        if let Some(why) = &hello.omitted {
            assert!(why.contains("MiB"), "{why}");
        }
    }
}

#[test]
fn an_event_that_no_line_can_hold_is_lost_and_that_is_said() {
    const MOST: usize = 300_000;
    let dir = TestDir::new("too-long");
    let mut writer = small_writer(&dir, MOST);
    writer.push(&Event::Hello(Box::new(hello()))).unwrap();
    let message = "m".repeat(2 * MOST);
    for _ in 0..30 {
        let message = message.clone();
        writer.push(&Event::Log(Log { elapsed_ns: 0, step: None, message })).unwrap();
    }
    writer.note_dropped(5).unwrap();
    writer.push(&Event::End(End { reason: "r".repeat(2 * MOST), ..End::default() })).unwrap();
    writer.flush().unwrap();
    assert!(longest_line(&dir) <= MOST);
    let model = fold(Follower::new(&dir.0.join(EVENTS_FILE)));
    assert_eq!((model.n_dropped(), model.n_warnings()), (35, 16));
    let told = model.messages().next().unwrap();
    assert!(told.text.contains("0.6 MiB; a line of a log has at most 16 MiB"), "{}", told.text);
    assert!(model.end().unwrap().reason.ends_with('…'));
}

#[test]
fn lists_that_a_reader_refuses_are_not_written() {
    let dir = TestDir::new("lists");
    let mut writer = small_writer(&dir, LINE_BYTES_MAX);
    let stages = vec![StageInfo::default(); 262_145];
    writer.push(&Event::Hello(Box::new(Hello { stages, ..hello() }))).unwrap();
    writer.flush().unwrap();
    let model = fold(Follower::new(&dir.0.join(EVENTS_FILE)));
    let hello = model.hello().unwrap();
    assert!(hello.stages.is_empty() && hello.omitted.as_ref().unwrap().contains("262145 stages"));
}

/// What the page says of marks is so.
#[test]
fn the_mark_in_the_page_is_one() {
    let page = include_str!("../../../docs/log-format.md");
    let line = page.lines().find(|line| line.starts_with(r#"{"ev":"index","#)).unwrap();
    let mark = LogMark::parse(line.as_bytes()).unwrap();
    assert_eq!((mark.step, mark.frames.len()), (7, 1));
}
