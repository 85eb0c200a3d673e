//! The comparison as a text: what was trained, the tables, then what to make of them.

use pp_telemetry::cores;
use pp_train::Session;

use super::super::job::Spec;
use super::super::learned::Goal;
use super::columns::sheets;
use super::sheet::{Format, in_markdown};
use super::{ROUNDS, Row, WHOLE_BATCH};

/// The whole text. The notebook's own figures stand beside ours where the job is the notebook's.
pub(super) fn table(
    rows: &[Row],
    spec: &Spec,
    session: &Session,
    format: Format,
    wide: bool,
) -> String {
    let config = &spec.config;
    let job = format!(
        "{}, {} steps in {ROUNDS} turns, batch {}, {}, lr {}, {} cores",
        spec.model(),
        config.steps,
        session.batch_size(),
        config.optimizer,
        config.rate.peak,
        cores()
    );
    let tables = sheets(rows, format, wide, spec.is_seed);
    let notes = notes(rows, spec, session, wide);
    match format {
        Format::Text => {
            let tables: Vec<String> = tables.iter().map(super::sheet::Sheet::text).collect();
            format!("{job}\n\n{}\n{}", tables.join("\n"), lines(&notes, ""))
        }
        Format::Markdown => {
            let tables: Vec<String> = tables.iter().map(super::sheet::Sheet::markdown).collect();
            let notes: Vec<String> = notes.iter().map(|note| in_markdown(note)).collect();
            format!("{}\n\n{}\n{}", in_markdown(&job), tables.join("\n"), lines(&notes, ""))
        }
        Format::Latex => {
            let tables: Vec<String> = tables.iter().map(super::sheet::Sheet::latex).collect();
            format!("% {job}\n{}{}", tables.join("\n\n"), lines(&notes, "% "))
        }
        // A program reads the numbers alone.
        Format::Csv => tables.iter().map(super::sheet::Sheet::csv).collect(),
    }
}

fn lines(notes: &[String], before: &str) -> String {
    notes.iter().flat_map(|note| [before, note.as_str(), "\n"]).collect()
}

/// What the columns mean, and what the numbers say.
fn notes(rows: &[Row], spec: &Spec, session: &Session, wide: bool) -> Vec<String> {
    let mut notes = vec![
        "step: the median. speed-up: over \"one device\", the same micro-batches on one rank."
            .to_owned(),
    ];
    if wide {
        notes.push(
            "same bits: every loss equals that of one device. simulated: the plan with the median op times of this run.".to_owned(),
        );
        notes.extend(Goal::of(session.job(), spec.is_seed).legend());
    } else {
        notes.push(
            "bubble: the measured ratio, with the ratio by formula in brackets. peak: memory of the rank that holds most.".to_owned(),
        );
        notes.push(
            "--wide shows all columns: loss, verdict, other bubble numbers, memory of each rank."
                .to_owned(),
        );
    }
    let different: Vec<&str> = rows
        .iter()
        .filter(|row| row.loss_bits_equal == Some(false))
        .map(|row| row.label.as_str())
        .collect();
    if !different.is_empty() {
        notes.push(format!(
            "The losses of {} differ from those of one device.",
            different.join(", ")
        ));
    }
    let bad: Vec<String> =
        rows.iter().filter(|row| row.outcome == "diverged").map(|row| row.label.clone()).collect();
    if !bad.is_empty() {
        notes.push(format!("The loss of {} diverged.", bad.join(", ")));
    }
    let waits = spec.waits();
    let pipelines = rows.iter().filter(|row| !row.baseline);
    let best = pipelines.map(|row| row.step_seconds_median).fold(f64::INFINITY, f64::min);
    let whole = rows.iter().find(|row| row.label == WHOLE_BATCH);
    if let Some(whole) = whole.filter(|row| !waits && row.step_seconds_median < best) {
        notes.push(format!(
            "{WHOLE_BATCH} (the whole batch at once, no overlap) takes {:.1} ms a step, the best pipeline {:.1} ms: many small",
            1000.0 * whole.step_seconds_median,
            1000.0 * best
        ));
        notes.push("micro-batches cost more arithmetic here than they save bubble.".to_owned());
    }
    let n_ranks = session.plan().n_ranks() * spec.config.dp;
    if n_ranks > cores() && !waits {
        notes.push(format!(
            "{n_ranks} ranks share {} cores: op times include waiting for a core, so the measured bubble is not the schedule's alone.",
            cores()
        ));
    }
    notes
}
