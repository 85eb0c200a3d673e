//! The rules of a valid plan, one function each, in the order in which they are checked: a later
//! rule may rely on the earlier ones.
//!
//! The last one, [`deadlock_free`], proves more than it seems to. It finds one order of all ops in
//! which each comes after what it needs. Hence sends that are buffered cannot hang. And if each
//! send is made a pair with its receive at the place of that order where the sender is done
//! ([`crate::lower_rendezvous`]), every rank meets its pairs in the order of one common list, so
//! that sends which block until they are received cannot hang either.

use std::collections::BTreeMap;

use crate::action::Action;
use crate::draft::Draft;
use crate::error::{Rule, ScheduleError, Violation};
use crate::grid;
use crate::ids::{MicroBatch, Rank, Stage};
use crate::op::{Op, Phase};
use crate::walk::Walk;

/// How many ranks of a circle a message names: three fit on its line whatever their numbers are.
const LINKS_SHOWN: usize = 3;

/// Checks every rule.
pub(crate) fn check(draft: &Draft) -> Result<(), ScheduleError> {
    if draft.n_micro_batches == 0 {
        return Err(ScheduleError::Zero { what: "micro-batches" });
    }
    let (n_pipes, n_micro_batches) = (draft.topology.n_pipes(), draft.n_micro_batches);
    if !n_micro_batches.is_multiple_of(n_pipes) {
        return Err(ScheduleError::UnevenPipes { n_pipes, n_micro_batches });
    }
    one_row_a_rank(draft)?;
    in_range(draft)?;
    one_row_a_stage(draft)?;
    // The rules below keep a byte for each (stage, micro-batch) pair: fewer ops than pairs cannot
    // be complete, and asking for that first keeps a short file that names huge numbers from
    // claiming huge memory.
    let n_pairs = u128::from(draft.topology.n_stages()) * u128::from(draft.n_micro_batches);
    let n_cells: usize = draft.rows.iter().map(Vec::len).sum();
    // A cell holds two ops at most.
    if n_pairs > 2 * n_cells as u128 {
        return Err(first_missing_forward(draft));
    }
    let seen = no_duplicate(draft)?;
    complete(draft, &seen)?;
    ordered(draft)?;
    deadlock_free(draft)
}

fn violation(
    rows: &[Vec<Action>],
    rule: Rule,
    rank: Rank,
    cell: usize,
    op: Option<Op>,
    message: String,
) -> ScheduleError {
    let grid = grid::mark(rows, rank, cell, op);
    let is_file = false;
    ScheduleError::Invalid(Box::new(Violation { rule, rank, cell, op, message, grid, is_file }))
}

fn cells(draft: &Draft) -> impl Iterator<Item = (Rank, usize, Op)> {
    draft.rows.iter().zip(0..).flat_map(|(row, rank)| {
        let ops = move |(cell, action): (usize, &Action)| {
            action.ops().map(move |op| (Rank(rank), cell, op))
        };
        row.iter().enumerate().flat_map(ops)
    })
}

/// As many rows as ranks.
fn one_row_a_rank(draft: &Draft) -> Result<(), ScheduleError> {
    let (n_rows, n_ranks) = (draft.rows.len(), draft.topology.n_ranks());
    if n_rows == n_ranks as usize {
        return Ok(());
    }
    let rank = Rank(n_ranks.min(n_rows as u32));
    let message = format!(
        "the plan has {n_rows} rows and its topology {n_ranks} ranks; write one row for each rank"
    );
    Err(violation(&draft.rows, Rule::Rows, rank, 0, None, message))
}

/// Stages and micro-batches that exist.
fn in_range(draft: &Draft) -> Result<(), ScheduleError> {
    let (n_stages, n_micro_batches) = (draft.topology.n_stages(), draft.n_micro_batches);
    for (rank, cell, op) in cells(draft) {
        let (what, number, count) = if op.stage.0 >= n_stages {
            ("stage", op.stage.0, n_stages)
        } else if op.micro_batch.0 >= n_micro_batches {
            ("micro-batch", op.micro_batch.0, n_micro_batches)
        } else {
            continue;
        };
        let fits = match count {
            1 => "0, the only one".to_owned(),
            _ => format!("one from 0 to {}", count - 1),
        };
        let message = format!("{op} names {what} {number} of {count}; use {fits}");
        return Err(violation(&draft.rows, Rule::Range, rank, cell, Some(op), message));
    }
    Ok(())
}

/// A stage runs on the row of its rank alone.
fn one_row_a_stage(draft: &Draft) -> Result<(), ScheduleError> {
    for (rank, cell, op) in cells(draft) {
        let owner = draft.places().rank_of(op.stage, op.micro_batch);
        if owner != rank {
            return Err(stage_on_two_rows(&draft.rows, rank, cell, op, owner));
        }
    }
    Ok(())
}

