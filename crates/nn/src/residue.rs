//! What a weight gradient needs, kept until its turn comes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, Tensor, TensorId};

use crate::layer_norm::NormRows;

/// The ingredients of the gradient of one or two parameters, for one micro-batch.
#[non_exhaustive]
pub enum Residue {
    /// `y = x·wᵀ + b`: the gradient of `weight` is `gyᵀ·x`, that of `bias` the column sums of `gy`.
    Linear {
        /// Parameter of shape (o, i).
        weight: TensorId,
        /// Parameter of shape (o).
        bias: Option<TensorId>,
        /// Input, (…, i), contiguous.
        x: Tensor,
        /// Gradient of the output, (…, o), contiguous.
        gy: Tensor,
    },
    /// Rows of a table: the gradient adds each row of `gy` to row `ids[r]`.
    Rows {
        /// Parameter of shape (v, d).
        table: TensorId,
        /// Row numbers, U32, as many as `gy` has rows.
        ids: Tensor,
        /// Gradient of the output, (…, d), contiguous.
        gy: Tensor,
    },
    /// A layer norm: with x̂ the normalised rows of `x`, the gradient of `weight` is `Σ gy·x̂`, that of `bias` is `Σ gy`.
    Norm {
        /// Parameter of shape (d).
        weight: TensorId,
        /// Parameter of shape (d).
        bias: TensorId,
        /// Input, (…, d), contiguous.
        x: Tensor,
        /// Gradient of the output, (…, d), contiguous.
        gy: Tensor,
        /// How rows are normalised.
        norm: NormRows,
    },
    /// The gradient itself.
    Dense {
        /// The parameter.
        parameter: TensorId,
        /// Its gradient, of the same shape.
        gradient: Tensor,
    },
    /// Work of a layer that is not of this crate: it runs when the gradient would be computed.
    Deferred {
        /// Bytes that wait with it.
        bytes: usize,
        /// The work; what it returns is added to the sums.
        run: Box<dyn FnOnce() -> Result<Vec<Residue>> + Send>,
    },
}

impl fmt::Debug for Residue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Linear { .. } => "Linear",
            Self::Rows { .. } => "Rows",
            Self::Norm { .. } => "Norm",
            Self::Dense { .. } => "Dense",
            Self::Deferred { .. } => "Deferred",
        };
        write!(f, "{kind}({} bytes)", self.bytes())
    }
}

impl Residue {
    /// Bytes of the tensors that wait here.
    pub fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        match self {
            Self::Linear { x, gy, .. } | Self::Norm { x, gy, .. } => size(x) + size(gy),
            Self::Rows { ids, gy, .. } => size(ids) + size(gy),
            Self::Dense { gradient, .. } => size(gradient),
            Self::Deferred { bytes, .. } => *bytes,
        }
    }
}

/// A shared queue of residues: layers push while candle walks the graph, the owner takes.
#[derive(Clone, Debug, Default)]
pub struct ResidueQueue(Arc<Mutex<Vec<Residue>>>);

impl ResidueQueue {
    /// Adds what one backward left behind.
    pub fn push(&self, residue: Residue) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(residue);
    }

    /// Takes everything, in the order of pushing.
    pub fn take(&self) -> Vec<Residue> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
