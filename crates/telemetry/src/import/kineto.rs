//! Traces of PyTorch's profiler (Kineto), one for each rank.
//!
//! PyTorch's runtime for multi-stage schedules labels each action: `PP:0F3` is the forward of
//! micro-batch 3 on stage 0. On a GPU, the label's span on the stream is the work. On a CPU, the
//! label begins before the rank waits for its input, so that the work begins with the first
//! operator inside. `Schedule1F1B` has no labels, and those of `ScheduleGPipe` do not name the
//! stage.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pp_schedule::clean;
use pp_trace::{RankHead, Span, SpanKind};

use super::ImportError;
use super::rank_writer::{RankWriter, stages};
use super::stream::{TraceEvent, read};

/// Actions of one rank at most: a trace has some hundred steps.
const ACTIONS_MAX: usize = 1 << 22;

/// What a label says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Label {
    stage: u32,
    op: SpanKind,
    mb: u32,
}

/// A labelled action.
#[derive(Debug, Clone, Copy)]
struct Action {
    label: Label,
    start_ns: i64,
    end_ns: i64,
    /// When its work began: with the first operator inside.
    work_ns: Option<i64>,
}

/// What was found in one trace.
struct Found {
    path: PathBuf,
    rank: Option<u32>,
    base_ns: i64,
    actions: Vec<Action>,
    /// Steps of optimizers.
    optimizers: Vec<(i64, i64)>,
    /// Whether the actions are spans on a stream.
    is_gpu: bool,
}

/// Writes the files of all ranks into a folder; gives how many steps they have.
///
/// # Errors
/// A trace is broken, has no labels, or they do not fit together.
pub fn import_kineto(traces: &[PathBuf], into: &Path) -> Result<u64, ImportError> {
    let mut all = Vec::new();
    for path in traces {
        all.push(found(path)?);
    }
    // Which stages a rank has tells its place in its pipeline; traces with the same stages are of
    // replicas.
    let mut places: BTreeMap<Vec<u32>, Vec<usize>> = BTreeMap::new();
    for (at, found) in all.iter().enumerate() {
        let stages: BTreeSet<u32> = found.actions.iter().map(|action| action.label.stage).collect();
        places.entry(stages.into_iter().collect()).or_default().push(at);
    }
    check(&places, &all)?;
    let pp = u32::try_from(places.len()).unwrap_or(u32::MAX);
    let n_stages = places.keys().flatten().max().map_or(0, |last| last.saturating_add(1));
    let dp = places.values().map(Vec::len).max().unwrap_or(0);
    let number = |at: usize| all[at].rank.unwrap_or(u32::try_from(at).unwrap_or(u32::MAX));
    let mut pipelines: Vec<Vec<u32>> = vec![Vec::new(); dp];
    for members in places.values_mut() {
        members.sort_by_key(|&at| number(at));
        for (replica, &at) in members.iter().enumerate() {
            pipelines[replica].push(number(at));
        }
    }
    let mut n_steps = 0;
    for (rank, (own, members)) in places.iter().enumerate() {
        for (replica, &at) in members.iter().enumerate() {
            let rank = u32::try_from(rank).unwrap_or(u32::MAX);
            let place = Place { rank, pp, pipeline: &pipelines[replica], stages: own, n_stages };
            n_steps = n_steps.max(write(&all[at], &place, into)?);
        }
    }
    Ok(n_steps)
}

/// Where a rank stands.
struct Place<'a> {
    rank: u32,
    pp: u32,
    pipeline: &'a [u32],
    stages: &'a [u32],
    n_stages: u32,
}

/// Whether the traces are those of whole pipelines.
fn check(places: &BTreeMap<Vec<u32>, Vec<usize>>, all: &[Found]) -> Result<(), ImportError> {
    let mut ranks = BTreeSet::new();
    for found in all {
        if let Some(rank) = found.rank.filter(|&rank| !ranks.insert(rank)) {
            return Err(ImportError::Unfit(format!(
                "two traces are of rank {rank}; name each once"
            )));
        }
    }
    let stages: BTreeSet<u32> = places.keys().flatten().copied().collect();
    let n_named: usize = places.keys().map(Vec::len).sum();
    if n_named != stages.len() {
        return Err(ImportError::Unfit(
            "the traces are of different runs: a stage is on two ranks with different stages; name the traces of one run"
                .to_owned(),
        ));
    }
    let last = stages.last().copied().unwrap_or(0);
    if let Some(missing) = (0..=last).find(|stage| !stages.contains(stage)) {
        return Err(ImportError::Unfit(format!(
            "no trace has stage {missing}; name the traces of all ranks"
        )));
    }
    let dp = places.values().map(Vec::len).max().unwrap_or(0);
    if let Some((stages, members)) = places.iter().find(|(_, members)| members.len() != dp) {
        let of = all[members[0]].path.display();
        return Err(ImportError::Unfit(format!(
            "stages {stages:?} have {} traces ({of}), other stages have {dp}; name the traces of all ranks, each once",
            members.len()
        )));
    }
    Ok(())
}

