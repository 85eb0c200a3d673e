//! The table of `ARCHITECTURE.md` with the paths that only CUDA takes.

use std::collections::BTreeSet;

/// The header of the table.
const HEADER: &str = "| path | where | double, or test on a GPU |";

/// The errors of the table. `sources` are files with code for CUDA alone; each has to be in the
/// second column. Each row has to name a file or a test in its third column, and `exists` says
/// whether there is one of that name.
pub(crate) fn errors(
    page: &str,
    sources: &BTreeSet<String>,
    exists: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut errors = Vec::new();
    let mut placed = BTreeSet::new();
    let rows = page.lines().skip_while(|line| *line != HEADER).skip(2);
    for row in rows.take_while(|line| line.starts_with('|')) {
        let columns: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [_, place, proof] = columns[..] else {
            errors.push(format!("a row without three columns: {row}"));
            continue;
        };
        let names = |column: &str| -> Vec<String> {
            column.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
        };
        placed.extend(names(place));
        let proofs = names(proof);
        if proofs.is_empty() {
            errors.push(format!("neither a double nor a test: {row}"));
        }
        let absent = proofs.iter().filter(|name| !exists(name));
        errors.extend(absent.map(|name| format!("there is no {name}: {row}")));
    }
    let missing = sources.difference(&placed);
    errors.extend(missing.map(|file| format!("{file} has code for CUDA, and is in no row")));
    errors
}
