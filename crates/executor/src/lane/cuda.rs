//! A CUDA stream as a queue.

use std::any::Any;
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
        Ok(Self::Queue(Box::new(Stream::new(ordinal)?)))
    }
}

impl Queue for Stream {
    fn device(&self) -> &Device {
        self.device()
    }

    fn ordinal(&self) -> u32 {
        self.ordinal()
    }

    fn meter(&self) -> Meter {
        Meter::Device
    }

    fn mark(&self) -> Result<Mark> {
        Ok(Arc::new(self.timed_mark()?))
    }

    fn wait(&self, mark: &Mark) -> Result<()> {
        self.wait(own(mark.as_ref())?)
    }

    fn copy_of(&self, tensor: &Tensor) -> Result<Tensor> {
        self.copy_of(tensor)
    }

    fn synchronize(&self) -> Result<()> {
        self.synchronize()
    }

    fn keep_shapes(&self) -> Box<dyn Any> {
        Box::new(self.keep_shapes())
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
