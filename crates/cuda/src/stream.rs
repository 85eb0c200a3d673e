//! A candle device with a stream of its own.

use std::any::Any;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda::cudarc::driver::result::{device, mem_pool};
use candle_core::cuda::cudarc::driver::sys::{CUevent_flags, CUmemPool_attribute as PoolAttribute};
use candle_core::cuda::cudarc::driver::{CudaEvent, CudaStream};
use candle_core::cuda::{CudaDevice, WrapErr};
use candle_core::{Device, Result};

use crate::mark::Mark;

/// A candle device with a stream of its own on a CUDA device. All work of its tensors is queued in
/// this stream, in order, and runs behind the host's back.
pub struct Stream {
    device: Device,
    pub(crate) cuda: CudaDevice,
    pub(crate) queue: Arc<CudaStream>,
    ordinal: u32,
}

impl Stream {
    /// A stream on the device that CUDA counts as `ordinal`. Call it on the thread that will use
    /// it.
    ///
    /// # Errors
    /// If there is no such device, or it has no memory left for the stream's libraries.
    pub fn new(ordinal: u32) -> Result<Self> {
        let cuda = CudaDevice::new_with_stream(ordinal as usize)?;
        // SAFETY: candle asks for three promises. (1) No tensor is freed before a use on another
        // stream has ended: other streams only ever copy a tensor (`copy_of`, `download_of`), and
        // the caller keeps it until the mark after the copy is passed. (2) No stream uses a tensor
        // before it is there: the same caller waits for a mark of the stream that made it. (3) No
        // two streams write the same tensor: a stream writes only tensors that it made. The tests
        // of the executor's lanes keep this protocol on a double whose work is late on purpose.
        unsafe { cuda.disable_event_tracking() };
        let queue = cuda.cuda_stream();
        keep_freed_memory(&queue)?;
        Ok(Self { device: Device::Cuda(cuda.clone()), cuda, queue, ordinal })
    }

    /// The device, to make tensors on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// CUDA's number of the device.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// A point after everything that was queued so far.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn mark(&self) -> Result<Mark> {
        self.record(CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// A point that has a time as well.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn timed_mark(&self) -> Result<Mark> {
        self.record(CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn record(&self, flags: CUevent_flags) -> Result<Mark> {
        let event: CudaEvent = self.queue.record_event(Some(flags)).w()?;
        Ok(Mark(event))
    }

    /// What is queued from now on runs after the device has passed `mark`, of any stream. The host
    /// does not wait.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn wait(&self, mark: &Mark) -> Result<()> {
        self.queue.wait(&mark.0).w()
    }

    /// Waits until everything that was queued is done.
    ///
    /// # Errors
    /// If any of it has failed.
    pub fn synchronize(&self) -> Result<()> {
        self.queue.synchronize().w()
    }

    /// Keeps shapes and strides that candle's kernels need on the device, so that the next step
    /// finds them there. candle does so for this thread until the value is dropped, and keeps them
    /// until the process ends. Do not upload other data meanwhile: what has up to 4 KiB would be kept
    /// as well.
    pub fn keep_shapes(&self) -> KeptShapes {
        KeptShapes { _guard: Box::new(self.cuda.enable_cuda_graph_htod_cache()) }
    }
}

/// Says how long shapes are kept: see [`Stream::keep_shapes`].
pub struct KeptShapes {
    _guard: Box<dyn Any>,
}

/// Freed memory stays in the device's pool. By default the driver gives it back to the system at
/// each synchronisation, and the next step has to ask for it again.
fn keep_freed_memory(stream: &CudaStream) -> Result<()> {
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(());
    }
    context.bind_to_thread().w()?;
    let mut threshold = u64::MAX;
    // SAFETY: the context knows its device, the pool of a device lives as long as that, and the
    // attribute is a number of 64 bits (cuda.h, `CUmemPool_attribute`).
    unsafe {
        let pool = device::get_default_mem_pool(context.cu_device()).w()?;
        mem_pool::set_attribute(
            pool,
            PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast::<c_void>(),
        )
        .w()
    }
}
