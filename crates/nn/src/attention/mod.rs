//! Causal self-attention (Vaswani et al. 2017, arXiv:1706.03762), heads read in place.
//!
//! Weights are never kept (Dao et al. 2022, arXiv:2205.14135): scores exist for a block of queries
//! at a time, against the keys that these see, and the backward makes them again from the logarithm
//! of each row's sum.
//!
//! Shapes: `b` samples, `t` positions, `h` heads of queries and `k` of keys and values, `d`
//! features each. Queries, keys and values arrive as one tensor `(b, t, (h + 2k)·d)`, stacked in
//! that order, the features of a head side by side. With `k = h` that is `(b, t, 3w)` for a width
//! `w = h·d`.

mod heads;

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor, bail};

use crate::buffer::Buffer;
use crate::chain::{Backward, ChainLayer, InputGradient};
use crate::constant::Constant;
use crate::context::ForwardContext;
use crate::cpu;
use crate::documents::Documents;
use heads::{Heads, Known, Sizes};

/// `softmax(q·kᵀ/√d, future masked)·v`, each head by itself. It has no parameters.
///
/// Where the [`ForwardContext`] has [`Documents`], a position sees none before its own.
#[derive(Clone, Debug)]
pub struct CausalSelfAttention {
    heads: Heads,
    /// What hides the future, where it is added to the scores.
    mask: Constant,
}

impl CausalSelfAttention {
    /// Attention with `heads` heads.
    pub fn new(heads: usize) -> Self {
        Self { heads: Heads { queries: heads, pairs: heads }, mask: Constant::default() }
    }

    /// Grouped-query attention: `heads` heads of queries share `key_value_heads` of keys and values
    /// (Ainslie et al. 2023, arXiv:2305.13245).
    ///
    /// # Errors
    /// If the second number does not divide the first.
    pub fn grouped(heads: usize, key_value_heads: usize) -> Result<Self> {
        if key_value_heads == 0 || !heads.is_multiple_of(key_value_heads) {
            bail!("{heads} heads cannot share {key_value_heads} heads of keys and values evenly");
        }
        let heads = Heads { queries: heads, pairs: key_value_heads };
        Ok(Self { heads, mask: Constant::default() })
    }

    /// `(b, t, (h + 2k)·d)` → `(b, t, h·d)`.
    ///
    /// # Errors
    /// If the features do not divide into the heads, the documents are those of another
    /// micro-batch, or a kernel fails.
    pub fn forward(&self, qkv: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        let documents = context.documents();
        let sizes = self.sizes(qkv.shape(), documents)?;
        if !qkv.device().is_cpu() || qkv.dtype() != DType::F32 {
            return self.forward_composed(qkv, documents);
        }
        let (documents, log_sums) = (documents.cloned(), Mutex::new(Vec::new()));
        qkv.contiguous()?.apply_op1(AttentionOp { sizes, documents, log_sums })
    }

    fn sizes(&self, shape: &Shape, documents: Option<&Documents>) -> Result<Sizes> {
        let (b, t, features) = shape.dims3()?;
        let Heads { queries, pairs } = self.heads;
        if queries == 0 || features % (queries + 2 * pairs) != 0 {
            bail!("{features} features are not queries, keys and values of {queries} heads");
        }
        if let Some(documents) = documents.filter(|documents| documents.shape() != (b, t)) {
            bail!("documents of {:?} positions, but queries of {:?}", documents.shape(), (b, t));
        }
        Ok(Sizes { heads: self.heads, b, t, d: features / (queries + 2 * pairs) })
    }

