//! Linear layers of one input whose outputs stand side by side: the queries, keys and values of
//! attention, or a gate and what it lets pass, where each has a weight of its own.

use candle_core::{D, Result, Tensor, bail};

use crate::buffer::Buffer;
use crate::chain::{Backward, ChainLayer, InputGradient};
use crate::columns::{joined, part, with_last};
use crate::context::ForwardContext;
use crate::linear::Linear;

/// `(…, i)` → `(…, o₁ + o₂ + …)`.
#[derive(Clone, Debug)]
pub struct SideBySide(Vec<Linear>);

impl SideBySide {
    /// These layers, in this order. All take as many inputs.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(layers: Vec<Linear>) -> Result<Self> {
        if layers.is_empty() {
            bail!("no layers to stand side by side");
        }
        Ok(Self(layers))
    }

    /// Runs them under candle's autograd.
    ///
    /// # Errors
    /// If the last dimension does not fit one of them, or a kernel fails.
    pub fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        let ys: Result<Vec<_>> = self.0.iter().map(|layer| layer.forward(x, context)).collect();
        Tensor::cat(&ys?, D::Minus1)
    }
}

impl ChainLayer for SideBySide {
    fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        Self::forward(self, x, context)
    }

    fn run(
        &self,
        x: Buffer,
        onto: Option<&Tensor>,
        context: &ForwardContext,
    ) -> Result<(Buffer, Backward)> {
        let x = x.into_tensor()?;
        let (mut parts, mut back) = (Vec::new(), Vec::new());
        for layer in &self.0 {
            let (y, backward) = layer.run(Buffer::Shared(x.clone()), None, context)?;
            let columns = y.shape().dims().last().copied().unwrap_or_default();
            back.push((backward, columns));
            parts.push((y, columns));
        }
        let columns = back.iter().map(|(_, columns)| columns).sum();
        let y = Buffer::Owned(joined(&parts)?, with_last(x.shape(), columns)).plus_some(onto)?;
        let backward = move |gy: Buffer, wish: InputGradient| {
            let mut wish = wish;
            let mut first = 0;
            for (backward, width) in back {
                let part = part(&gy, columns, first..first + width)?;
                first += width;
                if let Some(gx) = backward(part, wish.clone())? {
                    wish = InputGradient::AddedTo(gx.into_tensor()?);
                }
            }
            Ok(match wish {
                InputGradient::AddedTo(gx) => Some(Buffer::Shared(gx)),
                InputGradient::Unwanted | InputGradient::Wanted => None,
            })
        };
        Ok((y, Box::new(backward)))
    }

    fn parameter(&self) -> Option<&Tensor> {
        self.0.first().and_then(ChainLayer::parameter)
    }
}
