//! The recorder: takes events from the threads of a run, and writes them from a thread of its own.
//!
//! ```text
//! rank threads ──try_send──▶ bounded queue ──▶ writer thread ──▶ events.jsonl, status.json
//!                 full: count and go on          fails: recording stops, the run does not
//! ```
//!
//! The writer sleeps a little after it was woken and then takes everything that has gathered. A
//! rank that finishes an operation thus hardly ever pays for waking another thread, and a reader
//! still sees a line within some tens of milliseconds.

use std::io;
use std::iter;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::TraceError;
use crate::event::{End, Event};
use crate::log_writer::LogWriter;
use crate::marks::MarkMaker;
use crate::policy::{LogSize, SpanPolicy};
use crate::span::Span;

/// Events that wait for the writer at most.
const QUEUE_EVENTS: usize = 65_536;
/// How long events gather before they are written.
const GATHER: Duration = Duration::from_millis(25);
/// How often the summary is renewed.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How long [`Recorder::finish`] waits for the disk.
const FINISH_WAIT: Duration = Duration::from_secs(5);

/// What the run and the writer both look at.
#[derive(Debug, Default)]
struct Shared {
    /// Events lost to a full queue.
    dropped: AtomicU64,
    /// The writer has given up.
    failed: AtomicBool,
    /// Nothing is to be gathered any more: write at once.
    closing: AtomicBool,
    warning: Mutex<Option<String>>,
    /// Names of files that the run has written into its folder.
    files: Mutex<Vec<String>>,
    done: Mutex<bool>,
    done_changed: Condvar,
}

impl Shared {
    /// A panic on another thread never leaves these values half-changed, so a poisoned lock is as
    /// good as any.
    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until_done(&self, at_most: Duration) -> bool {
        let done = Self::lock(&self.done);
        let (done, _) = self
            .done_changed
            .wait_timeout_while(done, at_most, |done| !*done)
            .unwrap_or_else(PoisonError::into_inner);
        *done
    }
}

/// One end of the queue, with what is needed to close it.
#[derive(Debug)]
struct Inner {
    queue: Mutex<Option<SyncSender<Event>>>,
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    last_whole_step: AtomicU64,
    span_every: AtomicU64,
    finished: AtomicBool,
}

/// Takes the events of a run and writes them to its log, without ever making the run wait.
///
/// Cheap to clone: every rank thread has its own. [`Recorder::disabled`] is for runs without a log.
#[derive(Debug, Clone)]
pub struct Recorder {
    /// This clone's own end of the queue: sending needs no lock.
    queue: Option<SyncSender<Event>>,
    inner: Option<Arc<Inner>>,
}

/// The events of [`Recorder::collecting`].
#[derive(Debug)]
pub struct Collected(Receiver<Event>);

impl Collected {
    /// Takes the events that have come since the last call.
    pub fn take(&self) -> Vec<Event> {
        self.0.try_iter().collect()
    }
}

impl Recorder {
    /// Makes the directory of the run where it is missing, opens `events.jsonl` in it for
    /// appending, and starts the thread that writes. The log has no marks: a reader begins at its
    /// beginning.
    ///
    /// # Errors
    /// The directory or the file cannot be made, or is a symbolic link; the thread cannot be
    /// started.
    pub fn without_marks(run_dir: &Path) -> Result<Self, TraceError> {
        Self::of(LogWriter::create(run_dir, None)?)
    }

    /// The same with marks, from which a reader of a long log can begin.
    ///
    /// # Errors
    /// As [`Recorder::without_marks`].
    pub fn with_marks(run_dir: &Path, marks: Box<dyn MarkMaker>) -> Result<Self, TraceError> {
        Self::of(LogWriter::create(run_dir, Some(marks))?)
    }

