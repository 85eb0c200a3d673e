//! What the writer thread does with the events that it takes from the queue.

use std::fs::File;
use std::io::{self, Write as _};
use std::time::Instant;

use crate::event::{Dropped, Event};
use crate::files::RunDir;
use crate::index::{Frame, Index};
use crate::model::Model;
use crate::phase::PhaseEvent;
use crate::status::{State, Status, unix_ms};

/// Bytes that gather before they are written without waiting for more.
const BUFFER_BYTES: usize = 256 * 1024;

/// Bytes of a log from one mark to the next. A mark has some kilobytes for each rank, and half a megabyte for the rest.
const MARK_BYTES: u64 = 16 << 20;

/// Bytes of a summary at least: blanks fill it up.
const STATUS_BYTES: usize = 2047;
/// Characters of a reason in the summary at most.
const REASON_CHARS: usize = 300;

/// Turns events into lines of the log, and keeps the summary.
#[derive(Debug)]
pub(crate) struct Drain {
    dir: RunDir,
    events: File,
    buffer: Vec<u8>,
    status: Status,
    /// What a mark says of all before it.
    model: Model,
    frames: Vec<Frame>,
    /// Bytes of the log that are in the file already.
    written: u64,
    mark_every: u64,
    n_dropped_told: u64,
    began: Instant,
    ended: bool,
    /// Whether the run has done anything since the last summary.
    has_progressed: bool,
}

impl Drain {
    pub(crate) fn new(dir: RunDir, events: File) -> Self {
        let status = Status::starting();
        let written = events.metadata().map_or(0, |about| about.len());
        Self {
            dir,
            events,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            status,
            model: Model::brief(),
            frames: Vec::new(),
            written,
            mark_every: MARK_BYTES,
            n_dropped_told: 0,
            began: Instant::now(),
            ended: false,
            has_progressed: true,
        }
    }

    /// Adds one event.
    pub(crate) fn push(&mut self, event: &Event) -> io::Result<()> {
        self.note(event);
        event.write_line(&mut self.buffer)?;
        self.model.apply(event);
        self.note_course(event);
        if matches!(event, Event::Step(_)) {
            self.note_pace();
            self.mark()?;
        }
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// What the summary says of an event.
    fn note(&mut self, event: &Event) {
        // Looks at devices go on whatever the run does.
        let is_look = matches!(
            event,
            Event::Gpu(_) | Event::Cpu(_) | Event::Mem(_) | Event::Dropped(_) | Event::Index(_)
        );
        if !is_look {
            self.has_progressed = true;
        }
        match event {
            Event::Hello(hello) => {
                self.status.run.clone_from(&hello.run);
                self.status.model.clone_from(&hello.model);
                self.status.schedule.clone_from(&hello.schedule);
                self.status.pid = hello.pid;
                self.status.steps = hello.steps;
                self.status.state = State::Running;
                self.status.socket.clone_from(&hello.socket);
                self.status.pp = hello.pp;
                self.status.dp = hello.dp;
                self.status.started_unix_ms = hello.started_unix_ms;
            }
            Event::Step(step) => {
                self.status.step = step.step;
                self.status.loss = Some(step.loss);
            }
            Event::End(end) => {
                self.status.code = Some(end.code);
                self.status.reason = Some(end.reason.chars().take(REASON_CHARS).collect());
                self.status.state = State::Ended;
                self.ended = true;
            }
            _ => {}
        }
    }

    /// What goes on beside the steps, and whether the training goes wrong.
    fn note_course(&mut self, event: &Event) {
        if matches!(event, Event::Span(_)) {
            return;
        }
        self.status.phase = self.model.phase().map(PhaseEvent::text);
        self.status.alarm = self.model.alarm().map(|alarm| alarm.to_string());
    }

    /// How long a step takes by now.
    fn note_pace(&mut self) {
        let pace = self.model.steps().seconds().map(|seconds| seconds.p50);
        self.status.step_seconds = pace.filter(|seconds| seconds.is_finite());
    }

    /// From now on nothing is written into the log. The summary goes on: how the run ended must not be lost with its log.
    pub(crate) fn give_up(&mut self, why: &io::Error) {
        self.buffer = Vec::new();
        let why: String = why.to_string().chars().take(REASON_CHARS).collect();
        self.status.recording_failed = Some(why);
    }

    /// Takes an event after the log was given up.
    pub(crate) fn push_given_up(&mut self, event: &Event) {
        self.note(event);
        if matches!(event, Event::Step(_) | Event::Phase(_)) {
            self.model.apply(event);
            self.note_course(event);
            self.note_pace();
        }
        if matches!(event, Event::End(_)) {
            // There may be room again by now. The line before may have been cut: a line feed ends it.
            let mut line = vec![b'\n'];
            let _ = event.write_line(&mut line).map(|()| self.events.write_all(&line));
        }
    }

    /// Writes a mark, if the last one is far enough behind.
    fn mark(&mut self) -> io::Result<()> {
        let offset = self.written + self.buffer.len() as u64;
        let last = self.frames.last().map_or(0, |frame| frame.offset);
        if offset - last < self.mark_every {
            return Ok(());
        }
        let step = self.status.step;
        self.frames.push(Frame { offset, step });
        let index =
            Index { step, frames: self.frames.clone(), model: Box::new(self.model.clone()) };
        Event::Index(Box::new(index)).write_line(&mut self.buffer)?;
        Ok(())
    }

    /// Writes how many events were lost, when there are more than before and the last line is still to come.
    pub(crate) fn note_dropped(&mut self, count: u64) -> io::Result<()> {
        self.status.dropped = count;
        if count <= self.n_dropped_told || self.ended {
            return Ok(());
        }
        self.n_dropped_told = count;
        let elapsed_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let event = Event::Dropped(Dropped { elapsed_ns, count });
        event.write_line(&mut self.buffer)?;
        // A mark tells of it as well.
        self.model.apply(&event);
        Ok(())
    }

    /// Brings everything into the file.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.events.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.status.events_bytes = self.written;
        self.buffer.clear();
        Ok(())
    }