    /// The same from candle's own operations: for devices without our kernels, and for the tests.
    ///
    /// # Errors
    /// If the shapes do not fit, or a kernel fails.
    pub fn forward_composed(&self, qkv: &Tensor, documents: Option<&Documents>) -> Result<Tensor> {
        let Sizes { heads: Heads { queries, pairs }, b, t, d } =
            self.sizes(qkv.shape(), documents)?;
        let part = |first: usize, heads: usize| {
            qkv.narrow(2, first * d, heads * d)?.reshape((b, t, heads, d))?.transpose(1, 2)
        };
        // Keys and values once for each head of queries.
        let shared = |first: usize| {
            let group = queries / pairs;
            let part = part(first, pairs)?.unsqueeze(2)?;
            part.broadcast_as((b, pairs, group, t, d))?.reshape((b, queries, t, d))?.contiguous()
        };
        let q = part(0, queries)?.contiguous()?;
        let (k, v) = (shared(queries)?, shared(queries + pairs)?);
        let scores = (q.matmul(&k.t()?)? * (1.0 / (d as f64).sqrt()))?;
        let mask = self.mask(qkv.device(), (b, t), documents)?.to_dtype(qkv.dtype())?;
        let scores = scores.broadcast_add(&mask)?;
        let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let weights = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
        weights.matmul(&v)?.transpose(1, 2)?.reshape((b, t, queries * d))
    }

    /// What is added to the scores, (t, t), or (b, 1, t, t) where documents differ: −∞ hides a key.
    fn mask(
        &self,
        device: &Device,
        (b, t): (usize, usize),
        documents: Option<&Documents>,
    ) -> Result<Tensor> {
        let hidden = |is_hidden: bool| if is_hidden { f32::NEG_INFINITY } else { 0.0 };
        let Some(documents) = documents else {
            let of = |i: usize| hidden(i % t > i / t);
            return self.mask.get((t, t), device, || (0..t * t).map(of).collect());
        };
        let rows = documents.places().iter().enumerate();
        let of_row = |(row, &place): (usize, &u32)| {
            let query = row % t;
            let first = query - place as usize;
            (0..t).map(move |key| hidden(key > query || key < first))
        };
        Tensor::from_vec(rows.flat_map(of_row).collect::<Vec<_>>(), (b, 1, t, t), device)
    }
}

impl ChainLayer for CausalSelfAttention {
    fn forward(&self, qkv: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        Self::forward(self, qkv, context)
    }

    fn run(
        &self,
        qkv: Buffer,
        onto: Option<&Tensor>,
        context: &ForwardContext,
    ) -> Result<(Buffer, Backward)> {
        let documents = context.documents().cloned();
        let sizes = self.sizes(qkv.shape(), documents.as_ref())?;
        let (out, log_sums) = qkv.read(|qkv| Ok(sizes.forward(qkv, documents.as_ref())))?;
        let out = Tensor::from_vec(out, (sizes.b, sizes.t, sizes.outputs()), &Device::Cpu)?;
        let known = out.clone();
        let y = Buffer::Shared(out).plus_some(onto)?;
        let backward = move |gy: Buffer, wish: InputGradient| {
            if !wish.is_wanted() {
                return Ok(None);
            }
            let g = qkv.read(|qkv| {
                cpu::read(&known, |out| {
                    gy.read(|gy| {
                        let known = Known { qkv, out, gy, log_sums: &log_sums };
                        Ok(sizes.backward(known, documents.as_ref()))
                    })
                })
            })?;
            Buffer::Owned(g, qkv.shape().clone()).plus_some(wish.other()).map(Some)
        };
        Ok((y, Box::new(backward)))
    }
}

struct AttentionOp {
    sizes: Sizes,
    documents: Option<Documents>,
    /// Of each row of scores the logarithm of what its weights were divided by, (b, h, t), for the
    /// backward.
    log_sums: Mutex<Vec<f32>>,
}

impl CustomOp1 for AttentionOp {
    fn name(&self) -> &'static str {
        "causal self-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (out, log_sums) = self.sizes.forward(cpu::slice(qkv, layout)?, self.documents.as_ref());
        *self.log_sums.lock().unwrap_or_else(PoisonError::into_inner) = log_sums;
        let shape = (self.sizes.b, self.sizes.t, self.sizes.outputs());
        Ok((CpuStorage::F32(out), shape.into()))
    }

    fn bwd(&self, qkv: &Tensor, out: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        let log_sums = self.log_sums.lock().unwrap_or_else(PoisonError::into_inner);
        let g = cpu::read(qkv, |qkv| {
            cpu::read(out, |out| {
                cpu::read(gy, |gy| {
                    let known = Known { qkv, out, gy, log_sums: &log_sums };
                    Ok(self.sizes.backward(known, self.documents.as_ref()))
                })
            })
        })?;
        Ok(Some(Tensor::from_vec(g, qkv.shape(), qkv.device())?))
    }
}
