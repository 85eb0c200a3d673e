//! Norms of queries and keys, head by head (Dehghani et al. 2023, arXiv:2302.05442, section 2; Qwen
//! 3).

use candle_core::{Result, Shape, Tensor, bail};

use crate::buffer::Buffer;
use crate::chain::{Backward, ChainLayer, InputGradient};
use crate::columns::{joined, part};
use crate::context::ForwardContext;
use crate::norm::Norm;

/// Normalises each head of queries by one norm and each head of keys by another; values stay.
///
/// Shapes: `(b, t, (h + 2k)·d)` for `h` heads of queries and `k` of keys and values, in that order;
/// both norms are of `d` features.
#[derive(Clone, Debug)]
pub struct HeadNorm {
    queries: Norm,
    keys: Norm,
    /// Features of all queries, of all keys, and of a head.
    sizes: (usize, usize, usize),
}

impl HeadNorm {
    /// The norms of `heads` heads of queries and `key_value_heads` of keys, of `d` features each.
    pub fn new(
        queries: Norm,
        keys: Norm,
        (heads, key_value_heads, d): (usize, usize, usize),
    ) -> Self {
        Self { queries, keys, sizes: (heads * d, key_value_heads * d, d) }
    }

    /// `(b, t, f)` → `(b, t, f)`.
    ///
    /// # Errors
    /// If the features are not those of the heads, or a kernel fails.
    pub fn forward(&self, qkv: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        let (b, t, features) = self.check(qkv.shape())?;
        let (queries, keys, d) = self.sizes;
        let normal = |norm: &Norm, first: usize, width: usize| {
            let heads = qkv.narrow(2, first, width)?.reshape((b, t, width / d, d))?;
            norm.forward(&heads, context)?.reshape((b, t, width))
        };
        let values = qkv.narrow(2, queries + keys, features - queries - keys)?;
        Tensor::cat(
            &[normal(&self.queries, 0, queries)?, normal(&self.keys, queries, keys)?, values],
            2,
        )
    }

    fn check(&self, shape: &Shape) -> Result<(usize, usize, usize)> {
        let (b, t, features) = shape.dims3()?;
        let (queries, keys, _) = self.sizes;
        if features != queries + 2 * keys {
            bail!(
                "{features} features are not {queries} of queries, and {keys} of keys and values"
            );
        }
        Ok((b, t, features))
    }
}

impl ChainLayer for HeadNorm {
    fn forward(&self, qkv: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        Self::forward(self, qkv, context)
    }

    fn run(
        &self,
        qkv: Buffer,
        onto: Option<&Tensor>,
        context: &ForwardContext,
    ) -> Result<(Buffer, Backward)> {
        let (b, t, features) = self.check(qkv.shape())?;
        let (queries, keys, d) = self.sizes;
        let run = |norm: &Norm, first: usize, width: usize| {
            let heads = part(&qkv, features, first..first + width)?;
            norm.run(heads.reshaped((b, t, width / d, d))?, None, context)
        };
        let (q, back_q) = run(&self.queries, 0, queries)?;
        let (k, back_k) = run(&self.keys, queries, keys)?;
        let v = part(&qkv, features, queries + keys..features)?;
        let y = joined(&[(q, queries), (k, keys), (v, keys)])?;
        let backward = move |gy: Buffer, wish: InputGradient| {
            let go = |backward: Backward, first: usize, width: usize| {
                let heads = part(&gy, features, first..first + width)?;
                backward(heads.reshaped((b, t, width / d, d))?, wish_alone(&wish))
            };
            let (gq, gk) = (go(back_q, 0, queries)?, go(back_k, queries, keys)?);
            let (Some(gq), Some(gk)) = (gq, gk) else { return Ok(None) };
            let gv = part(&gy, features, queries + keys..features)?;
            let g = joined(&[(gq, queries), (gk, keys), (gv, keys)])?;
            Buffer::Owned(g, (b, t, features).into()).plus_some(wish.other()).map(Some)
        };
        Ok((Buffer::Owned(y, (b, t, features).into()).plus_some(onto)?, Box::new(backward)))
    }

    fn parameter(&self) -> Option<&Tensor> {
        self.queries.parameter()
    }
}

/// The wish without the gradient of another path, which is added to the whole.
fn wish_alone(wish: &InputGradient) -> InputGradient {
    if wish.is_wanted() { InputGradient::Wanted } else { InputGradient::Unwanted }
}
