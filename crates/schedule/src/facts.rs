//! The facts about a schedule. They are in the file that generates it; `schedule_name.rs` has the
//! table.

use crate::action::Action;
use crate::costs::{Costs, RankShare};
use crate::draft::Draft;
use crate::error::ScheduleError;
use crate::formula::Formula;
use crate::plan::ValidPlan;
use crate::sizes::Sizes;
use crate::topology::{Placement, Topology, n_stages};

/// The costs on any placement: stage s may lie on another rank, and a rank may hold another number
/// of stages.
pub type CostsOf<'a> = dyn Fn(&Topology) -> Result<Costs, ScheduleError> + 'a;

/// The most ops that a plan may hold. At 20 bytes a cell such a plan is 80 GiB.
const OPS_MAX: u128 = 1 << 32;

/// The facts about a schedule.
pub(crate) struct Facts {
    /// The name as users write it.
    pub(crate) name: &'static str,
    /// What the schedule is, in a line.
    pub(crate) about: &'static str,
    /// How many stages a rank may hold.
    pub(crate) chunks: Chunks,
    /// What is computed for each stage and micro-batch.
    pub(crate) passes: Passes,
    /// Which rank holds which stage, for p ranks with v stages each.
    pub(crate) topology: fn(u32, u32) -> Result<Topology, ScheduleError>,
    /// Whether users may choose an interleave group.
    pub(crate) has_group: bool,
    /// Refuses the numbers of ranks and micro-batches that the schedule does not take; returns the
    /// interleave group, m where there is none.
    pub(crate) takes: fn(&Sizes) -> Result<u32, ScheduleError>,
    /// How the rows of its plans are made.
    pub(crate) rows: Rows,
    /// The closed form, where there is one.
    pub(crate) formula: Option<Formula>,
}

/// How many stages a rank may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunks {
    One,
    Two,
    Even,
    /// Any number; two by default.
    Any,
    /// Any number; one by default.
    AnyOrOne,
}

/// What is computed for each stage and micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passes {
    /// F alone.
    Forward,
    /// F and B.
    Whole,
    /// F, I and W, or a B here and there.
    Halves,
}

