//! What another schedule, other micro-batches or another cut would bring: simulated from what this
//! run's operations took.

use std::fmt::Write as _;

use pp_schedule::{Costs, Pipe, ScheduleName, Sizes, Topology, ValidPlan, simulate};

use super::recut::recut;
use super::{Account, edges};

/// Operations of a plan that is tried at most.
const OPS_MAX: u128 = 100_000;

/// The name of the change that cuts by what the layers take.
pub(crate) const EVEN_CUT: &str = "an even cut";

/// Something that could be changed, and what it would bring.
#[derive(Debug, Clone, PartialEq)]
pub struct WhatIf {
    /// What is changed, such as `m=16` or `zb-h1`.
    pub change: String,
    /// The flags that do it.
    pub flags: String,
    /// The bubble ratio.
    pub bubble_ratio: f64,
    /// Seconds of the window for each micro-batch: what decides how much gets through.
    pub seconds_a_micro_batch: f64,
    /// The most activations of whole micro-batches on one rank.
    pub peak_activations: f64,
    /// How much more gets through in the same time than with this run's plan, simulated alike: 0.1
    /// is a tenth more.
    pub gain: f64,
}

/// What each rank takes.
#[derive(Debug, Clone, Copy)]
enum Shares<'a> {
    /// What it took.
    AsMeasured,
    /// All the same.
    Even,
    /// So many times as long for each stage.
    Times(&'a [f64]),
}

/// The costs of a rank's share on another placement: each rank keeps what it takes, spread evenly
/// over the stages that it has there.
fn costs_on(account: &Account, topology: &Topology, shares: Shares<'_>) -> Costs {
    let n_ranks = topology.n_ranks();
    let plan = account.plan();
    let factors = if let Shares::Times(factors) = shares { Some(factors) } else { None };
    let of_rank: Vec<[f64; 3]> =
        (0..n_ranks).map(|rank| account.measured.of_rank(plan, rank, factors)).collect();
    let mean =
        |at: usize| of_rank.iter().map(|times| times[at]).sum::<f64>() / f64::from(n_ranks.max(1));
    let even = [mean(0), mean(1), mean(2)];
    let ranks = topology.ranks(Pipe(0));
    let mut n_held = vec![0_u32; n_ranks as usize];
    for rank in ranks {
        n_held[rank.idx()] += 1;
    }
    let mut costs = Costs::uniform(topology.n_stages(), 0.0, 0.0, 0.0, 0.0);
    for (stage, rank) in ranks.iter().enumerate() {
        let times = match shares {
            Shares::Even => even,
            Shares::AsMeasured | Shares::Times(_) => of_rank[rank.idx()],
        };
        let n = f64::from(n_held[rank.idx()].max(1));
        costs.forward[stage] = times[0] / n;
        costs.input_grad[stage] = times[1] / n;
        costs.weight_grad[stage] = times[2] / n;
        costs.activation[stage] = 1.0 / n;
        costs.residue[stage] = 1.0 / n;
    }
    // Where a plan uses edges that this run has none of, they are as slow as the usual one.
    let usual = account.measured.usual_latency();
    let row = |from: u32| -> Vec<f64> {
        (0..n_ranks).map(|to| if from == to { 0.0 } else { usual }).collect()
    };
    costs.comm = edges(&(0..n_ranks).map(row).collect::<Vec<_>>());
    costs
}

fn tried(
    account: &Account,
    plan: &ValidPlan,
    shares: Shares<'_>,
    change: String,
    flags: String,
    now: f64,
) -> Option<WhatIf> {
    let costs = costs_on(account, plan.topology(), shares);
    let simulation = simulate(plan, &costs).ok()?;
    let seconds_a_micro_batch = simulation.makespan / f64::from(plan.n_micro_batches());
    Some(WhatIf {
        change,
        flags,
        bubble_ratio: simulation.bubble_ratio,
        seconds_a_micro_batch,
        peak_activations: simulation.peak_memory.iter().copied().fold(0.0, f64::max),
        gain: now / seconds_a_micro_batch - 1.0,
    })
}