    fn of(mut log: LogWriter) -> Result<Self, TraceError> {
        let (queue, receiver) = sync_channel(QUEUE_EVENTS);
        let shared = Arc::new(Shared::default());
        let for_writer = Arc::clone(&shared);
        let writer = thread::Builder::new()
            .name("pp-trace".to_owned())
            .spawn(move || {
                let result = write_until_closed(&receiver, &mut log, &for_writer);
                if let Err(error) = result {
                    for_writer.failed.store(true, Ordering::Release);
                    *Shared::lock(&for_writer.warning) =
                        Some(format!("recording has stopped: {error}"));
                    log.give_up(&error);
                    summarize_until_closed(&receiver, &mut log);
                }
                *Shared::lock(&for_writer.done) = true;
                for_writer.done_changed.notify_all();
            })
            .map_err(TraceError::Thread)?;
        let inner = Inner {
            queue: Mutex::new(Some(queue.clone())),
            shared,
            writer: Mutex::new(Some(writer)),
            last_whole_step: AtomicU64::new(0),
            span_every: AtomicU64::new(1),
            finished: AtomicBool::new(false),
        };
        Ok(Self { queue: Some(queue), inner: Some(Arc::new(inner)) })
    }

    /// A recorder whose events wait for whoever takes them, such as the process that writes the log
    /// of a run in several processes. It keeps as many as the queue of a log; later ones are lost,
    /// and counted.
    pub fn collecting() -> (Self, Collected) {
        let (queue, receiver) = sync_channel(QUEUE_EVENTS);
        let inner = Inner {
            queue: Mutex::new(Some(queue.clone())),
            shared: Arc::new(Shared::default()),
            writer: Mutex::new(None),
            last_whole_step: AtomicU64::new(0),
            span_every: AtomicU64::new(1),
            finished: AtomicBool::new(false),
        };
        (Self { queue: Some(queue), inner: Some(Arc::new(inner)) }, Collected(receiver))
    }

    /// A recorder that forgets everything at once.
    pub fn disabled() -> Self {
        Self { queue: None, inner: None }
    }

    /// Whether events go anywhere: not for a disabled recorder, nor after the disk has failed or
    /// the run has ended.
    pub fn is_recording(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| {
            !inner.finished.load(Ordering::Relaxed) && !inner.shared.failed.load(Ordering::Relaxed)
        })
    }

    /// Hands over an event. Never blocks: with a full queue the event is dropped and counted.
    pub fn record(&self, event: Event) {
        let (Some(queue), Some(inner)) = (&self.queue, &self.inner) else { return };
        // A log that cannot be written is one thing, the summary another: how far the run is, and
        // how it ends.
        let is_summed_up = matches!(event, Event::Hello(_) | Event::Step(_));
        if inner.finished.load(Ordering::Relaxed) || !(self.is_recording() || is_summed_up) {
            return;
        }
        if let Err(TrySendError::Full(_)) = queue.try_send(event) {
            inner.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands over a span if its step is one of those whose spans are kept. Never blocks.
    pub fn span(&self, span: Span) {
        if self.wants_spans_of(span.step) {
            self.record(Event::Span(span));
        }
    }

    /// Whether the spans of this step are kept.
    pub fn wants_spans_of(&self, step: u64) -> bool {
        self.inner.as_ref().is_some_and(|inner| {
            step <= inner.last_whole_step.load(Ordering::Relaxed)
                || step.is_multiple_of(inner.span_every.load(Ordering::Relaxed).max(1))
        })
    }

    /// Keeps the spans of the steps that `k` divides, from now on; 0 and 1 keep all.
    pub fn set_span_every(&self, k: u64) {
        if let Some(inner) = &self.inner {
            inner.span_every.store(k.max(1), Ordering::Relaxed);
        }
    }

    /// Follows `policy` for a run of this size, and gives the k of "every k-th step" for `hello`.
    pub fn set_span_policy(&self, policy: SpanPolicy, size: LogSize) -> u64 {
        let k = policy.span_every(size);
        if let Some(inner) = &self.inner {
            inner.last_whole_step.store(policy.last_whole(size), Ordering::Relaxed);
        }
        self.set_span_every(k);
        k
    }

    /// Events lost so far because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.inner.as_ref().map_or(0, |inner| inner.shared.dropped.load(Ordering::Relaxed))
    }

    /// Why recording has stopped, once; `None` while it works.
    pub fn take_warning(&self) -> Option<String> {
        let inner = self.inner.as_ref()?;
        Shared::lock(&inner.shared.warning).take()
    }

    /// Notes that the run has written a file with this name into its folder: it is named in the
    /// summary, and so the run's own.
    pub fn note_file(&self, name: &str) {
        let Some(inner) = &self.inner else { return };
        let mut files = Shared::lock(&inner.shared.files);
        if !files.iter().any(|file| file == name) {
            files.push(name.to_owned());
        }
    }

    /// Writes `end` as the last line and waits, for some seconds at most, until everything is in
    /// the file.
    ///
    /// What is recorded afterwards, by any clone, is ignored. A second call does nothing.
    pub fn finish(&self, end: End) {
        let Some(inner) = &self.inner else { return };
        if inner.finished.swap(true, Ordering::AcqRel) {
            return;
        }
        inner.close(Some(Event::End(end)));
    }
}

