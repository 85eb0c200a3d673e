//! Weights as panels: made once when the weights are new, read by every micro-batch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::TensorId;

use crate::cpu::{InstructionSet, Panels, Product, View};

/// The weights of some layers in the order in which kernels read them, one copy for `y = x·wᵀ` and
/// one for `gx = gy·w`.
///
/// They stay the same while the micro-batches of a step pass, and every product of a library
/// puts them into that order again. A copy costs as many bytes as the weight, for each direction;
/// results have the same bits with and without.
///
/// Clones are the same copies. Whoever changes weights calls [`PackedWeights::outdate`].
#[derive(Clone, Debug, Default)]
pub struct PackedWeights(Arc<Mutex<HashMap<(TensorId, bool), Copied>>>);

#[derive(Debug)]
struct Copied {
    panels: Panels,
    is_new: bool,
    /// Since [`PackedWeights::begin_step`].
    is_used: bool,
}

impl Copied {
    fn empty(set: InstructionSet, right: View) -> Self {
        let panels = Panels::new(set, right.rows, right.columns);
        Self { panels, is_new: false, is_used: false }
    }
}

impl PackedWeights {
    /// Says that weights have changed: each copy is made again when it is wanted next. The memory stays.
    pub fn outdate(&self) {
        for copied in self.lock().values_mut() {
            copied.is_new = false;
        }
    }

    /// A step begins. Copies that the last one did not use, since its micro-batches had other sizes, are
    /// given back; the others are made again when they are wanted.
    pub fn begin_step(&self) {
        self.lock().retain(|_, copied| std::mem::take(&mut copied.is_used));
        self.outdate();
    }

    /// Bytes of all copies that were made so far.
    pub fn bytes(&self) -> usize {
        self.lock().values().map(|copied| copied.panels.bytes()).sum()
    }

    /// Lets `with` use the copy of a weight (o, i) for one direction.
    pub(crate) fn with<R>(
        &self,
        (id, weight): (TensorId, &[f32]),
        (outputs, inputs): (usize, usize),
        product: Product,
        set: InstructionSet,
        with: impl FnOnce(&Panels) -> R,
    ) -> R {
        let view = View::row_major(outputs, inputs);
        let is_output = matches!(product, Product::Output);
        let right = if is_output { view.transposed() } else { view };
        let mut all = self.lock();
        let copied = all.entry((id, is_output)).or_insert_with(|| Copied::empty(set, right));
        let is_for_these = copied.panels.set().lanes() == set.lanes();
        if !is_for_these || copied.panels.shape() != (right.rows, right.columns) {
            *copied = Copied::empty(set, right);
        }
        copied.is_used = true;
        if !copied.is_new {
            copied.panels.fill((weight, right));
            copied.is_new = true;
        }
        with(&copied.panels)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(TensorId, bool), Copied>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
