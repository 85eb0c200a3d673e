//! The length of a file of code.

/// The lines of code in `text`: those that are neither blank nor comments, in tests, or rows of a
/// table.
///
/// Tests are items with `#[cfg(test)]`, and a table is a constant that is an array of more than one
/// line. Both are found by their first and last line at the margin, which is where `rustfmt` puts
/// them.
pub(crate) fn lines_of_code(text: &str) -> usize {
    let mut lines = text.lines();
    let mut count = 0;
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            if lines.next().is_some_and(|item| item.ends_with('{')) {
                lines.find(|line| *line == "}");
            }
        } else if begins_table(line) {
            lines.find(|line| *line == "];");
        } else if !line.trim().is_empty() && !line.trim_start().starts_with("//") {
            count += 1;
        }
    }
    count
}

fn begins_table(line: &str) -> bool {
    let item = line
        .trim_start_matches("pub(crate) ")
        .trim_start_matches("pub(super) ")
        .trim_start_matches("pub ");
    (item.starts_with("const ") || item.starts_with("static ")) && item.ends_with('[')
}