/// What changes would bring, the run as it is first; then those that are known to be of use, in a
/// fixed order. `gain` is how much more would get through in the same time.
pub fn what_if(account: &Account) -> Vec<WhatIf> {
    let plan = account.plan();
    let hello = &account.hello;
    let (p, m, v) = (plan.n_ranks(), plan.n_micro_batches(), plan.n_virtual_stages());
    if plan.n_pipes() > 1 || plan.is_forward_only() {
        return Vec::new();
    }
    let mut all = Vec::new();
    let name = hello.schedule.as_str();
    let Some(as_it_is) = tried(
        account,
        plan,
        Shares::AsMeasured,
        format!("{name} m={m} as it is"),
        String::new(),
        1.0,
    ) else {
        return all;
    };
    let now = as_it_is.seconds_a_micro_batch;
    all.push(WhatIf { gain: 0.0, ..as_it_is });
    let mut push = |plan: &ValidPlan, shares: Shares<'_>, change: String, flags| {
        // Another program has other flags: there, the change itself is all that can be said.
        let flags = if hello.program.is_empty() { flags } else { change.clone() };
        all.extend(tried(account, plan, shares, change, flags, now));
    };
    // A stage has one layer at least.
    let n_layers = account.n_layers();
    let can_hold = |n_stages: u32| n_layers.is_none_or(|n_layers| n_layers >= n_stages);
    let cut = hello.cut();
    if let Some(flags) = account.other_cut() {
        // What a cut by time found was to be even, and is not: then the layers that would make it
        // so are known.
        match recut(account).filter(|recut| recut.flag() == flags) {
            Some(other) => {
                let layers = flags.trim_start_matches("--partition ");
                let shares = Shares::Times(&other.factor_of_stage);
                push(plan, shares, format!("layers {layers}"), flags.clone());
            }
            None => push(plan, Shares::Even, EVEN_CUT.to_owned(), flags),
        }
    }
    // A cut that names the layers of each stage fits no other number of stages.
    let cut_again = |n_stages: u32| match cut {
        Some(cut)
            if cut.starts_with(|c: char| c.is_ascii_digit()) && n_stages != plan.n_stages() =>
        {
            format!(" --partition {}", if hello.model == "sleep" { "uniform" } else { "time" })
        }
        _ => String::new(),
    };
    let sizes =
        Sizes { n_ranks: p, n_micro_batches: m, n_virtual_stages: v, interleave_group: None };
    let named = ScheduleName::ALL.into_iter().find(|schedule| schedule.as_str() == name);
    let fits = |schedule: ScheduleName, sizes: &Sizes| {
        let n_stages = p.saturating_mul(sizes.n_virtual_stages);
        can_hold(n_stages)
            && schedule.n_ops_at_most(n_stages, sizes.n_micro_batches) <= OPS_MAX
            && schedule.check(sizes).is_ok()
    };
    if let Some(schedule) = named.filter(|schedule| !schedule.is_synthesised()) {
        for factor in [2, 4] {
            let sizes = Sizes { n_micro_batches: m.saturating_mul(factor), ..sizes };
            // Micro-batches of the same size: the batch grows with them.
            if fits(schedule, &sizes)
                && let Some(batch_size) = hello.batch_size.checked_mul(u64::from(factor))
                && let Ok(plan) = schedule.generate(&sizes)
            {
                let m = sizes.n_micro_batches;
                push(
                    &plan,
                    Shares::AsMeasured,
                    format!("m={m}"),
                    format!("--micro-batches {m} --batch-size {batch_size}"),
                );
            }
        }
    }
    for schedule in [
        ScheduleName::Gpipe,
        ScheduleName::OneFOneB,
        ScheduleName::InterleavedOneFOneB,
        ScheduleName::ZbH1,
        ScheduleName::ZbH2,
        ScheduleName::InterleavedZb,
        ScheduleName::ZbV,
        ScheduleName::VHalf,
    ] {
        let v = schedule.default_virtual_stages();
        let sizes = Sizes { n_virtual_stages: v, ..sizes };
        if Some(schedule) == named || p < 2 || !fits(schedule, &sizes) {
            continue;
        }
        if let Ok(plan) = schedule.generate(&sizes) {
            let change = match v {
                1 => schedule.as_str().to_owned(),
                v => format!("{schedule} v={v}"),
            };
            let mut flags = format!("--schedule {schedule}");
            if v != 1 || hello.virtual_stages > 1 {
                let _ = write!(flags, " --virtual-stages {v}");
            }
            flags += &cut_again(p.saturating_mul(v));
            push(&plan, Shares::AsMeasured, change, flags);
        }
    }
    all
}
