//! Copies from one stream to another.

use candle_core::cuda::cudarc::driver::DeviceRepr;
use candle_core::cuda::{CudaDType, CudaStorage, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{DType, Result, Storage, Tensor, bail};

use crate::stream::Stream;

impl Stream {
    /// A copy of a tensor that another stream of the same device made. The copy is queued in this
    /// stream, and belongs to it.
    ///
    /// This stream has to wait first for a mark that the other one made behind the tensor. Then
    /// make a mark on this stream, and keep the tensor until the device has passed it: the memory
    /// of the tensor goes back to the other stream, which knows nothing of the copy.
    ///
    /// # Errors
    /// If the tensor is not on this device, is not contiguous or has a type that models do not
    /// have, or there is no memory for the copy.
    pub fn copy_of(&self, tensor: &Tensor) -> Result<Tensor> {
        match tensor.dtype() {
            DType::F32 => self.copy_as::<f32>(tensor),
            DType::F64 => self.copy_as::<f64>(tensor),
            DType::U8 => self.copy_as::<u8>(tensor),
            DType::U32 => self.copy_as::<u32>(tensor),
            DType::I64 => self.copy_as::<i64>(tensor),
            other => bail!("a tensor of type {other:?} cannot pass between streams"),
        }
    }

    fn copy_as<T: CudaDType + DeviceRepr>(&self, tensor: &Tensor) -> Result<Tensor> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(source) = &*storage else {
            bail!("a tensor on {:?} cannot pass between streams", tensor.device().location());
        };
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("a tensor with gaps cannot pass between streams");
        };
        let source = source.as_cuda_slice::<T>()?;
        if source.ordinal() != self.ordinal() as usize {
            bail!(
                "a tensor on device {} cannot be copied by a stream of {}",
                source.ordinal(),
                self.ordinal()
            );
        }
        let copy = self.queue.clone_dtod(&source.slice(start..end)).w()?;
        let copy = CudaStorage::wrap_cuda_slice(copy, self.cuda.clone());
        Ok(Tensor::from_storage(Storage::Cuda(copy), tensor.shape(), BackpropOp::none(), false))
    }
}
