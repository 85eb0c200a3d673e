//! Points in a stream.

use candle_core::Result;
use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::CudaEvent;
use candle_core::cuda::cudarc::driver::result::event;

/// A point in a stream: after all work that was queued when it was made.
///
/// To make one, to wait for it on another stream and to drop it never makes the host wait.
#[derive(Debug)]
pub struct Mark(pub(crate) CudaEvent);

impl Mark {
    /// Whether the device has passed it.
    ///
    /// # Errors
    /// If work that was queued before has failed.
    pub fn is_passed(&self) -> Result<bool> {
        self.0.try_is_complete().w()
    }

    /// The seconds from this mark to a later one, as the device counts them. Both need to have a
    /// time ([`Stream::timed_mark`]), and the device has to have passed both. The number has a
    /// resolution of some 0.5 us (`cuEventElapsedTime`).
    ///
    /// # Errors
    /// If one of the two has no time, the device has not passed it, or work before them has failed.
    ///
    /// [`Stream::timed_mark`]: crate::Stream::timed_mark
    pub fn seconds_to(&self, later: &Self) -> Result<f64> {
        // SAFETY: both events live as long as these references. The driver answers with an error if
        // they are of different contexts or are not passed. cudarc's safe form would wait for both.
        let ms = unsafe { event::elapsed(self.0.cu_event(), later.0.cu_event()) }.w()?;
        Ok(f64::from(ms) / 1e3)
    }
}
