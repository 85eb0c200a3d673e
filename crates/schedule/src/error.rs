//! Everything that this crate refuses, each with both sides and what to do about it.

use std::fmt;

use crate::ids::Rank;
use crate::op::{Op, ParseOpError};

/// A size, a plan or a file that was refused.
///
/// The first line of the text fits in 300 characters; where a plan can be shown, its grid follows
/// after a blank line.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A count that must be at least one is zero.
    #[error("the number of {what} is 0; use 1 or more")]
    Zero {
        /// What was counted.
        what: &'static str,
    },
    /// A count is beyond what a plan can number or hold.
    #[error("{value} {what} are too many for a plan; use at most {limit}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many were asked for.
        value: u128,
        /// How many a plan can hold.
        limit: u128,
    },
    /// A rank would hold no stage.
    #[error(
        "rank {rank} holds no stage ({n_stages} stages were given); give every rank at least one"
    )]
    IdleRank {
        /// The rank that would be idle for ever.
        rank: Rank,
        /// How many stages there are.
        n_stages: usize,
    },
    /// Copies of the model that differ in their number of stages.
    #[error(
        "one copy of the model has {first} stages and another {other}; give each copy the same number"
    )]
    Pipes {
        /// Stages of the first copy.
        first: usize,
        /// Stages of another.
        other: usize,
    },
    /// Micro-batches that cannot be shared out among the copies of the model.
    #[error(
        "{n_micro_batches} micro-batches do not divide over {n_pipes} copies of the model; use {}",
        near_multiples(*.n_micro_batches, *.n_pipes)
    )]
    UnevenPipes {
        /// The copies.
        n_pipes: u32,
        /// m.
        n_micro_batches: u32,
    },
    /// The name of a schedule that does not exist.
    #[error("unknown schedule `{name}`; {remedy}")]
    UnknownSchedule {
        /// The name as given, cut to what fits on a line.
        name: String,
        /// The name that was probably meant, and the names that exist.
        remedy: String,
    },
    /// A number of virtual stages that the schedule does not take.
    #[error("{schedule} does not run v={given} virtual stages on each rank; {remedy}")]
    VirtualStages {
        /// The name of the schedule that was asked.
        schedule: &'static str,
        /// How many virtual stages were asked for.
        given: u32,
        /// What to do, as a phrase.
        remedy: String,
    },
    /// A number of ranks that the schedule does not take.
    #[error("{schedule} does not run on p={given} ranks{why}; {remedy}")]
    Ranks {
        /// The name of the schedule that was asked.
        schedule: &'static str,
        /// p.
        given: u32,
        /// The reason, with a comma before it.
        why: &'static str,
        /// What to do, as a phrase.
        remedy: String,
    },
    /// A number of micro-batches that the schedule does not take.
    #[error("{schedule} with p={n_ranks} does not run m={given} micro-batches{why}; {remedy}")]
    MicroBatches {
        /// The name of the schedule that was asked.
        schedule: &'static str,
        /// p.
        n_ranks: u32,
        /// m.
        given: u32,
        /// The reason, with a colon before it, or nothing.
        why: String,
        /// What to do, as a phrase.
        remedy: String,
    },
    /// A memory limit under which no step can be run.
    #[error(
        "{schedule}: rank {rank} may hold {limit}, but {what} takes {needed}; raise the memory limit to {needed}"
    )]
    MemoryLimit {
        /// The name of the schedule that was asked.
        schedule: &'static str,
        /// The rank whose limit is too low.
        rank: Rank,
        /// Its limit.
        limit: f64,
        /// What does not fit.
        what: &'static str,
        /// What it needs.
        needed: f64,
    },
    /// An interleave group was given to a schedule that does not interleave.
    #[error(
        "{schedule} has no interleave group, but {given} was given; leave it out, or use interleaved-1f1b"
    )]
    GroupUnused {
        /// The name of the schedule that was asked.
        schedule: &'static str,
        /// The group size that was given.
        given: u32,
    },
    /// An explicit interleave group that Megatron's table refuses.
    #[error(
        "an interleave group of N={group} does not fit p={n_ranks} ranks and m={n_micro_batches} micro-batches: Megatron's \
         table needs p <= N <= m, and m mod N to be 0 or at least p; {remedy}"
    )]
    InterleaveGroup {
        /// The group size that was given.
        group: u32,
        /// p.
        n_ranks: u32,
        /// m.
        n_micro_batches: u32,
        /// What to do, as a phrase.
        remedy: String,
    },
    /// A number of micro-batches that neither rule for interleaving takes.
    #[error(
        "interleaved-1f1b with p={n_ranks} refuses m={n_micro_batches}: Megatron's table needs a multiple of p={n_ranks}, \
         PyTorch's rounds need a multiple of m/p rounded down, here {rounds}; {remedy}"
    )]
    InterleavedSize {
        /// p.
        n_ranks: u32,
        /// m.
        n_micro_batches: u32,
        /// The rounds that `PyTorch`'s rule would make.
        rounds: u32,
        /// Nearby sizes that work, as a phrase.
        remedy: String,
    },
    /// A text that is not an op.
    #[error(transparent)]
    Op(#[from] ParseOpError),
    /// A file that is not a plan at all.
    #[error("not a plan in CSV: {0}")]
    Csv(CsvFault),
    /// A cell of a CSV file that cannot be taken. Rows and columns count from 0.
    #[error("row {row}, column {column}: cell `{cell}` {fault}")]
    Cell {
        /// The row, which is the rank.
        row: usize,
        /// The column, counting empty cells.
        column: usize,
        /// The cell, cut to what fits on a line.
        cell: String,
        /// What is wrong with it.
        fault: CellFault,
    },
    /// Costs that do not fit the plan or are no durations.
    #[error("costs: {0}")]
    Costs(String),
    /// A plan that breaks a rule.
    #[error(transparent)]
    Invalid(Box<Violation>),
}

