//! Packed copies of weights: made when the weights are new, read by every micro-batch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::TensorId;

use crate::cpu::{InstructionSet, Panels, Product, View};

/// Copies of the weights of some layers, laid out as the kernels on panels read them: one copy for
/// `y = x·wᵀ` and one for `gx = gy·w`.
///
/// A weight stays the same while the micro-batches of a step pass, and a kernel on panels would
/// otherwise pack it in every product. A copy takes as many bytes as its weight, its columns
/// rounded up to a panel. Results have the same bits with and without.
///
/// Clones share the copies. Code that changes weights calls [`PackedWeights::outdate`].
#[derive(Clone, Debug, Default)]
pub struct PackedWeights {
    copies: Arc<Mutex<Copies>>,
    is_frozen: bool,
}

/// By the weight, and whether the copy is for outputs.
type Copies = HashMap<(TensorId, bool), Copied>;

#[derive(Debug)]
struct Copied {
    panels: Panels,
    /// Whether it has the weight of now.
    is_current: bool,
    /// Since [`PackedWeights::begin_step`].
    is_used: bool,
}

impl PackedWeights {
    /// The same copies for a pass that may use and update them, and adds none. What such a pass
    /// uses does not count as used by a step.
    #[must_use]
    pub fn frozen(&self) -> Self {
        Self { copies: Arc::clone(&self.copies), is_frozen: true }
    }

    /// Says that weights have changed. Each copy is packed again on its next use; the memory stays.
    pub fn outdate(&self) {
        for copied in self.lock().values_mut() {
            copied.is_current = false;
        }
    }

    /// A step begins. Copies that the last step did not use, because its micro-batches had other
    /// sizes, are dropped. The others are packed again on their next use.
    pub fn begin_step(&self) {
        self.lock().retain(|_, copied| std::mem::take(&mut copied.is_used));
        self.outdate();
    }

    /// Bytes of the copies that are held now.
    pub fn bytes(&self) -> usize {
        self.lock().values().map(|copied| copied.panels.bytes()).sum()
    }

    /// Lets `with` use the copy of a weight (o, i) for one direction. Returns `false`, and does
    /// nothing, where there is no copy and none may be added.
    pub(crate) fn with(
        &self,
        (id, weight): (TensorId, &[f32]),
        (outputs, inputs): (usize, usize),
        product: Product,
        set: InstructionSet,
        with: impl FnOnce(&Panels),
    ) -> bool {
        let view = View::row_major(outputs, inputs);
        let is_output = product == Product::Output;
        let right = if is_output { view.transposed() } else { view };
        let mut copies = self.lock();
        let fits = |copied: &Copied| {
            copied.panels.set().lanes() == set.lanes()
                && copied.panels.shape() == (right.rows, right.columns)
        };
        if !copies.get(&(id, is_output)).is_some_and(fits) {
            if self.is_frozen {
                return false;
            }
            let panels = Panels::new(set, right.rows, right.columns);
            let empty = Copied { panels, is_current: false, is_used: false };
            copies.insert((id, is_output), empty);
        }
        if let Some(copied) = copies.get_mut(&(id, is_output)) {
            if !copied.is_current {
                copied.panels.fill((weight, right));
                copied.is_current = true;
            }
            copied.is_used |= !self.is_frozen;
            with(&copied.panels);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::cpu::{Addends, Kernel, gemm_by_panels};

    /// `y` of one row of ones, by the copy of a weight whose elements are all `value`; `None`
    /// without one.
    fn sum(packed: &PackedWeights, id: TensorId, value: f32, kernel: Kernel) -> Option<f32> {
        let set = InstructionSet::of(kernel).unwrap();
        let (weight, x, mut y) = ([value; 6], [1.0; 3], [0.0; 2]);
        let made = packed.with((id, &weight), (2, 3), Product::Output, set, |panels| {
            let (to, from) = (View::row_major(1, 2), View::row_major(1, 3));
            gemm_by_panels(panels, (&mut y, to), (&x, from), Addends::default());
        });
        made.then_some(y[0])
    }

    #[test]
    fn copies_are_packed_again_when_they_are_outdated_and_dropped_when_no_step_uses_them() {
        let kernels = Kernel::ALL.into_iter().filter(|k| InstructionSet::of(*k).is_some());
        for kernel in kernels {
            let id = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap().id();
            let packed = PackedWeights::default();
            let frozen = packed.frozen();
            assert_eq!(sum(&frozen, id, 1.0, kernel), None, "there is none, and none is added");
            assert_eq!(packed.bytes(), 0);
            assert_eq!(sum(&packed, id, 1.0, kernel), Some(3.0));
            assert_eq!(sum(&packed, id, 2.0, kernel), Some(3.0), "nobody said that it changed");
            packed.outdate();
            assert_eq!(sum(&frozen, id, 2.0, kernel), Some(6.0));
            packed.begin_step();
            assert!(packed.bytes() > 0, "the step before has used it");
            assert_eq!(sum(&frozen, id, 3.0, kernel), Some(9.0));
            packed.begin_step();
            assert_eq!(packed.bytes(), 0, "only a frozen pass has used it");
        }
    }

    #[test]
    fn another_instruction_set_has_copies_of_its_own() {
        let id = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap().id();
        let packed = PackedWeights::default();
        for kernel in Kernel::ALL.into_iter().filter(|k| InstructionSet::of(*k).is_some()) {
            assert_eq!(sum(&packed, id, 1.0, kernel), Some(3.0), "{kernel}");
        }
    }
}
