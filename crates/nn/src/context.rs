//! What a layer must know about the pass that it takes part in.

use crate::cpu::Kernels;
use crate::documents::Documents;
use crate::packed_weights::PackedWeights;
use crate::residue::ResidueQueue;

/// The surroundings of one forward pass of one micro-batch.
#[derive(Clone, Debug)]
pub struct ForwardContext {
    train: bool,
    seed: u64,
    step: u64,
    first_sample: u64,
    layer: u32,
    residues: Option<ResidueQueue>,
    kernels: Kernels,
    packed: Option<PackedWeights>,
    documents: Option<Documents>,
}

impl ForwardContext {
    /// A pass whose gradients are wanted: dropout is on. Steps count from 1.
    pub fn training(seed: u64, step: u64) -> Self {
        Self {
            train: true,
            seed,
            step,
            first_sample: 0,
            layer: 0,
            residues: None,
            kernels: Kernels::default(),
            packed: None,
            documents: None,
        }
    }

    /// A pass for evaluation: dropout is off, no gradient is kept.
    pub fn evaluation() -> Self {
        Self { train: false, ..Self::training(0, 0) }
    }

    /// The index, in the whole batch of the step, of the first sample of this micro-batch.
    #[must_use]
    pub fn with_first_sample(mut self, first_sample: u64) -> Self {
        self.first_sample = first_sample;
        self
    }

    /// Where layers leave what their weight gradients need. Without it candle computes them.
    #[must_use]
    pub fn with_residues(mut self, residues: ResidueQueue) -> Self {
        self.residues = Some(residues);
        self
    }

    /// What multiplies matrices. Without it [`Kernels::for_processor`] decides.
    #[must_use]
    pub fn with_kernels(mut self, kernels: Kernels) -> Self {
        self.kernels = kernels;
        self
    }

    /// Where layers keep packed copies of their weights. Without it, a kernel on panels packs the
    /// weight in every product.
    #[must_use]
    pub fn with_packed_weights(mut self, packed: PackedWeights) -> Self {
        self.packed = Some(packed);
        self
    }

    /// Which positions of a sample belong to one document. Without it, a sample is one.
    #[must_use]
    pub fn with_documents(mut self, documents: Documents) -> Self {
        self.documents = Some(documents);
        self
    }

    /// The same pass, seen from layer number `layer` of the whole model.
    #[must_use]
    pub fn for_layer(&self, layer: u32) -> Self {
        Self { layer, ..self.clone() }
    }

    /// Whether gradients are wanted.
    pub fn is_training(&self) -> bool {
        self.train
    }

    /// Where this pass leaves residues, if anywhere.
    pub fn residues(&self) -> Option<&ResidueQueue> {
        self.residues.as_ref()
    }

    /// What multiplies matrices in this pass.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Where layers keep packed copies of their weights, if anywhere.
    pub fn packed_weights(&self) -> Option<&PackedWeights> {
        self.packed.as_ref()
    }

    /// Which positions of a sample belong to one document, if samples are packed.
    pub fn documents(&self) -> Option<&Documents> {
        self.documents.as_ref()
    }

    /// The key of a stream of random numbers for sample `index` of this micro-batch, at place
    /// `site` of this layer. It does not depend on how the batch or the model is cut.
    pub fn sample_key(&self, site: u32, index: u64) -> u64 {
        let place = u64::from(self.layer) << 32 | u64::from(site);
        crate::random::hash(&[self.seed, self.step, self.first_sample + index, place])
    }
}
