//! Dropout whose mask is a function of the sample, not of the order of execution.
//!
//! Source: Srivastava et al. 2014; the counter-based mask: Salmon et al. 2011, "Parallel random
//! numbers: as easy as 1, 2, 3". The mask is drawn again in the backward instead of being kept.
#![expect(clippy::inline_always, reason = "loops compiled for each processor")]

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};

use crate::activation::Activation;
use crate::buffer::Buffer;
use crate::chain::{Backward, Chain, ChainLayer, InputGradient};
use crate::context::ForwardContext;
use crate::gradients::in_place;
use crate::relu::{ReluGradient, relu};
use crate::{cpu, random};

/// The most numbers in an upload that candle keeps on a CUDA device while it keeps shapes: 4 KiB
/// (`CUDA_GRAPH_HTOD_CACHE_MAX_BYTES` in candle 0.11).
const KEPT_ELEMENTS_MAX: usize = 1024;

/// Sets elements to zero with probability `rate` while training, and scales the others by
/// `1/(1 − rate)`. The first dimension of its input counts samples.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    rate: f64,
    site: u32,
    /// Whether numbers below zero become zero first.
    relu: bool,
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
        Ok(Self { rate, site, relu: false })
    }

    /// The same of [`relu`] of its input, in one pass.
    #[must_use]
    pub fn after_relu(self) -> Self {
        Self { relu: true, ..self }
    }

    /// `(b, …)` → the same shape.
    ///
    /// # Errors
    /// If the input has no dimension, or a kernel fails.
    pub fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        if self.relu && !in_place(x) {
            return Self { relu: false, ..*self }.forward(&relu(x)?, context);
        }
        let Some(op) = self.op(x.shape(), context)? else {
            return if self.relu { relu(x) } else { Ok(x.clone()) };
        };
        if !in_place(x) {
            // What is smaller may be kept on the device for good, as shapes are, and no mask comes
            // twice.
            let n = x.elem_count();
            let mut mask = vec![1.0; n.max(KEPT_ELEMENTS_MAX + 1)];
            op.apply(&mut mask[..n]);
            let mask = Tensor::from_vec(mask, n.max(KEPT_ELEMENTS_MAX + 1), x.device())?;
            let mask = mask.narrow(0, 0, n)?.reshape(x.shape())?;
            return x.mul(&mask.to_dtype(x.dtype())?);
        }
        x.contiguous()?.apply_op1(op)
    }

    /// `None` where nothing is dropped.
    fn op(&self, shape: &Shape, context: &ForwardContext) -> Result<Option<DropoutOp>> {
        if !self.drops(context) {
            return Ok(None);
        }
        let samples = 0..shape.dim(0)? as u64;
        let keys = samples.map(|sample| context.sample_key(self.site, sample)).collect();
        Ok(Some(DropoutOp::new(self.rate, keys, self.relu)))
    }

    fn drops(&self, context: &ForwardContext) -> bool {
        context.is_training() && self.rate > 0.0
    }
}

impl ChainLayer for Dropout {
    fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        Self::forward(self, x, context)
    }

    fn run(
        &self,
        x: Buffer,
        onto: Option<&Tensor>,
        context: &ForwardContext,
    ) -> Result<(Buffer, Backward)> {
        let Some(op) = self.op(x.shape(), context)? else {
            return if self.relu {
                Activation::Relu.run(x, onto, context)
            } else {
                Chain::new().run(x, onto, context)
            };
        };
        let (mut y, shape) = x.into_vec()?;
        op.apply(&mut y);
        let mut y = Buffer::Owned(y, shape);
        let mut kept = None;
        if self.relu {
            let tensor = y.into_tensor()?;
            kept = Some(tensor.clone());
            y = Buffer::Shared(tensor);
        }
        let backward = move |gy: Buffer, wish: InputGradient| {
            if !wish.is_wanted() {
                return Ok(None);
            }
            let (mut g, shape) = gy.into_vec()?;
            match kept {
                // What is not zero was above zero and was kept.
                Some(y) => cpu::read(&y, |y| {
                    cpu::binary_in_place(&ReluGradient { scale: op.scale }, y, &mut g);
                    Ok(())
                })?,
                None => op.apply(&mut g),
            }
            Buffer::Owned(g, shape).plus_some(wish.other()).map(Some)
        };
        Ok((y.plus_some(onto)?, Box::new(backward)))
    }

    fn is_identity(&self, context: &ForwardContext) -> bool {
        !self.relu && !self.drops(context)
    }
}

#[derive(Clone)]
struct DropoutOp {
    /// An element is dropped when its 32 random bits are below this.
    threshold: u32,
    scale: f32,
    /// One stream of random numbers a sample.
    keys: Vec<u64>,
    /// Whether numbers below zero become zero first.
    relu: bool,
}

impl DropoutOp {
    fn new(rate: f64, keys: Vec<u64>, relu: bool) -> Self {
        let threshold = (rate * (1u64 << 32) as f64) as u32;
        Self { threshold, scale: (1.0 / (1.0 - rate)) as f32, keys, relu }
    }

    /// Sets to zero what is dropped, and scales the rest.
    fn apply(&self, x: &mut [f32]) {
        cpu::vectorized(DropoutLoop { op: self, x });
    }
}

/// Pairs of elements whose random bits are made at once.
const PAIRS: usize = 32;

struct DropoutLoop<'a> {
    op: &'a DropoutOp,
    x: &'a mut [f32],
}

impl WithSimd for DropoutLoop<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let DropoutOp { threshold, scale, ref keys, relu } = *self.op;
        let sample = (self.x.len() / keys.len().max(1)).max(1);
        for (&key, x) in keys.iter().zip(self.x.chunks_exact_mut(sample)) {
            let mut position = 0;
            for x in x.chunks_mut(2 * PAIRS) {
                // One hash serves two elements, 32 bits each.
                let mut bits = [0u32; 2 * PAIRS];
                for (i, bits) in bits.chunks_exact_mut(2).enumerate() {
                    let both = random::at(key, position + i as u64);
                    bits[0] = both as u32;
                    bits[1] = (both >> 32) as u32;
                }
                for (x, bits) in x.iter_mut().zip(bits) {
                    let kept = if relu && *x <= 0.0 { 0.0 } else { *x };
                    *x = if bits < threshold { 0.0 } else { kept * scale };
                }
                position += PAIRS as u64;
            }
        }
    }
}

impl CustomOp1 for DropoutOp {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = cpu::slice(x, xl)?.to_vec();
        self.apply(&mut y);
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        let gy = gy.contiguous()?;
        if self.relu {
            // What is not zero was above zero and was kept.
            return Ok(Some(y.apply_op2_no_bwd(&gy, &ReluGradient { scale: self.scale })?));
        }
        Ok(Some(gy.apply_op1_no_bwd(self)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

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
