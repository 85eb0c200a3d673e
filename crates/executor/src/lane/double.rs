//! A device with a queue, played by the processor, for tests.
//!
//! Ops compute at once, as on any processor. What is played is the order. The device is slower than
//! everything that the host does: it passes a mark only when the host waits for the whole queue. A
//! tensor that is sent counts as made only after the next mark of its queue, so a copy by a queue
//! that did not wait for that mark is an error. Every mark comes [`TICK_SECONDS`] after the one
//! before it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Result, Tensor, TensorId, bail};
use pp_nn::memory::Meter;

use super::{Mark, Point, Queue};

/// The time between two marks of a queue.
pub(crate) const TICK_SECONDS: f64 = 1e-3;

/// The queue of one rank.
pub(crate) struct Double {
    device: Device,
    ordinal: u32,
    id: u64,
    /// Marks so far.
    queued: Cell<u64>,
    passed: Passed,
    /// The latest mark of each other queue that this one waits for.
    waits_for: RefCell<BTreeMap<u64, u64>>,
}

/// How many marks of a queue the device has passed.
type Passed = Arc<AtomicU64>;

/// A point in the queue of a double.
struct DoublePoint {
    queue: u64,
    at: u64,
    passed: Passed,
}

/// What all doubles of one device know together, by its number.
#[derive(Default)]
struct Shared {
    /// The mark before which a tensor that was sent is made: its queue and its number.
    sent: HashMap<TensorId, (u64, u64)>,
    counts: Counts,
}

/// What happened on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) marks: u64,
    pub(crate) waits: u64,
    pub(crate) copies: u64,
    pub(crate) fetches: u64,
    pub(crate) synchronisations: u64,
    pub(crate) uploads: u64,
    pub(crate) downloads: u64,
}

/// By the number of the device: tests that run at the same time have devices of their own.
static SHARED: Mutex<BTreeMap<u32, Shared>> = Mutex::new(BTreeMap::new());

fn shared() -> MutexGuard<'static, BTreeMap<u32, Shared>> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happened on a device since the last call.
pub(crate) fn take_counts(ordinal: u32) -> Counts {
    std::mem::take(&mut shared().entry(ordinal).or_default().counts)
}

impl Double {
    pub(crate) fn new(ordinal: u32) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            device: Device::Cpu,
            ordinal,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            queued: Cell::new(0),
            passed: Passed::default(),
            waits_for: RefCell::default(),
        }
    }

    fn count(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut shared().entry(self.ordinal).or_default().counts);
    }

    fn point(mark: &Mark) -> Result<&DoublePoint> {
        match mark.as_any().downcast_ref() {
            Some(point) => Ok(point),
            None => bail!("a mark of another kind of device"),
        }
    }
}

impl Queue for Double {
    fn device(&self) -> &Device {
        &self.device
    }

    fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// Its memory is the host's.
    fn meter(&self) -> Meter {
        Meter::Host
    }

    fn mark(&self) -> Result<Mark> {
        self.count(|counts| counts.marks += 1);
        self.queued.set(self.queued.get() + 1);
        let (queue, at) = (self.id, self.queued.get());
        Ok(Arc::new(DoublePoint { queue, at, passed: Arc::clone(&self.passed) }))
    }

    fn wait(&self, mark: &Mark) -> Result<()> {
        self.count(|counts| counts.waits += 1);
        let point = Self::point(mark)?;
        let mut waits_for = self.waits_for.borrow_mut();
        let latest = waits_for.entry(point.queue).or_default();
        *latest = point.at.max(*latest);
        Ok(())
    }

    fn copy_of(&self, tensor: &Tensor) -> Result<Tensor> {
        self.count(|counts| counts.copies += 1);
        let Some((queue, at)) =
            shared().entry(self.ordinal).or_default().sent.get(&tensor.id()).copied()
        else {
            bail!("a tensor that was not sent, or one of another device");
        };
        let waited = self.waits_for.borrow().get(&queue).copied().unwrap_or(0);
        if queue != self.id && waited < at {
            bail!("a copy before its tensor is made: mark {at}, waited for {waited}");
        }
        tensor.force_contiguous()
    }

    fn fetch(&self, tensor: &Tensor, ordinal: u32, ready: &Mark) -> Result<Tensor> {
        self.count(|counts| counts.fetches += 1);
        let point = Self::point(ready)?;
        let made = shared().entry(ordinal).or_default().sent.get(&tensor.id()).copied();
        if made.is_none_or(|(queue, at)| queue != point.queue || point.at < at) {
            bail!("a mark that does not come after the tensor");
        }
        tensor.force_contiguous()
    }

    fn sendable(&self, tensor: Tensor) -> Result<Tensor> {
        let tensor = tensor.contiguous()?;
        let made = (self.id, self.queued.get() + 1);
        shared().entry(self.ordinal).or_default().sent.insert(tensor.id(), made);
        Ok(tensor)
    }

    fn upload(&self, tensor: &Tensor) -> Result<Tensor> {
        self.count(|counts| counts.uploads += 1);
        tensor.force_contiguous()
    }

    fn download(&self, scalars: &[Tensor]) -> Result<Vec<f32>> {
        self.count(|counts| counts.downloads += 1);
        scalars.iter().map(Tensor::to_scalar).collect()
    }

    fn synchronize(&self) -> Result<()> {
        self.count(|counts| counts.synchronisations += 1);
        self.passed.store(self.queued.get(), Ordering::Release);
        Ok(())
    }

    fn keep_shapes(&self) -> Box<dyn Any> {
        Box::new(())
    }
}

impl Point for DoublePoint {
    fn is_passed(&self) -> Result<bool> {
        Ok(self.passed.load(Ordering::Acquire) >= self.at)
    }

    fn seconds_to(&self, later: &dyn Point) -> Result<f64> {
        let Some(later) = later.as_any().downcast_ref::<Self>() else {
            bail!("a mark of another kind of device");
        };
        if self.queue != later.queue || !later.is_passed()? {
            bail!("a time that is not known yet");
        }
        Ok((later.at as f64 - self.at as f64) * TICK_SECONDS)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
