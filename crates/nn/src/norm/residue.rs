//! What the gradients of a norm's parameters need.

use candle_core::{Result, Tensor, TensorId};

use super::rows::NormRows;
use crate::gradients::Gradients;
use crate::residue::{WeightGradient, bytes_of};

/// With x̂ the normalised rows of `x`, the gradient of `weight` is `Σ gy·x̂`.
/// That of `bias` is `Σ gy`.
pub(super) struct NormResidue {
    /// Parameter of shape (d).
    pub(super) weight: TensorId,
    /// Parameter of shape (d).
    pub(super) bias: Option<TensorId>,
    /// Input, (…, d), contiguous.
    pub(super) x: Tensor,
    /// Gradient of the output, (…, d), contiguous.
    pub(super) gy: Tensor,
    /// How rows are normalised.
    pub(super) norm: NormRows,
}

impl WeightGradient for NormResidue {
    fn name(&self) -> &'static str {
        "Norm"
    }

    fn bytes(&self) -> usize {
        bytes_of(&self.x) + bytes_of(&self.gy)
    }

    fn parameters(&self) -> Vec<TensorId> {
        std::iter::once(self.weight).chain(self.bias).collect()
    }

    fn add_to(self: Box<Self>, sums: &mut Gradients, _: bool) -> Result<()> {
        let (gw, gb) = self.norm.weight_gradients(&self.x, &self.gy, self.bias.is_some())?;
        sums.add(self.weight, &gw)?;
        match self.bias.zip(gb) {
            Some((bias, gb)) => sums.add(bias, &gb),
            None => Ok(()),
        }
    }
}
