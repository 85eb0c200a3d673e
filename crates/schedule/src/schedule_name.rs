//! The schedules that can be generated, by name and size.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{ScheduleError, excerpt};
use crate::op::Op;
use crate::plan::{Draft, ValidPlan};
use crate::topology::{Placement, Topology, n_stages};
use crate::{gpipe, interleaved, naive, one_f_one_b};

/// A schedule that can be generated for any size that its rule accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum ScheduleName {
    /// One micro-batch after another, without any overlap.
    Naive,
    /// All forwards, then all backwards.
    Gpipe,
    /// One forward, one backward: as few activations as the pipeline is deep.
    OneFOneB,
    /// 1F1B over several stages a rank: a smaller bubble for more messages.
    InterleavedOneFOneB,
}

/// How large a plan shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sizes {
    /// p, the ranks along the pipeline.
    pub n_ranks: u32,
    /// m, the micro-batches of one step.
    pub n_micro_batches: u32,
    /// v, the stages of each rank.
    pub n_virtual_stages: u32,
    /// How many micro-batches go through one chunk before the next chunk has its turn; only for interleaved schedules, and
    /// `None` for the rule's own choice.
    pub interleave_group: Option<u32>,
}

/// The most ops that a plan may hold. At 12 bytes an op such a plan is 48 GiB.
const OPS_MAX: u128 = 1 << 32;

impl ScheduleName {
    /// Every schedule, from the simplest on.
    pub const ALL: [Self; 4] =
        [Self::Naive, Self::Gpipe, Self::OneFOneB, Self::InterleavedOneFOneB];

    /// The name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::Gpipe => "gpipe",
            Self::OneFOneB => "1f1b",
            Self::InterleavedOneFOneB => "interleaved-1f1b",
        }
    }

    /// Every name, separated by blanks, for messages.
    pub fn accepted() -> String {
        Self::ALL.map(Self::as_str).join(" ")
    }

    /// v where nobody says otherwise: 2 for a schedule that lives on several stages a rank, else 1.
    pub fn default_virtual_stages(self) -> u32 {
        match self {
            Self::Naive | Self::Gpipe | Self::OneFOneB => 1,
            Self::InterleavedOneFOneB => 2,
        }
    }

    /// The plan of this schedule for these sizes.
    ///
    /// # Errors
    /// A size of zero, more ops than a plan holds, virtual stages or an interleave group where the schedule has none, or a
    /// number of micro-batches that cannot be interleaved; each with what would be accepted.
    pub fn generate(self, sizes: &Sizes) -> Result<ValidPlan, ScheduleError> {
        let group = self.check(sizes)?;
        let &Sizes { n_ranks: p, n_micro_batches: m, n_virtual_stages: v, .. } = sizes;
        let row = |rank: u32| -> Vec<Op> {
            match self {
                Self::Naive => naive::row(rank, m),
                Self::Gpipe => gpipe::row(rank, m),
                Self::OneFOneB => one_f_one_b::row(rank, p, m),
                Self::InterleavedOneFOneB => interleaved::row(rank, p, m, v, group),
            }
        };
        let topology = Topology::new(p, v, Placement::Loop)?;
        let rows = (0..p).map(row).collect();
        Draft { name: self.to_string(), topology, n_micro_batches: m, rows }.validate()
    }

    /// Whether this schedule takes these sizes, without making the plan. Returns the interleave group that it will use: m
    /// where it does not interleave.
    ///
    /// # Errors
    /// As [`ScheduleName::generate`].
    pub fn check(self, sizes: &Sizes) -> Result<u32, ScheduleError> {
        let &Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group } = sizes;
        let n_stages = n_stages(n_ranks, n_virtual_stages)?;
        if n_micro_batches == 0 {
            return Err(ScheduleError::Zero { what: "micro-batches" });
        }
        let n_ops = 2 * u128::from(n_stages) * u128::from(n_micro_batches);
        if n_ops > OPS_MAX {
            return Err(ScheduleError::TooLarge { what: "ops", value: n_ops, limit: OPS_MAX });
        }
        match self {
            Self::InterleavedOneFOneB => {
                interleaved::group(n_ranks, n_micro_batches, interleave_group)
            }
            Self::Naive | Self::Gpipe | Self::OneFOneB if n_virtual_stages != 1 => {
                Err(ScheduleError::VirtualStages { schedule: self, given: n_virtual_stages })
            }
            Self::Naive | Self::Gpipe | Self::OneFOneB => match interleave_group {
                Some(given) => Err(ScheduleError::GroupUnused { schedule: self, given }),
                None => Ok(n_micro_batches),
            },
        }
    }
}

impl fmt::Display for ScheduleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ScheduleName {
    type Err = ScheduleError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let unknown =
            || ScheduleError::UnknownSchedule { name: excerpt(name), accepted: Self::accepted() };
        Self::ALL.into_iter().find(|schedule| schedule.as_str() == name).ok_or_else(unknown)
    }
}

impl From<ScheduleName> for String {
    fn from(name: ScheduleName) -> Self {
        name.as_str().to_owned()
    }
}

impl TryFrom<String> for ScheduleName {
    type Error = ScheduleError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}
