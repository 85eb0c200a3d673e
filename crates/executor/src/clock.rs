//! When a rank did what.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use candle_core::{Device, Result};

/// Times of spans. The host's clock now; a device whose kernels run behind our back needs one that
/// reads events of its stream.
pub(crate) trait SpanClock {
    /// Nanoseconds since the run began, after everything that was submitted to the device is done.
    fn now_ns(&self) -> Result<u64>;
    /// What the thread itself has used and missed.
    fn thread(&self) -> ThreadTime;
}

/// Processor time of this thread, and the time for which it was ready but had no core.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ThreadTime {
    pub(crate) cpu_ns: u64,
    /// `None` where the system does not count it.
    pub(crate) run_queue_ns: Option<u64>,
}

/// The host's monotonic clock. On a device with a queue it waits for the queue first, so that a
/// span is the op's own time: right, at the price of a stall.
pub(crate) struct HostClock {
    origin: Instant,
    device: Device,
    schedstat: Option<File>,
}

impl HostClock {
    pub(crate) fn new(origin: Instant, device: Device) -> Self {
        Self { origin, device, schedstat: File::open("/proc/thread-self/schedstat").ok() }
    }

    fn run_queue_ns(&self) -> Option<u64> {
        // "on-cpu-ns run-queue-wait-ns timeslices"; opened once, read from its start each time.
        let mut text = [0u8; 64];
        let n = self.schedstat.as_ref()?.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..n]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
    }
}

impl SpanClock for HostClock {
    fn now_ns(&self) -> Result<u64> {
        if !self.device.is_cpu() {
            self.device.synchronize()?;
        }
        Ok(self.origin.elapsed().as_nanos() as u64)
    }

    fn thread(&self) -> ThreadTime {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let cpu_ns = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
        ThreadTime { cpu_ns, run_queue_ns: self.run_queue_ns() }
    }
}
