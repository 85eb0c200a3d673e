//! Where the time of a step goes, and what would change it.
//!
//! The compute window T of a step is taken apart by simulations of the run's own plan, each of
//! which adds one cause to the one before:
//!
//! ```text
//! T0  every rank takes as long as the lower median rank, no messages   T0 = work + inherent bubble
//! T1  the ranks take what was measured, less the time without a core   T1 − T0 = imbalance
//! T2  copies and messages take what was measured                       T2 − T1 = copy
//! T3  the time without a core as well                                  T3 − T2 = starved
//! T   what was measured                                                T − T3 = other
//! ```
//!
//! So the parts always add up to T. Times are means over the last recorded steps of which no
//! operation was lost; *other* is what means do not show: single operations that took long, and the
//! time between operations. No cause explains more of the window than those before it leave, so no
//! part is negative. T0 to T2 are on the clock of a core, T3 and T on the wall's.

mod advice;
mod recut;
mod times;
mod what_if;

use pp_quantile::mean_median;
use pp_schedule::{Costs, PerEdge, ScheduleError, ValidPlan, import_csv, simulate};

pub use advice::{Advice, advice};
pub use times::mean_costs;
pub use what_if::{WhatIf, what_if};

use crate::model::{Model, RANKS_OF_ACCOUNT_MAX as RANKS_MAX, n_ranks_shown};
use pp_trace::{Hello, SpanKind};

use times::{Measured, Share};

/// Steps that are looked at.
const STEPS: usize = crate::model::SHARE_STEPS;
/// Operations of a plan at most: a longer one would take too long to simulate over and over.
const OPS_MAX: usize = 200_000;
/// The most stages that are analysed: the analysis keeps a value for each pair of them.
const STAGES_MAX: u32 = 4096;
/// Operations that are simulated at most to find what each rank adds: a plan once for every rank.
const OPS_OF_RANKS_MAX: usize = 20_000_000;

/// What one rank of one replica did in a step, in seconds: the mean over the steps. All of them
/// together are the step.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RankTime {
    /// The replica.
    pub replica: u32,
    /// The rank.
    pub rank: u32,
    /// Forward, on a core.
    pub forward: f64,
    /// Backward on a core, whole or its half for the inputs.
    pub backward: f64,
    /// Backward for the weights alone, on a core.
    pub weight_grad: f64,
    /// Ready for one of these three, but without a core.
    pub starved: f64,
    /// Copies to and from neighbours.
    pub copy: f64,
    /// Waiting for activations.
    pub wait_act: f64,
    /// Waiting for gradients.
    pub wait_grad: f64,
    /// The mean of the gradients over the replicas, as far as the rank did nothing else meanwhile.
    pub all_reduce: f64,
    /// The time in which a bucket of gradients was under way, also beside other work. It is no part
    /// of [`Self::sum`].
    pub all_reduce_whole: f64,
    /// The optimizer.
    pub optimizer: f64,
    /// Writing checkpoints.
    pub checkpoint: f64,
    /// Reading the batch.
    pub data: f64,
    /// The rest of the step: before its first and after its last operation, and between them.
    pub other: f64,
    /// The rank that it waited for most, and how long.
    pub waits_for: Option<(u32, f64)>,
    /// How much of that waiting lies in the compute window; no more than the rank's bubble.
    pub waits_for_in_window: f64,
}

impl RankTime {
    /// Forward and backward by the wall clock: the time without a core included.
    pub fn compute(&self) -> f64 {
        self.forward + self.backward + self.weight_grad + self.starved
    }

    /// All of it: the step.
    pub fn sum(&self) -> f64 {
        self.compute()
            + self.copy
            + self.wait_act
            + self.wait_grad
            + self.all_reduce
            + self.optimizer
            + self.checkpoint
            + self.data
            + self.other
    }
}

/// A part of the compute window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What each rank has to compute, if all were as fast as the lower median.
    Work,
    /// Fill and drain of this schedule.
    Inherent,
    /// Ranks that take longer than the lower median.
    Imbalance,
    /// Copies and messages under way.
    Copy,
    /// Ready to compute, but no core.
    Starved,
    /// Everything else.
    Other,
}

impl Part {
    /// All of them, in the order in which they are added.
    pub const ALL: [Self; 6] =
        [Self::Work, Self::Inherent, Self::Imbalance, Self::Copy, Self::Starved, Self::Other];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Inherent => "inherent",
            Self::Imbalance => "imbalance",
            Self::Copy => "copy",
            Self::Starved => "starved",
            Self::Other => "other",
        }
    }

    /// How it is computed.
    pub fn formula(self) -> &'static str {
        match self {
            Self::Work => "mean compute time of a rank, with the lower median rank's op times",
            Self::Inherent => "the plan simulated with these op times, minus work",
            Self::Imbalance => "what each rank's own op times add to that simulation",
            Self::Copy => "what copies and message delays add",
            Self::Starved => "what the time without a core adds",
            Self::Other => "the rest of the measured window: slow single ops, gaps",
        }
    }
}

