//! The queue in which a rank's work waits for its device.
//!
//! A processor has none: when an op returns, its result is there. On a device with a queue an op
//! returns when its work is queued, and two ranks on one device have two queues. Then the order
//! between them is kept by [`Mark`]s:
//!
//! 1. The rank that made a tensor marks its own queue after it, and sends the mark along.
//! 2. The rank that gets the tensor lets its queue wait for that mark, copies the tensor, and marks
//!    its own queue after the copy.
//! 3. The first rank keeps the tensor until that second mark is passed. Its memory goes back to the
//!    first queue, which knows nothing of the copy.
//!
//! Between ranks on one device no thread waits for it.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(test)]
pub(crate) mod double;
mod lent;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::{Arc, OnceLock};

use candle_core::{Device, Result, Tensor};
use pp_nn::memory::Meter;

use crate::boundary::Tensors;
use crate::progress::Doing;

pub(crate) use lent::Lent;

/// Where the work of a rank runs.
pub(crate) enum Lane {
    /// On the rank's own thread.
    Host(Device),
    /// Behind its back, in the order in which it was queued.
    #[cfg_attr(not(any(test, feature = "cuda")), expect(dead_code, reason = "no device has one"))]
    Queue(Box<dyn Queue>),
}

/// The queue of one rank on a device.
pub(crate) trait Queue {
    /// Where its tensors are.
    fn device(&self) -> &Device;
    /// The number of the device. Queues with the same number share its memory.
    fn ordinal(&self) -> u32;
    /// What counts the bytes that this thread holds there.
    fn meter(&self) -> Meter;
    /// A point after everything that was queued so far. It has a time.
    fn mark(&self) -> Result<Mark>;
    /// What is queued from now on waits for a mark of any queue of this device.
    fn wait(&self, mark: &Mark) -> Result<()>;
    /// A copy of a contiguous tensor of another queue of this device. It is made when its turn in
    /// this queue comes.
    fn copy_of(&self, tensor: &Tensor) -> Result<Tensor>;
    /// The tensor of a queue of another device, through the host. `ready` is the mark after it.
    fn fetch(&self, tensor: &Tensor, ordinal: u32, ready: &Mark) -> Result<Tensor>;
    /// A tensor that other queues of this device may copy, after the next mark.
    fn sendable(&self, tensor: Tensor) -> Result<Tensor> {
        tensor.contiguous()
    }
    /// Data of the host, on the device. A part of a larger tensor is moved alone.
    fn upload(&self, tensor: &Tensor) -> Result<Tensor> {
        // candle's upload moves the whole storage of a view.
        tensor.force_contiguous()?.to_device(self.device())
    }
    /// The values of scalars, at once. Waits until they are there.
    fn download(&self, scalars: &[Tensor]) -> Result<Vec<f32>> {
        let flat = scalars.iter().map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&flat, 0)?.to_vec1()
    }
    /// Waits until everything that was queued is done.
    fn synchronize(&self) -> Result<()>;
    /// While the value lives, the shapes that kernels need on the device are kept there. No data
    /// may be uploaded meanwhile.
    fn keep_shapes(&self) -> Box<dyn Any>;
}

/// A point in a queue.
pub(crate) type Mark = Arc<dyn Point>;

/// What a point in a queue can be asked. It may be asked on any thread.
pub(crate) trait Point: Send + Sync + Any {
    /// Whether the device has passed it. Never waits.
    fn is_passed(&self) -> Result<bool>;
    /// The seconds from here to a later point of the same device. Both have to be passed.
    fn seconds_to(&self, later: &dyn Point) -> Result<f64>;
    /// Itself, for the queue that made it.
    #[cfg_attr(not(any(test, feature = "cuda")), expect(dead_code, reason = "no device has one"))]
    fn as_any(&self) -> &dyn Any;
}

/// What a message says of the queue in which its tensors are made.
#[derive(Clone)]
pub(crate) struct Made {
    ordinal: u32,
    /// After the tensors.
    pub(crate) ready: Mark,
    taken: Taken,
}

/// Says when the receiver needs the tensors no longer.
#[derive(Clone, Default)]
pub(crate) struct Taken(Arc<OnceLock<Option<Mark>>>);

impl Taken {
    /// The tensors may be freed when the mark is passed; at once if there is none.
    fn set(&self, behind: Option<Mark>) {
        let _ = self.0.set(behind);
    }

    /// Whether the tensors may be freed.
    fn is_over(&self) -> Result<bool> {
        match self.0.get() {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(mark)) => mark.is_passed(),
        }
    }
}

impl Lane {
    /// Where the rank's tensors are.
    pub(crate) fn device(&self) -> &Device {
        match self {
            Self::Host(device) => device,
            Self::Queue(queue) => queue.device(),
        }
    }

