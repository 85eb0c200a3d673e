//! Plans as CSV, in the form that `PyTorch`'s pipelining reads and writes.
//!
//! No header; line i is rank i; cells in the order of execution; an empty cell is a bubble and
//! carries nothing. Lines end with LF or CRLF, the last one with or without. A plan is written
//! without bubbles: they follow from the costs.
//!
//! A stage on two rows is two copies of the model, one for each half of the micro-batches, as
//! Chimera has them; `PyTorch` has no such plans.

use crate::action::Action;
use crate::draft::Draft;
use crate::error::{CellFault, CsvFault, ScheduleError, Violation};
use crate::ids::{Rank, Stage};
use crate::op::Op;
use crate::plan::ValidPlan;
use crate::text::excerpt;
use crate::topology::Topology;
use crate::validate;

/// The longest file that is read: 256 MiB.
pub const CSV_BYTES_MAX: usize = 1 << 28;
/// Cells that are read at most: each takes some hundred bytes until its plan is simulated.
const CELLS_MAX: usize = 20_000_000;

/// The plan as CSV, one line a rank.
pub fn export_csv(plan: &ValidPlan) -> String {
    let mut text = plan.to_text_rows().join("\n");
    text.push('\n');
    text
}

/// Reads a plan from CSV and validates it. The ranks are the lines, the stages those that the cells
/// name; the micro-batches are `n_micro_batches`, or as many as the highest number in a cell says.
///
/// # Errors
/// [`ScheduleError::Csv`] for a file that is no plan, [`ScheduleError::Cell`] for a cell that
/// cannot be taken, and [`ScheduleError::Invalid`] for a plan that breaks a rule. Cells count from
/// 0 and include empty ones.
pub fn import_csv(
    name: &str,
    bytes: &[u8],
    n_micro_batches: Option<u32>,
) -> Result<ValidPlan, ScheduleError> {
    // Some editors begin a text with a mark of its encoding.
    let text = text(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes))?;
    // Empty ones and those of empty lines included.
    let n_cells = text.bytes().filter(|&byte| byte == b',' || byte == b'\n').count();
    if n_cells > CELLS_MAX {
        let fault = CsvFault::TooManyCells { cells: n_cells, limit: CELLS_MAX };
        return Err(ScheduleError::Csv(fault));
    }
    let rows = rows(text)?;
    let n_ops = ops(&rows).count();
    if n_ops == 0 {
        return Err(ScheduleError::Csv(CsvFault::Empty));
    }
    if let Some(row) = rows.iter().position(Vec::is_empty) {
        return Err(ScheduleError::Csv(CsvFault::EmptyRow { row }));
    }
    bounded(text, &rows, n_ops)?;
    let topology = topology(text, &rows).map_err(|refused| in_columns(refused, text))?;
    let highest = ops(&rows).map(|op| op.micro_batch.0).max().unwrap_or(0);
    let draft = Draft {
        name: name.to_owned(),
        topology,
        n_micro_batches: n_micro_batches.unwrap_or(highest + 1),
        rows,
    };
    draft.validate().map_err(|refused| in_columns(refused, text))
}

fn text(bytes: &[u8]) -> Result<&str, ScheduleError> {
    if bytes.len() > CSV_BYTES_MAX {
        return Err(ScheduleError::Csv(CsvFault::TooLong {
            bytes: bytes.len(),
            limit: CSV_BYTES_MAX,
        }));
    }
    let control = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\r' | b'\t');
    let not_text = match std::str::from_utf8(bytes) {
        Ok(text) => match bytes.iter().position(control) {
            None => return Ok(text),
            Some(offset) => offset,
        },
        Err(refused) => {
            let good = &bytes[..refused.valid_up_to()];
            good.iter().position(control).unwrap_or(refused.valid_up_to())
        }
    };
    Err(binary(bytes, not_text))
}

/// The refusal of a byte that no text has, by the cell that it is in.
fn binary(bytes: &[u8], offset: usize) -> ScheduleError {
    let before = &bytes[..offset];
    let row = before.split(|&byte| byte == b'\n').count() - 1;
    let line = before.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    let column = line.split(|&byte| byte == b',').count() - 1;
    let start = offset - line.rsplit(|&byte| byte == b',').next().unwrap_or_default().len();
    let is_end = |byte: &u8| matches!(byte, b',' | b'\n' | b'\r');
    let end = bytes[offset..].iter().position(is_end).map_or(bytes.len(), |at| offset + at);
    // No more than an excerpt shows.
    let cell = String::from_utf8_lossy(&bytes[start..end.min(start + 128).max(offset + 1)]);
    let fault = CellFault::Binary { byte: bytes[offset] };
    ScheduleError::Cell { row, column, cell: excerpt(&cell), fault }
}

/// The cells of a line with their columns, empty ones left out.
fn cells(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split(',').map(str::trim).enumerate().filter(|(_, cell)| !cell.is_empty())
}

