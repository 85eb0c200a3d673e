//! The first line of a job's log, from the first lines of its ranks and from its first step.

use std::collections::BTreeMap;
use std::path::Path;

use pp_schedule::{Costs, RankShare, ScheduleName, Sizes, closed_form, simulate};
use pp_trace::{DeviceMapEntry, Hello, HostEntry, RankHead, SCHEMA, Span, StageInfo};

use super::clocks::Clocks;
use super::jobs::Crew;
use super::lane::Lane;
use super::replicas::total;
use crate::account::plan_of;

/// Operations of a step beyond which no plan is made of them.
const OPS_MAX: usize = 1 << 20;

/// What `PyTorch`, `DeepSpeed` and Megatron call schedules of ours.
const NAMES: [(&str, ScheduleName); 9] = [
    ("ScheduleGPipe", ScheduleName::Gpipe),
    ("Schedule1F1B", ScheduleName::OneFOneB),
    ("ScheduleInterleaved1F1B", ScheduleName::InterleavedOneFOneB),
    ("ScheduleLoopedBFS", ScheduleName::LoopedBfs),
    ("ScheduleInterleavedZeroBubble", ScheduleName::InterleavedZb),
    ("ScheduleZBVZeroBubble", ScheduleName::ZbV),
    ("ScheduleDualPipeV", ScheduleName::DualPipeV),
    ("1F1B", ScheduleName::OneFOneB),
    ("interleaved 1F1B", ScheduleName::InterleavedOneFOneB),
];

/// The first line of the log of a job, whose clock is 0 at `origin_ns` of Unix time.
pub(super) fn hello(
    origin_ns: i64,
    crew: &Crew,
    lanes: &[Lane],
    clocks: &Clocks,
    dir: &Path,
    step: u64,
) -> Hello {
    let heads: Vec<(u32, u32, &Lane, &RankHead)> = crew
        .members
        .iter()
        .filter_map(|member| {
            let lane = &lanes[member.lane];
            Some((member.replica, member.rank, lane, lane.held.head.as_ref()?))
        })
        .collect();
    let Some(&(_, _, _, first)) = heads.first() else { return Hello::default() };
    let told = |value: fn(&RankHead) -> &str| {
        heads.iter().map(|(_, _, _, head)| value(head)).find(|text| !text.is_empty()).unwrap_or("")
    };
    let stages: Vec<StageInfo> = heads
        .iter()
        .filter(|(replica, ..)| *replica == 0)
        .flat_map(|(_, rank, _, head)| head.stages.iter().map(move |stage| (*rank, stage)))
        .map(|(rank, stage)| StageInfo {
            stage: stage.stage,
            rank,
            layers: None,
            parameters: stage.parameters,
            parameter_bytes: stage.parameter_bytes,
            ..StageInfo::default()
        })
        .collect();
    let n_hosts = heads
        .iter()
        .map(|(_, _, _, head)| &head.host)
        .collect::<std::collections::BTreeSet<_>>()
        .len();
    let device_map = heads
        .iter()
        .flat_map(|&(replica, rank, _, head)| {
            head.stages.iter().map(move |stage| DeviceMapEntry {
                stage: stage.stage,
                rank,
                replica,
                device: head.device.clone(),
                host: Some(head.host.clone()).filter(|_| n_hosts > 1),
                uuid: head.uuid.clone(),
                pci: head.pci.clone(),
            })
        })
        .collect();
    let mut hosts: Vec<HostEntry> = Vec::new();
    for (_, _, _, head) in &heads {
        if n_hosts > 1 && !hosts.iter().any(|entry| entry.host == head.host) {
            let (moved, error) =
                clocks.find(head).map_or((0.0, None), |at| clocks.moved_seconds(at));
            hosts.push(HostEntry {
                host: head.host.clone(),
                clock_offset_seconds: moved,
                clock_error_seconds: error.unwrap_or(0.0),
            });
        }
    }
    let n_stages = first
        .n_stages
        .or_else(|| u32::try_from(stages.len()).ok())
        .filter(|&n| n > 0)
        .unwrap_or(crew.pp);
    let batch_size = batch_size(crew, lanes, step);
    let mut hello = Hello {
        schema: SCHEMA,
        run: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        pid: first.pid,
        argv: first.argv.clone(),
        program: program_of(told(|head| &head.program)).to_owned(),
        model: told(|head| &head.model).to_owned(),
        schedule: told(|head| &head.schedule).to_owned(),
        pp: crew.pp,
        dp: crew.dp,
        virtual_stages: n_stages.div_ceil(crew.pp.max(1)),
        micro_batches: first.micro_batches.unwrap_or_else(|| n_micro_batches(crew, lanes, step)),
        batch_size,
        steps: first.steps.unwrap_or(0),
        host: first.host.clone(),
        hosts,
        parameters: stages.iter().fold(0, |sum: u64, stage| sum.saturating_add(stage.parameters)),
        device_map,
        stages,
        started_unix_ms: u64::try_from(origin_ns / 1_000_000).unwrap_or(0),
        clock: if first.clock.is_empty() { "host".to_owned() } else { first.clock.clone() },
        span_every: 1,
        ..Hello::default()
    };
    hello.plan = plan(crew, lanes, step).unwrap_or_default();
    name(&mut hello);
    hello
}

