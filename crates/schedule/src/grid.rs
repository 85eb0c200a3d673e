//! A plan as a picture in text: ranks down, steps across.

use std::fmt::Write as _;

use crate::action::Action;
use crate::costs::Costs;
use crate::error::ScheduleError;
use crate::ids::{Pipe, Rank};
use crate::op::Op;
use crate::plan::ValidPlan;
use crate::simulate::{TimedAction, simulate};

/// Rows and columns that a marked grid shows on each side of its cell.
const REACH_ROWS: usize = 8;
const REACH_CELLS: usize = 6;

/// The plan around one cell, which stands in brackets; `…` where more follows. One past the end of a row stands `missing`, the
/// op that should be there.
pub(crate) fn mark(rows: &[Vec<Action>], rank: Rank, cell: usize, missing: Option<Op>) -> String {
    let first_row = rank.idx().saturating_sub(REACH_ROWS);
    let last_row = rows.len().min(rank.idx() + REACH_ROWS + 1);
    let first_cell = cell.saturating_sub(REACH_CELLS);
    let last_cell = cell + REACH_CELLS + 1;
    let text_at = |row: usize, at: usize| -> String {
        match rows[row].get(at) {
            Some(&action) if row == rank.idx() && at == cell => {
                format!("[{}]", label(action, false))
            }
            Some(&action) => format!(" {} ", label(action, false)),
            None if row == rank.idx() && at == cell => {
                missing.map_or_else(|| "[?]".to_owned(), |op| format!("[{op}?]"))
            }
            None => String::new(),
        }
    };
    let window = first_row..last_row;
    let width = window.clone().flat_map(|row| (first_cell..last_cell).map(move |at| (row, at)));
    let width = width.map(|(row, at)| text_at(row, at).chars().count()).max().unwrap_or(0).max(5);
    let rank_width = last_row.saturating_sub(1).to_string().len();
    let mut grid = format!("{:>1$}", "cell", "rank ".len() + rank_width);
    for at in first_cell..last_cell.min(longest(rows, window.clone(), cell)) {
        let _ = write!(grid, " {at:^width$}");
    }
    grid.truncate(grid.trim_end().len());
    for row in window {
        let _ = write!(grid, "\nrank {row:>rank_width$}");
        if first_cell > 0 {
            grid.push('…');
        }
        for at in first_cell..last_cell {
            let _ = write!(grid, " {:^width$}", text_at(row, at));
        }
        grid.truncate(grid.trim_end().len());
        if rows[row].len() > last_cell {
            grid.push_str(" …");
        }
    }
    grid
}

/// How far the columns of a window reach: to the end of its longest row, and to the marked cell at least.
fn longest(rows: &[Vec<Action>], window: std::ops::Range<usize>, cell: usize) -> usize {
    rows[window].iter().map(Vec::len).max().unwrap_or(0).max(cell + 1)
}

/// The widest picture: past it ops shrink below their labels.
const COLUMNS_MAX: f64 = 4096.0;

/// The plan over time, to scale: a line a rank, every op as long as it takes, dots where the rank waits.
///
/// An op reads `F3---|`: what it is, dashes for as long as it lasts, and a bar at its end. Where ranks hold several stages, or hold
/// them in another order, the stage stands in front: `5F3--|`. An op that is too short for its label shows its letter alone.
///
/// # Errors
/// As [`simulate`].
pub fn draw(plan: &ValidPlan, costs: &Costs) -> Result<String, ScheduleError> {
    let simulation = simulate(plan, costs)?;
    let topology = plan.topology();
    let one_stage_a_rank = topology.n_pipes() == 1
        && topology.stages().all(|stage| topology.rank_of(Pipe(0), stage) == Rank(stage.0));
    let label = |action: Action| label(action, one_stage_a_rank);
    let all = || simulation.timeline(plan, costs).flatten();
    let label_width = all().map(|timed| label(timed.action).len()).max().unwrap_or(1);
    let shortest = all()
        .map(|timed| timed.end - timed.start)
        .filter(|&length| length > 0.0)
        .fold(f64::INFINITY, f64::min);
    let columns_a_unit =
        ((label_width + 1) as f64 / shortest).min(COLUMNS_MAX / simulation.makespan);
    let column = |time: f64| column(time, columns_a_unit);
    let rank_width = (plan.n_ranks() - 1).to_string().len();
    let width = column(simulation.makespan);
    let line = |(rank, row): (usize, &mut dyn Iterator<Item = TimedAction>)| {
        let mut line = format!("rank {rank:>rank_width$}  ");
        let mut at = 0;
        for timed in row {
            let (start, end) = (column(timed.start), column(timed.end));
            line.extend(std::iter::repeat_n('.', start.saturating_sub(at)));
            line.push_str(&cell(
                &label(timed.action),
                timed.action.first().phase.letter(),
                end.saturating_sub(start.max(at)),
            ));
            at = at.max(end);
        }
        line.extend(std::iter::repeat_n('.', width.saturating_sub(at)));
        line
    };
    let rows = simulation.timeline(plan, costs).enumerate();
    Ok(rows.map(|(rank, mut row)| line((rank, &mut row))).collect::<Vec<_>>().join("\n"))
}

/// What a cell is called in a drawing: `F3`, `5F3` where its stage does not follow from its rank, `5F3&2B1` for a pair.
pub(crate) fn label(action: Action, one_stage_a_rank: bool) -> String {
    let short = |op: Op| {
        if one_stage_a_rank { format!("{}{}", op.phase, op.micro_batch) } else { op.to_string() }
    };
    action.ops().map(short).collect::<Vec<_>>().join("&")
}

/// One op, `width` columns wide.
fn cell(label: &str, letter: char, width: usize) -> String {
    match width {
        0 => String::new(),
        1 => letter.to_string(),
        _ if label.len() < width => format!("{label:-<0$}|", width - 1),
        _ => format!("{letter:-<0$}|", width - 1),
    }
}

#[expect(clippy::cast_sign_loss, reason = "no op starts before time 0")]
fn column(time: f64, columns_a_unit: f64) -> usize {
    (time * columns_a_unit).round() as usize
}