/// One part of the window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartTime {
    /// Which.
    pub part: Part,
    /// Seconds of the window.
    pub seconds: f64,
    /// What it adds to the bubble ratio: the idle rank time that it causes, as a share of ranks ×
    /// window. Work adds nothing, and what a slow rank computes longer is no idleness.
    pub of_bubble: f64,
}

/// Where the time of the last recorded steps went.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// The first and the last step that were looked at.
    pub steps: (u64, u64),
    /// How many.
    pub n_steps: usize,
    /// The whole step, in seconds.
    pub step_seconds: f64,
    /// The compute window, in seconds: mean over the replicas.
    pub window_seconds: f64,
    /// The measured bubble ratio of these steps.
    pub bubble_ratio: f64,
    /// The bubble ratio that the plan has with the measured times of operations and messages, by
    /// the wall clock as the measured one: the time without a core counts as computing.
    pub simulated_bubble_ratio: f64,
    /// The window of that simulation, in seconds.
    pub simulated_seconds: f64,
    /// The same if no rank ever waited for a core.
    pub simulated_net_bubble_ratio: f64,
    /// The parts of the window, in the order of [`Part::ALL`]; their seconds add up to it.
    pub parts: [PartTime; 6],
    /// How much of the imbalance each rank of the pipeline causes, in seconds.
    pub imbalance_of_rank: Vec<f64>,
    /// What each rank did.
    pub ranks: Vec<RankTime>,
    /// The longest delay of a message between two ranks, in seconds, with the ranks.
    pub slowest_edge: Option<(u32, u32, f64)>,
    /// Whether backwards were measured whole only, so that their halves are guessed.
    pub halves_are_guessed: bool,
    pub(crate) measured: Measured,
    pub(crate) plan: ValidPlan,
    pub(crate) hello: Box<Hello>,
}

/// Why there is no account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAccount {
    /// No step with all its spans is over yet.
    NoSteps,
    /// The log does not say what the plan is.
    NoPlan,
    /// What it says is no plan of this run, or cannot be simulated: why.
    Unusable(String),
    /// The plan is too long to be simulated again and again: so many cells.
    TooLong(usize),
    /// It has more of something than can be looked at.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u64,
        /// How many may be.
        most: u64,
    },
    /// The recorder left the plan out of the log, and says why.
    Omitted(String),
}

impl std::fmt::Display for NoAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSteps => f.write_str("no step has been recorded in full yet"),
            Self::NoPlan => f.write_str("the log does not say what the plan is"),
            Self::Unusable(why) => write!(f, "the plan in the log cannot be used: {why}"),
            Self::TooLong(n) => {
                write!(f, "the plan has {n} operations; at most {OPS_MAX} are simulated here")
            }
            Self::TooMany { what, found, most } => {
                write!(f, "the run has {found} {what}; at most {most} are analysed here")
            }
            Self::Omitted(what) => write!(f, "the log leaves out {what}"),
        }
    }
}

/// A refusal in one line; the grid that may follow it has no room on a screen.
fn unusable(refused: &ScheduleError) -> NoAccount {
    NoAccount::Unusable(refused.to_string().lines().next().unwrap_or_default().to_owned())
}

/// The plan of a run, as its log names it.
///
/// # Errors
/// [`NoAccount`] says why there is none.
pub fn plan_of(hello: &Hello) -> Result<ValidPlan, NoAccount> {
    if hello.plan.is_empty() {
        return Err(hello.omitted.clone().map_or(NoAccount::NoPlan, NoAccount::Omitted));
    }
    let n_cells: usize = hello.plan.iter().map(|row| row.split(',').count()).sum();
    if n_cells > OPS_MAX {
        return Err(NoAccount::TooLong(n_cells));
    }
    let text = hello.plan.join("\n");
    let plan = import_csv(&hello.schedule, text.as_bytes(), Some(hello.micro_batches))
        .map_err(|refused| unusable(&refused))?;
    if plan.n_ranks() != hello.pp {
        let (rows, pp) = (plan.n_ranks(), hello.pp);
        return Err(NoAccount::Unusable(format!("it has {rows} rows for {pp} ranks")));
    }
    Ok(plan)
}

