//! Copies from one stream to another.

use candle_core::cuda::cudarc::driver::{CudaView, DeviceRepr};
use candle_core::cuda::{CudaDType, CudaStorage, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Result, Storage, Tensor, WithDType, bail};

use crate::stream::Stream;

/// Calls a method with the type of a tensor's numbers.
macro_rules! by_type {
    ($stream:ident.$method:ident($tensor:ident)) => {
        match $tensor.dtype() {
            DType::F32 => $stream.$method::<f32>($tensor),
            DType::F64 => $stream.$method::<f64>($tensor),
            DType::U8 => $stream.$method::<u8>($tensor),
            DType::U32 => $stream.$method::<u32>($tensor),
            DType::I64 => $stream.$method::<i64>($tensor),
            other => bail!("a tensor of type {other:?} cannot pass between streams"),
        }
    };
}

impl Stream {
    /// A copy of a tensor that another stream of the same device made. The copy is queued in this
    /// stream, and belongs to it.
    ///
    /// This stream has to wait first for a mark that the other one made after the tensor. Then make
    /// a mark on this stream, and keep the tensor until the device has passed it: the memory of the
    /// tensor goes back to the other stream, which knows nothing of the copy.
    ///
    /// # Errors
    /// If the tensor is not on this device, is not contiguous or has a type that models do not
    /// have, or there is no memory for the copy.
    pub fn copy_of(&self, tensor: &Tensor) -> Result<Tensor> {
        by_type!(self.copy_as(tensor))
    }

    /// The same on the host. The caller waits until it is there, and may free the tensor then. As
    /// with [`Self::copy_of`], this stream has to wait first for a mark after the tensor.
    ///
    /// # Errors
    /// As [`Self::copy_of`].
    pub fn download_of(&self, tensor: &Tensor) -> Result<Tensor> {
        by_type!(self.download_as(tensor))
    }

    fn copy_as<T: CudaDType + DeviceRepr>(&self, tensor: &Tensor) -> Result<Tensor> {
        let copy = self.with_view(tensor, |view| self.queue.clone_dtod(view).w())?;
        let copy = CudaStorage::wrap_cuda_slice::<T>(copy, self.cuda.clone());
        Ok(Tensor::from_storage(Storage::Cuda(copy), tensor.shape(), BackpropOp::none(), false))
    }

    fn download_as<T: CudaDType + DeviceRepr + WithDType>(
        &self,
        tensor: &Tensor,
    ) -> Result<Tensor> {
        let copy: Vec<T> = self.with_view(tensor, |view| self.queue.clone_dtoh(view).w())?;
        self.synchronize()?;
        Tensor::from_vec(copy, tensor.shape(), &Device::Cpu)
    }

    /// Lets `work` use the memory of a contiguous tensor on this device.
    fn with_view<T: CudaDType, R>(
        &self,
        tensor: &Tensor,
        work: impl FnOnce(&CudaView<'_, T>) -> Result<R>,
    ) -> Result<R> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(source) = &*storage else {
            bail!("a tensor on {:?} cannot pass between streams", tensor.device().location());
        };
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("a tensor with gaps cannot pass between streams");
        };
        let source = source.as_cuda_slice::<T>()?;
        let (there, here) = (source.ordinal(), self.ordinal());
        if there != here as usize {
            bail!("a tensor on device {there} cannot be copied by a stream of device {here}");
        }
        work(&source.slice(start..end))
    }
}
