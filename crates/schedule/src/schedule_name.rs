//! The schedules that can be generated, by name and size.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::costs::{Costs, RankShare};
use crate::error::{ScheduleError, excerpt};
use crate::ids::Rank;
use crate::meant::did_you_mean;
use crate::plan::{Draft, ValidPlan};
use crate::topology::{Placement, Topology, n_stages};
use crate::v_block::Block;
use crate::{
    auto, chimera, dual_pipe_v, forward_only, gpipe, hanayo, interleaved, interleaved_zero_bubble,
    looped_bfs, naive, one_f_one_b, v_block, zb_auto, zb_v, zero_bubble,
};

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
    /// GPipe over several stages a rank.
    LoopedBfs,
    /// Backwards in two halves, with the memory of 1F1B.
    ZbH1,
    /// Backwards in two halves, with twice that memory and no bubble where F, I and W take as long.
    ZbH2,
    /// Interleaved 1F1B with backwards in two halves.
    InterleavedZb,
    /// Zero bubble on two stages a rank in a V, with the memory of 1F1B on every rank.
    ZbV,
    /// ZB-V with about half the memory, and some bubble.
    VHalf,
    /// ZB-V with about a third of the memory, and more bubble.
    VMin,
    /// Forwards that overlap backwards, on two stages a rank in a V.
    DualPipeV,
    /// Two pipelines in opposite directions, with two copies of the weights.
    Chimera,
    /// Waves over the ranks, to and fro.
    Hanayo,
    /// Zero bubble from measured times, under a memory limit.
    ZbAuto,
    /// From measured times of stages that are not equal, under a memory limit.
    Auto,
    /// Forwards alone: evaluation.
    ForwardOnly,
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

/// The most ops that a plan may hold. At 20 bytes a cell such a plan is 80 GiB.
const OPS_MAX: u128 = 1 << 32;

impl ScheduleName {
    /// Every schedule, from the simplest on.
    pub const ALL: [Self; 17] = [
        Self::Naive,
        Self::Gpipe,
        Self::OneFOneB,
        Self::InterleavedOneFOneB,
        Self::LoopedBfs,
        Self::ZbH1,
        Self::ZbH2,
        Self::InterleavedZb,
        Self::ZbV,
        Self::VHalf,
        Self::VMin,
        Self::DualPipeV,
        Self::Chimera,
        Self::Hanayo,
        Self::ZbAuto,
        Self::Auto,
        Self::ForwardOnly,
    ];

    /// The four schedules of the notebook, in its own order.
    pub const NOTEBOOK: [Self; 4] =
        [Self::Naive, Self::Gpipe, Self::OneFOneB, Self::InterleavedOneFOneB];

