//! Which rank runs where, as a table.

use std::fmt::Write as _;

use pp_train::Prepared;

/// The map of a run: a line for each rank.
pub(crate) fn map(prepared: &Prepared) -> String {
    let places = prepared.places();
    let mut rows = vec![["rank", "replica", "host", "device", "stages"].map(ToOwned::to_owned)];
    for place in places {
        let stages: Vec<String> = place.stages.iter().map(ToString::to_string).collect();
        let (rank, replica) = (place.rank.to_string(), place.replica.to_string());
        rows.push([rank, replica, place.host, place.device, stages.join(",")]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing into a string cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
