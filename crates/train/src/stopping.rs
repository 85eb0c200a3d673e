//! The signals that end a run.
//!
//! While a run starts, a signal ends it at once, and its log has the reason. Afterwards the first
//! signal ends it after its step, and a second one at once.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use pp_telemetry::{End, Recorder};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::phases::Now;
use crate::signals::is_ignored;

/// The time between two looks for a signal while the run starts.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The signals that ask a run to end: SIGTERM, SIGINT and SIGHUP.
#[derive(Clone)]
pub struct Signals {
    last: Arc<AtomicUsize>,
    told: Arc<dyn Fn(&End) + Send + Sync>,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Signals {
    /// Installs the handlers. A signal that was ignored when the program started stays ignored. The
    /// second signal ends the process at once.
    ///
    /// # Errors
    /// A handler cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        let last = Arc::new(AtomicUsize::new(0));
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal)) {
            // In this order: a signal looks whether it is the second before it counts as the first.
            let code = 128 + signal;
            signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&again))?;
            signal_hook::flag::register(signal, Arc::clone(&again))?;
            let number = usize::try_from(signal).unwrap_or(0);
            signal_hook::flag::register_usize(signal, Arc::clone(&last), number)?;
        }
        Ok(Self { last, told: Arc::new(|_| {}) })
    }

    /// Sets a callback for a run that a signal ends before its first step. `told` gets the last
    /// event of the run right before the process ends.
    #[must_use]
    pub fn telling(self, told: impl Fn(&End) + Send + Sync + 'static) -> Self {
        Self { told: Arc::new(told), ..self }
    }

    /// The last signal that arrived.
    pub(crate) fn signal(&self) -> Option<i32> {
        i32::try_from(self.last.load(Ordering::Relaxed)).ok().filter(|&signal| signal != 0)
    }
}

/// The name of one of the signals that end a run.
pub(crate) fn name(signal: i32) -> &'static str {
    match signal {
        SIGHUP => "SIGHUP",
        SIGINT => "SIGINT",
        _ => "SIGTERM",
    }
}

/// Looks for signals while the run starts.
#[derive(Debug)]
pub(crate) struct Starting {
    is_over: Arc<Mutex<bool>>,
    looks: Option<(Thread, JoinHandle<()>)>,
}

impl Starting {
    /// Ends the process, with a last line in its log, when a signal comes.
    pub(crate) fn watch(
        signals: &Signals,
        recorder: &Recorder,
        origin: Instant,
        now: &Now,
    ) -> std::io::Result<Self> {
        let is_over = Arc::new(Mutex::new(false));
        let (signals, recorder, now) = (signals.clone(), recorder.clone(), now.clone());
        let looks_at = Arc::clone(&is_over);
        let look = move || {
            loop {
                // Held until the process has ended: the run does not begin to train meanwhile.
                let is_over = looks_at.lock().unwrap_or_else(PoisonError::into_inner);
                if *is_over {
                    return;
                }
                if let Some(signal) = signals.signal() {
                    end(signal, &signals, &recorder, origin, &now);
                }
                drop(is_over);
                std::thread::park_timeout(LOOK_EVERY);
            }
        };
        let handle = std::thread::Builder::new().name("starting".to_owned()).spawn(look)?;
        Ok(Self { is_over, looks: Some((handle.thread().clone(), handle)) })
    }
}

impl Drop for Starting {
    /// From here on the run looks for signals itself.
    fn drop(&mut self) {
        *self.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        if let Some((thread, handle)) = self.looks.take() {
            thread.unpark();
            // The thread does not panic. If it did, nothing would be left to wait for.
            let _ = handle.join();
        }
    }
}

fn end(signal: i32, signals: &Signals, recorder: &Recorder, origin: Instant, now: &Now) -> ! {
    let code = 128 + signal;
    let doing = now.text().unwrap_or_else(|| "starting".to_owned());
    let end = End {
        code,
        reason: format!("stopped by {} while {doing}, before the first step", name(signal)),
        wall_seconds: origin.elapsed().as_secs_f64(),
        ..End::default()
    };
    (signals.told)(&end);
    recorder.finish(end);
    // The threads that build and measure are not waited for.
    signal_hook::low_level::exit(code)
}
