//! The signals of a run.
//!
//! SIGUSR1 asks for a checkpoint, as often as it comes. The others end the run. While a run starts,
//! such a signal ends it at once, and its log has the reason. Afterwards the first one ends it
//! after its step, and a second SIGTERM or SIGINT at once.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use pp_telemetry::{End, Recorder};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::phases::Now;
use crate::signals::is_ignored;

/// The time between two looks for a signal while the run starts.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The same for the first signal under a parent.
const LOOK_FOR_FIRST_EVERY: Duration = Duration::from_millis(100);
/// The time in which a signal that arrives twice is one.
const TWICE_WITHIN: Duration = Duration::from_secs(1);

/// The signals of a run: SIGTERM, SIGINT, SIGHUP and SIGUSR2 ask it to end, SIGUSR1 asks it for a
/// checkpoint. Batch systems send one of the last two some time before they end a job.
#[derive(Clone)]
pub struct Signals {
    last: Arc<AtomicUsize>,
    checkpoint: Arc<AtomicBool>,
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
        let (signals, _) = Self::install(true)?;
        Ok(signals)
    }

    /// The same for a run whose parent forwards its signals. A terminal or a batch system sends a
    /// signal to both, so that it arrives twice: the second signal ends the process only if it
    /// comes a second later.
    ///
    /// # Errors
    /// As [`Signals::listen`], or no thread can be started.
    pub fn listen_under_parent() -> std::io::Result<Self> {
        let (signals, again) = Self::install(false)?;
        let last = Arc::clone(&signals.last);
        let wait = move || {
            // A checkpoint, or the warning of a batch system, is not the first of two.
            let is_first = |signal: usize| !matches!(i32::try_from(signal), Ok(0 | SIGUSR2));
            while !is_first(last.load(Ordering::Relaxed)) {
                std::thread::sleep(LOOK_FOR_FIRST_EVERY);
            }
            std::thread::sleep(TWICE_WITHIN);
            again.store(true, Ordering::Relaxed);
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
        Ok(signals)
    }

    /// Installs the handlers. The flag with them makes the next signal end the process; with
    /// `at_once` the first signal sets it.
    fn install(at_once: bool) -> std::io::Result<(Self, Arc<AtomicBool>)> {
        let last = Arc::new(AtomicUsize::new(0));
        let again = Arc::new(AtomicBool::new(false));
        let checkpoint = Arc::new(AtomicBool::new(false));
        if !is_ignored(SIGUSR1) {
            signal_hook::flag::register(SIGUSR1, Arc::clone(&checkpoint))?;
        }
        for signal in
            [SIGTERM, SIGINT, SIGHUP, SIGUSR2].into_iter().filter(|&signal| !is_ignored(signal))
        {
            // In this order: a signal looks whether it is the second before it counts as the first.
            // A batch system sends SIGUSR2 some time before SIGTERM, and a terminal that closes may
            // send SIGHUP twice: neither counts as the first of two.
            if [SIGTERM, SIGINT].contains(&signal) {
                let (code, again) = (128 + signal, || Arc::clone(&again));
                signal_hook::flag::register_conditional_shutdown(signal, code, again())?;
                if at_once {
                    signal_hook::flag::register(signal, again())?;
                }
            }
            let number = usize::try_from(signal).unwrap_or(0);
            signal_hook::flag::register_usize(signal, Arc::clone(&last), number)?;
        }
        Ok((Self { last, checkpoint, told: Arc::new(|_| {}) }, again))
    }

    /// Sets a callback for a run that a signal ends before its first step. `told` gets the last
    /// event of the run right before the process ends.
    #[must_use]
    pub fn telling(self, told: impl Fn(&End) + Send + Sync + 'static) -> Self {
        Self { told: Arc::new(told), ..self }
    }

    /// Sets `flag` when SIGTERM comes. A launcher sends it to all processes of a job when one of them
    /// has died.
    ///
    /// # Errors
    /// The handler cannot be installed.
    pub fn setting(self, flag: Arc<AtomicBool>) -> std::io::Result<Self> {
        signal_hook::flag::register(SIGTERM, flag)?;
        Ok(self)
    }

    /// Whether a checkpoint was asked for since the last call.
    pub(crate) fn take_checkpoint(&self) -> bool {
        self.checkpoint.swap(false, Ordering::Relaxed)
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
        SIGUSR2 => "SIGUSR2",
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