/// Reads the labels of a trace, and then the operators inside them.
fn found(path: &Path) -> Result<Found, ImportError> {
    let mut actions: BTreeMap<String, Vec<Action>> = BTreeMap::new();
    let mut on_gpu: Vec<Action> = Vec::new();
    let mut optimizers = Vec::new();
    let mut is_gpipe = false;
    let mut n_kept = 0;
    let about = read(path, |event| {
        let is_gpu = event.cat.0 == "gpu_user_annotation";
        if event.ph.0 != "X" || !(is_gpu || event.cat.0 == "user_annotation") {
            return Ok(());
        }
        is_gpipe |= event.name.0.starts_with("Forward ") || event.name.0.starts_with("Backward ");
        let Some((start_ns, end_ns)) = extent(&event) else { return Ok(()) };
        if event.name.0.starts_with("Optimizer.step#") && !is_gpu {
            n_kept += 1;
            optimizers.push((start_ns, end_ns));
        }
        if event.name.0.starts_with("PP:(") {
            let why = format!(
                "it has overlapped pairs of operations, such as {}, whose halves have no times of their own; record the job with pptop-log instead",
                clean(&event.name.0.chars().take(64).collect::<String>())
            );
            return Err(ImportError::nothing(path, why));
        }
        let Some(label) = label(&event.name.0) else { return Ok(()) };
        let action = Action { label, start_ns, end_ns, work_ns: None };
        let of_thread =
            if is_gpu { &mut on_gpu } else { actions.entry(event.tid.key()).or_default() };
        n_kept += 1;
        if n_kept > ACTIONS_MAX {
            return Err(ImportError::nothing(path, "it has too many actions; record fewer steps"));
        }
        of_thread.push(action);
        Ok(())
    })?;
    let is_gpu = !on_gpu.is_empty();
    let mut all = on_gpu;
    if !is_gpu {
        for of_thread in actions.values_mut() {
            of_thread.sort_by_key(|action| action.start_ns);
        }
        note_operators(path, &mut actions)?;
        all = actions.into_values().flatten().collect();
    }
    if all.is_empty() {
        let why = if is_gpipe {
            "its labels are those of ScheduleGPipe, which do not name the stage; record the job with pptop-log instead"
        } else {
            "it has no labels such as PP:0F3: PyTorch's multi-stage schedules write them, Schedule1F1B does not; record the job with pptop-log instead"
        };
        return Err(ImportError::nothing(path, why));
    }
    all.sort_by_key(|action| action.start_ns);
    optimizers.sort_unstable();
    let rank = about.rank.and_then(|rank| u32::try_from(rank).ok());
    Ok(Found {
        path: path.to_owned(),
        rank,
        base_ns: about.base_ns,
        actions: all,
        optimizers,
        is_gpu,
    })
}

/// Notes when the first operator inside each action began. Posting and awaiting messages is no work.
fn note_operators(
    path: &Path,
    actions: &mut BTreeMap<String, Vec<Action>>,
) -> Result<(), ImportError> {
    read(path, |event| {
        let name = &event.name.0;
        let is_message = ["c10d::", "gloo:", "nccl:", "record_param_comms"]
            .iter()
            .any(|head| name.starts_with(head));
        if event.ph.0 != "X" || event.cat.0 != "cpu_op" || is_message {
            return Ok(());
        }
        let Some(of_thread) = actions.get_mut(&event.tid.key()) else { return Ok(()) };
        let Some(start_ns) = event.start_ns() else { return Ok(()) };
        let at = of_thread.partition_point(|action| action.start_ns <= start_ns);
        if let Some(action) = at.checked_sub(1).and_then(|at| of_thread.get_mut(at))
            && start_ns < action.end_ns
        {
            action.work_ns = Some(action.work_ns.map_or(start_ns, |known| known.min(start_ns)));
        }
        Ok(())
    })?;
    Ok(())
}

