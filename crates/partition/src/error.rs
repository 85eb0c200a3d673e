//! What can be wrong with a cut.

/// Why a model cannot be cut as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// Each stage needs a layer.
    #[error(
        "{stages} stages need {stages} layers, but the model has {layers}; use at most {layers} stages, or a deeper model"
    )]
    TooManyStages {
        /// Stages asked for.
        stages: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// No stage at all.
    #[error("a model cannot be cut into 0 stages; use 1 to {layers} stages")]
    NoStages {
        /// Layers of the model.
        layers: usize,
    },
    /// An explicit cut with a part of no layers.
    #[error("stage {stage} of the cut {sizes:?} has no layer; give each stage at least one")]
    EmptyStage {
        /// The empty stage.
        stage: usize,
        /// The cut as given.
        sizes: Vec<usize>,
    },
    /// An explicit cut for another number of stages.
    #[error(
        "the cut {sizes:?} has {} parts, but the schedule has {stages} stages; give one part per stage",
        sizes.len()
    )]
    WrongCount {
        /// The cut as given.
        sizes: Vec<usize>,
        /// Stages of the schedule.
        stages: usize,
    },
    /// An explicit cut of another model.
    #[error(
        "the cut {sizes:?} sums to {}, but the model has {layers} layers; give parts that sum to {layers}",
        sizes.iter().map(|&size| size as u128).sum::<u128>()
    )]
    WrongSum {
        /// The cut as given.
        sizes: Vec<usize>,
        /// Layers of the model.
        layers: usize,
    },
    /// A name that is not a cut.
    #[error(
        "unknown partition '{0}'; use uniform, parameters, time, or layers per stage such as 3,5"
    )]
    Unknown(String),
    /// A cut by time without times.
    #[error("a cut by time needs a profile of the model; profile it first, or cut uniformly")]
    NotProfiled,
    /// A cost that cannot be compared or summed.
    #[error("layer {layer} has the cost {cost}; costs must be finite and not negative")]
    BadCost {
        /// The layer.
        layer: usize,
        /// Its cost.
        cost: f64,
    },
    /// One parameter, two stages.
    #[error(
        "parameter {name} is shared by layers {first} and {second}, which the cut puts on stages {first_stage} and \
         {second_stage}; give each layer a parameter of its own, and tie the two with LayerStack::tie"
    )]
    Tied {
        /// The parameter.
        name: String,
        /// The first layer that uses it.
        first: usize,
        /// Another one.
        second: usize,
        /// Stage of the first.
        first_stage: usize,
        /// Stage of the second.
        second_stage: usize,
    },
    /// A tie of parameters that cannot be one.
    #[error("{second} cannot be tied to {first}: {why}")]
    Tie {
        /// The parameter in the first place.
        first: String,
        /// The one in the second place.
        second: String,
        /// The reason, and what to do.
        why: String,
    },
    /// A tensor could not be put where it is needed.
    #[error("a tensor operation failed")]
    Tensor(#[source] candle_core::Error),
    /// A layer failed to build or to run.
    #[error("layer {layer} ({name})")]
    Layer {
        /// Its number.
        layer: usize,
        /// Its name.
        name: String,
        /// What candle said.
        source: candle_core::Error,
    },
}