impl Inner {
    /// Sends a last event, tells the writer to hurry, and waits for it.
    fn close(&self, last: Option<Event>) {
        let deadline = Instant::now() + FINISH_WAIT;
        self.shared.closing.store(true, Ordering::Release);
        let mut writer = Shared::lock(&self.writer);
        let Some(handle) = writer.take() else { return };
        handle.thread().unpark();
        let queue = Shared::lock(&self.queue).take();
        if let (Some(queue), Some(event)) = (queue, last) {
            let mut pending = Some(event);
            while let Some(event) = pending.take() {
                match queue.try_send(event) {
                    Err(TrySendError::Full(event)) if Instant::now() < deadline => {
                        pending = Some(event);
                        thread::sleep(Duration::from_millis(1));
                    }
                    Err(TrySendError::Full(_)) => {
                        self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                }
            }
        }
        let left =
            deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        if self.shared.wait_until_done(left) {
            // The thread has said that it is done: joining it takes no time. It does not panic, and
            // if it did, the run would still have to end in order.
            let _ = handle.join();
        }
    }
}

impl Drop for Inner {
    /// A run that ends without `finish` still gets what it recorded into the file.
    fn drop(&mut self) {
        self.close(None);
    }
}

/// The life of the writer thread: until the queue is closed or `end` was written.
fn write_until_closed(
    queue: &Receiver<Event>,
    log: &mut LogWriter,
    shared: &Shared,
) -> io::Result<()> {
    let mut next_status = Instant::now();
    loop {
        let wait = next_status.saturating_duration_since(Instant::now());
        let mut open = true;
        match queue.recv_timeout(wait) {
            Ok(event) => {
                if !shared.closing.load(Ordering::Acquire) {
                    thread::park_timeout(GATHER);
                }
                for event in iter::once(event).chain(queue.try_iter()) {
                    if matches!(event, Event::End(_)) {
                        // What was lost has to be told before the last line.
                        log.note_dropped(shared.dropped.load(Ordering::Relaxed))?;
                    }
                    log.push(&event)?;
                    if matches!(event, Event::Hello(_)) {
                        // Viewers need the process and its socket from the first moment on.
                        next_status = Instant::now();
                    }
                    if log.has_ended() {
                        break;
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => open = false,
        }
        log.note_dropped(shared.dropped.load(Ordering::Relaxed))?;
        log.flush()?;
        let over = !open || log.has_ended();
        if over || Instant::now() >= next_status {
            log.note_files(&Shared::lock(&shared.files));
            log.write_status()?;
            next_status = Instant::now() + STATUS_EVERY;
        }
        if over {
            return Ok(());
        }
    }
}

/// The rest of the writer's life when the disk has failed: nothing is recorded, but the summary is
/// renewed where that is possible.
fn summarize_until_closed(queue: &Receiver<Event>, log: &mut LogWriter) {
    let mut next_status = Instant::now();
    let mut open = true;
    while open && !log.has_ended() {
        let wait = next_status.saturating_duration_since(Instant::now());
        match queue.recv_timeout(wait) {
            Ok(event) => log.push_given_up(&event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => open = false,
        }
        if Instant::now() >= next_status || log.has_ended() || !open {
            // What cannot be written now may be a second later.
            let _ = log.write_status();
            next_status = Instant::now() + STATUS_EVERY;
        }
    }
}