/// Takes the last recorded steps apart.
///
/// # Errors
/// [`NoAccount`] says why that is not possible.
pub fn account(model: &Model) -> Result<Account, NoAccount> {
    let hello = model.hello().ok_or(NoAccount::NoPlan)?;
    let plan = plan_of(hello)?;
    for (what, found, most) in [
        ("ranks", n_ranks_shown(hello).max(plan.n_ranks().into()), RANKS_MAX as u64),
        ("stages", plan.n_stages().into(), STAGES_MAX.into()),
    ] {
        if found > most {
            return Err(NoAccount::TooMany { what, found, most });
        }
    }
    let measured = Measured::of(model, &plan, STEPS).ok_or(NoAccount::NoSteps)?;
    let simulated = |costs: &Costs| simulate(&plan, costs).map_err(|refused| unusable(&refused));

    let reference = measured.reference(&plan);
    let even = measured.costs(&plan, Share::Net, Some(&reference), false);
    let t0 = simulated(&even)?;
    let net = measured.costs(&plan, Share::Net, None, false);
    let t1 = simulated(&net)?;
    let t2 = simulated(&measured.costs(&plan, Share::Net, None, true))?;
    let t3 = simulated(&measured.costs(&plan, Share::Gross, None, true))?;

    let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len().max(1) as f64;
    let work = mean(&t0.busy);
    let window = measured.window_seconds;
    let net_busy = mean(&t1.busy);
    let starved_busy = measured.busy_seconds - measured.net_busy_seconds;
    let seconds = parts_of(window, [work, t0.makespan, t1.makespan, t2.makespan, t3.makespan]);
    // Of what is added to the window the part that somebody computes is no idleness.
    let computed = [work, 0.0, net_busy - work, 0.0, starved_busy, 0.0];
    let idle = std::array::from_fn(|at| (seconds[at] - computed[at]) / window);
    let of_bubble = shares_of(measured.bubble_ratio, idle);
    let part = |at: usize| PartTime {
        part: Part::ALL[at],
        seconds: seconds[at],
        of_bubble: of_bubble[at],
    };
    let parts = [0, 1, 2, 3, 4, 5].map(part);

    let imbalance_of_rank =
        imbalance(&plan, &measured, &reference, &net, t1.makespan, seconds[2].max(0.0));
    Ok(Account {
        steps: measured.steps,
        n_steps: measured.n_steps,
        step_seconds: measured.step_seconds,
        window_seconds: window,
        bubble_ratio: measured.bubble_ratio,
        simulated_bubble_ratio: 1.0 - measured.busy_seconds / t3.makespan,
        simulated_seconds: t3.makespan,
        simulated_net_bubble_ratio: 1.0 - net_busy / t2.makespan,
        parts,
        imbalance_of_rank,
        ranks: measured.ranks.clone(),
        slowest_edge: measured.slowest_edge(),
        halves_are_guessed: measured.halves_are_guessed,
        hello: Box::new(hello.clone()),
        measured,
        plan,
    })
}

/// The parts of a window from simulations that each know of one cause more. A mean may claim more
/// than there is: ops that had no core were mostly those that nobody waited for. So no cause
/// explains more of the window than those before it leave, and none less than nothing.
fn parts_of(window: f64, simulated: [f64; 5]) -> [f64; 6] {
    let mut so_far = 0.0;
    let mut seconds = [0.0; 6];
    for (part, until) in seconds.iter_mut().zip(simulated.into_iter().chain([window])) {
        let until = until.min(window).max(so_far);
        (*part, so_far) = (until - so_far, until);
    }
    seconds
}

/// The parts of the bubble: what each cause adds to the window beyond what is computed in it, none
/// less than nothing. What they leave of the measured bubble is *other*; what they claim beyond it
/// is taken off all alike.
fn shares_of(bubble: f64, idle: [f64; 6]) -> [f64; 6] {
    let mut shares = idle.map(|share| share.max(0.0));
    // Work is no bubble.
    shares[0] = 0.0;
    let claimed: f64 = shares[..5].iter().sum();
    if claimed > bubble && claimed > 0.0 {
        let part = bubble.max(0.0) / claimed;
        shares = shares.map(|share| share * part);
        shares[5] = 0.0;
    } else {
        shares[5] = bubble - claimed;
    }
    shares
}

