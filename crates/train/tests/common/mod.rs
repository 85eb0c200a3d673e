//! Data for tests.

use candle_core::{Device, Result, Tensor};
use pp_train::{DataSet, Samples};

/// Numbers whose targets are the inputs.
pub(crate) struct Numbers;

impl DataSet for Numbers {
    fn batch(&self, step: u64, size: usize) -> Result<Samples> {
        let first = step as f32;
        let x = Tensor::arange(first, first + 4.0 * size as f32, &Device::Cpu)?;
        let x = (x.reshape((size, 4))? / 100.0)?;
        Ok((vec![x.clone()], x))
    }
}