/// Micro-batches of a step, by its spans.
fn n_micro_batches(crew: &Crew, lanes: &[Lane], step: u64) -> u32 {
    let parts = crew.members.iter().filter_map(|member| lanes[member.lane].held.steps.get(&step));
    let computed = parts.flat_map(|part| &part.spans).filter(|span| span.op.is_compute());
    computed.map(|span| span.mb.saturating_add(1)).max().unwrap_or(0)
}

/// What a job is called that does not say which program it is of: it is none of ours.
pub(super) fn program_of(program: &str) -> &str {
    if program.is_empty() { "another program" } else { program }
}

/// Samples of a step over all replicas; 0 if they are unknown.
fn batch_size(crew: &Crew, lanes: &[Lane], step: u64) -> u64 {
    let closed = crew.members.iter().filter_map(|&member| {
        let part = lanes[member.lane].held.steps.get(&step)?;
        Some((member, part.step?))
    });
    total(&closed.collect::<Vec<_>>(), crew.dp, |step| step.samples)
}

/// The order of operations on each rank of the first replica, as it was observed in a step; `None`
/// if a rank did not finish the step.
fn plan(crew: &Crew, lanes: &[Lane], step: u64) -> Option<Vec<String>> {
    let mut rows = Vec::new();
    for rank in 0..crew.pp {
        let member = crew.members.iter().find(|m| (m.replica, m.rank) == (0, rank))?;
        let part = lanes[member.lane].held.steps.get(&step)?;
        part.step?;
        rows.push(row(part.spans.iter())?);
    }
    Some(rows)
}

/// The operations of one rank in the order in which they began; `None` if there are none, or too
/// many.
fn row<'a>(spans: impl Iterator<Item = &'a Span>) -> Option<String> {
    let mut ops: Vec<&Span> = spans.filter(|span| span.op.is_compute()).collect();
    if ops.is_empty() || ops.len() > OPS_MAX {
        return None;
    }
    ops.sort_by_key(|span| (span.start_ns, span.end_ns()));
    let cells: Vec<String> =
        ops.iter().map(|span| format!("{}{}{}", span.stage, span.op.name(), span.mb)).collect();
    Some(cells.join(","))
}

/// The rank and the replica that ran other operations than the plan's, if one did.
pub(super) fn first_other_order(hello: &Hello, spans: &[Span]) -> Option<(u32, u32)> {
    if hello.plan.is_empty() {
        return None;
    }
    let mut rows: BTreeMap<(u32, u32), Vec<&Span>> = BTreeMap::new();
    for span in spans {
        rows.entry((span.replica, span.rank)).or_default().push(span);
    }
    for replica in 0..hello.dp {
        for rank in 0..hello.pp {
            let spans = rows.remove(&(replica, rank)).unwrap_or_default();
            if row(spans.into_iter()).as_ref() != hello.plan.get(rank as usize) {
                return Some((rank, replica));
            }
        }
    }
    None
}

/// Gives the schedule the name that it has here, if its plan is that of one of ours, and says what
/// the order promises with equal stages.
fn name(hello: &mut Hello) {
    let Ok(plan) = plan_of(hello) else { return };
    hello.micro_batches = plan.n_micro_batches();
    let share = RankShare::default();
    let sizes = Sizes {
        n_ranks: plan.n_ranks(),
        n_micro_batches: plan.n_micro_batches(),
        n_virtual_stages: plan.n_virtual_stages(),
        interleave_group: None,
    };
    let named = NAMES.iter().find(|(theirs, _)| *theirs == hello.schedule).map(|(_, ours)| *ours);
    if let Some(ours) = named
        && ours.generate(&sizes).is_ok_and(|generated| generated.rows() == plan.rows())
    {
        ours.as_str().clone_into(&mut hello.schedule);
        hello.theory = closed_form(ours, &sizes, &share).map(|form| form.bubble_ratio);
    }
    if hello.theory.is_none() {
        let costs = Costs::per_rank_share(plan.topology(), &share);
        hello.theory = simulate(&plan, &costs).ok().map(|simulation| simulation.bubble_ratio);
    }
}