/// What each rank adds: how much less time the plan would take, were this rank alone as fast as the
/// lower median. Shared out so that all of it is the imbalance.
fn imbalance(
    plan: &ValidPlan,
    measured: &Measured,
    reference: &[[f64; 3]],
    net: &Costs,
    makespan: f64,
    whole: f64,
) -> Vec<f64> {
    if plan.n_ops().saturating_mul(plan.n_ranks() as usize) > OPS_OF_RANKS_MAX {
        return shared_out(whole, &measured.excess_of_ranks());
    }
    if plan.n_pipes() > 1 {
        // A stage lives on two ranks there, and its times are the mean of both: what each rank
        // computes says more.
        return shared_out(whole, &measured.excess_of_ranks());
    }
    let n_ranks = plan.n_ranks() as usize;
    let mut gains = vec![0.0; n_ranks];
    let mut excess = vec![0.0; n_ranks];
    for (rank, (gain, excess)) in gains.iter_mut().zip(&mut excess).enumerate() {
        let mut costs = net.clone();
        for &(_, stage) in plan.topology().stages_of(pp_schedule::Rank(rank as u32)) {
            let at = stage.idx();
            let [forward, input_grad, weight_grad] = reference[at];
            *excess += measured.excess(at, reference).max(0.0);
            (costs.forward[at], costs.input_grad[at], costs.weight_grad[at]) =
                (forward, input_grad, weight_grad);
        }
        if *excess > 0.0 {
            *gain = simulate(plan, &costs)
                .map_or(0.0, |without| (makespan - without.makespan).max(0.0));
        }
    }
    // Two ranks that are equally slow hide each other: then what they compute longer decides.
    let is_hidden = gains.iter().sum::<f64>() <= 1e-3 * whole;
    shared_out(whole, if is_hidden { &excess } else { &gains })
}

/// A whole in these proportions; in equal parts where there are none.
fn shared_out(whole: f64, weights: &[f64]) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    let share = |weight: &f64| {
        if sum > 0.0 { whole * weight / sum } else { whole / weights.len() as f64 }
    };
    weights.iter().map(share).collect()
}

impl Account {
    /// One part of the window.
    pub fn part(&self, part: Part) -> PartTime {
        self.parts[Part::ALL.iter().position(|other| *other == part).unwrap_or(0)]
    }

    /// The rank that causes most of the imbalance, and how much of it.
    pub fn slowest_rank(&self) -> Option<(u32, f64)> {
        let (rank, seconds) = self
            .imbalance_of_rank
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(b.1))
            .filter(|(_, seconds)| **seconds > 0.0)?;
        Some((rank as u32, *seconds))
    }

    /// What a rank computes without the time in which it had no core, over the median of the other
    /// ranks: 1 for all alike.
    pub fn ratio_of_rank(&self, rank: u32) -> f64 {
        let mut others = self.measured.net_of_ranks();
        if rank as usize >= others.len() {
            return 1.0;
        }
        let own = others.remove(rank as usize);
        match mean_median(&mut others) {
            Some(usual) if usual > 0.0 => own / usual,
            _ => 1.0,
        }
    }

    /// How much the windows of the steps differ, as a part of their median: what changes a step by
    /// less than that can't be told from chance. It is the distance between the quartiles, scaled
    /// to a standard deviation, so that one odd step does not decide.
    pub fn noise(&self) -> f64 {
        self.measured.noise
    }

    /// Share of ranks x window in which a computing rank was ready but had no core.
    pub fn starved_ratio(&self) -> f64 {
        (self.measured.busy_seconds - self.measured.net_busy_seconds) / self.window_seconds
    }

    /// How many layers the model has, where the log says so.
    pub fn n_layers(&self) -> Option<u32> {
        let last = self.hello.stages.iter().map(|stage| Some(stage.layers?[1])).max()??;
        Some(last.saturating_add(1))
    }

    /// Whether there are more layers than stages, so that some could be moved.
    pub fn can_be_cut_otherwise(&self) -> bool {
        self.n_layers().is_none_or(|n_layers| n_layers > self.plan.n_stages())
    }

    /// The flag of another cut than the present one, where there is one to be tried: by what the
    /// layers take; or, where it was cut so already, the layers of each stage that would take the
    /// ranks equally long.
    pub fn other_cut(&self) -> Option<String> {
        // The flags of another program are not known.
        if !self.can_be_cut_otherwise() || !self.hello.program.is_empty() {
            return None;
        }
        let other = || recut::recut(self).map(|other| other.flag());
        match self.hello.cut() {
            Some("time") => other(),
            // Nothing is measured there.
            _ if self.hello.model == "sleep" => other(),
            _ => Some("--partition time".to_owned()),
        }
    }

    /// The costs of each stage as measured, with messages: what a simulation of this run starts
    /// from.
    pub fn costs(&self) -> Costs {
        self.measured.costs(&self.plan, Share::Net, None, true)
    }

    /// The bubble ratio that the schedule promises, as the log names it.
    pub fn theory(&self) -> Option<f64> {
        self.hello.theory
    }

    /// The plan of the run.
    pub fn plan(&self) -> &ValidPlan {
        &self.plan
    }
}

/// The kinds that a stage's times are kept for.
pub(crate) const KINDS: [SpanKind; 4] = [SpanKind::F, SpanKind::B, SpanKind::I, SpanKind::W];

/// Latencies between ranks as a matrix.
pub(crate) fn edges(latency: &[Vec<f64>]) -> PerEdge {
    PerEdge::Matrix(latency.to_vec())
}
