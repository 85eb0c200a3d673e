//! The log and the summary of a run, written on the thread that calls.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Instant;

use crate::bounds::{mib, shortened};
use crate::course::Course;
use crate::error::TraceError;
use crate::event::{Dropped, End, Event, Warn};
use crate::files::RunDir;
use crate::hello::{Continues, Hello};
use crate::lines::LINE_BYTES_MAX;
use crate::machine::unix_ms;
use crate::marks::MarkMaker;
use crate::status::{State, Status};
use crate::text::write_json;

/// The size of the buffer: as many bytes are written at once, without waiting for a flush.
const BUFFER_BYTES: usize = 256 * 1024;

/// The largest part of a log that marks may take, as one in this many bytes: longer marks are
/// further apart.
const MARK_PART: u64 = 8;
/// The number of events too long for a line that are reported one by one.
const TOLD_MAX: u64 = 16;

/// The fewest bytes of a summary: blanks fill it up.
const STATUS_BYTES: usize = 2047;
/// Characters of a reason in the summary at most.
const REASON_CHARS: usize = 300;

/// Turns events into lines of the log, and keeps the summary.
///
/// Every call may wait for the disk. A run that must not wait has a [`Recorder`](crate::Recorder),
/// which does this on a thread of its own.
#[derive(Debug)]
pub struct LogWriter {
    dir: RunDir,
    events: File,
    buffer: Vec<u8>,
    status: Status,
    course: Course,
    marks: Option<Box<dyn MarkMaker>>,
    /// Bytes of the log that are in the file already.
    written: u64,
    /// Where the last mark is; 0 before the first.
    last_mark: u64,
    /// The offset before which no mark is due.
    next_mark: u64,
    line_bytes_max: usize,
    /// Events that no line can hold.
    n_too_long: u64,
    n_dropped_told: u64,
    began: Instant,
    ended: bool,
    /// Whether the run has done anything since the last summary.
    has_progressed: bool,
}

impl LogWriter {
    /// Makes the directory of the run where it is missing, and opens `events.jsonl` in it for
    /// appending. Without `marks` the log has none, and a reader begins at its beginning.
    ///
    /// # Errors
    /// The directory or the file cannot be made, or is a symbolic link.
    pub fn create(run_dir: &Path, marks: Option<Box<dyn MarkMaker>>) -> Result<Self, TraceError> {
        let dir = RunDir::create(run_dir)?;
        let events = dir.open_events()?;
        let status = Status::starting();
        let written = events.metadata().map_or(0, |about| about.len());
        Ok(Self {
            dir,
            events,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            status,
            course: Course::default(),
            marks,
            written,
            last_mark: 0,
            next_mark: 0,
            line_bytes_max: LINE_BYTES_MAX,
            n_too_long: 0,
            n_dropped_told: 0,
            began: Instant::now(),
            ended: false,
            has_progressed: true,
        })
    }

    /// Limits lines to `n_bytes`, without the line feed. A larger limit than [`LINE_BYTES_MAX`] has
    /// no effect, because no reader takes such a line.
    #[must_use]
    pub fn with_line_bytes_max(self, n_bytes: usize) -> Self {
        Self { line_bytes_max: n_bytes.min(LINE_BYTES_MAX), ..self }
    }

