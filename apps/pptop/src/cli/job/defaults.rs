//! What a job does when a flag is not given: one table, for the code and for the help.

use pp_nn::{LearningRateCurve, OptimizerKind};

/// The models that can be trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ModelName {
    /// The notebook's classifier of noise: 8 layers, 11.1 M parameters
    SeedMlp,
    /// A classifier of real wines: 4 layers
    WineMlp,
    /// A byte-level transformer on real text
    Gpt,
    /// Layers that only sleep, to see the runtime itself
    Sleep,
}

impl ModelName {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::SeedMlp => "seed-mlp",
            Self::WineMlp => "wine-mlp",
            Self::Gpt => "gpt",
            Self::Sleep => "sleep",
        }
    }
}

/// A model's own defaults.
pub(crate) struct Defaults {
    pub(crate) steps: u64,
    pub(crate) batch_size: u64,
    pub(crate) micro_batches: u32,
    pub(crate) lr: f64,
    pub(crate) curve: LearningRateCurve,
    pub(crate) warmup: u64,
    pub(crate) optimizer: OptimizerKind,
    pub(crate) clip_norm: Option<f64>,
    pub(crate) eval_every: Option<u64>,
}

impl Defaults {
    pub(crate) fn of(model: ModelName) -> Self {
        let constant = LearningRateCurve::Constant;
        match model {
            ModelName::Gpt => Self {
                steps: 600,
                batch_size: 32,
                micro_batches: 8,
                lr: 2e-3,
                curve: LearningRateCurve::Cosine,
                warmup: 20,
                optimizer: OptimizerKind::AdamW { weight_decay: 0.01 },
                clip_norm: Some(1.0),
                eval_every: Some(100),
            },
            ModelName::SeedMlp => Self {
                steps: 50,
                batch_size: 256,
                micro_batches: 32,
                lr: 1e-3,
                curve: constant,
                warmup: 0,
                optimizer: OptimizerKind::Adam,
                clip_norm: None,
                eval_every: None,
            },
            ModelName::WineMlp => Self {
                steps: 600,
                batch_size: 64,
                micro_batches: 8,
                lr: 3e-3,
                curve: LearningRateCurve::Cosine,
                warmup: 20,
                optimizer: OptimizerKind::Adam,
                clip_norm: None,
                eval_every: Some(100),
            },
            ModelName::Sleep => Self {
                steps: 20,
                batch_size: 0,
                micro_batches: 16,
                lr: 0.01,
                curve: constant,
                warmup: 0,
                optimizer: OptimizerKind::Sgd,
                clip_norm: None,
                eval_every: None,
            },
        }
    }
}

/// The table for `--help`.
pub(crate) const TABLE: &str = "\
Defaults by model:
  model     steps  batch  micro-batches  lr    optimizer  clip  evaluates
  gpt         600     32              8  2e-3  adamw      1     every 100
  seed-mlp     50    256             32  1e-3  adam       -     -
  wine-mlp    600     64              8  3e-3  adam       -     every 100
  sleep        20   16*D             16  1e-2  sgd        -     -
gpt and wine-mlp: --lr-schedule cosine --warmup 20; the others: constant.
gpt: --layers 6 --width 128 --heads 4 --context 64 --dropout 0.
seed-mlp: dropout .3 .4 .3 .2 in its four places; wine-mlp: --dropout 0.2.
sleep: 4 ms for each of F, I, W; --partition uniform. The others: time.
For all: --pp min(4, cores, layers), --dp 1, --schedule 1f1b, --seed 0,
--virtual-stages 2 for a schedule of several stages a rank else 1 (auto takes
the faster), --device auto, --spans auto.
--preset seed: seed-mlp with --lr-schedule step --lr-step 20 --lr-gamma 0.5,
--clip-norm 1, and a line every 10 steps.";
