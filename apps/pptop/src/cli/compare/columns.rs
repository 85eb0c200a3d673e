//! What the comparison shows of a row: five columns, or everything.

use super::sheet::{Format, Sheet};
use super::{Row, Three};

/// A number for programs; an empty cell stands for a missing number.
fn raw<T: ToString>(number: Option<T>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

/// A number for people; a hyphen stands for a missing number.
fn shown(number: Option<f64>, digits: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
}

/// Peaks of all ranks in MiB.
fn peaks(row: &Row) -> Vec<String> {
    row.memory.iter().map(|memory| (memory.peak_bytes >> 20).to_string()).collect()
}

fn most_bytes(row: &Row) -> Option<u64> {
    row.memory.iter().map(|memory| memory.peak_bytes).max()
}

fn same_bits(row: &Row) -> &'static str {
    match row.loss_bits_equal {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    }
}

fn figure(row: &Row) -> String {
    match (row.bubble_notebook, row.bubble_notebook_definition) {
        (Some(value), Some("none")) => format!("{value:.3} none of these"),
        (Some(value), Some(definition)) => format!("{value:.3} {definition}"),
        _ => "-".to_owned(),
    }
}

/// One column: its title, whether it holds words, and a cell of it.
type Column = (&'static str, bool, fn(&Row) -> String);

const STRATEGY: Column = ("strategy", true, |row| row.label.clone());
const STEP: Column = ("step ms", false, |row| format!("{:.1}", 1000.0 * row.step_seconds_median));
const SPEED_UP: Column = ("speed-up", false, |row| match row.speedup {
    Some(speedup) => format!("{speedup:.2}x"),
    None => "-".to_owned(),
});

/// The five that answer most questions.
const NARROW: [Column; 5] = [
    STRATEGY,
    STEP,
    SPEED_UP,
    ("bubble (theory)", false, |row| {
        let Three { closed_form, measured, .. } = row.bubble_ratio;
        format!("{} ({})", shown(measured, 3), shown(closed_form, 3))
    }),
    ("peak MiB", false, |row| shown(most_bytes(row).map(|bytes| (bytes >> 20) as f64), 0)),
];

/// What a step takes, and what comes out.
const TIMES: [Column; 14] = [
    STRATEGY,
    ("p", false, |row| row.pp.to_string()),
    ("dp", false, |row| row.dp.to_string()),
    ("v", false, |row| row.virtual_stages.to_string()),
    ("m", false, |row| row.micro_batches.to_string()),
    ("mean ms", false, |row| format!("{:.1}", 1000.0 * row.step_seconds_mean)),
    ("median", false, STEP.2),
    ("p95", false, |row| format!("{:.1}", 1000.0 * row.step_seconds_p95)),
    ("samples/s", false, |row| format!("{:.1}", row.samples_per_second)),
    SPEED_UP,
    ("loss", false, |row| shown(row.final_loss, 4)),
    ("same bits", true, |row| same_bits(row).to_owned()),
    ("verdict", true, |row| match row.loss_change {
        Some(change) if row.outcome != "-" => format!("{} {:+.0} %", row.outcome, 100.0 * change),
        _ => row.outcome.to_owned(),
    }),
    ("peak MiB by rank", true, |row| peaks(row).join(" ")),
];

/// The bubble under its three names, each by formula, by simulation and as measured.
const BUBBLES: [Column; 10] = [
    STRATEGY,
    ("ratio: formula", false, |row| shown(row.bubble_ratio.closed_form, 4)),
    ("simulated", false, |row| shown(row.bubble_ratio.simulated, 4)),
    ("measured", false, |row| shown(row.bubble_ratio.measured, 4)),
    ("overhead: formula", false, |row| shown(row.bubble_overhead.closed_form, 4)),
    ("simulated", false, |row| shown(row.bubble_overhead.simulated, 4)),
    ("measured", false, |row| shown(row.bubble_overhead.measured, 4)),
    ("span: formula", false, |row| shown(row.span_bubble.closed_form, 4)),
    ("simulated", false, |row| shown(row.span_bubble.simulated, 4)),
    ("measured", false, |row| shown(row.span_bubble.measured, 4)),
];

const FIGURE: Column = ("the notebook's figure", true, figure);

/// A field of CSV has one number, in a unit that its name says.
const FIELDS: [Column; 6] = [
    STRATEGY,
    ("step_median_seconds", false, |row| row.step_seconds_median.to_string()),
    ("speedup", false, |row| raw(row.speedup)),
    ("bubble_ratio_measured", false, |row| raw(row.bubble_ratio.measured)),
    ("bubble_ratio_theory", false, |row| raw(row.bubble_ratio.closed_form)),
    ("peak_memory_bytes", false, |row| raw(most_bytes(row))),
];

const MORE_FIELDS: [Column; 24] = [
    ("baseline", true, |row| row.baseline.to_string()),
    ("schedule", true, |row| row.schedule.clone()),
    ("pp", false, |row| row.pp.to_string()),
    ("dp", false, |row| row.dp.to_string()),
    ("virtual_stages", false, |row| row.virtual_stages.to_string()),
    ("micro_batches", false, |row| row.micro_batches.to_string()),
    ("step_mean_seconds", false, |row| row.step_seconds_mean.to_string()),
    ("step_p95_seconds", false, |row| row.step_seconds_p95.to_string()),
    ("samples_per_second", false, |row| row.samples_per_second.to_string()),
    ("final_loss_nats", false, |row| raw(row.final_loss)),
    ("loss_change_ratio", false, |row| raw(row.loss_change)),
    ("loss_bits_equal", true, |row| raw(row.loss_bits_equal)),
    ("verdict", true, |row| row.outcome.replace('-', "")),
    ("bubble_ratio_simulated", false, |row| raw(row.bubble_ratio.simulated)),
    ("bubble_overhead_theory", false, |row| raw(row.bubble_overhead.closed_form)),
    ("bubble_overhead_simulated", false, |row| raw(row.bubble_overhead.simulated)),
    ("bubble_overhead_measured", false, |row| raw(row.bubble_overhead.measured)),
    ("span_bubble_theory", false, |row| raw(row.span_bubble.closed_form)),
    ("span_bubble_simulated", false, |row| raw(row.span_bubble.simulated)),
    ("span_bubble_measured", false, |row| raw(row.span_bubble.measured)),
    ("live_memory_bytes_by_rank", true, |row| by_rank(row, |memory| memory.live_bytes)),
    ("mean_memory_bytes_by_rank", true, |row| by_rank(row, |memory| memory.mean_bytes)),
    ("peak_memory_bytes_by_rank", true, |row| by_rank(row, |memory| memory.peak_bytes)),
    ("ranks", false, |row| row.memory.len().to_string()),
];

const FIGURE_FIELDS: [Column; 2] = [
    ("bubble_notebook", false, |row| raw(row.bubble_notebook)),
    ("bubble_notebook_definition", true, |row| raw(row.bubble_notebook_definition)),
];

/// Numbers of all ranks in one field, divided by blanks.
fn by_rank(row: &Row, of: fn(&super::Memory) -> u64) -> String {
    row.memory.iter().map(|memory| of(memory).to_string()).collect::<Vec<_>>().join(" ")
}

/// The rows as tables: one, or for the terminal two where everything is shown.
pub(super) fn sheets(rows: &[Row], format: Format, wide: bool, notebook: bool) -> Vec<Sheet> {
    let tables: Vec<Vec<Column>> = match (format, wide) {
        (Format::Csv, false) => vec![FIELDS.to_vec()],
        (Format::Csv, true) => {
            let mut all = FIELDS.to_vec();
            all.extend(MORE_FIELDS);
            all.extend(FIGURE_FIELDS.into_iter().filter(|_| notebook));
            vec![all]
        }
        (_, false) => vec![NARROW.to_vec()],
        (_, true) => {
            let mut bubbles = BUBBLES.to_vec();
            bubbles.extend(notebook.then_some(FIGURE));
            vec![TIMES.to_vec(), bubbles]
        }
    };
    let sheet = |columns: Vec<Column>| Sheet {
        head: columns.iter().map(|(title, is_words, _)| ((*title).to_owned(), *is_words)).collect(),
        rows: rows
            .iter()
            .map(|row| columns.iter().map(|(_, _, cell)| cell(row)).collect())
            .collect(),
    };
    tables.into_iter().map(sheet).collect()
}
