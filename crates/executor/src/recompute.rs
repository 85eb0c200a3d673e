//! Which stages run their forward again instead of keeping what it made.

use std::collections::BTreeSet;
use std::fmt;

use pp_schedule::Stage;

/// Re-materialisation (Chen et al. 2016, arXiv:1604.06174; GPipe, Huang et al. 2019,
/// arXiv:1811.06965): a stage keeps its input alone until the backward, which begins with the
/// forward once more. Its activations cost memory for one micro-batch instead of all that are under
/// way, and its I takes as much longer as its F takes. The bits stay: the same numbers come out of
/// the same input, and dropout draws from the sample's own stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Recompute {
    /// No stage.
    #[default]
    Never,
    /// Every stage.
    Always,
    /// These stages.
    Stages(BTreeSet<u32>),
}

impl fmt::Display for Recompute {
    /// `none`, `all`, or the stages: `0,1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("none"),
            Self::Always => f.write_str("all"),
            Self::Stages(stages) => {
                let stages: Vec<String> = stages.iter().map(ToString::to_string).collect();
                f.write_str(&stages.join(","))
            }
        }
    }
}

impl Recompute {
    /// Whether `stage` runs its forward again.
    pub fn is_for(&self, stage: Stage) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Stages(stages) => stages.contains(&stage.0),
        }
    }
}