    /// What the rank is doing when its thread has nothing more to queue: `here`, if the thread does
    /// it itself.
    pub(crate) fn doing(&self, here: Doing) -> Doing {
        match self {
            Self::Host(_) => here,
            Self::Queue(_) => Doing::AwaitingDevice,
        }
    }

    /// What counts the bytes that this thread holds there.
    pub(crate) fn meter(&self) -> Meter {
        match self {
            Self::Host(_) => Meter::Host,
            Self::Queue(queue) => queue.meter(),
        }
    }

    /// What goes along with tensors that were just made, and how the sender learns that they were
    /// taken. `None` where they are there already.
    pub(crate) fn made(&self) -> Result<Option<Made>> {
        match self {
            Self::Host(_) => Ok(None),
            Self::Queue(queue) => Ok(Some(Made {
                ordinal: queue.ordinal(),
                ready: queue.mark()?,
                taken: Taken::default(),
            })),
        }
    }

    /// Lets the queue wait until tensors of another rank are made.
    pub(crate) fn await_made(&self, made: Option<&Made>) -> Result<()> {
        match (self, made) {
            (Self::Queue(queue), Some(made)) if made.ordinal == queue.ordinal() => {
                queue.wait(&made.ready)
            }
            _ => Ok(()),
        }
    }

    /// The tensors of another rank, on this one's device. [`Self::await_made`] has to come first.
    ///
    /// Between two devices they go through the host, and this thread waits for them: candle's direct
    /// copy needs peer access, which it never asks the driver for (candle issue 3524).
    pub(crate) fn take_over(&self, tensors: Tensors, made: Option<&Made>) -> Result<Tensors> {
        let here = |tensor: Option<Tensor>| tensor.map(|t| self.take_one(&t, made)).transpose();
        let taken = tensors.into_iter().map(here).collect::<Result<_>>()?;
        self.taken(made)?;
        Ok(taken)
    }

    /// One of them; [`Self::taken`] has to follow when all are taken.
    pub(crate) fn take_one(&self, tensor: &Tensor, made: Option<&Made>) -> Result<Tensor> {
        match (self, made) {
            (Self::Queue(queue), Some(made)) if made.ordinal == queue.ordinal() => {
                queue.copy_of(tensor)
            }
            (Self::Queue(queue), Some(made)) => queue.fetch(tensor, made.ordinal, &made.ready),
            _ => tensor.to_device(self.device()),
        }
    }

    /// Tells the sender that its tensors are needed no longer than until here.
    pub(crate) fn taken(&self, made: Option<&Made>) -> Result<()> {
        let Some(made) = made else { return Ok(()) };
        let behind = match self {
            Self::Queue(queue) if made.ordinal == queue.ordinal() => Some(queue.mark()?),
            _ => None,
        };
        made.taken.set(behind);
        Ok(())
    }

    /// Waits until everything that was queued is done.
    pub(crate) fn synchronize(&self) -> Result<()> {
        match self {
            Self::Host(_) => Ok(()),
            Self::Queue(queue) => queue.synchronize(),
        }
    }

    /// As [`Queue::keep_shapes`].
    pub(crate) fn keep_shapes(&self) -> Option<Box<dyn Any>> {
        match self {
            Self::Host(_) => None,
            Self::Queue(queue) => Some(queue.keep_shapes()),
        }
    }

    /// A tensor that other ranks may copy as it is.
    pub(crate) fn sendable(&self, tensor: Tensor) -> Result<Tensor> {
        match self {
            Self::Host(_) => Ok(tensor),
            Self::Queue(queue) => queue.sendable(tensor),
        }
    }

    /// A tensor that another process may read: on the host, when the queue has made it.
    pub(crate) fn on_host(&self, tensor: Tensor) -> Result<Tensor> {
        match self {
            Self::Host(_) => Ok(tensor),
            Self::Queue(queue) => {
                queue.synchronize()?;
                tensor.to_device(&Device::Cpu)
            }
        }
    }

    /// Data of the host, on the rank's device. A part of a larger tensor is uploaded alone.
    pub(crate) fn upload(&self, tensor: &Tensor) -> Result<Tensor> {
        match self {
            Self::Host(device) => tensor.to_device(device),
            Self::Queue(queue) => queue.upload(tensor),
        }
    }

    /// The values of scalars, in one download.
    pub(crate) fn download(&self, scalars: &[Tensor]) -> Result<Vec<f32>> {
        if scalars.is_empty() {
            return Ok(Vec::new());
        }
        match self {
            Self::Host(_) => scalars.iter().map(Tensor::to_scalar).collect(),
            Self::Queue(queue) => queue.download(scalars),
        }
    }
}
