//! The columns of the list, as wide as there is room for.

use std::time::SystemTime;

use super::row::Row;
use crate::monitor::words::format;

/// Columns of a screen that a text fits which goes elsewhere than to a terminal.
pub const COLUMNS_OF_TEXT: usize = 80;

/// A column.
struct Column {
    head: &'static str,
    /// Whether its numbers stand at its right.
    is_right: bool,
    cell: fn(&Row) -> String,
}

const fn column(head: &'static str, is_right: bool, cell: fn(&Row) -> String) -> Column {
    Column { head, is_right, cell }
}

/// Below this width, the table has fewer columns.
const ALL_COLUMNS: usize = 110;
/// How many are there in any case.
const N_ALWAYS: usize = 7;
const NAME: usize = 0;
const SCHEDULE: usize = 5;
const SIZES: usize = 6;

/// Where there is no room: which column gives way first, and how many cells it keeps then. Numbers
/// are never cut.
const GIVE_WAY: [(usize, usize); 6] =
    [(NAME, 32), (SCHEDULE, 10), (SIZES, 12), (SCHEDULE, 6), (NAME, 12), (SIZES, 5)];

/// Steps from here on are written with a letter.
const MANY_STEPS: u64 = 100_000;

fn steps(row: &Row) -> String {
    let number = |n: u64| {
        if n < MANY_STEPS { n.to_string() } else { format::count(n as f64) }
    };
    match row.steps {
        (0, 0) => "-".to_owned(),
        (step, 0) => number(step),
        (step, n_steps) => format!("{}/{}", number(step), number(n_steps)),
    }
}

const COLUMNS: [Column; 9] = [
    column("run", false, |row| row.run.id.clone()),
    column("state", false, Row::state),
    column("step", true, steps),
    column("loss", true, |row| row.loss.map_or_else(|| "-".to_owned(), format::number)),
    column("time", true, |row| row.seconds.map_or_else(|| "-".to_owned(), short_time)),
    column("schedule", false, |row| known(&row.schedule)),
    column("sizes", false, |row| known(&row.sizes)),
    column("files", true, |row| format::bytes(row.run.bytes)),
    column("written", true, |row| ago(row.run.modified)),
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

/// A text in this many cells. A text that is too long loses its middle, because its ends say most.
fn cut_middle(text: &str, n_cells: usize) -> String {
    const MARK: &str = "..";
    if format::cells(text) <= n_cells {
        return text.to_owned();
    }
    let kept = n_cells.saturating_sub(MARK.len());
    if kept < 2 {
        return format::cut(text, n_cells);
    }
    let letters: Vec<char> = text.chars().collect();
    let fits = |part: &[char], room: usize| format::cells(&part.iter().collect::<String>()) <= room;
    let (mut first, mut last) = (0, letters.len());
    while first < letters.len() && fits(&letters[..=first], kept / 2) {
        first += 1;
    }
    while last > first && fits(&letters[last - 1..], kept - kept / 2) {
        last -= 1;
    }
    let head: String = letters[..first].iter().collect();
    let tail: String = letters[last..].iter().collect();
    format!("{head}{MARK}{tail}")
}

/// The heads and the rows in lines of at most `n_columns`; a column that has no room is cut, the
/// name of a run last.
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
            let of_cells = cells.iter().map(|row| format::cells(&row[at])).max().unwrap_or(0);
            of_cells.max(column.head.len())
        })
        .collect();
    // Two cells behind each of the first two, for the eye, and one behind the others.
    let gaps = n_shown + 1;
    for (at, least) in GIVE_WAY {
        let beyond = (widths.iter().sum::<usize>() + gaps).saturating_sub(n_columns);
        widths[at] -= beyond.min(widths[at].saturating_sub(least));
    }
    let line = |cells: Vec<&str>| -> String {
        let mut line = String::new();
        for (at, cell) in cells.into_iter().enumerate() {
            let cell = match at {
                NAME => cut_middle(cell, widths[at]),
                _ => format::cut(cell, widths[at]),
            };
            let fill = " ".repeat(widths[at].saturating_sub(format::cells(&cell)));
            if columns[at].is_right {
                line.push_str(&fill);
                line.push_str(&cell);
            } else {
                line.push_str(&cell);
                line.push_str(&fill);
            }
            line.push_str(if at < 2 { "  " } else { " " });
        }
        format::cut(line.trim_end(), n_columns)
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
        assert_eq!(cut_middle("seed-mlp-20261124-112734", 12), "seed-..12734");
        assert_eq!(cut_middle("short", 12), "short");
        assert_eq!(cut_middle("short", 3), "s..");
        assert_eq!(cut_middle("short", 0), "");
        for n_cells in 0..40 {
            let cut = cut_middle("漢字 wide 漢字 and long 漢字漢字漢字", n_cells);
            assert!(format::cells(&cut) <= n_cells, "{cut:?} in {n_cells}");
        }
    }
}