/// The refusal of an op that stands on `rank`'s row although its stage belongs to `owner`.
pub(crate) fn stage_on_two_rows(
    rows: &[Vec<Action>],
    rank: Rank,
    cell: usize,
    op: Op,
    owner: Rank,
) -> ScheduleError {
    let message = format!(
        "{op} stands on row {rank}, but stage {} is on row {owner}; keep a stage on one row",
        op.stage
    );
    violation(rows, Rule::StageOnTwoRows, rank, cell, Some(op), message)
}

fn bit(phase: Phase) -> u8 {
    match phase {
        Phase::Forward => 1,
        Phase::Backward => 2,
        Phase::InputGrad => 4,
        Phase::WeightGrad => 8,
    }
}

fn at(draft: &Draft, stage: Stage, micro_batch: MicroBatch) -> usize {
    stage.idx() * draft.n_micro_batches as usize + micro_batch.idx()
}

/// No op twice, and no full backward beside one of its halves. Returns the phases of every pair.
fn no_duplicate(draft: &Draft) -> Result<Vec<u8>, ScheduleError> {
    let mut seen = vec![0_u8; draft.topology.n_stages() as usize * draft.n_micro_batches as usize];
    for (rank, cell, op) in cells(draft) {
        let phases = &mut seen[at(draft, op.stage, op.micro_batch)];
        if *phases & bit(op.phase) != 0 {
            let message = format!("{op} stands twice on row {rank}; remove one of the two");
            return Err(violation(&draft.rows, Rule::Duplicate, rank, cell, Some(op), message));
        }
        not_mixed(draft, rank, cell, op, *phases)?;
        *phases |= bit(op.phase);
    }
    Ok(seen)
}

/// Either one full backward of a pair or its two halves.
fn not_mixed(
    draft: &Draft,
    rank: Rank,
    cell: usize,
    op: Op,
    phases: u8,
) -> Result<(), ScheduleError> {
    let halves = bit(Phase::InputGrad) | bit(Phase::WeightGrad);
    let other = match op.phase {
        Phase::Backward if phases & bit(Phase::InputGrad) != 0 => Phase::InputGrad,
        Phase::Backward if phases & halves != 0 => Phase::WeightGrad,
        Phase::InputGrad | Phase::WeightGrad if phases & bit(Phase::Backward) != 0 => {
            Phase::Backward
        }
        _ => return Ok(()),
    };
    let other = Op { phase: other, ..op };
    let message = format!(
        "{op} stands beside {other}: the gradient would count twice; keep one B, or one I and one W"
    );
    Err(violation(&draft.rows, Rule::Mixed, rank, cell, Some(op), message))
}

/// Every pair has its F and its backward, unless the whole plan has no backward.
fn complete(draft: &Draft, seen: &[u8]) -> Result<(), ScheduleError> {
    let has_backward = seen.iter().any(|&phases| phases & !bit(Phase::Forward) != 0);
    let whole = |phases: u8| phases & bit(Phase::Backward) != 0;
    for stage in draft.topology.stages() {
        for micro_batch in (0..draft.n_micro_batches).map(MicroBatch) {
            let phases = seen[at(draft, stage, micro_batch)];
            let has = |phase| phases & bit(phase) != 0;
            let absent = if !has(Phase::Forward) {
                Phase::Forward
            } else if !has_backward
                || whole(phases)
                || (has(Phase::InputGrad) && has(Phase::WeightGrad))
            {
                continue;
            } else if has(Phase::InputGrad) {
                Phase::WeightGrad
            } else if has(Phase::WeightGrad) {
                Phase::InputGrad
            } else {
                Phase::Backward
            };
            return Err(missing(draft, Op::new(stage, absent, micro_batch)));
        }
    }
    Ok(())
}

fn missing(draft: &Draft, op: Op) -> ScheduleError {
    let rank = draft.places().rank_of(op.stage, op.micro_batch);
    let cell = draft.rows[rank.idx()].len();
    let remedy = match op.phase {
        Phase::Forward => "add it: every stage needs an F of every micro-batch",
        Phase::Backward => {
            "add it: every F needs a B, or an I and a W, unless the plan has no backward at all"
        }
        Phase::InputGrad | Phase::WeightGrad => {
            "add it: I and W come together; or write one B for both"
        }
    };
    let message = format!("{op} is missing from row {rank}; {remedy}");
    violation(&draft.rows, Rule::Missing, rank, cell, Some(op), message)
}

/// The first pair without an F, found without a table of all pairs. The plan must have fewer ops
/// than pairs.
fn first_missing_forward(draft: &Draft) -> ScheduleError {
    let mut micro_batches = BTreeMap::<Stage, Vec<u32>>::new();
    for (_, _, op) in cells(draft).filter(|(_, _, op)| op.phase == Phase::Forward) {
        micro_batches.entry(op.stage).or_default().push(op.micro_batch.0);
    }
    for stage in draft.topology.stages() {
        let mut present = micro_batches.remove(&stage).unwrap_or_default();
        present.sort_unstable();
        present.dedup();
        let gap = present
            .iter()
            .zip(0..)
            .find_map(|(&there, wanted)| (there != wanted).then_some(wanted));
        let first = gap.unwrap_or(present.len() as u32);
        if first < draft.n_micro_batches {
            return missing(draft, Op::new(stage, Phase::Forward, MicroBatch(first)));
        }
    }
    unreachable!("a plan with fewer ops than (stage, micro-batch) pairs lacks an F")
}