    /// Whether the last line was given.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Renews the summary.
    pub(crate) fn write_status(&mut self) -> io::Result<()> {
        self.status.updated_unix_ms = unix_ms();
        if std::mem::take(&mut self.has_progressed) {
            self.status.progressed_unix_ms = self.status.updated_unix_ms;
        }
        let mut text = serde_json::to_vec(&self.status)?;
        // So long that what it may yet have to say has its room on the disk, should that be full by then.
        text.resize(text.len().max(STATUS_BYTES), b' ');
        text.push(b'\n');
        self.dir.replace_status(&text)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::event::{Hello, StageInfo};
    use crate::reader::Follower;
    use crate::replay::{Replay, frame_before};
    use crate::span::{Span, SpanKind};
    use crate::step::StepEvent;

    /// A directory that goes with its test.
    struct TestDir(PathBuf);

    impl TestDir {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("pp-telemetry-{name}-{}", std::process::id()));
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
        Span {
            step,
            replica,
            rank,
            stage,
            mb,
            op,
            start_ns,
            dur_ns: 900,
            cpu_ns,
            bytes,
            starved_ns,
        }
    }

    fn step(step: u64) -> Event {
        let loss = 1.0 / step as f32;
        Event::Step(StepEvent {
            step,
            loss,
            loss_bits: StepEvent::bits_of(loss),
            lr: 0.1,
            grad_norm: f64::NAN,
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

    /// A log of many marks, as the writer thread would write it.
    fn write(dir: &TestDir) -> io::Result<PathBuf> {
        let run = RunDir::create(&dir.0).map_err(io::Error::other)?;
        let events = run.open_events().map_err(io::Error::other)?;
        let mut drain = Drain { mark_every: 300_000, ..Drain::new(run, events) };
        let stage = |stage| StageInfo { stage, rank: stage, ..StageInfo::default() };
        drain.push(&Event::Hello(Box::new(Hello {
            schema: 1,
            pp: 2,
            dp: 1,
            steps: STEPS,
            stages: vec![stage(0), stage(1)],
            span_every: 1,
            ..Hello::default()
        })))?;
        for at in 1..=STEPS {
            for mb in 0..SPANS / 2 {
                drain.push(&Event::Span(span(at, 0, mb)))?;
                drain.push(&Event::Span(span(at, 1, mb)))?;
            }
            if at.is_multiple_of(30) {
                drain.note_dropped(at)?;
            }
            drain.push(&step(at))?;
        }
        drain.flush()?;
        Ok(dir.0.join(crate::files::EVENTS_FILE))
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
        assert!(whole.frames().len() > 20, "{} marks", whole.frames().len());
        let last = Follower::from_last_mark(&log);
        let part = fold(last);
        assert!(part.n_events() < whole.n_events());
        assert_same(&part, &whole);
        for frame in whole.frames() {
            let part = fold(Follower::at(&log, frame.offset));
            assert_same(&part, &whole);
        }
        // Compressed, the same.
        let compressed = dir.0.join(crate::files::COMPRESSED_FILE);
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
        let offset = frame_before(whole.frames(), 37);
        assert!(offset > 0);
        let mut late = Model::new();
        let mut replay_late = Replay::at(&log, offset);
        let clock_ns = replay.clock_ns();
        while replay_late
            .advance(clock_ns - replay_late.clock_ns(), usize::MAX, |event| late.apply(&event))
            .map_err(io::Error::other)?
            > 0
        {}
        assert_eq!(late.ranks(), played.ranks());
        assert_eq!(late.loss(), played.loss());
        assert_eq!(late.step(), 37);
        replay.play_to_step(u64::MAX, |event| played.apply(&event)).map_err(io::Error::other)?;
        assert!(replay.is_over());
        assert_same(&played, &whole);
        assert_eq!(played.n_events(), whole.n_events());
        Ok(())
    }
}
