//! Looks at the GPUs from a thread of its own, and notices from a second one when no look comes
//! back.
//!
//! ```text
//! looks:    open ─ look ─ look ─ look ─ (a call hangs …………………………………………) ─ look
//! watches:                              3 s ─ "does not answer" ─ … ─────   silent again
//! ```
//!
//! Both tell what they have while they hold one lock: after the end nothing is told any more, and a
//! look that comes back late is told after the word that there was none.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use pp_trace::{Event, Gpu, Log};

use crate::library::Library;
use crate::no_gpus::NoGpus;
use crate::watched::{Facts, Watched};

/// How long a GPU may be silent before that is told.
const SILENCE: Duration = Duration::from_secs(3);
/// The pause between two looks is at least this long.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// How long the end waits for a look that is under way.
const END_WAIT: Duration = Duration::from_millis(100);
/// The library is opened anew after this many looks without one of the GPUs: some GPUs return only
/// to a new client.
const REOPEN_AFTER: u32 = 10;
/// The number of looks doubles each time that opening anew did not help, up to this.
const REOPEN_AFTER_MAX: u32 = 1000;

/// Where events go. It must not wait for anything.
type Sink = Box<dyn Fn(Event) + Send + Sync>;

/// Looks at all GPUs, once or twice a second, until it is dropped.
///
/// Dropping waits for at most a tenth of a second. A call into the driver that takes longer is left
/// to itself: its thread ends when the call does, and tells nothing any more.
pub struct GpuSampler {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for GpuSampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuSampler").finish_non_exhaustive()
    }
}

impl GpuSampler {
    /// Starts looking, once in `every`, and hands `sink` an [`Event::Gpu`] for each GPU and look;
    /// times count from `origin`. The library is opened by the new thread: that may take seconds.
    /// Where there is no GPU, one [`Event::Log`] says why.
    ///
    /// `sink` must neither wait nor drop the sampler.
    pub fn start(
        library: Library,
        every: Duration,
        origin: Instant,
        sink: impl Fn(Event) + Send + Sync + 'static,
    ) -> Self {
        let state = State { ended: false, n_threads: 0, known: Vec::new(), none: None };
        let shared = Arc::new(Shared {
            every: every.max(PAUSE_MIN),
            origin,
            sink: Box::new(sink),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let looks = spawn("gpu looks", &shared, move |shared| look_until_end(&library, shared));
        match looks.and_then(|()| spawn("gpu silence", &shared, watch_until_end)) {
            Ok(()) => {}
            Err(error) => shared.give_up(NoGpus::Thread { why: error.to_string() }),
        }
        Self { shared }
    }

    /// Why there is no GPU to look at; `None` while there is one, and until it is known.
    pub fn none(&self) -> Option<NoGpus> {
        self.shared.lock().none.clone()
    }
}

impl Drop for GpuSampler {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        self.shared.changed.notify_all();
        let running = |state: &mut State| state.n_threads > 0;
        // Whether they have ended or are left to themselves makes no difference to anybody.
        drop(self.shared.changed.wait_timeout_while(state, END_WAIT, running));
    }
}

/// A GPU that answered at least once.
struct Known {
    facts: Facts,
    /// When something was last known of it, if only that it is gone.
    heard: Instant,
}

struct State {
    ended: bool,
    n_threads: u32,
    known: Vec<Known>,
    none: Option<NoGpus>,
}

/// What both threads and their owner look at.
struct Shared {
    every: Duration,
    origin: Instant,
    sink: Sink,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    /// A panic never leaves the state half-changed, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn elapsed_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Waits until it is time for the next look; `false` if there is none.
    fn pause(&self, began: Instant) -> bool {
        let left = self.every.saturating_sub(began.elapsed()).max(PAUSE_MIN);
        let waited = self.changed.wait_timeout_while(self.lock(), left, |state| !state.ended);
        !waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// Hands over what was seen of a GPU.
    fn tell(&self, mut gpu: Gpu) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        if let Some(known) = state.known.iter_mut().find(|known| known.facts.uuid == gpu.uuid) {
            known.heard = Instant::now();
        }
        gpu.elapsed_ns = self.elapsed_ns();
        (self.sink)(Event::Gpu(Box::new(gpu)));
    }

    /// Says why there is nothing to look at.
    fn give_up(&self, why: NoGpus) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        let message = format!("no GPU is monitored: {why}");
        state.none = Some(why);
        self.log(message);
    }

    fn log(&self, message: String) {
        (self.sink)(Event::Log(Log { elapsed_ns: self.elapsed_ns(), step: None, message }));
    }
}