fn extent(event: &TraceEvent) -> Option<(i64, i64)> {
    let start_ns = event.start_ns()?;
    let end_ns = start_ns.checked_add_unsigned(event.dur_ns()?)?;
    Some((start_ns, end_ns))
}

/// `PP:3I0` is the input gradient of micro-batch 0 on stage 3; `PP:0SEND_F3` sends.
fn label(name: &str) -> Option<Label> {
    let rest = name.strip_prefix("PP:")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    let stage = rest[..digits].parse().ok()?;
    let rest = &rest[digits..];
    let letters = rest.find(|c: char| c.is_ascii_digit())?;
    let op = match &rest[..letters] {
        "F" => SpanKind::F,
        "B" => SpanKind::B,
        "I" => SpanKind::I,
        "W" => SpanKind::W,
        "SEND_F" | "SEND_B" | "WAIT_SEND_F" | "WAIT_SEND_B" => SpanKind::Send,
        _ => return None,
    };
    Some(Label { stage, op, mb: rest[letters..].parse().ok()? })
}

/// Writes the file of a rank; gives the number of its last step. A step begins where an operation
/// comes that the present one has had.
fn write(found: &Found, place: &Place<'_>, into: &Path) -> Result<u64, ImportError> {
    // The clock of the file begins with the trace, so that no time is negative.
    let first_ns = found.actions.first().map_or(0, |action| action.start_ns);
    let own = |ns: i64| u64::try_from(ns.saturating_sub(first_ns)).unwrap_or(0);
    let unix_ns = u64::try_from(first_ns.saturating_add(found.base_ns)).unwrap_or(0);
    let clock = format!("trace of rank {}", place.pipeline.get(place.rank as usize).unwrap_or(&0));
    let head = RankHead {
        rank: place.rank,
        pp: place.pp,
        pipeline: place.pipeline.to_vec(),
        program: "PyTorch profiler".to_owned(),
        n_stages: Some(place.n_stages),
        stages: stages(place.stages.iter().copied()),
        boot: clock,
        unix_ns,
        ..RankHead::default()
    };
    let mut file = RankWriter::create(into, head)?;
    let mut step = 1;
    let mut seen: BTreeSet<Label> = BTreeSet::new();
    let mut began_ns = first_ns;
    let mut last_ns = first_ns;
    let mut optimizers = found.optimizers.iter().peekable();
    for action in &found.actions {
        let Label { stage, op, mb } = action.label;
        if op.is_compute() && !seen.insert(action.label) {
            while let Some((start, end)) = optimizers.next_if(|(start, _)| *start < action.start_ns)
            {
                file.span(&span(
                    step,
                    place.rank,
                    (0, SpanKind::Optim, 0),
                    own(*start),
                    own(*end),
                ))?;
            }
            file.step(step, (own(began_ns), own(action.start_ns)), None)?;
            (step, began_ns) = (step + 1, action.start_ns);
            seen.clear();
            seen.insert(action.label);
        }
        let work_ns = match action.work_ns {
            _ if !op.is_compute() || found.is_gpu => action.start_ns,
            Some(work_ns) => work_ns,
            // Nothing was computed: the rank has waited, if it was for anything.
            None => action.end_ns,
        };
        if work_ns > action.start_ns {
            let wait = if op == SpanKind::F { SpanKind::WaitAct } else { SpanKind::WaitGrad };
            // A weight gradient needs nothing from another rank.
            if op != SpanKind::W {
                let (start, end) = (own(action.start_ns), own(work_ns));
                file.span(&span(step, place.rank, (stage, wait, mb), start, end))?;
            }
        }
        file.span(&span(step, place.rank, (stage, op, mb), own(work_ns), own(action.end_ns)))?;
        last_ns = last_ns.max(action.end_ns);
    }
    for (start, end) in optimizers {
        file.span(&span(step, place.rank, (0, SpanKind::Optim, 0), own(*start), own(*end)))?;
        last_ns = last_ns.max(*end);
    }
    file.step(step, (own(began_ns), own(last_ns)), None)?;
    file.finish()?;
    Ok(step)
}

fn span(
    step: u64,
    rank: u32,
    (stage, op, mb): (u32, SpanKind, u32),
    start_ns: u64,
    end_ns: u64,
) -> Span {
    let dur_ns = end_ns.saturating_sub(start_ns);
    Span {
        step,
        replica: 0,
        rank,
        stage,
        mb,
        op,
        start_ns,
        dur_ns,
        cpu_ns: 0,
        bytes: 0,
        starved_ns: 0,
    }
}
