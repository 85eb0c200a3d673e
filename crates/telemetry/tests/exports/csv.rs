//! Tables of steps and of spans.

use std::collections::HashMap;

use pp_telemetry::{Event, ExportFormat, Span, SpanKind};

use super::common::{TIMES, job, runs, spans, steps, text};
use super::simulated::{Job, run};

/// A CSV without quotes, by the names of its columns.
fn table(text: &str) -> Vec<HashMap<&str, &str>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            assert_eq!(cells.len(), names.len(), "{line}");
            names.iter().copied().zip(cells).collect()
        })
        .collect()
}

#[test]
fn a_row_of_csv_is_a_step_to_the_last_bit() {
    for (name, events) in runs() {
        let text = text(&events, ExportFormat::StepsCsv, None);
        let rows = table(&text);
        assert_eq!(rows.len(), steps(&events).len(), "{name}");
        for (row, step) in rows.iter().zip(steps(&events)) {
            let float = |key: &str| row[key].parse::<f64>().unwrap();
            let loss: f32 = row["loss"].parse().unwrap();
            let told = step.loss.unwrap();
            assert_eq!(loss.is_nan(), told.is_nan());
            assert!(loss == told || loss.is_nan());
            for (key, value) in [
                ("lr", step.lr.unwrap()),
                ("grad_norm", step.grad_norm.unwrap()),
                ("seconds", step.seconds),
                ("elapsed_seconds", step.elapsed_seconds),
                ("bubble_ratio", step.bubble_ratio),
                ("idle_of_step", step.idle_of_step),
                ("starved_ratio", step.starved_ratio),
                ("window_seconds", step.window_seconds),
                ("samples", step.samples as f64),
                ("tokens", step.tokens as f64),
                ("step", step.step as f64),
            ] {
                assert_eq!(float(key), value, "{name}: {key}");
            }
            let has_eval = name == "a validation" && step.step == 4;
            let wanted = if has_eval { ("0.1", "0.875") } else { ("", "") };
            assert_eq!((row["validation_loss"], row["validation_accuracy"]), wanted, "{name}");
        }
        if name == "losses that are not finite" {
            let losses: Vec<&str> = rows.iter().map(|row| row["loss"]).take(3).collect();
            assert_eq!(losses, ["nan", "inf", "-inf"]);
        }
    }
    // A validation belongs to its own step, also when others follow.
    let events = run(&Job { steps: 45, span_every: 100, ..job() }, TIMES);
    let text = text(&events, ExportFormat::StepsCsv, Some("19..41"));
    let with: Vec<&str> = table(&text)
        .iter()
        .filter(|row| !row["validation_loss"].is_empty())
        .map(|row| row["step"])
        .collect();
    assert_eq!(with, ["20", "40"]);
    assert_eq!(table(&text).len(), 23);
}

#[test]
fn a_row_of_csv_is_a_span() {
    for (name, events) in runs() {
        let text = text(&events, ExportFormat::SpansCsv, None);
        let read: Vec<Span> = table(&text)
            .iter()
            .map(|row| {
                let number = |key: &str| row[key].parse::<u64>().unwrap();
                Span {
                    step: number("step"),
                    replica: number("replica") as u32,
                    rank: number("rank") as u32,
                    stage: number("stage") as u32,
                    mb: number("mb") as u32,
                    op: SpanKind::ALL.into_iter().find(|op| op.name() == row["op"]).unwrap(),
                    start_ns: number("start_ns"),
                    dur_ns: number("dur_ns"),
                    cpu_ns: number("cpu_ns"),
                    bytes: number("bytes"),
                    starved_ns: number("starved_ns"),
                }
            })
            .collect();
        assert_eq!(read, spans(&events), "{name}");
    }
}

#[test]
fn a_step_that_lost_operations_says_so() {
    let whole = run(&Job { steps: 4, span_every: 1, ..job() }, TIMES);
    let events: Vec<Event> = whole
        .into_iter()
        .filter(
            |e| !matches!(e, Event::Span(s) if s.step == 3 && s.rank == 1 && s.op == SpanKind::F),
        )
        .collect();
    let n_lost = job().micro_batches.to_string();
    let csv = text(&events, ExportFormat::StepsCsv, None);
    let lost: Vec<&str> = table(&csv).iter().map(|row| row["missing_ops"]).collect();
    assert_eq!(lost, ["0", "0", n_lost.as_str(), "0"]);
    let trace: serde_json::Value =
        serde_json::from_str(&text(&events, ExportFormat::ChromeTrace, None)).unwrap();
    assert_eq!(trace["otherData"]["incomplete_steps"], 1);
    assert_eq!(trace["otherData"]["last_incomplete_step"], 3);
    let marks = trace["traceEvents"].as_array().unwrap();
    let marks: Vec<_> = marks.iter().filter(|event| event["cat"] == "incomplete").collect();
    assert_eq!(marks.len(), 1);
    assert_eq!(marks[0]["args"]["missing_ops"].to_string(), n_lost);
    let metrics = text(&events, ExportFormat::Prometheus, None);
    let is_told =
        |line: &str| line.starts_with("pptop_incomplete_steps_total{") && line.ends_with(" 1");
    assert!(metrics.lines().any(is_told), "{metrics}");
    let picture = text(&events, ExportFormat::Svg, Some("3..4"));
    assert!(picture.contains(&format!("not complete: {n_lost} operations were lost")));
    assert_eq!(picture.matches("not complete").count(), 2, "title and heading of step 3 alone");
}