/// What is wrong with a file as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsvFault {
    /// Larger than any plan that could be run.
    #[error("it has {bytes} bytes or more; use a file of at most {limit} bytes")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The most that is read.
        limit: usize,
    },
    /// More cells than any plan that is read.
    #[error("it has {cells} cells, but at most {limit} are read; use fewer micro-batches")]
    TooManyCells {
        /// How many.
        cells: usize,
        /// What is accepted.
        limit: usize,
    },
    /// Nothing to run.
    #[error("it contains no op; write one line per rank, with cells such as 0F0,0F1,0B0")]
    Empty,
    /// A line without an op.
    #[error("row {row} contains no op; give every row at least one stage")]
    EmptyRow {
        /// The row, from 0.
        row: usize,
    },
}

/// What is wrong with one cell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CellFault {
    /// It is not an op.
    #[error(
        "is not an op; write stage, one of F B I W and micro-batch, such as 2F0, a pair such as (0F7;7B3)OVERLAP_F_B, or leave the cell empty"
    )]
    NotAnOp,
    /// A byte that no text has.
    #[error(
        "holds the byte 0x{byte:02x}, which is not text; use a text file of cells such as 0F0,0F1,0B0"
    )]
    Binary {
        /// The byte.
        byte: u8,
    },
    /// A stage below the one that it names has no op.
    #[error(
        "names stage {highest}, but stage {absent} has no op on any row; number the stages from 0 to {highest} without a gap"
    )]
    StageAbsent {
        /// The stage that is missing.
        absent: u32,
        /// The highest stage that is there.
        highest: u32,
    },
    /// Its number cannot belong to a complete plan of this many ops.
    #[error(
        "names {what} {number}, but the file has only {n_ops} ops, and each {what} needs one; use a number below {n_ops}"
    )]
    Beyond {
        /// `stage` or `micro-batch`.
        what: &'static str,
        /// The number in the cell.
        number: u32,
        /// The ops of the file.
        n_ops: usize,
    },
}

