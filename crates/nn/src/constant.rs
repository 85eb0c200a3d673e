//! Tensors that a layer needs on its device and that never change.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Result, Shape, Tensor};

/// A tensor that depends on nothing but its shape: a mask, or the numbers of positions. On a device
/// with memory of its own it is uploaded once, and again when another shape is asked for.
///
/// The kept tensor belongs to the layer, as its parameters do. Nothing is kept on the host, where
/// it would only take memory.
#[derive(Default)]
pub struct Constant(Mutex<Option<Tensor>>);

impl Constant {
    /// The tensor of `shape` on `device`. `values` gives its elements in order.
    ///
    /// # Errors
    /// If the number of elements differs, or the device has no memory for it.
    pub fn get<T: candle_core::WithDType>(
        &self,
        shape: impl Into<Shape>,
        device: &Device,
        values: impl FnOnce() -> Vec<T>,
    ) -> Result<Tensor> {
        let shape = shape.into();
        if device.is_cpu() {
            return Tensor::from_vec(values(), shape, device);
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |kept: &&Tensor| kept.shape() == &shape && kept.device().same_device(device);
        if let Some(kept) = kept.as_ref().filter(fits) {
            return Ok(kept.clone());
        }
        let made = Tensor::from_vec(values(), shape, device)?;
        *kept = Some(made.clone());
        Ok(made)
    }
}

/// A clone keeps nothing yet: it may be for another device.
impl Clone for Constant {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constant")
    }
}
