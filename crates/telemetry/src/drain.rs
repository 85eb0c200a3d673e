//! What the writer thread does with the events that it takes from the queue.

use std::fs::File;
use std::io::{self, Write as _};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::event::{Dropped, Event};
use crate::files::RunDir;

/// Bytes that gather before they are written without waiting for more.
const BUFFER_BYTES: usize = 256 * 1024;

/// The summary of a run, renewed each second: enough to list runs without reading their logs.
#[derive(Debug, Clone, Default, Serialize)]
struct Status {
    schema: u32,
    run: String,
    pid: u32,
    model: String,
    schedule: String,
    state: &'static str,
    step: u64,
    steps: u64,
    loss: Option<f32>,
    code: Option<i32>,
    dropped: u64,
    events_bytes: u64,
    updated_unix_ms: u64,
}

/// Turns events into lines of the log, and keeps the summary.
#[derive(Debug)]
pub(crate) struct Drain {
    dir: RunDir,
    events: File,
    buffer: Vec<u8>,
    status: Status,
    n_dropped_told: u64,
    began: Instant,
    ended: bool,
}

impl Drain {
    pub(crate) fn new(dir: RunDir, events: File) -> Self {
        let status = Status {
            schema: crate::event::SCHEMA,
            pid: std::process::id(),
            state: "starting",
            ..Status::default()
        };
        Self {
            dir,
            events,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            status,
            n_dropped_told: 0,
            began: Instant::now(),
            ended: false,
        }
    }

    /// Adds one event.
    pub(crate) fn push(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Hello(hello) => {
                self.status.run.clone_from(&hello.run);
                self.status.model.clone_from(&hello.model);
                self.status.schedule.clone_from(&hello.schedule);
                self.status.pid = hello.pid;
                self.status.steps = hello.steps;
                self.status.state = "running";
            }
            Event::Step(step) => {
                self.status.step = step.step;
                self.status.loss = Some(step.loss);
            }
            Event::End(end) => {
                self.status.code = Some(end.code);
                self.status.state = "ended";
                self.ended = true;
            }
            Event::Span(_)
            | Event::Mem(_)
            | Event::Eval(_)
            | Event::Log(_)
            | Event::Warn(_)
            | Event::Dropped(_) => {}
        }
        event.write_line(&mut self.buffer)?;
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes how many events were lost, when there are more than before and the last line is still to come.
    pub(crate) fn note_dropped(&mut self, count: u64) -> io::Result<()> {
        self.status.dropped = count;
        if count <= self.n_dropped_told || self.ended {
            return Ok(());
        }
        self.n_dropped_told = count;
        let elapsed_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Event::Dropped(Dropped { elapsed_ns, count }).write_line(&mut self.buffer)?;
        Ok(())
    }

    /// Brings everything into the file.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.events.write_all(&self.buffer)?;
        self.status.events_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Whether the last line was given.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Renews the summary.
    pub(crate) fn write_status(&mut self) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        self.status.updated_unix_ms = u64::try_from(now).unwrap_or(u64::MAX);
        let mut text = serde_json::to_vec(&self.status)?;
        text.push(b'\n');
        self.dir.replace_status(&text)
    }
}