/// The rules of a valid plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// As many rows as ranks.
    Rows,
    /// Stages and micro-batches that exist.
    Range,
    /// A stage runs on one row alone: that of its rank.
    StageOnTwoRows,
    /// No op twice.
    Duplicate,
    /// Either one full backward or its two halves, not both.
    Mixed,
    /// Every op that the plan needs is there.
    Missing,
    /// An op stands behind those that it needs on its own row.
    Order,
    /// Ranks never wait for each other in a circle.
    Deadlock,
}

impl Rule {
    /// The short name that scripts see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Range => "range",
            Self::StageOnTwoRows => "stage-on-two-rows",
            Self::Duplicate => "duplicate",
            Self::Mixed => "mixed",
            Self::Missing => "missing",
            Self::Order => "order",
            Self::Deadlock => "deadlock",
        }
    }
}

/// A rule, and the cell that breaks it.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// The rule that is broken.
    pub rule: Rule,
    /// The rank whose row breaks it.
    pub rank: Rank,
    /// The position in that row, from 0; one past the end for an op that is missing.
    pub cell: usize,
    /// The op at that cell, or the op that should have been there.
    pub op: Option<Op>,
    /// What is wrong and what would be right, on one line.
    pub message: String,
    /// The plan around the cell, with the cell in brackets.
    pub grid: String,
    /// Whether the plan came from a file: then `cell` is a column, which counts bubbles.
    pub is_file: bool,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (row, place) = if self.is_file { ("row", "column") } else { ("rank", "cell") };
        write!(f, "{row} {}, {place} {}: {}", self.rank, self.cell, self.message)?;
        if self.grid.is_empty() { Ok(()) } else { write!(f, "\n\n{}", self.grid) }
    }
}

impl std::error::Error for Violation {}

impl ScheduleError {
    /// The short name of what was broken: that of the [`Rule`] for a plan, else the kind of input.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Invalid(violation) => violation.rule.name(),
            Self::Cell { fault: CellFault::Beyond { .. }, .. } => Rule::Range.name(),
            Self::Cell { fault: CellFault::StageAbsent { .. }, .. } => Rule::Missing.name(),
            Self::Cell { fault: CellFault::Binary { .. }, .. } | Self::Csv(_) => "format",
            Self::Cell { .. } | Self::Op(_) => "cell",
            Self::UnknownSchedule { .. } => "schedule",
            Self::Costs(_) | Self::MemoryLimit { .. } => "costs",
            Self::Zero { .. }
            | Self::TooLarge { .. }
            | Self::IdleRank { .. }
            | Self::Pipes { .. }
            | Self::UnevenPipes { .. }
            | Self::Ranks { .. }
            | Self::MicroBatches { .. }
            | Self::VirtualStages { .. }
            | Self::GroupUnused { .. }
            | Self::InterleaveGroup { .. }
            | Self::InterleavedSize { .. } => "size",
        }
    }

    /// The row and the cell in it where the fault is, both from 0, where there is one place.
    pub fn place(&self) -> Option<(Rank, usize)> {
        match self {
            Self::Invalid(violation) => Some((violation.rank, violation.cell)),
            Self::Cell { row, column, .. } => Some((Rank(u32::try_from(*row).ok()?), *column)),
            Self::Csv(CsvFault::EmptyRow { row }) => Some((Rank(u32::try_from(*row).ok()?), 0)),
            _ => None,
        }
    }

    /// The op or the text at that place.
    pub fn culprit(&self) -> Option<String> {
        match self {
            Self::Invalid(violation) => violation.op.map(|op| op.to_string()),
            Self::Cell { cell, .. } => Some(cell.clone()),
            Self::Op(refused) => Some(refused.text.clone()),
            _ => None,
        }
    }

    /// The text without the grid: one line.
    pub fn headline(&self) -> String {
        self.to_string().lines().next().unwrap_or_default().to_owned()
    }
}

/// The nearest multiples of `unit` below and above a number that is not a multiple, as text.
fn near_multiples(number: u32, unit: u32) -> String {
    let below = number / unit * unit;
    let above = below.saturating_add(unit);
    if below == 0 { above.to_string() } else { format!("{below} or {above}") }
}
