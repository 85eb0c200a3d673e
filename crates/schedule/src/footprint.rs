//! How many bytes each rank will hold, from what one micro-batch takes on each stage.
//!
//! What a rank holds follows from the order of its row alone, so no times are needed: a forward
//! leaves what its backward wants, the first half of the backward leaves what the weight gradient
//! wants, a message belongs to its receiver once it is sent. While an op runs it needs more than it
//! leaves. Weight gradients are summed in ascending order of micro-batches, as in `crate::memory`.

use std::collections::BTreeMap;

use crate::ids::{MicroBatch, Pipe, Stage};
use crate::lower::{Instruction, Payload, lower};
use crate::memory::Turns;
use crate::op::{Op, Phase};
use crate::plan::ValidPlan;

/// What one micro-batch takes on one stage, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageBytes {
    /// The most that F needs while it runs.
    pub forward_peak: u64,
    /// What F leaves for I.
    pub kept: u64,
    /// What goes to the next stage; 0 for the last.
    pub output: u64,
    /// Whether the forward runs once more at the beginning of I. Then the input is needed until I,
    /// and the output is not a part of what is kept; else the input is needed until F ends, and a
    /// copy of it may be among what is kept.
    pub recompute: bool,
    /// The most that I needs while it runs, beyond what F left and the gradient that arrived.
    pub input_grad_peak: u64,
    /// What I leaves for W.
    pub residue: u64,
    /// What goes back to the stage before; 0 for the first.
    pub input_gradient: u64,
    /// The most that W needs while it runs.
    pub weight_grad_peak: u64,
    /// What the mean of the gradients over copies of the model takes, from the last W of the stage
    /// on; 0 without copies.
    pub mean: u64,
}

/// The bytes of one rank, beyond its parameters, their gradients and its optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// The most after an op: activations, residues, and what it sends.
    pub stash: u64,
    /// The most at any time: while an op runs it needs more. Means of gradients count from the op on
    /// that follows the last W of their stage.
    pub peak: u64,
}

/// The footprint of each rank. `stages` has an entry for every stage of the plan.
///
/// # Panics
/// If `stages` has another length.
pub fn footprints(plan: &ValidPlan, stages: &[StageBytes]) -> Vec<Footprint> {
    assert_eq!(stages.len(), plan.n_stages() as usize, "an entry for each stage");
    let mut turns = Turns::new(plan);
    let of_row = |row: &Vec<Instruction>| {
        let mut rank = Rank::new(plan, stages);
        for instruction in row {
            match instruction {
                Instruction::Recv(transfer) => match transfer.payload {
                    Payload::Activation => rank.hold(rank.message_to(transfer.to_stage)),
                    Payload::Gradient => rank.hold(rank.gradient_of(transfer.to_stage)),
                },
                Instruction::Send(transfer) => match transfer.payload {
                    Payload::Activation => rank.drop(rank.message_to(transfer.to_stage)),
                    Payload::Gradient => rank.drop(rank.gradient_of(transfer.to_stage)),
                },
                Instruction::Compute(action) => {
                    for op in action.ops() {
                        rank.run(op, &mut turns);
                    }
                    rank.between();
                }
            }
        }
        rank.found
    };
    lower(plan).rows.iter().map(of_row).collect()
}

/// A rank on its way through its row.
struct Rank<'a> {
    plan: &'a ValidPlan,
    stages: &'a [StageBytes],
    /// Micro-batches whose weight gradients are summed, of each stage of each pipe.
    summed: BTreeMap<(Pipe, Stage), u32>,
    /// The bytes of means.
    means: u64,
    /// Signed: what was measured of a layer that keeps something of its own need not add up.
    held: i64,
    found: Footprint,
}

impl<'a> Rank<'a> {
    fn new(plan: &'a ValidPlan, stages: &'a [StageBytes]) -> Self {
        let found = Footprint::default();
        Self { plan, stages, summed: BTreeMap::new(), means: 0, held: 0, found }
    }

    /// The bytes of the input of `stage` that are not a part of what the stage before keeps.
    fn message_to(&self, stage: Stage) -> u64 {
        let before = stage.idx().checked_sub(1).map(|before| &self.stages[before]);
        before.filter(|before| before.recompute).map_or(0, |before| before.output)
    }

    /// The bytes of the gradient of the output of `stage`.
    fn gradient_of(&self, stage: Stage) -> u64 {
        self.stages.get(stage.idx() + 1).map_or(0, |after| after.input_gradient)
    }

    fn held(&self) -> u64 {
        self.held.max(0) as u64
    }

    fn hold(&mut self, bytes: u64) {
        self.held += bytes as i64;
        self.needs(0);
    }

    /// A cell of the row has ended.
    fn between(&mut self) {
        self.found.stash = self.found.stash.max(self.held());
    }

    fn drop(&mut self, bytes: u64) {
        self.held -= bytes as i64;
    }

    fn needs(&mut self, bytes: u64) {
        self.found.peak = self.found.peak.max(self.held() + self.means + bytes);
    }

    fn run(&mut self, op: Op, turns: &mut Turns<'_>) {
        let Op { stage, phase, micro_batch } = op;
        match phase {
            Phase::Forward => self.forward(stage),
            Phase::Backward => {
                self.input_gradient(stage);
                self.weight_gradient(stage, micro_batch, turns);
            }
            Phase::InputGrad => self.input_gradient(stage),
            Phase::WeightGrad => self.weight_gradient(stage, micro_batch, turns),
        }
    }

