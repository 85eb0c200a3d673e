//! When a rank did what.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use candle_core::Result;

use crate::lane::{Lane, Mark};

/// A moment of a run.
#[derive(Clone)]
pub(crate) enum Moment {
    /// In nanoseconds since the run began.
    At(u64),
    /// When the device passes a point of its queue. The time is known once it has.
    Passing(Mark),
}

/// Processor time of this thread, and the time for which it was ready but had no core.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ThreadTime {
    pub(crate) cpu_ns: u64,
    /// `None` where the system does not count it.
    pub(crate) run_queue_ns: Option<u64>,
}

/// The clock of a rank: that of the host where the rank's own thread computes, else that of its
/// device. The second costs the host nothing but a mark in the queue.
pub(crate) struct Clock {
    origin: Instant,
    schedstat: Option<File>,
    /// What to add to the time of this process. It is that of the run's first process then.
    offset_ns: i64,
    /// A mark that the device passed in this step, and when that was.
    base: Option<(Mark, u64)>,
}

impl Clock {
    pub(crate) fn new(origin: Instant) -> Self {
        Self {
            origin,
            schedstat: File::open("/proc/thread-self/schedstat").ok(),
            offset_ns: 0,
            base: None,
        }
    }

    fn host_ns(&self) -> u64 {
        // Before the run's first process began, there is no time.
        (self.origin.elapsed().as_nanos() as i64 + self.offset_ns).max(0) as u64
    }

    /// Sets what to add to the time of this process, between two spans.
    pub(crate) fn set_offset(&mut self, offset_ns: i64) {
        self.offset_ns = offset_ns;
    }

    /// A step begins, with an empty queue. Its times count from here: a device reports elapsed time as
    /// a 32-bit float, which is less exact the longer it runs.
    pub(crate) fn begin(&mut self, lane: &Lane) -> Result<()> {
        self.base = match lane {
            Lane::Host(_) => None,
            // The queue is empty, so the device passes the mark now.
            Lane::Queue(queue) => Some((queue.mark()?, self.host_ns())),
        };
        Ok(())
    }

    /// Now, or, on a device, when everything that was queued is done.
    pub(crate) fn now(&self, lane: &Lane) -> Result<Moment> {
        match lane {
            Lane::Host(_) => Ok(Moment::At(self.host_ns())),
            Lane::Queue(queue) => Ok(Moment::Passing(queue.mark()?)),
        }
    }

    /// The nanoseconds of a moment of this step. The device has to have passed it.
    pub(crate) fn ns(&self, moment: &Moment) -> Result<u64> {
        match (moment, &self.base) {
            (Moment::At(ns), _) => Ok(*ns),
            (Moment::Passing(mark), Some((base, base_ns))) => {
                let seconds = base.seconds_to(mark.as_ref())?.max(0.0);
                #[expect(clippy::cast_sign_loss, reason = "it is at least 0")]
                let since = (seconds * 1e9) as u64;
                Ok(base_ns + since)
            }
            (Moment::Passing(_), None) => candle_core::bail!("a mark before the first step"),
        }
    }

    /// What the thread itself has used and missed.
    pub(crate) fn thread(&self) -> ThreadTime {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let cpu_ns = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
        ThreadTime { cpu_ns, run_queue_ns: self.run_queue_ns() }
    }

    fn run_queue_ns(&self) -> Option<u64> {
        // "on-cpu-ns run-queue-wait-ns timeslices"; opened once, read from its start each time.
        let mut text = [0u8; 64];
        let n = self.schedstat.as_ref()?.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..n]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
    }
}
