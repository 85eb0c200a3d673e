//! Linear layers of one input whose outputs stand side by side: the queries, keys and values of
//! attention, or a gate and what it lets pass, where each has a weight of its own.

use candle_core::{D, Result, Shape, Tensor, bail};

use crate::buffer::Buffer;
use crate::chain::{Backward, ChainLayer, InputGradient};
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

/// Rows of several buffers, each with so many columns, side by side.
fn joined(parts: &[(Buffer, usize)]) -> Result<Vec<f32>> {
    let columns: usize = parts.iter().map(|(_, columns)| columns).sum();
    let elements: usize = parts.iter().map(|(part, _)| part.shape().elem_count()).sum();
    let mut whole = vec![0.0; elements];
    let mut first = 0;
    for (part, width) in parts {
        part.read(|part| {
            for (to, from) in whole.chunks_exact_mut(columns).zip(part.chunks_exact(*width)) {
                to[first..first + width].copy_from_slice(from);
            }
            Ok(())
        })?;
        first += width;
    }
    Ok(whole)
}

fn with_last(shape: &Shape, columns: usize) -> Shape {
    let mut dims = shape.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = columns;
    }
    dims.into()
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
                let part = gy.read(|gy| {
                    let rows = gy.chunks_exact(columns);
                    Ok(rows.flat_map(|row| &row[first..first + width]).copied().collect::<Vec<_>>())
                })?;
                first += width;
                let part = Buffer::Owned(part, with_last(gy.shape(), width));
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