/// Starts a thread that counts among the running ones.
fn spawn(
    name: &str,
    shared: &Arc<Shared>,
    body: impl FnOnce(&Shared) + Send + 'static,
) -> std::io::Result<()> {
    /// Tells the owner when a thread is over, however that came.
    struct Running(Arc<Shared>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.lock().n_threads -= 1;
            self.0.changed.notify_all();
        }
    }
    shared.lock().n_threads += 1;
    let running = Running(Arc::clone(shared));
    // Where no thread can be started the body is dropped, and with it what counts it.
    thread::Builder::new().name(name.to_owned()).spawn(move || body(&running.0)).map(drop)
}

/// The life of the thread that looks.
fn look_until_end(library: &Library, shared: &Shared) {
    let mut reopen_after = REOPEN_AFTER;
    loop {
        let began = Instant::now();
        match library.with(|nvml| look_through(nvml, reopen_after, shared)).flatten() {
            Ok(Over::Ended) => return,
            Ok(Over::Missing) => reopen_after = (reopen_after * 2).min(REOPEN_AFTER_MAX),
            Ok(Over::MissingAfterAll) => reopen_after = REOPEN_AFTER,
            Err(why) => {
                let known: Vec<Facts> =
                    shared.lock().known.iter().map(|known| known.facts.clone()).collect();
                if known.is_empty() {
                    return shared.give_up(why);
                }
                // They were there before: the driver may come back.
                for facts in known {
                    shared.tell(facts.without_answer(why.to_string()));
                }
                if !shared.pause(began) {
                    return;
                }
            }
        }
    }
}

/// Why a library is closed.
enum Over {
    /// Nobody wants to know more.
    Ended,
    /// A GPU never answered.
    Missing,
    /// A GPU is gone, after there was a time when all answered.
    MissingAfterAll,
}

/// Looks at all GPUs again and again, as long as this opened library is of use.
fn look_through(nvml: &Nvml, reopen_after: u32, shared: &Shared) -> Result<Over, NoGpus> {
    let found = Facts::of_all(nvml);
    let (facts, unreachable): (Vec<Facts>, bool) = {
        let mut state = shared.lock();
        let first = state.known.is_empty();
        let found = match found {
            Err(why) if first => return Err(why),
            found => found.unwrap_or_default(),
        };
        let unreachable = found.unreachable.is_some();
        if let Some(message) = found.unreachable.filter(|_| first && !state.ended) {
            shared.log(message);
        }
        for facts in found.all {
            if state.known.iter().all(|known| known.facts.uuid != facts.uuid) {
                state.known.push(Known { facts, heard: Instant::now() });
            }
        }
        (state.known.iter().map(|known| known.facts.clone()).collect(), unreachable)
    };
    let mut watched: Vec<_> = facts.into_iter().map(|facts| Watched::new(nvml, facts)).collect();
    let (mut n_missing, mut all_answered) = (0, false);
    loop {
        let began = Instant::now();
        let mut missing = unreachable;
        for gpu in &mut watched {
            if shared.has_ended() {
                return Ok(Over::Ended);
            }
            let look = gpu.look();
            missing |= look.error.is_some();
            shared.tell(look);
        }
        all_answered |= !missing;
        n_missing = if missing { n_missing + 1 } else { 0 };
        if !shared.pause(began) {
            return Ok(Over::Ended);
        }
        if n_missing >= reopen_after {
            return Ok(if all_answered { Over::MissingAfterAll } else { Over::Missing });
        }
    }
}

/// The life of the thread that notices when there is no look.
fn watch_until_end(shared: &Shared) {
    // A sampler with a long interval may be silent for longer.
    let silence = SILENCE.max(shared.every * 3);
    let began = Instant::now();
    let mut is_told = false;
    while shared.pause(Instant::now()) {
        let state = shared.lock();
        if state.ended {
            return;
        }
        // Nothing is known yet, not even why: the driver hangs while it is opened.
        if state.known.is_empty() && state.none.is_none() && !is_told && began.elapsed() >= silence
        {
            is_told = true;
            shared.log(NoGpus::Silent.to_string());
        }
        for known in state.known.iter().filter(|known| known.heard.elapsed() >= silence) {
            let error = "does not answer".to_owned();
            let elapsed_ns = shared.elapsed_ns();
            let gpu = Gpu { elapsed_ns, ..known.facts.without_answer(error) };
            (shared.sink)(Event::Gpu(Box::new(gpu)));
        }
        if state.none.is_some() {
            return;
        }
    }
}
