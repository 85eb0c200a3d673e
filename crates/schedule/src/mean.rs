//! The mean of the gradients behind a simulated plan: what of it overlaps with the last ops, and how
//! long the whole step takes with it.

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::costs::Costs;
use crate::error::ScheduleError;
use crate::ids::{Pipe, Stage};
use crate::op::Phase;
use crate::plan::ValidPlan;
use crate::simulate::Simulation;

/// What the mean over the copies of a model costs, in the unit of the plan's [`Costs`].
///
/// The last W of a stage finishes the sums of its gradients layer by layer, and so bucket by bucket,
/// in equal parts of its time. A bucket leaves when it is full (Li et al. 2020, arXiv:2006.15704,
/// section 3.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeanCosts {
    /// The buckets of each stage; 0 for a stage without parameters.
    pub buckets: Vec<u32>,
    /// The time from the moment at which a bucket is sent until all other copies have it.
    pub latency: f64,
    /// The time in which a rank takes the mean of all buckets of each stage, when they are there.
    pub adding: Vec<f64>,
}

/// A plan with the mean of the gradients behind it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeanSimulation {
    /// From the first start to the end of the last mean on any rank.
    pub step: f64,
    /// Idle time of all ranks ÷ (ranks × step). A mean is no compute.
    pub idle_of_step: f64,
    /// From the last end of compute on each rank to the end of its last mean.
    pub behind: Vec<f64>,
    /// From the first bucket that each rank sends to the end of its last mean.
    pub whole: Vec<f64>,
}

/// Adds the mean of the gradients to a simulation of `plan` with `costs`. All replicas are alike; a
/// plan with several pipes takes the mean over these as well.
///
/// # Errors
/// [`ScheduleError::Costs`] if a list has not one entry for each stage, or a time is negative or not
/// finite.
pub fn simulate_mean(
    plan: &ValidPlan,
    costs: &Costs,
    simulation: &Simulation,
    mean: &MeanCosts,
) -> Result<MeanSimulation, ScheduleError> {
    mean.check(plan.n_stages() as usize)?;
    let (last_ends, sent) = sends(plan, costs, simulation, mean);
    let n_ranks = plan.n_ranks() as usize;
    // What each rank waits for, and how long it then adds.
    let mut arrivals: Vec<Vec<(f64, f64)>> = vec![Vec::new(); n_ranks];
    let mut first_sent = vec![f64::INFINITY; n_ranks];
    for (stage, sent) in plan.topology().stages().zip(&sent) {
        let adding = mean.adding[stage.idx()] / f64::from(mean.buckets[stage.idx()].max(1));
        let mut holders: Vec<_> =
            plan.topology().pipes().map(|pipe| plan.topology().rank_of(pipe, stage)).collect();
        holders.sort_unstable();
        holders.dedup();
        for rank in holders {
            arrivals[rank.idx()].extend(sent.iter().map(|sent| (sent + mean.latency, adding)));
            let first = sent.first().copied().unwrap_or(f64::INFINITY);
            first_sent[rank.idx()] = first_sent[rank.idx()].min(first);
        }
    }
    let mut behind = Vec::with_capacity(n_ranks);
    let mut whole = Vec::with_capacity(n_ranks);
    let mut step = simulation.makespan;
    for ((arrivals, last_end), first_sent) in arrivals.iter_mut().zip(&last_ends).zip(&first_sent) {
        arrivals.sort_by(|a, b| a.0.total_cmp(&b.0));
        let end = arrivals.iter().fold(*last_end, |free, (at, adding)| free.max(*at) + adding);
        behind.push(end - last_end);
        whole.push((end - first_sent).max(0.0));
        step = step.max(end);
    }
    let busy: f64 = simulation.busy.iter().sum();
    let idle_of_step = 1.0 - busy / (f64::from(plan.n_ranks()) * step);
    Ok(MeanSimulation { step, idle_of_step, behind, whole })
}

/// When each rank's last op ends, and when the slowest copy of each stage sends each of its buckets.
fn sends(
    plan: &ValidPlan,
    costs: &Costs,
    simulation: &Simulation,
    mean: &MeanCosts,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n_pipes = plan.n_pipes() as usize;
    let mut finished = vec![None; plan.n_stages() as usize * n_pipes];
    let place = |pipe: Pipe, stage: Stage| stage.idx() * n_pipes + pipe.idx();
    let mut last_ends = Vec::with_capacity(simulation.starts.len());
    for row in simulation.timeline(plan, costs) {
        let mut last_end = 0.0_f64;
        for timed in row {
            last_end = last_end.max(timed.end);
            let factor = if matches!(timed.action, Action::One(_)) { 1.0 } else { costs.overlap };
            for op in timed.action.ops() {
                if matches!(op.phase, Phase::Backward | Phase::WeightGrad) {
                    let weight_grad = factor * costs.weight_grad[op.stage.idx()];
                    let of_pipe = place(plan.pipe_of(op.micro_batch), op.stage);
                    finished[of_pipe] = Some((timed.end, weight_grad));
                }
            }
        }
        last_ends.push(last_end);
    }
    let of_stage = |stage: Stage| {
        let n = mean.buckets[stage.idx()];
        let sent = |bucket: u32| {
            let copies = &finished[place(Pipe(0), stage)..][..n_pipes];
            let left = 1.0 - f64::from(bucket + 1) / f64::from(n);
            let sent = copies.iter().flatten().map(|(end, weight_grad)| end - weight_grad * left);
            sent.fold(0.0, f64::max)
        };
        (0..n).map(sent).collect()
    };
    (last_ends, plan.topology().stages().map(of_stage).collect())
}