    /// Adds one event; it is in the file after the next [`LogWriter::flush`] at the latest.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn push(&mut self, event: &Event) -> io::Result<()> {
        self.note(event);
        self.write(event)?;
        self.note_course(event);
        if matches!(event, Event::Step(_)) {
            self.note_pace();
            self.mark()?;
        }
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Updates the summary from one event.
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
                self.status.run = shortened(&hello.run);
                self.status.model = shortened(&hello.model);
                self.status.schedule = shortened(&hello.schedule);
                self.status.pid = hello.pid;
                self.status.steps = hello.steps;
                self.status.state = State::Running;
                self.status.socket.clone_from(&hello.socket);
                self.status.checkpoints.clone_from(&hello.checkpoints);
                self.status.continues = hello
                    .continues
                    .as_ref()
                    .map(|before| Continues { run: shortened(&before.run), ..before.clone() });
                self.status.pp = hello.pp;
                self.status.dp = hello.dp;
                self.status.virtual_stages = hello.virtual_stages;
                self.status.micro_batches = hello.micro_batches;
                self.status.batch_size = hello.batch_size;
                self.status.started_unix_ms = hello.started_unix_ms;
            }
            Event::Step(step) => {
                self.status.step = step.step;
                self.status.loss = step.loss;
            }
            Event::End(end) => {
                self.status.code = Some(end.code);
                self.status.reason = Some(end.reason.chars().take(REASON_CHARS).collect());
                let saved = end.saved.as_deref();
                self.status.saved = saved.map(|saved| saved.chars().take(REASON_CHARS).collect());
                self.status.state = State::Ended;
                self.ended = true;
            }
            _ => {}
        }
    }

    /// Updates the running phase and the alarm in the summary.
    fn note_course(&mut self, event: &Event) {
        if matches!(event, Event::Span(_)) {
            return;
        }
        self.status.phase = self.course.phase();
        self.status.alarm = self.marks.as_ref().and_then(|marks| marks.alarm());
    }

    /// Updates the time of a step in the summary.
    fn note_pace(&mut self) {
        self.status.step_seconds = self.course.step_seconds();
    }

    /// Counts an event as written: it belongs to the next mark and to the course of the run.
    fn note_written(&mut self, event: &Event) {
        self.course.note(event);
        if let Some(marks) = &mut self.marks {
            marks.note(event);
        }
    }

    /// Stops writing the log. The summary goes on, so that the end of the run is known even without
    /// its log.
    pub(crate) fn give_up(&mut self, why: &io::Error) {
        self.buffer = Vec::new();
        let why: String = why.to_string().chars().take(REASON_CHARS).collect();
        self.status.recording_failed = Some(why);
    }

    /// Takes an event after the log was given up.
    pub(crate) fn push_given_up(&mut self, event: &Event) {
        self.note(event);
        if matches!(event, Event::Step(_) | Event::Phase(_)) {
            self.note_written(event);
            self.note_course(event);
            self.note_pace();
        }
        if let Event::End(end) = event {
            let event = Event::End(shorter(end));
            // There may be room again by now. The line before may have been cut: a line feed ends
            // it.
            let mut line = vec![b'\n'];
            let _ = event.write_line(&mut line).map(|()| self.events.write_all(&line));
        }
    }

    /// Writes an event as a line that can be read again: what is too long for one is shortened
    /// where that can be said, else lost.
    fn write(&mut self, event: &Event) -> io::Result<()> {
        if let Event::Hello(hello) = event
            && let Some(kept) = hello.without_what_is_refused()
        {
            return self.write(&Event::Hello(Box::new(kept)));
        }
        let start = self.buffer.len();
        event.write_line(&mut self.buffer)?;
        // Its line feed does not count.
        let n_bytes = self.buffer.len() - start - 1;
        if n_bytes <= self.line_bytes_max {
            self.note_written(event);
            return Ok(());
        }
        self.buffer.truncate(start);
        match event {
            Event::Hello(hello) => {
                let hello = self.hello_that_fits(hello, n_bytes)?;
                self.write(&Event::Hello(Box::new(hello)))
            }
            Event::End(end) => self.write(&Event::End(shorter(end))),
            _ => self.lose(n_bytes),
        }
    }

    /// The hello without its plan or, if that is still too long for a line, without all lists.
    fn hello_that_fits(&self, hello: &Hello, n_bytes: usize) -> io::Result<Hello> {
        let kept = hello.without_plan(n_bytes);
        let mut line = Vec::new();
        Event::Hello(Box::new(kept.clone())).write_line(&mut line)?;
        Ok(if line.len() - 1 <= self.line_bytes_max { kept } else { hello.brief(n_bytes) })
    }

    /// Counts an event that no line can hold as lost, and writes a warning.
    fn lose(&mut self, n_bytes: usize) -> io::Result<()> {
        self.n_too_long += 1;
        if self.n_too_long > TOLD_MAX {
            return Ok(());
        }
        let elapsed_ns = self.elapsed_ns();
        let message = format!("an event was left out of the log: it has {}", mib(n_bytes));
        self.write(&Event::Warn(Warn { elapsed_ns, step: None, rank: None, message }))
    }

    fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Writes a mark, if the last one is far enough behind.
    fn mark(&mut self) -> io::Result<()> {
        let Some(marks) = &mut self.marks else { return Ok(()) };
        let every = marks.every_bytes();
        let offset = self.written + self.buffer.len() as u64;
        if offset - self.last_mark < every || offset < self.next_mark {
            return Ok(());
        }
        let start = self.buffer.len();
        let n_bytes = marks.write_mark(offset, self.line_bytes_max, &mut self.buffer)?;
        if self.buffer.len() > start {
            self.last_mark = offset;
        }
        self.next_mark = offset + (n_bytes as u64).saturating_mul(MARK_PART).max(every);
        Ok(())
    }

    /// Writes how many events were lost, when there are more than before and the last line is still
    /// to come: `count` to a full queue, and those that were too long.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn note_dropped(&mut self, count: u64) -> io::Result<()> {
        let count = count.saturating_add(self.n_too_long);
        self.status.dropped = count;
        if count <= self.n_dropped_told || self.ended {
            return Ok(());
        }
        self.n_dropped_told = count;
        // The count belongs to the next mark too.
        self.write(&Event::Dropped(Dropped { elapsed_ns: self.elapsed_ns(), count }))
    }

    /// Sets the names of the files that the run has written into its folder.
    pub(crate) fn note_files(&mut self, files: &[String]) {
        if self.status.files != files {
            self.status.files = files.to_vec();
        }
    }

    /// Brings everything into the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.events.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.status.events_bytes = self.written;
        self.buffer.clear();
        Ok(())
    }

    /// Whether the log has its last line.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Renews the summary.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_status(&mut self) -> io::Result<()> {
        self.status.updated_unix_ms = unix_ms();
        if std::mem::take(&mut self.has_progressed) {
            self.status.progressed_unix_ms = self.status.updated_unix_ms;
        }
        let mut text = Vec::new();
        write_json(&mut text, &self.status)?;
        // The blanks reserve room on the disk for a longer summary, should the disk be full by
        // then.
        text.resize(text.len().max(STATUS_BYTES), b' ');
        text.push(b'\n');
        self.dir.replace_status(&text)
    }
}

/// An `end` with shortened texts, so that it fits into a line.
fn shorter(end: &End) -> End {
    let op = end.op.as_deref().map(shortened);
    let weights_hash = end.weights_hash.as_deref().map(shortened);
    let saved = end.saved.as_deref().map(shortened);
    End { reason: shortened(&end.reason), op, weights_hash, saved, ..end.clone() }
}
