//! The comparison for a person: what a step takes, then the three bubble numbers, then what to
//! make of it.

use std::fmt::Write as _;

use super::super::job::{ModelSpec, Session, cores};
use super::{ROUNDS, Row, Three, WHOLE_BATCH};

/// The whole text.
pub(super) fn table(rows: &[Row], session: &Session) -> String {
    let spec = &session.spec;
    let mut text = format!(
        "{} · {} steps in {ROUNDS} turns · batch {} · {} · lr {} · {} cores\n\n",
        spec.name.as_str(),
        spec.steps,
        session.batch_size,
        spec.optimizer,
        spec.rate.peak,
        cores()
    );
    times(&mut text, rows);
    text.push('\n');
    bubbles(&mut text, rows);
    text.push('\n');
    notes(&mut text, rows, session);
    text
}

fn times(text: &mut String, rows: &[Row]) {
    text.push_str(
        "                           step ms                                  final             \n\
         strategy          p v  m     mean  median     p95  samples/s  speed-up    loss  same bits  verdict    peak MiB by rank\n",
    );
    for row in rows {
        let peaks: Vec<String> =
            row.memory.iter().map(|m| (m.peak_bytes >> 20).to_string()).collect();
        let same = match row.loss_bits_equal {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        let _ = writeln!(
            text,
            "{:<17} {} {} {:>2} {:>8.1} {:>7.1} {:>7.1} {:>10.1} {:>9} {:>7}  {same:<9}  {:<9}  {}",
            row.label,
            row.pp,
            row.virtual_stages,
            row.micro_batches,
            1000.0 * row.step_seconds_mean,
            1000.0 * row.step_seconds_median,
            1000.0 * row.step_seconds_p95,
            row.samples_per_second,
            row.speedup.map_or_else(|| "-".to_owned(), |s| format!("{s:.2}x")),
            row.final_loss.map_or_else(|| "-".to_owned(), |l| format!("{l:.4}")),
            row.verdict,
            peaks.join(" "),
        );
    }
}

fn bubbles(text: &mut String, rows: &[Row]) {
    text.push_str(
        "                  bubble_ratio              bubble_overhead           span_bubble               the notebook's\n\
         strategy          formula simul. measured   formula simul. measured   formula simul. measured   figure\n",
    );
    for row in rows {
        let figure = match (row.bubble_notebook, row.bubble_notebook_definition) {
            (Some(value), Some("none")) => format!("{value:.3} none of these"),
            (Some(value), Some(definition)) => format!("{value:.3} {definition}"),
            _ => "-".to_owned(),
        };
        let _ = writeln!(
            text,
            "{:<17} {}   {}   {}   {figure}",
            row.label,
            three(&row.bubble_ratio),
            three(&row.bubble_overhead),
            three(&row.span_bubble),
        );
    }
}

fn three(numbers: &Three) -> String {
    let number = |n: Option<f64>| n.map_or_else(|| "-".to_owned(), |n| format!("{n:.4}"));
    let Three { closed_form, simulated, measured } = numbers;
    format!("{:>7} {:>6} {:>8}", number(*closed_form), number(*simulated), number(*measured))
}

fn notes(text: &mut String, rows: &[Row], session: &Session) {
    text.push_str(
        "speed-up: of the median step, over \"one device\": the same micro-batches on one rank. same bits: every loss as there.\n\
         simul.: the plan with the medians of this run's own op times.\n",
    );
    if rows.iter().any(|row| row.final_loss.is_some()) {
        text.push_str("verdict: converged (the final loss is below 1 and below the first), partly (below the first), not.\n");
    }
    let sleeps = matches!(session.spec.model, ModelSpec::Sleep { .. });
    let pipelines = rows.iter().filter(|row| !row.baseline);
    let best = pipelines.map(|row| row.step_seconds_median).fold(f64::INFINITY, f64::min);
    let whole = rows.iter().find(|row| row.label == WHOLE_BATCH);
    if let Some(whole) = whole.filter(|row| !sleeps && row.step_seconds_median < best) {
        let _ = writeln!(
            text,
            "Many small micro-batches cost more arithmetic than they save bubble here: {WHOLE_BATCH}, the whole batch at\n\
             once and no overlap, takes {:.1} ms a step, the best pipeline {:.1} ms.",
            1000.0 * whole.step_seconds_median,
            1000.0 * best
        );
    }
    let n_ranks = session.plan.n_ranks() * session.spec.dp;
    if n_ranks > cores() && !sleeps {
        let _ = writeln!(
            text,
            "{n_ranks} ranks share {} cores: op times include waiting for a core, so the measured bubble is not the schedule's alone.",
            cores()
        );
    }
}
