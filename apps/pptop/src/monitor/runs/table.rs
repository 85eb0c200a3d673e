//! The columns of the list, as wide as there is room for.

use std::time::SystemTime;

use super::row::Row;
use crate::monitor::view::format;

/// Columns of a screen that a text fits which goes elsewhere than to a terminal.
pub const COLUMNS_OF_TEXT: usize = 80;

/// A column.
struct Column {
    head: &'static str,
    /// Whether its numbers stand at its right.
    is_right: bool,
    /// Cells that it keeps where there is no room.
    least: usize,
    cell: fn(&Row) -> String,
}

const fn column(
    head: &'static str,
    is_right: bool,
    least: usize,
    cell: fn(&Row) -> String,
) -> Column {
    Column { head, is_right, least, cell }
}

/// Cells that the name of a run keeps.
const NAME_LEAST: usize = 12;
/// Below so many columns there are fewer of them.
const ALL_COLUMNS: usize = 110;
/// How many are there in any case.
const N_ALWAYS: usize = 7;

const COLUMNS: [Column; 9] = [
    column("run", false, NAME_LEAST, |row| row.run.id.clone()),
    column("state", false, 7, Row::state),
    column("step", true, 5, |row| match row.steps {
        (0, 0) => "-".to_owned(),
        (step, 0) => step.to_string(),
        (step, n_steps) => format!("{step}/{n_steps}"),
    }),
    column("loss", true, 5, |row| row.loss.map_or_else(|| "-".to_owned(), format::number)),
    column("time", true, 5, |row| row.seconds.map_or_else(|| "-".to_owned(), short_time)),
    column("schedule", false, 6, |row| known(&row.schedule)),
    column("sizes", false, 5, |row| known(&row.sizes)),
    column("files", true, 5, |row| format::bytes(row.run.bytes)),
    column("written", true, 8, |row| ago(row.run.modified)),
];

fn known(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// `12 s`, `3m05s`, `2h10m`, `3d04h`.
pub(crate) fn short_time(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".to_owned();
    }
    let whole = seconds as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match whole {
        0..60 => format!("{seconds:.0} s"),
        60..3600 => format!("{minutes}m{:02}s", whole % 60),
        3600..86_400 => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// How long ago something was.
fn ago(when: SystemTime) -> String {
    let seconds = SystemTime::now().duration_since(when).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// A text in so many cells: of one that is too long the middle gives way, for its ends say most.
fn cut_middle(text: &str, n_cells: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= n_cells {
        return text.to_owned();
    }
    let Some(kept) = n_cells.checked_sub(1) else { return String::new() };
    let (first, last) = (kept / 2, kept - kept / 2);
    let mut cut: String = letters[..first].iter().collect();
    cut.push('…');
    cut.extend(&letters[letters.len() - last..]);
    cut
}

/// The heads and the rows in lines of at most `n_columns`; a column that has no room is cut, the name of a run last.
pub fn table<'a>(
    rows: impl IntoIterator<Item = &'a Row>,
    n_columns: usize,
) -> (String, Vec<String>) {
    let n_shown = if n_columns >= ALL_COLUMNS { COLUMNS.len() } else { N_ALWAYS };
    let columns = &COLUMNS[..n_shown];
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| columns.iter().map(|column| format::plain(&(column.cell)(row))).collect())
        .collect();
    let mut widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let of_cells = cells.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
            of_cells.max(column.head.len())
        })
        .collect();
    // Two cells behind each of the first two, for the eye, and one behind the others.
    let gaps = n_shown + 1;
    while widths.iter().sum::<usize>() + gaps > n_columns {
        let spare = |at: &usize| widths[*at].saturating_sub(columns[*at].least);
        let Some(at) = (1..n_shown)
            .filter(|at| spare(at) > 0)
            .max_by_key(spare)
            .or_else(|| (spare(&0) > 0).then_some(0))
        else {
            break;
        };
        widths[at] -= 1;
    }
    let line = |cells: Vec<&str>| -> String {
        let mut line = String::new();
        for (at, cell) in cells.into_iter().enumerate() {
            let cell = cut_middle(cell, widths[at]);
            let fill = " ".repeat(widths[at] - cell.chars().count());
            if columns[at].is_right {
                line.push_str(&fill);
                line.push_str(&cell);
            } else {
                line.push_str(&cell);
                line.push_str(&fill);
            }
            line.push_str(if at < 2 { "  " } else { " " });
        }
        let line: String = line.chars().take(n_columns).collect();
        line.trim_end().to_owned()
    };
    let head = line(columns.iter().map(|column| column.head).collect());
    let lines = cells.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    (head, lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (seconds, text) in [
            (0.4, "0 s"),
            (59.2, "59 s"),
            (185.0, "3m05s"),
            (7_800.0, "2h10m"),
            (273_600.0, "3d04h"),
            (f64::NAN, "-"),
            (-1.0, "-"),
        ] {
            assert_eq!(short_time(seconds), text);
        }
    }

    #[test]
    fn the_ends_of_a_name_stay() {
        assert_eq!(cut_middle("seed-mlp-20261124-112734", 12), "seed-…112734");
        assert_eq!(cut_middle("short", 12), "short");
        assert_eq!(cut_middle("short", 1), "…");
        assert_eq!(cut_middle("short", 0), "");
    }
}
