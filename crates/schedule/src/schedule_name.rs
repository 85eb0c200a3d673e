//! The schedules that can be generated: the table of all, by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ScheduleError;
use crate::facts::{CostsOf, Facts};
use crate::meant::did_you_mean;
use crate::plan::ValidPlan;
use crate::sizes::Sizes;
use crate::text::excerpt;
use crate::topology::Topology;
use crate::{
    auto, chimera, dual_pipe_v, forward_only, gpipe, hanayo, interleaved, interleaved_zero_bubble,
    looped_bfs, naive, one_f_one_b, v_block, zb_auto, zb_v, zero_bubble,
};

/// Makes the enum, the list of all and the way to the facts from one table.
macro_rules! schedules {
    ($($(#[$doc:meta])* $name:ident => $facts:path,)*) => {
        /// A schedule that can be generated for any size that its rule accepts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        #[non_exhaustive]
        pub enum ScheduleName {
            $($(#[$doc])* $name,)*
        }

        impl ScheduleName {
            /// Every schedule, from the simplest on.
            pub const ALL: [Self; [$(stringify!($name)),*].len()] = [$(Self::$name),*];

            /// The facts about the schedule.
            pub(crate) fn facts(self) -> &'static Facts {
                match self {
                    $(Self::$name => &$facts,)*
                }
            }
        }
    };
}

// A new schedule is a file with its facts and an entry here.
schedules! {
    /// One micro-batch after another, without any overlap.
    Naive => naive::FACTS,
    /// All forwards, then all backwards.
    Gpipe => gpipe::FACTS,
    /// One forward, one backward: as few activations as the pipeline is deep.
    OneFOneB => one_f_one_b::FACTS,
    /// 1F1B over several stages a rank: a smaller bubble for more messages.
    InterleavedOneFOneB => interleaved::FACTS,
    /// GPipe over several stages a rank.
    LoopedBfs => looped_bfs::FACTS,
    /// Backwards in two halves, with the memory of 1F1B.
    ZbH1 => zero_bubble::H1,
    /// Backwards in two halves, with twice that memory and no bubble where F, I and W take as long.
    ZbH2 => zero_bubble::H2,
    /// Interleaved 1F1B with backwards in two halves.
    InterleavedZb => interleaved_zero_bubble::FACTS,
    /// Zero bubble on two stages a rank in a V, with the memory of 1F1B on every rank.
    ZbV => zb_v::FACTS,
    /// ZB-V with about half the memory, and some bubble.
    VHalf => v_block::HALF,
    /// ZB-V with about a third of the memory, and more bubble.
    VMin => v_block::MIN,
    /// Forwards that overlap backwards, on two stages a rank in a V.
    DualPipeV => dual_pipe_v::FACTS,
    /// Two pipelines in opposite directions, with two copies of the weights.
    Chimera => chimera::FACTS,
    /// Waves over the ranks, to and fro.
    Hanayo => hanayo::FACTS,
    /// Zero bubble from measured times, under a memory limit.
    ZbAuto => zb_auto::FACTS,
    /// From measured times of stages that are not equal, under a memory limit.
    Auto => auto::FACTS,
    /// Forwards alone: evaluation.
    ForwardOnly => forward_only::FACTS,
}

impl ScheduleName {
    /// The four schedules of the notebook, in its own order.
    pub const NOTEBOOK: [Self; 4] =
        [Self::Naive, Self::Gpipe, Self::OneFOneB, Self::InterleavedOneFOneB];

    /// The name as users write it.
    pub fn as_str(self) -> &'static str {
        self.facts().name
    }

    /// What the schedule is, in a line.
    pub fn about(self) -> &'static str {
        self.facts().about
    }

    /// Every name, separated by blanks, for messages.
    pub fn all_names() -> String {
        Self::ALL.map(Self::as_str).join(" ")
    }

    /// The default of v: 2 for a schedule that needs several stages a rank, else 1.
    pub fn default_virtual_stages(self) -> u32 {
        self.facts().default_virtual_stages()
    }

    /// Whether the plan follows from costs and memory limits; else from the sizes alone.
    pub fn is_synthesised(self) -> bool {
        self.facts().is_synthesised()
    }

    /// Whether the schedule trains; else it has forwards alone.
    pub fn trains(self) -> bool {
        self.facts().trains()
    }

    /// The plan of this schedule for these sizes. One that follows from costs is made for F = I = W
    /// and a memory of p activations.
    ///
    /// # Errors
    /// A size of zero, more ops than a plan holds, or a number of ranks, of micro-batches, of
    /// virtual stages or an interleave group that the schedule does not take; each with what to do
    /// about it.
    pub fn generate(self, sizes: &Sizes) -> Result<ValidPlan, ScheduleError> {
        self.facts().generate(sizes, &Self::fixed())
    }

    /// The plan of this schedule for these sizes and costs. Only `zb-auto` and `auto` look at the
    /// costs: they keep their memory limits, or p activations of a rank's whole share where there
    /// are none.
    ///
    /// # Errors
    /// As [`ScheduleName::generate`]; for those two also costs that do not fit, and
    /// [`ScheduleError::MemoryLimit`].
    pub fn generate_for(
        self,
        sizes: &Sizes,
        costs_of: &CostsOf<'_>,
    ) -> Result<ValidPlan, ScheduleError> {
        self.facts().generate_for(sizes, costs_of, &Self::fixed())
    }

    /// The schedules that train and follow from the sizes alone.
    fn fixed() -> Vec<&'static Facts> {
        let all = Self::ALL.into_iter().map(Self::facts);
        all.filter(|facts| !facts.is_synthesised() && facts.trains()).collect()
    }

    /// Which rank holds which stage under this schedule; `auto` may choose another placement.
    ///
    /// # Errors
    /// Sizes of zero, or too large ones.
    pub fn topology(self, sizes: &Sizes) -> Result<Topology, ScheduleError> {
        self.facts().topology(sizes)
    }

    /// Whether this schedule takes these sizes, without making the plan. Returns the interleave
    /// group that it will use: m where it does not interleave.
    ///
    /// # Errors
    /// As [`ScheduleName::generate`].
    pub fn check(self, sizes: &Sizes) -> Result<u32, ScheduleError> {
        self.facts().check(sizes)
    }

    /// The ops of a plan of `n_stages` stages and m micro-batches, if every backward that the
    /// schedule may split is split.
    pub fn n_ops_at_most(self, n_stages: u32, n_micro_batches: u32) -> u128 {
        self.facts().n_ops_at_most(n_stages, n_micro_batches)
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
