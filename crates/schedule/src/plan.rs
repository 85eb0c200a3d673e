//! A plan that has passed every rule: for every rank what it runs, in order.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::action::Action;
use crate::draft::Draft;
use crate::error::ScheduleError;
use crate::ids::{MicroBatch, Pipe, Rank, Stage};
use crate::op::{Op, Phase};
use crate::topology::{Places, Topology};
use crate::validate;

impl Draft {
    /// Checks every rule: ids in range, a stage on one row, no op twice, none missing, order inside
    /// a row, and freedom from deadlock across rows.
    ///
    /// # Errors
    /// [`ScheduleError::Invalid`] with the rule, the cell and the grid; [`ScheduleError::Zero`]
    /// without a micro-batch; [`ScheduleError::UnevenPipes`] if micro-batches do not divide over
    /// the copies of the model.
    pub fn validate(self) -> Result<ValidPlan, ScheduleError> {
        validate::check(&self)?;
        let is_forward_only = self.ops().all(|op| op.phase == Phase::Forward);
        Ok(ValidPlan { draft: self, is_forward_only })
    }
}

/// A plan that is complete, ordered and free of deadlock. Only [`Draft::validate`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidPlan {
    draft: Draft,
    is_forward_only: bool,
}

impl ValidPlan {
    /// The name of the schedule, or of the file that the plan came from.
    pub fn name(&self) -> &str {
        &self.draft.name
    }

    /// Which rank holds which stage.
    pub fn topology(&self) -> &Topology {
        &self.draft.topology
    }

    /// p, the number of ranks.
    pub fn n_ranks(&self) -> u32 {
        self.draft.topology.n_ranks()
    }

    /// n, the number of stages.
    pub fn n_stages(&self) -> u32 {
        self.draft.topology.n_stages()
    }

    /// How many copies of the model the plan trains: two for Chimera, else one.
    pub fn n_pipes(&self) -> u32 {
        self.draft.topology.n_pipes()
    }

    /// v, the stages of a rank; where ranks hold different numbers, the most that one holds.
    pub fn n_virtual_stages(&self) -> u32 {
        self.draft.topology.n_virtual_stages()
    }

    /// m, the micro-batches of one step.
    pub fn n_micro_batches(&self) -> u32 {
        self.draft.n_micro_batches
    }

    /// For every rank what it runs, in order.
    pub fn rows(&self) -> &[Vec<Action>] {
        &self.draft.rows
    }

    /// What one rank runs, in order.
    ///
    /// # Panics
    /// When there is no such rank.
    pub fn row(&self, rank: Rank) -> &[Action] {
        &self.draft.rows[rank.idx()]
    }

    /// The ops of one rank, in order; of an overlapped pair F, then B.
    ///
    /// # Panics
    /// When there is no such rank.
    pub fn ops(&self, rank: Rank) -> impl Iterator<Item = Op> + Clone {
        self.row(rank).iter().flat_map(|action| action.ops())
    }

    /// How many ops all rows hold; an overlapped pair counts two.
    pub fn n_ops(&self) -> usize {
        self.draft.ops().count()
    }

    /// Whether no row holds a backward: a plan for inference.
    pub fn is_forward_only(&self) -> bool {
        self.is_forward_only
    }

    /// The copy of the model in which a micro-batch runs.
    #[inline]
    pub fn pipe_of(&self, micro_batch: MicroBatch) -> Pipe {
        self.draft.places().pipe_of(micro_batch)
    }

    /// The rank that runs a stage for a micro-batch.
    ///
    /// # Panics
    /// When there is no such stage or micro-batch.
    #[inline]
    pub fn rank_of(&self, stage: Stage, micro_batch: MicroBatch) -> Rank {
        self.draft.places().rank_of(stage, micro_batch)
    }

    pub(crate) fn places(&self) -> Places<'_> {
        self.draft.places()
    }

    /// For every rank the most (stage, micro-batch) pairs that are alive at once, from the start of
    /// F to the end of B, or of W.
    ///
    /// In a forward-only plan nothing waits for a backward: a pair lives during its F alone.
    pub fn peak_activations(&self) -> Vec<u32> {
        let row_peak = |row: &Vec<Action>| {
            let (mut n_live, mut peak) = (0_u32, 0);
            for action in row {
                // The two halves of a pair run at the same time: what F takes is there before B
                // lets go.
                for op in action.ops() {
                    match op.phase {
                        Phase::Forward if self.is_forward_only => peak = 1,
                        Phase::Forward => {
                            n_live += 1;
                            peak = peak.max(n_live);
                        }
                        Phase::Backward | Phase::WeightGrad => n_live -= 1,
                        Phase::InputGrad => {}
                    }
                }
            }
            peak
        };
        self.rows().iter().map(row_peak).collect()
    }

    /// One line of text for every rank, its cells joined by commas: `0F0,0F1,0B0,0B1`.
    pub fn to_text_rows(&self) -> Vec<String> {
        self.rows().iter().map(|row| text_row(row)).collect()
    }

    /// The plan as a draft again, to change it and validate anew.
    pub fn into_draft(self) -> Draft {
        self.draft
    }

    /// The op that has to end, on whichever rank, before the input of `op` is there: F of the stage
    /// before, or the gradient of the stage after. `None` where the input is data, a loss, or was
    /// made by this very stage.
    pub fn input_stage(&self, op: Op) -> Option<Stage> {
        self.topology().input_stage(op)
    }

    /// The stage whose op takes what `op` makes: the stage after F, or the one before B and I.
    /// `None` where that is a loss, the gradient of the data, or the gradient of this very stage's
    /// weights.
    pub fn output_stage(&self, op: Op) -> Option<Stage> {
        self.topology().output_stage(op)
    }
}

impl fmt::Display for ValidPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, row) in self.rows().iter().enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&text_row(row))?;
        }
        Ok(())
    }
}

/// A plan as JSON: the version of this form, the name, the sizes, the rank of each stage, and the
/// cells as text.
#[derive(Serialize)]
struct Json<'a> {
    schema: u32,
    schedule: &'a str,
    pp: u32,
    micro_batches: u32,
    virtual_stages: u32,
    placement: &'a [Rank],
    /// Where there is a second copy of the model: the rank of each of its stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    second_placement: Option<&'a [Rank]>,
    rows: &'a [Vec<Action>],
}

impl Serialize for ValidPlan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = Json {
            schema: 1,
            schedule: self.name(),
            pp: self.n_ranks(),
            micro_batches: self.n_micro_batches(),
            virtual_stages: self.n_virtual_stages(),
            placement: self.topology().ranks(Pipe(0)),
            second_placement: (self.n_pipes() > 1).then(|| self.topology().ranks(Pipe(1))),
            rows: self.rows(),
        };
        json.serialize(serializer)
    }
}

fn text_row(row: &[Action]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(row.len() * 5);
    for (place, action) in row.iter().enumerate() {
        let comma = if place > 0 { "," } else { "" };
        // Writing into a `String` cannot fail.
        let _ = match action {
            Action::One(op) => {
                write!(text, "{comma}{}{}{}", op.stage, op.phase.letter(), op.micro_batch)
            }
            Action::Overlapped(_) => write!(text, "{comma}{action}"),
        };
    }
    text
}
