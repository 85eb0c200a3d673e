//! Runs with several replicas of layers that sleep: how much of the gradient mean lies behind the
//! last op, and what many ranks cost.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use pp_schedule::{Costs, MeanCosts, RankShare, ScheduleName, Sizes, simulate, simulate_mean};
use pp_telemetry::{Reduced, Span};
use serde_json::Value;

use crate::numbers::median;
use crate::pptop;

/// Milliseconds of each of F, I and W, and of a message.
const OP_MS: f64 = 16.0;
const LINK_MS: f64 = 2.0;
const LAYERS: u32 = 16;
const MICRO_BATCHES: u32 = 8;
const STEPS: u64 = 9;

/// What a run with a mean that overlaps showed.
pub(crate) struct Overlap {
    /// Of each rank the part of the mean's time behind its last op: the largest.
    pub(crate) behind: f64,
    /// The idle share of the step.
    pub(crate) idle: f64,
    /// The same by simulation.
    pub(crate) simulated: f64,
}

/// Two replicas of two ranks with 16 layers each, whose links are slow. Numbers are medians over the
/// steps after the first.
pub(crate) fn overlap(pptop: &PathBuf, schedule: ScheduleName) -> anyhow::Result<Overlap> {
    let name = schedule.to_string();
    let args = format!(
        "train --headless --model sleep --pp 2 --dp 2 --schedule {name} --micro-batches {MICRO_BATCHES} --steps {STEPS} \
         --sleep-layers {LAYERS} --bucket-kib 0 --sleep-forward-ms {OP_MS} --sleep-input-grad-ms {OP_MS} \
         --sleep-weight-grad-ms {OP_MS} --sleep-link-ms {LINK_MS}"
    );
    let events = events(pptop, &args)?;
    let mut of_rank: BTreeMap<(u64, u32, u32), Vec<Span>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["ev"] == "span") {
        let span: Span = serde_json::from_value(event.clone())?;
        of_rank.entry((span.step, span.replica, span.rank)).or_default().push(span);
    }
    let mut shares: BTreeMap<(u32, u32), Vec<f64>> = BTreeMap::new();
    for ((step, replica, rank), spans) in of_rank {
        if step == 1 {
            continue;
        }
        let computes = spans.iter().filter(|span| span.op.is_compute());
        let last_end = computes.map(Span::end_ns).max().context("a rank without an op")?;
        let whole = Reduced::of(&spans).whole_ns;
        let behind: Vec<Span> = spans
            .iter()
            .filter(|span| span.end_ns() > last_end)
            .map(|span| {
                let start_ns = span.start_ns.max(last_end);
                Span { start_ns, dur_ns: span.end_ns() - start_ns, ..*span }
            })
            .collect();
        let share = Reduced::of(&behind).whole_ns as f64 / whole as f64;
        shares.entry((replica, rank)).or_default().push(share);
    }
    let behind = shares.into_values().map(|shares| median(&shares)).fold(0.0, f64::max);
    let steps = events.iter().filter(|event| event["ev"] == "step").skip(1);
    let idle: Vec<f64> = steps.filter_map(|step| step["idle_of_step"].as_f64()).collect();
    Ok(Overlap { behind, idle: median(&idle), simulated: simulated(schedule)? })
}

fn simulated(schedule: ScheduleName) -> anyhow::Result<f64> {
    let sizes = Sizes {
        n_ranks: 2,
        n_micro_batches: MICRO_BATCHES,
        n_virtual_stages: schedule.default_virtual_stages(),
        interleave_group: None,
    };
    let plan = schedule.generate(&sizes)?;
    let share = RankShare {
        forward: OP_MS,
        input_grad: OP_MS,
        weight_grad: OP_MS,
        comm: LINK_MS,
        ..RankShare::default()
    };
    let costs = Costs::per_rank_share(plan.topology(), &share);
    let n_stages = plan.n_stages() as usize;
    let mean = MeanCosts {
        buckets: vec![LAYERS; n_stages],
        latency: LINK_MS,
        adding: vec![0.0; n_stages],
    };
    Ok(simulate_mean(&plan, &costs, &simulate(&plan, &costs)?, &mean)?.idle_of_step)
}

/// What a run of many ranks showed.
pub(crate) struct Many {
    /// Seconds from the start of the process to its first op.
    pub(crate) start: f64,
    /// Messages of a step, divided by those of the plan: 4 (p − 1) m.
    pub(crate) messages: f64,
}

/// Two replicas of `p` ranks, 2 p micro-batches, on the cores that there are.
pub(crate) fn many(pptop: &PathBuf, p: u32) -> anyhow::Result<Many> {
    let m = 2 * p;
    let args = format!(
        "train --headless --model sleep --pp {p} --dp 2 --micro-batches {m} --steps 2 --sleep-forward-ms 1 \
         --sleep-input-grad-ms 1 --sleep-weight-grad-ms 1 --spans all"
    );
    let events = events(pptop, &args)?;
    let spans = || events.iter().filter(|event| event["ev"] == "span" && event["step"] == 2);
    let first = events.iter().filter(|event| event["ev"] == "span");
    let first = first.filter_map(|span| span["start_ns"].as_f64()).fold(f64::INFINITY, f64::min);
    let n_sends = spans().filter(|span| span["op"] == "send").count();
    let planned = 4 * (p - 1) * m;
    Ok(Many { start: first * 1e-9, messages: n_sends as f64 / f64::from(planned) })
}

/// The events of a headless run in a state directory of its own.
fn events(pptop: &PathBuf, args: &str) -> anyhow::Result<Vec<Value>> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("run");
    let at = dir.to_str().context("the folder for temporary files has no name")?;
    let mut args: Vec<&str> = args.split_whitespace().collect();
    args.extend(["--run-dir", at]);
    pptop::run(pptop, &args)?;
    let log = std::fs::read_to_string(dir.join("events.jsonl"))?;
    Ok(log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}