impl MeanCosts {
    fn check(&self, n_stages: usize) -> Result<(), ScheduleError> {
        let lists = [("buckets", self.buckets.len()), ("adding", self.adding.len())];
        for (name, n) in lists {
            if n != n_stages {
                let why = format!("{name} has {n} entries, the plan has {n_stages} stages");
                return Err(ScheduleError::Costs(why));
            }
        }
        let times = self.adding.iter().chain([&self.latency]);
        match times.into_iter().find(|time| !time.is_finite() || **time < 0.0) {
            Some(time) => Err(ScheduleError::Costs(format!(
                "a mean that takes {time}; use a finite number of at least 0"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule_name::ScheduleName;
    use crate::simulate::simulate;
    use crate::sizes::Sizes;

    fn plan(name: ScheduleName, n_ranks: u32, n_micro_batches: u32) -> ValidPlan {
        let n_virtual_stages = 1;
        let sizes = Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group: None };
        name.generate(&sizes).unwrap()
    }

    fn mean(plan: &ValidPlan, buckets: u32, latency: f64, adding: f64) -> MeanSimulation {
        let costs = Costs::uniform(plan.n_stages(), 1.0, 1.0, 1.0, 0.0);
        let n = plan.n_stages() as usize;
        let mean = MeanCosts { buckets: vec![buckets; n], latency, adding: vec![adding; n] };
        simulate_mean(plan, &costs, &simulate(plan, &costs).unwrap(), &mean).unwrap()
    }

    fn close(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-9, "{found} for {wanted}");
    }

    #[test]
    fn buckets_leave_one_after_another_while_the_last_weight_gradient_runs() {
        // F from 0 to 1, I to 2, W to 3: buckets leave at 2.25, 2.5, 2.75 and 3.
        let alone = plan(ScheduleName::Gpipe, 1, 1);
        let found = mean(&alone, 4, 0.5, 0.0);
        close(found.step, 3.5);
        close(found.behind[0], 0.5);
        close(found.whole[0], 1.25);
        close(found.idle_of_step, 1.0 - 3.0 / 3.5);
        // Two are there before the end, and wait for it; 0.1 each.
        close(mean(&alone, 4, 0.5, 0.4).step, 3.6);
        // Nothing overlaps with a single bucket.
        close(mean(&alone, 1, 0.5, 0.4).whole[0], 0.9);
    }

    #[test]
    fn without_buckets_a_step_is_its_plan() {
        let plan = plan(ScheduleName::OneFOneB, 4, 8);
        let found = mean(&plan, 0, 0.5, 0.0);
        close(
            found.step,
            simulate(&plan, &Costs::uniform(4, 1.0, 1.0, 1.0, 0.0)).unwrap().makespan,
        );
        assert_eq!(found.behind, [0.0; 4]);
        assert_eq!(found.whole, [0.0; 4]);
    }

    #[test]
    fn a_copy_waits_for_the_slowest_pipe() {
        let plan = plan(ScheduleName::Chimera, 4, 4);
        let free = mean(&plan, 2, 0.0, 0.0);
        let slow = mean(&plan, 2, 3.0, 0.0);
        close(slow.step, free.step + 3.0);
        assert!(slow.behind.iter().all(|behind| *behind >= 0.0));
    }

    #[test]
    fn costs_that_do_not_fit_are_refused() {
        let plan = plan(ScheduleName::Gpipe, 2, 2);
        let costs = Costs::uniform(2, 1.0, 1.0, 1.0, 0.0);
        let simulation = simulate(&plan, &costs).unwrap();
        for (buckets, latency, adding, told) in [
            (vec![1], 0.0, vec![0.0; 2], "buckets has 1 entries"),
            (vec![1; 2], 0.0, vec![0.0; 3], "adding has 3 entries"),
            (vec![1; 2], -1.0, vec![0.0; 2], "-1"),
            (vec![1; 2], 0.0, vec![0.0, f64::NAN], "NaN"),
        ] {
            let mean = MeanCosts { buckets, latency, adding };
            let refused = simulate_mean(&plan, &costs, &simulation, &mean).unwrap_err();
            assert!(refused.to_string().contains(told), "{refused}");
        }
    }
}