/// On its own row, F stands before B and I, and I before W. The halves of a pair run at the same
/// time, so that neither can wait for the other.
fn ordered(draft: &Draft) -> Result<(), ScheduleError> {
    let mut done = vec![0_u8; draft.topology.n_stages() as usize * draft.n_micro_batches as usize];
    for (row, rank) in draft.rows.iter().zip((0..).map(Rank)) {
        for (cell, action) in row.iter().enumerate() {
            for op in action.ops() {
                let needs = match op.phase {
                    Phase::Forward => None,
                    Phase::Backward | Phase::InputGrad => Some(Phase::Forward),
                    Phase::WeightGrad => Some(Phase::InputGrad),
                };
                let phases = done[at(draft, op.stage, op.micro_batch)];
                if let Some(phase) = needs.filter(|&phase| phases & bit(phase) == 0) {
                    let needs = Op { phase, ..op };
                    let message = if action.ops().any(|other| other == needs) {
                        format!(
                            "{action} overlaps {op} with {needs}, which it needs; put {needs} first"
                        )
                    } else {
                        format!("{op} stands before {needs}, which it needs; put {needs} first")
                    };
                    return Err(violation(&draft.rows, Rule::Order, rank, cell, Some(op), message));
                }
            }
            for op in action.ops() {
                done[at(draft, op.stage, op.micro_batch)] |= bit(op.phase);
            }
        }
    }
    Ok(())
}

/// Every rank gets to the end of its row.
fn deadlock_free(draft: &Draft) -> Result<(), ScheduleError> {
    let mut walk = Walk::new(&draft.rows, &draft.topology, draft.n_micro_batches);
    walk.run(|_, _, _| {});
    if walk.is_finished() { Ok(()) } else { Err(circle(draft, &walk)) }
}

/// Starts at a stuck rank and follows the waits from rank to rank until one repeats. The ranks from
/// that one on form the circle.
fn circle(draft: &Draft, walk: &Walk<'_>) -> ScheduleError {
    let wait = |rank: usize| {
        let action = *draft.rows[rank].get(walk.heads()[rank])?;
        let (op, stage) = walk.missing(action)?;
        Some((op, stage, draft.places().rank_of(stage, op.micro_batch).idx()))
    };
    let mut path = Vec::new();
    let mut place_of = BTreeMap::new();
    let mut rank = (0..draft.rows.len()).find(|&rank| wait(rank).is_some());
    while let Some(current) = rank.filter(|current| !place_of.contains_key(current)) {
        place_of.insert(current, path.len());
        path.push(current);
        rank = wait(current).map(|(_, _, next)| next);
    }
    let start = rank.and_then(|again| place_of.get(&again).copied()).unwrap_or(0);
    let ring = &path[start..];
    let waits: Vec<_> = ring
        .iter()
        .filter_map(|&rank| wait(rank).map(|(op, stage, next)| (rank, op, stage, next)))
        .collect();
    let needed = |op: Op, stage: Stage, rank: usize| {
        let same = |other: &Op| {
            other.stage == stage
                && other.micro_batch == op.micro_batch
                && (other.phase == Phase::Forward) == (op.phase == Phase::Forward)
        };
        // W of the same pair is no gradient of an input: the first match is F, B or I, because W
        // comes after I.
        let mut ops = draft.rows[rank].iter().flat_map(|action| action.ops());
        ops.find(same).map_or_else(|| op.on(stage).to_string(), |op| op.to_string())
    };
    let Some(&(rank, op, stage, next)) = waits.iter().min_by_key(|(rank, ..)| *rank) else {
        unreachable!("a walk that is not finished has a rank that waits")
    };
    let cell = walk.heads()[rank];
    if next == rank {
        let needs = needed(op, stage, rank);
        let message = format!("{op} stands before {needs}, which it needs; put {needs} first");
        return violation(&draft.rows, Rule::Order, Rank(rank as u32), cell, Some(op), message);
    }
    let mut links: Vec<String> = waits
        .iter()
        .take(LINKS_SHOWN)
        .map(|&(rank, op, stage, next)| {
            format!("rank {rank} at {op} waits for {} of rank {next}", needed(op, stage, next))
        })
        .collect();
    if waits.len() > LINKS_SHOWN {
        links.push(format!("and {} more ranks", waits.len() - LINKS_SHOWN));
    }
    let message = format!(
        "deadlock: {}; reorder the ops so that no ranks wait for each other",
        links.join(", ")
    );
    violation(&draft.rows, Rule::Deadlock, Rank(rank as u32), cell, Some(op), message)
}
