//! Rows as a grid of text with one cell marked: what a refusal shows.

use std::fmt::Write as _;

use crate::action::Action;
use crate::ids::Rank;
use crate::op::Op;

/// Rows and columns that a marked grid shows on each side of its cell.
const REACH_ROWS: usize = 8;
const REACH_CELLS: usize = 6;

/// The plan around one cell, which stands in brackets; `…` where more follows. One past the end of
/// a row stands `missing`, the op that should be there.
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

/// How far the columns of a window reach: to the end of its longest row, and to the marked cell at
/// least.
fn longest(rows: &[Vec<Action>], window: std::ops::Range<usize>, cell: usize) -> usize {
    rows[window].iter().map(Vec::len).max().unwrap_or(0).max(cell + 1)
}

/// What a cell is called in a drawing: `F3`, `5F3` where its stage does not follow from its rank,
/// `5F3&2B1` for a pair.
pub(crate) fn label(action: Action, one_stage_a_rank: bool) -> String {
    let short = |op: Op| {
        if one_stage_a_rank { format!("{}{}", op.phase, op.micro_batch) } else { op.to_string() }
    };
    action.ops().map(short).collect::<Vec<_>>().join("&")
}
