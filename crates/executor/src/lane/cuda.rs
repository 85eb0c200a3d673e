//! A CUDA stream as a queue.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use pp_cuda::Stream;
use pp_nn::memory::{self, Meter};

use super::{Lane, Mark, Point, Queue};

impl Lane {
    /// A stream of this thread on a CUDA device.
    ///
    /// # Errors
    /// If there is no such device, or no driver.
    pub(crate) fn cuda(ordinal: u32) -> Result<Self> {
        if pp_cuda::count_memory(memory::note_device) {
            memory::device_is_counted();
        }
        let own = Stream::new(ordinal)?;
        Ok(Self::Queue(Box::new(CudaQueue { own, others: RefCell::default() })))
    }
}

/// The stream of a rank, and its streams on the devices of ranks that send to it.
struct CudaQueue {
    own: Stream,
    /// By the number of the device. With the sender's own stream a download would wait for
    /// everything that the sender has queued since.
    others: RefCell<BTreeMap<u32, Stream>>,
}

impl Queue for CudaQueue {
    fn device(&self) -> &Device {
        self.own.device()
    }

    fn ordinal(&self) -> u32 {
        self.own.ordinal()
    }

    fn meter(&self) -> Meter {
        Meter::Device
    }

    fn mark(&self) -> Result<Mark> {
        Ok(Arc::new(self.own.timed_mark()?))
    }

    fn wait(&self, mark: &Mark) -> Result<()> {
        self.own.wait(own(mark.as_ref())?)
    }

    fn copy_of(&self, tensor: &Tensor) -> Result<Tensor> {
        self.own.copy_of(tensor)
    }

    fn fetch(&self, tensor: &Tensor, ordinal: u32, ready: &Mark) -> Result<Tensor> {
        let mut others = self.others.borrow_mut();
        let there = match others.entry(ordinal) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(absent) => absent.insert(Stream::new(ordinal)?),
        };
        there.wait(own(ready.as_ref())?)?;
        there.download_of(tensor)?.to_device(self.own.device())
    }

    fn synchronize(&self) -> Result<()> {
        self.own.synchronize()
    }

    fn keep_shapes(&self) -> Box<dyn Any> {
        Box::new(self.own.keep_shapes())
    }
}

impl Point for pp_cuda::Mark {
    fn is_passed(&self) -> Result<bool> {
        self.is_passed()
    }

    fn seconds_to(&self, later: &dyn Point) -> Result<f64> {
        self.seconds_to(own(later)?)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn own(point: &dyn Point) -> Result<&pp_cuda::Mark> {
    match point.as_any().downcast_ref() {
        Some(mark) => Ok(mark),
        None => bail!("a mark of another kind of device"),
    }
}