    fn forward(&mut self, stage: Stage) {
        let bytes = self.stages[stage.idx()];
        self.needs(bytes.forward_peak);
        if !bytes.recompute {
            self.drop(self.message_to(stage));
        }
        self.hold(bytes.kept + if bytes.recompute { bytes.output } else { 0 });
    }

    fn input_gradient(&mut self, stage: Stage) {
        let bytes = self.stages[stage.idx()];
        self.needs(bytes.input_grad_peak);
        self.drop(bytes.kept + self.gradient_of(stage));
        if bytes.recompute {
            self.drop(self.message_to(stage));
        }
        self.hold(bytes.residue + bytes.input_gradient);
    }

    fn weight_gradient(&mut self, stage: Stage, micro_batch: MicroBatch, turns: &mut Turns<'_>) {
        let bytes = self.stages[stage.idx()];
        self.needs(bytes.weight_grad_peak);
        let n_summed = turns.sum(stage, micro_batch);
        self.drop(bytes.residue * u64::from(n_summed));
        let summed = self.summed.entry((self.plan.pipe_of(micro_batch), stage)).or_default();
        *summed += n_summed;
        if *summed == self.plan.n_micro_batches() / self.plan.n_pipes() {
            self.means += bytes.mean;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ScheduleName, Sizes};

    fn plan(name: ScheduleName, n_ranks: u32, m: u32) -> ValidPlan {
        let n_virtual_stages = name.default_virtual_stages();
        let sizes = Sizes { n_ranks, n_micro_batches: m, n_virtual_stages, interleave_group: None };
        name.generate(&sizes).unwrap()
    }

    fn stage(first: bool, last: bool) -> StageBytes {
        StageBytes {
            forward_peak: 150,
            kept: 100,
            output: if last { 0 } else { 10 },
            recompute: false,
            input_grad_peak: 70,
            residue: 60,
            input_gradient: if first { 0 } else { 10 },
            weight_grad_peak: 5,
            mean: 0,
        }
    }

    #[test]
    fn one_rank_holds_one_micro_batch_in_1f1b_and_all_in_gpipe() {
        let stages = [stage(true, true)];
        let of = |name| footprints(&plan(name, 1, 4), &stages)[0];
        // I runs beside what F left.
        assert_eq!(of(ScheduleName::OneFOneB), Footprint { stash: 100, peak: 170 });
        assert_eq!(of(ScheduleName::Gpipe), Footprint { stash: 400, peak: 470 });
    }

    #[test]
    fn a_rank_holds_at_least_the_pairs_that_the_schedule_counts() {
        for name in [ScheduleName::OneFOneB, ScheduleName::ZbH1, ScheduleName::InterleavedOneFOneB]
        {
            let plan = plan(name, 2, 6);
            let n = plan.n_stages() as usize;
            let stages: Vec<_> = (0..n).map(|i| stage(i == 0, i + 1 == n)).collect();
            let found = footprints(&plan, &stages);
            for (footprint, peak) in found.iter().zip(plan.peak_activations()) {
                // A pair is its activations, or what of them waits for W.
                let (least, most) = (60 * u64::from(peak), 100 * u64::from(peak) + 40);
                let stash = footprint.stash;
                assert!((least..=most).contains(&stash), "{name}: {footprint:?}, {peak} pairs");
                assert!(footprint.peak >= stash + 50, "{name}: {footprint:?}");
            }
        }
    }

    #[test]
    fn a_message_counts_where_it_is() {
        // The first stage runs again, so that its output belongs to the message, and then to the
        // second rank until its F has ended.
        let mut stages = [stage(true, false), stage(false, true)];
        stages[0] = StageBytes { kept: 0, recompute: true, ..stages[0] };
        let found = footprints(&plan(ScheduleName::OneFOneB, 2, 1), &stages);
        // F 150; then its output 10, or the gradient 10 that arrives, with I 70 while it runs.
        assert_eq!(found[0], Footprint { stash: 10, peak: 150 });
        // The message 10 with F 150; then 100 with I 70.
        assert_eq!(found[1], Footprint { stash: 100, peak: 170 });
    }

    #[test]
    fn a_mean_lies_beside_the_ops_that_follow_the_last_of_its_stage() {
        // Two stages on one rank: F0 F1 B1 B0. The mean of stage 1 is there while B0 runs.
        let topology =
            crate::Topology::from_pipes(&[vec![crate::Rank(0), crate::Rank(0)]]).unwrap();
        let plan = crate::import_csv("v", b"0F0,1F0,1B0,0B0", None).unwrap();
        assert_eq!(plan.topology(), &topology);
        let of = |mean| {
            let stages = [stage(true, false), StageBytes { mean, ..stage(false, true) }];
            footprints(&plan, &stages)[0]
        };
        let free = of(0);
        // While B1 runs, the rank holds most, and there is no mean yet.
        assert_eq!(of(90), free);
        // B0 has 100 of F, 70 of I, 10 of the gradient that it gets, and the mean.
        assert_eq!(of(1000), Footprint { peak: 1180, ..free });
    }
}