fn rows(text: &str) -> Result<Vec<Vec<Action>>, ScheduleError> {
    let parse = |row: usize, column: usize, cell: &str| {
        cell.parse::<Action>().map_err(|_| {
            let fault = CellFault::NotAnOp;
            ScheduleError::Cell { row, column, cell: excerpt(cell), fault }
        })
    };
    let row = |(row, line)| cells(line).map(|(column, cell)| parse(row, column, cell)).collect();
    text.lines().enumerate().map(row).collect()
}

/// A complete plan has an op for each of its stages and micro-batches, so a number that exceeds the
/// ops cannot belong to one. Asked before anything is laid out by number.
fn bounded(text: &str, rows: &[Vec<Action>], n_ops: usize) -> Result<(), ScheduleError> {
    if ops(rows).all(|op| op.stage.idx() < n_ops && op.micro_batch.idx() < n_ops) {
        return Ok(());
    }
    // Only now is the way back to the column worth a second reading.
    for (row, line) in text.lines().enumerate() {
        for (column, cell) in cells(line) {
            let action: Action = cell.parse()?;
            let numbers = action
                .ops()
                .flat_map(|op| [("stage", op.stage.0), ("micro-batch", op.micro_batch.0)]);
            for (what, number) in numbers {
                if number as usize >= n_ops {
                    let fault = CellFault::Beyond { what, number, n_ops };
                    return Err(ScheduleError::Cell { row, column, cell: excerpt(cell), fault });
                }
            }
        }
    }
    Ok(())
}

fn ops(rows: &[Vec<Action>]) -> impl Iterator<Item = Op> {
    rows.iter().flatten().flat_map(|action| action.ops())
}

/// A stage belongs to the row that names it, or, with two copies of the model, to two rows: one for
/// each half of the micro-batches.
fn topology(text: &str, rows: &[Vec<Action>]) -> Result<Topology, ScheduleError> {
    let highest = ops(rows).map(|op| op.stage).max().unwrap_or_default();
    let mut ranks: Vec<Option<Rank>> = vec![None; highest.idx() + 1];
    for (row, rank) in rows.iter().zip((0..).map(Rank)) {
        for (cell, op) in
            row.iter().enumerate().flat_map(|(cell, a)| a.ops().map(move |op| (cell, op)))
        {
            let owner = *ranks[op.stage.idx()].get_or_insert(rank);
            if owner != rank {
                return two_pipes(rows, ranks.len())
                    .ok_or_else(|| validate::stage_on_two_rows(rows, rank, cell, op, owner));
            }
        }
    }
    match ranks.iter().position(Option::is_none) {
        Some(absent) => Err(stage_absent(text, absent as u32, highest)?),
        None => Topology::from_ranks(ranks.into_iter().flatten().collect()),
    }
}

/// The refusal of a gap in the stages, at the first cell that names the highest one.
fn stage_absent(text: &str, absent: u32, highest: Stage) -> Result<ScheduleError, ScheduleError> {
    for (row, line) in text.lines().enumerate() {
        for (column, cell) in cells(line) {
            if cell.parse::<Action>()?.ops().any(|op| op.stage == highest) {
                let fault = CellFault::StageAbsent { absent, highest: highest.0 };
                return Ok(ScheduleError::Cell { row, column, cell: excerpt(cell), fault });
            }
        }
    }
    Ok(ScheduleError::Csv(CsvFault::Empty))
}

/// Two copies of the model, if the whole file agrees on it: every stage on one row for the first
/// half of the micro-batches and on one row for the second, and on every row as many stages of the
/// one copy as of the other.
fn two_pipes(rows: &[Vec<Action>], n_stages: usize) -> Option<Topology> {
    let n_micro_batches = ops(rows).map(|op| op.micro_batch.0).max()? + 1;
    let half = n_micro_batches.is_multiple_of(2).then_some(n_micro_batches / 2)?;
    let mut pipes = [vec![None; n_stages], vec![None; n_stages]];
    for (row, rank) in rows.iter().zip((0..).map(Rank)) {
        for op in row.iter().flat_map(|action| action.ops()) {
            let pipe = &mut pipes[usize::from(op.micro_batch.0 >= half)];
            if *pipe[op.stage.idx()].get_or_insert(rank) != rank {
                return None;
            }
        }
    }
    let [first, second] = pipes.map(|pipe| pipe.into_iter().collect::<Option<Vec<Rank>>>());
    let (first, second) = (first?, second?);
    let sorted = |ranks: &[Rank]| {
        let mut ranks = ranks.to_vec();
        ranks.sort_unstable();
        ranks
    };
    if sorted(&first) != sorted(&second) {
        return None;
    }
    Topology::from_pipes(&[first, second]).ok()
}

/// Puts the columns of the file, which count bubbles, in the place of positions among ops.
fn in_columns(refused: ScheduleError, text: &str) -> ScheduleError {
    let ScheduleError::Invalid(violation) = refused else { return refused };
    let line = text.lines().nth(violation.rank.idx()).unwrap_or_default();
    let mut columns = cells(line).map(|(column, _)| column);
    let end = line.split(',').count();
    let cell = columns.nth(violation.cell).unwrap_or(end);
    ScheduleError::Invalid(Box::new(Violation { cell, is_file: true, ..*violation }))
}
