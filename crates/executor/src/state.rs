//! What a run has to keep so that another one can resume from it.

use std::collections::BTreeMap;

use candle_core::Tensor;
use pp_schedule::Stage;

/// Tensors of one stage, by name.
pub(crate) type Named = Vec<(String, Tensor)>;

/// The state of an optimizer, by the names of the parameters.
#[derive(Clone, Debug, Default)]
pub struct OptimizerState {
    /// Steps that it has made.
    pub steps: u64,
    /// The first and the second moments of each parameter; empty for SGD.
    pub moments: BTreeMap<String, [Tensor; 2]>,
}

/// A copy of what one stage has to keep. Tensors are `f32`, on the CPU.
#[derive(Clone, Debug)]
pub struct StageState {
    /// The stage.
    pub stage: Stage,
    /// Its weights, by name.
    pub weights: Vec<(String, Tensor)>,
    /// The first and the second moments of each parameter; empty for SGD.
    pub moments: Vec<(String, [Tensor; 2])>,
}

/// A rank's copy of its state.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Its stages of the first copy of the model; empty for a rank of another replica, and for ranks
    /// of other processes, which keep theirs.
    pub stages: Vec<StageState>,
    /// Steps that its optimizers have made.
    pub optimizer_steps: u64,
}

impl StageState {
    /// Bytes of all tensors.
    pub fn n_bytes(&self) -> u64 {
        let size = |tensor: &Tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64;
        let weights = self.weights.iter().map(|(_, tensor)| size(tensor)).sum::<u64>();
        let moments = self.moments.iter().flat_map(|(_, both)| both).map(size).sum::<u64>();
        weights + moments
    }
}
