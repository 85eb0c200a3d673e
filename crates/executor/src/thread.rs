//! The thread of a rank: its start, its orders, and its end.

use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use pp_schedule::{Rank, Replica};

use crate::error::{ExecError, RankError};
use crate::progress::{Doing, RankProgress};
use crate::worker::Worker;

/// candle walks its graph by recursion, so a deep stage needs a deep stack. Only pages that are
/// touched cost memory.
pub(crate) const STACK_BYTES: usize = 256 << 20;

/// The index of a thread, and its answer. Boxed, so that the channel's own blocks stay small: the
/// rank is charged for those that it allocates, and the receiver frees them.
pub(crate) type Reply<T> = Box<(usize, Result<T, ExecError>)>;

/// A job for a rank, which also sends the answer. It returns whether the thread goes on.
pub(crate) type Order = Box<dyn FnOnce(&mut Worker) -> ControlFlow<()> + Send>;

/// Makes an order of `job`, whose answer goes to `reply`.
pub(crate) fn order<T: Send + 'static>(
    index: usize,
    job: Arc<impl Fn(&mut Worker) -> Result<T, RankError> + Send + Sync + 'static>,
    reply: Sender<Reply<T>>,
) -> Order {
    Box::new(move |worker| {
        let done = guarded(|| job(worker)).map_err(|source| worker.failed(source));
        // Before the answer: the caller then frees the data of the job, whose memory is not this
        // rank's.
        drop(job);
        let failed = done.is_err();
        // The receiver is gone when another rank's error has ended the run.
        let heard = reply.send(Box::new((index, done))).is_ok();
        if heard && !failed { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
}

/// The body of a rank's thread: makes the worker, gives its first answer, then runs orders until one
/// fails or no more can come.
pub(crate) fn serve<T>(
    index: usize,
    (replica, rank): (Replica, Rank),
    make: impl FnOnce() -> Result<Worker, RankError>,
    first: impl FnOnce(&mut Worker) -> Result<T, RankError>,
    orders: &Receiver<Order>,
    ready: Sender<Reply<T>>,
) {
    // Sleeps that end up to 50 us late, the system's default, are gaps in every rank's time. Where
    // it cannot be changed, they stay.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let mut worker = match guarded(make) {
        Ok(worker) => worker,
        Err(source) => {
            let (step, is_evaluating, doing) = (0, false, Doing::Idle);
            let at = RankProgress { replica, rank, step, is_evaluating, doing };
            let error = ExecError::of_rank(at, source);
            // The receiver is gone when another rank's error has ended the start.
            let _ = ready.send(Box::new((index, Err(error))));
            return;
        }
    };
    let first = guarded(|| first(&mut worker)).map_err(|source| worker.failed(source));
    let has_failed = first.is_err();
    if ready.send(Box::new((index, first))).is_err() || has_failed {
        return;
    }
    drop(ready);
    for order in orders {
        if order(&mut worker).is_break() {
            return;
        }
    }
}

/// A panic as an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, RankError>) -> Result<T, RankError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(RankError::Panic(panic_text(panic.as_ref()))))
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// A core for each of `n` threads; `None` where this process may use fewer.
pub(crate) fn cores_for(n: u32) -> Option<Vec<usize>> {
    let allowed = rustix::thread::sched_getaffinity(None).ok()?;
    let cores: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|&core| allowed.is_set(core))
        .take(n as usize)
        .collect();
    (cores.len() == n as usize).then_some(cores)
}

/// Keeps this thread on `core`.
pub(crate) fn pin(core: usize) -> Result<(), RankError> {
    let mut only = rustix::thread::CpuSet::new();
    only.set(core);
    rustix::thread::sched_setaffinity(None, &only)
        .map_err(|errno| RankError::Pin { core, source: errno.into() })
}