    /// The name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::Gpipe => "gpipe",
            Self::OneFOneB => "1f1b",
            Self::InterleavedOneFOneB => "interleaved-1f1b",
            Self::LoopedBfs => "looped-bfs",
            Self::ZbH1 => "zb-h1",
            Self::ZbH2 => "zb-h2",
            Self::InterleavedZb => "interleaved-zb",
            Self::ZbV => "zb-v",
            Self::VHalf => "v-half",
            Self::VMin => "v-min",
            Self::DualPipeV => "dualpipe-v",
            Self::Chimera => "chimera",
            Self::Hanayo => "hanayo",
            Self::ZbAuto => "zb-auto",
            Self::Auto => "auto",
            Self::ForwardOnly => "forward-only",
        }
    }

    /// What the schedule is, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Self::Naive => "one micro-batch after another, no overlap",
            Self::Gpipe => "all forwards, then all backwards",
            Self::OneFOneB => "one forward, one backward: the memory of p activations",
            Self::InterleavedOneFOneB => {
                "1f1b over several stages a rank: less bubble, more messages"
            }
            Self::LoopedBfs => "gpipe over several stages a rank",
            Self::ZbH1 => "backwards in two halves, with the memory of 1f1b",
            Self::ZbH2 => "backwards in two halves, with twice that memory",
            Self::InterleavedZb => "interleaved-1f1b with backwards in two halves",
            Self::ZbV => "zero bubble on two stages a rank, with the memory of 1f1b",
            Self::VHalf => "zb-v with about half the memory and some bubble",
            Self::VMin => "zb-v with about a third of the memory and more bubble",
            Self::DualPipeV => "forwards overlap backwards; two stages a rank, M at least 2P",
            Self::Chimera => {
                "two pipelines in opposite directions, two copies of the weights; even P and M"
            }
            Self::Hanayo => "waves to and fro, two stages a rank for each",
            Self::ZbAuto => "zero bubble for given times, under a memory limit",
            Self::Auto => "the fastest found for given times, under a memory limit",
            Self::ForwardOnly => "forwards alone: evaluation",
        }
    }

    /// Every name, separated by blanks, for messages.
    pub fn all_names() -> String {
        Self::ALL.map(Self::as_str).join(" ")
    }

    /// v where nobody says otherwise: 2 for a schedule that lives on several stages a rank, else 1.
    pub fn default_virtual_stages(self) -> u32 {
        match self.chunks() {
            Chunks::One | Chunks::AnyOrOne => 1,
            Chunks::Two | Chunks::Even | Chunks::Any => 2,
        }
    }

    /// Whether the plan follows from costs and memory limits; else from the sizes alone.
    pub fn is_synthesised(self) -> bool {
        matches!(self, Self::ZbAuto | Self::Auto)
    }

    /// Whether the schedule trains; else it has forwards alone.
    pub fn trains(self) -> bool {
        self != Self::ForwardOnly
    }

    /// The plan of this schedule for these sizes. One that follows from costs is made for F = I = W and a memory of p activations.
    ///
    /// # Errors
    /// A size of zero, more ops than a plan holds, or a number of ranks, of micro-batches, of virtual stages or an interleave group
    /// that the schedule does not take; each with what to do about it.
    pub fn generate(self, sizes: &Sizes) -> Result<ValidPlan, ScheduleError> {
        let unit = |topology: &Topology| Ok(Costs::per_rank_share(topology, &RankShare::default()));
        self.generate_for(sizes, &unit)
    }

    /// The plan of this schedule for these sizes and costs. Only `zb-auto` and `auto` look at the costs: they keep their memory
    /// limits, or p activations of a rank's whole share where there are none.
    ///
    /// # Errors
    /// As [`ScheduleName::generate`]; for those two also costs that do not fit, and [`ScheduleError::MemoryLimit`].
    pub fn generate_for(
        self,
        sizes: &Sizes,
        costs_of: &CostsOf<'_>,
    ) -> Result<ValidPlan, ScheduleError> {
        let group = self.check(sizes)?;
        let &Sizes { n_ranks: p, n_micro_batches: m, n_virtual_stages: v, .. } = sizes;
        let topology = self.topology(sizes)?;
        let each = |row: &dyn Fn(u32) -> Vec<Action>| (0..p).map(row).collect();
        let rows = match self {
            Self::Naive => each(&|rank| naive::row(rank, m)),
            Self::Gpipe => each(&|rank| gpipe::row(rank, p, m)),
            Self::OneFOneB => each(&|rank| one_f_one_b::row(rank, p, m)),
            Self::InterleavedOneFOneB => each(&|rank| interleaved::row(rank, p, m, v, group)),
            Self::LoopedBfs => each(&|rank| looped_bfs::row(rank, p, m, v)),
            Self::ZbH1 => each(&|rank| zero_bubble::h1(rank, p, m)),
            Self::ZbH2 => each(&|rank| zero_bubble::h2(rank, p, m)),
            Self::InterleavedZb => each(&|rank| interleaved_zero_bubble::row(rank, p, m, v, group)),
            Self::ZbV => each(&|rank| zb_v::row(rank, p, m)),
            Self::VHalf => v_block::rows(Block::Half, p, m),
            Self::VMin => v_block::rows(Block::Min, p, m),
            Self::DualPipeV => each(&|rank| dual_pipe_v::row(rank, p, m)),
            Self::Chimera => each(&|rank| chimera::row(rank, p, m)),
            Self::Hanayo => hanayo::rows(&topology, m),
            Self::ZbAuto => return zb_auto::plan(sizes, &topology, costs_of(&topology)?),
            Self::Auto => return auto::plan(sizes, costs_of),
            Self::ForwardOnly => each(&|rank| forward_only::row(Rank(rank), &topology, m)),
        };
        Draft { name: self.to_string(), topology, n_micro_batches: m, rows }.validate()
    }

    /// Which rank holds which stage under this schedule; `auto` may choose another placement.
    ///
    /// # Errors
    /// Sizes of zero, or too large ones.
    pub fn topology(self, sizes: &Sizes) -> Result<Topology, ScheduleError> {
        let &Sizes { n_ranks: p, n_virtual_stages: v, .. } = sizes;
        match self {
            Self::ZbV | Self::VHalf | Self::VMin | Self::DualPipeV | Self::Hanayo => {
                Topology::new(p, v, Placement::V)
            }
            Self::Chimera => {
                let down: Vec<Rank> = (0..p).map(Rank).collect();
                let up = down.iter().rev().copied().collect();
                Topology::from_pipes(&[down, up])
            }
            _ => Topology::new(p, v, Placement::Loop),
        }
    }

    /// Whether this schedule takes these sizes, without making the plan. Returns the interleave group that it will use: m
    /// where it does not interleave.
    ///
    /// # Errors
    /// As [`ScheduleName::generate`].
    pub fn check(self, sizes: &Sizes) -> Result<u32, ScheduleError> {
        let &Sizes { n_ranks: p, n_micro_batches: m, n_virtual_stages: v, interleave_group } =
            sizes;
        let n_stages = n_stages(p, v)?;
        if m == 0 {
            return Err(ScheduleError::Zero { what: "micro-batches" });
        }
        let n_ops = self.n_ops_at_most(n_stages, m);
        if n_ops > OPS_MAX {
            return Err(ScheduleError::TooLarge { what: "ops", value: n_ops, limit: OPS_MAX });
        }
        let remedy = match self.chunks() {
            Chunks::One if v != 1 => {
                "use v=1, or a schedule that takes any: interleaved-1f1b, looped-bfs, interleaved-zb"
                    .to_owned()
            }
            Chunks::Two if v != 2 => "use v=2".to_owned(),
            Chunks::Even if v == 1 => "use v=2: every wave takes two".to_owned(),
            Chunks::Even if !v.is_multiple_of(2) => {
                format!("use v={} or v={}: every wave takes two", v - 1, v.saturating_add(1))
            }
            _ => String::new(),
        };
        if !remedy.is_empty() {
            return Err(ScheduleError::VirtualStages { schedule: self, given: v, remedy });
        }
        if self == Self::InterleavedOneFOneB {
            return interleaved::group(p, m, interleave_group);
        }
        if let Some(given) = interleave_group {
            return Err(ScheduleError::GroupUnused { schedule: self, given });
        }
        let micro_batches = |why: &str, remedy: String| {
            Err(ScheduleError::MicroBatches {
                schedule: self,
                n_ranks: p,
                given: m,
                why: why.to_owned(),
                remedy,
            })
        };
        match self {
            Self::InterleavedZb if !interleaved::rounds_accept(p, m) => micro_batches(
                ": it runs max(1, m/p) rounds of equal length",
                format!("use {}", interleaved::near_rounds(p, m)),
            ),
            Self::InterleavedZb => Ok(m / interleaved::rounds(p, m)),
            Self::DualPipeV if u64::from(m) < 2 * u64::from(p) => {
                micro_batches("", format!("use m={} or more", 2 * u64::from(p)))
            }
            Self::Chimera if !p.is_multiple_of(2) => {
                let above = p.saturating_add(1);
                let remedy = match p - 1 {
                    0 => format!("use p={above}"),
                    below => format!("use p={below} or p={above}"),
                };
                let why = ", an odd number";
                Err(ScheduleError::Ranks { schedule: self, given: p, why, remedy })
            }
            Self::Chimera if !m.is_multiple_of(2) => {
                let above = m.saturating_add(1);
                let remedy = match m - 1 {
                    0 => format!("use m={above}"),
                    below => format!("use m={below} or m={above}"),
                };
                micro_batches(": half of them go each way", remedy)
            }
            _ => Ok(m),
        }
    }

    /// The ops of a plan of `n_stages` stages and m micro-batches, if every backward that the schedule may split is split.
    pub fn n_ops_at_most(self, n_stages: u32, n_micro_batches: u32) -> u128 {
        let n_phases = match self {
            Self::ForwardOnly => 1,
            Self::Naive
            | Self::Gpipe
            | Self::OneFOneB
            | Self::InterleavedOneFOneB
            | Self::LoopedBfs
            | Self::Chimera
            | Self::Hanayo => 2,
            Self::ZbH1
            | Self::ZbH2
            | Self::InterleavedZb
            | Self::ZbV
            | Self::VHalf
            | Self::VMin
            | Self::DualPipeV
            | Self::ZbAuto
            | Self::Auto => 3,
        };
        n_phases * u128::from(n_stages) * u128::from(n_micro_batches)
    }

    fn chunks(self) -> Chunks {
        match self {
            Self::Naive
            | Self::Gpipe
            | Self::OneFOneB
            | Self::ZbH1
            | Self::ZbH2
            | Self::ZbAuto
            | Self::Chimera => Chunks::One,
            Self::ZbV | Self::VHalf | Self::VMin | Self::DualPipeV => Chunks::Two,
            Self::Hanayo => Chunks::Even,
            Self::InterleavedOneFOneB | Self::LoopedBfs | Self::InterleavedZb | Self::Auto => {
                Chunks::Any
            }
            Self::ForwardOnly => Chunks::AnyOrOne,
        }
    }
}

/// How many stages a rank may hold.
enum Chunks {
    One,
    Two,
    Even,
    /// Any number; two if nobody says.
    Any,
    /// Any number; one if nobody says.
    AnyOrOne,
}

/// The costs on any placement: stage s may lie on another rank, and a rank may hold another number of stages.
pub type CostsOf<'a> = dyn Fn(&Topology) -> Result<Costs, ScheduleError> + 'a;

impl fmt::Display for ScheduleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ScheduleName {
    type Err = ScheduleError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let unknown = || {
            let all = Self::all_names();
            let remedy = match did_you_mean(name, Self::ALL.map(Self::as_str)) {
                Some(meant) => format!("{meant} The schedules are {all}"),
                None => format!("the schedules are {all}"),
            };
            ScheduleError::UnknownSchedule { name: excerpt(name), remedy }
        };
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