/// How the rows of a plan are made.
pub(crate) enum Rows {
    /// Rank by rank, from the sizes alone.
    Each(fn(u32, &Layout<'_>) -> Vec<Action>),
    /// All at once, from the sizes alone.
    All(fn(&Layout<'_>) -> Vec<Vec<Action>>),
    /// By a search, from costs and memory limits.
    Searched(fn(&Wanted<'_>) -> Result<ValidPlan, ScheduleError>),
}

/// The sizes of a plan, checked.
pub(crate) struct Layout<'a> {
    pub(crate) p: u32,
    pub(crate) m: u32,
    pub(crate) v: u32,
    pub(crate) group: u32,
    pub(crate) topology: &'a Topology,
}

/// What a search starts from.
pub(crate) struct Wanted<'a> {
    pub(crate) sizes: &'a Sizes,
    /// The topology by the schedule's own facts.
    pub(crate) topology: &'a Topology,
    pub(crate) costs_of: &'a CostsOf<'a>,
    /// All schedules that train and follow from the sizes alone. Those that fit compete with the
    /// plans that the search finds.
    pub(crate) fixed: &'a [&'static Facts],
}

/// Stages round and round the ranks.
pub(crate) fn round_and_round(
    n_ranks: u32,
    n_virtual_stages: u32,
) -> Result<Topology, ScheduleError> {
    Topology::new(n_ranks, n_virtual_stages, Placement::Loop)
}

/// Stages to and fro over the ranks.
pub(crate) fn to_and_fro(n_ranks: u32, n_virtual_stages: u32) -> Result<Topology, ScheduleError> {
    Topology::new(n_ranks, n_virtual_stages, Placement::V)
}

/// Takes any number of ranks and micro-batches.
#[expect(clippy::unnecessary_wraps, reason = "others refuse")]
pub(crate) fn any_size(sizes: &Sizes) -> Result<u32, ScheduleError> {
    Ok(sizes.n_micro_batches)
}

impl Facts {
    /// The default of v.
    pub(crate) fn default_virtual_stages(&self) -> u32 {
        match self.chunks {
            Chunks::One | Chunks::AnyOrOne => 1,
            Chunks::Two | Chunks::Even | Chunks::Any => 2,
        }
    }

    /// Whether the plan follows from costs and memory limits; else from the sizes alone.
    pub(crate) fn is_synthesised(&self) -> bool {
        matches!(self.rows, Rows::Searched(_))
    }

    /// Whether the schedule trains; else it has forwards alone.
    pub(crate) fn trains(&self) -> bool {
        self.passes != Passes::Forward
    }

    /// The ops of a plan, if every backward that the schedule may split is split.
    pub(crate) fn n_ops_at_most(&self, n_stages: u32, n_micro_batches: u32) -> u128 {
        let n_passes = match self.passes {
            Passes::Forward => 1,
            Passes::Whole => 2,
            Passes::Halves => 3,
        };
        n_passes * u128::from(n_stages) * u128::from(n_micro_batches)
    }

    /// Which rank holds which stage.
    pub(crate) fn topology(&self, sizes: &Sizes) -> Result<Topology, ScheduleError> {
        (self.topology)(sizes.n_ranks, sizes.n_virtual_stages)
    }

    /// Whether the schedule takes these sizes. Returns the interleave group that it will use: m
    /// where it does not interleave.
    pub(crate) fn check(&self, sizes: &Sizes) -> Result<u32, ScheduleError> {
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
        let remedy = match self.chunks {
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
            return Err(ScheduleError::VirtualStages { schedule: self.name, given: v, remedy });
        }
        if let Some(given) = interleave_group.filter(|_| !self.has_group) {
            return Err(ScheduleError::GroupUnused { schedule: self.name, given });
        }
        (self.takes)(sizes)
    }

    /// The refusal of a number of micro-batches. `why` has a colon before it, or is empty.
    pub(crate) fn refused_micro_batches(
        &self,
        sizes: &Sizes,
        why: &str,
        remedy: String,
    ) -> ScheduleError {
        ScheduleError::MicroBatches {
            schedule: self.name,
            n_ranks: sizes.n_ranks,
            given: sizes.n_micro_batches,
            why: why.to_owned(),
            remedy,
        }
    }

    /// The plan for F = I = W and a memory of p activations, where costs matter. `fixed` as in
    /// [`Wanted`].
    pub(crate) fn generate(
        &self,
        sizes: &Sizes,
        fixed: &[&'static Facts],
    ) -> Result<ValidPlan, ScheduleError> {
        let unit = |topology: &Topology| Ok(Costs::per_rank_share(topology, &RankShare::default()));
        self.generate_for(sizes, &unit, fixed)
    }

    /// The plan for these costs, where they matter. `fixed` as in [`Wanted`].
    pub(crate) fn generate_for(
        &self,
        sizes: &Sizes,
        costs_of: &CostsOf<'_>,
        fixed: &[&'static Facts],
    ) -> Result<ValidPlan, ScheduleError> {
        let group = self.check(sizes)?;
        let &Sizes { n_ranks: p, n_micro_batches: m, n_virtual_stages: v, .. } = sizes;
        let topology = self.topology(sizes)?;
        let layout = Layout { p, m, v, group, topology: &topology };
        let rows = match self.rows {
            Rows::Each(row) => (0..p).map(|rank| row(rank, &layout)).collect(),
            Rows::All(rows) => rows(&layout),
            Rows::Searched(plan) => {
                return plan(&Wanted { sizes, topology: &topology, costs_of, fixed });
            }
        };
        Draft { name: self.name.to_owned(), topology, n_micro_batches: m, rows }.validate()
    }
}
