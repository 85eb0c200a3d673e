//! Dropout whose mask is a function of the sample, not of the order of execution.
//!
//! Source: Srivastava et al. 2014; the counter-based mask: Salmon et al. 2011, "Parallel random
//! numbers: as easy as 1, 2, 3". The mask is drawn again in the backward instead of being kept.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

use crate::context::ForwardContext;
use crate::{cpu, random};

/// Sets elements to zero with probability `rate` while training, and scales the others by
/// `1/(1 − rate)`. The first dimension of its input counts samples.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    rate: f64,
    site: u32,
}

impl Dropout {
    /// `site` tells several dropouts of one layer apart.
    ///
    /// # Errors
    /// If `rate` is not in `[0, 1)`.
    pub fn new(rate: f64, site: u32) -> Result<Self> {
        if !(0.0..1.0).contains(&rate) {
            candle_core::bail!("dropout rate {rate} is not in [0, 1)");
        }
        Ok(Self { rate, site })
    }

    /// `(b, …)` → the same shape.
    ///
    /// # Errors
    /// If the input has no dimension, or a kernel fails.
    pub fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        if !context.is_training() || self.rate == 0.0 {
            return Ok(x.clone());
        }
        let keys =
            (0..x.dim(0)? as u64).map(|sample| context.sample_key(self.site, sample)).collect();
        let op = DropoutOp::new(self.rate, keys);
        if !x.device().is_cpu() || x.dtype() != DType::F32 {
            let ones = vec![1.0; x.elem_count()];
            let mask = Tensor::from_vec(op.apply(&ones), x.shape(), x.device())?;
            return x.mul(&mask.to_dtype(x.dtype())?);
        }
        x.contiguous()?.apply_op1(op)
    }
}

#[derive(Clone)]
struct DropoutOp {
    /// An element is dropped when its 32 random bits are below this.
    threshold: u32,
    scale: f32,
    /// One stream of random numbers a sample.
    keys: Vec<u64>,
}

impl DropoutOp {
    fn new(rate: f64, keys: Vec<u64>) -> Self {
        let threshold = (rate * (1u64 << 32) as f64) as u32;
        Self { threshold, scale: (1.0 / (1.0 - rate)) as f32, keys }
    }

    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = Vec::with_capacity(x.len());
        let sample = x.len() / self.keys.len().max(1);
        for (&key, row) in self.keys.iter().zip(x.chunks_exact(sample.max(1))) {
            for (position, pair) in row.chunks(2).enumerate() {
                // One hash serves two elements, 32 bits each.
                let bits = random::at(key, position as u64);
                for (&v, bits) in pair.iter().zip([bits as u32, (bits >> 32) as u32]) {
                    y.push(if bits < self.threshold { 0.0 } else { v * self.scale });
                }
            }
        }
        y
    }
}

impl CustomOp1 for DropoutOp {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.apply(cpu::slice(x, xl)?)), xl.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(gy.contiguous()?.apply_op1_no_bwd(self)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_mask_follows_the_sample_through_every_cut_of_the_batch() {
        let x = Tensor::ones((4, 1001), DType::F32, &Device::Cpu).unwrap();
        let dropout = Dropout::new(0.3, 0).unwrap();
        let context = ForwardContext::training(1, 1).for_layer(2);
        let whole: Vec<Vec<f32>> = dropout.forward(&x, &context).unwrap().to_vec2().unwrap();
        for (sample, want) in whole.iter().enumerate() {
            let part = x.narrow(0, sample, 1).unwrap();
            let context = context.clone().with_first_sample(sample as u64);
            let row: Vec<Vec<f32>> = dropout.forward(&part, &context).unwrap().to_vec2().unwrap();
            assert_eq!(&row[0], want);
        }
        let kept = whole.iter().flatten().filter(|&&v| v > 0.0).count() as f64 / 4004.0;
        assert!((kept - 0.7).abs() < 0.03, "{kept}");
        assert_ne!(whole[0], whole[1]);
        let other = dropout.forward(&x, &ForwardContext::training(1, 2).for_layer(2)).unwrap();
        assert_ne!(other.to_vec2::<f32>().unwrap(), whole);
        let evaluation = dropout.forward(&x, &ForwardContext::evaluation()).unwrap();
        assert_eq!(evaluation.to_vec2::<f32>().unwrap(), x.to_vec2::<f32>().unwrap());
        assert!(Dropout::new(1.0, 0).is_err() && Dropout::new(f64::NAN, 0).is_err());
    }
}
