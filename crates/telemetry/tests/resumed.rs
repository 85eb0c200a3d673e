//! A run that resumes from a checkpoint: its first step is not step 1, and other runs lie before it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::float_cmp, reason = "the same numbers come from the same steps")]

mod common;

use std::fs;
use std::path::Path;

use common::{Job, Times, run};
use pp_telemetry::{Before, Continues, Event, Export, ExportFormat, Model, StepEvent, account};

const TIMES: Times =
    Times { forward_ns: 1_000_000, backward_ns: 2_000_000, link_ns: 0, optim_ns: 500_000 };

/// A run whose first step takes ten times as long as the others.
fn first_run(id: &str, steps: u64) -> Vec<Event> {
    let mut events =
        run(&Job { steps, jitter_per_mille: 37, ends: true, ..Job::one_f_one_b() }, TIMES);
    for event in &mut events {
        match event {
            Event::Hello(hello) => id.clone_into(&mut hello.run),
            Event::Span(span) if span.step == 1 => span.dur_ns *= 10,
            Event::Step(step) if step.step == 1 => {
                step.seconds *= 10.0;
                step.bubble_ratio = 0.9;
            }
            _ => {}
        }
    }
    events
}

/// The same run, resumed after a step of another one.
fn resumed(events: &[Event], before: &str, after: u64) -> Vec<Event> {
    let mut events = events.to_vec();
    for event in &mut events {
        match event {
            Event::Hello(hello) => {
                hello.steps += after;
                let run = before.to_owned();
                hello.continues = Some(Continues { run, step: after, elapsed_seconds: 12.5 });
            }
            Event::Span(span) => span.step += after,
            Event::Step(step) => step.step += after,
            Event::Mem(mem) => mem.step += after,
            Event::Eval(eval) => eval.step += after,
            Event::End(end) => end.steps += after,
            _ => {}
        }
    }
    events
}

fn fold(events: &[Event]) -> Model {
    let mut model = Model::new();
    for event in events {
        model.apply(event);
    }
    model
}

#[test]
fn the_first_step_of_a_resumed_run_counts_for_no_mean() {
    let events = first_run("one", 8);
    let later = resumed(&events, "zero", 1000);
    // In the middle, with the rest still to come, and at the end.
    for n_steps in [6, 8] {
        let until = |events: &[Event]| {
            let is_step = |event: &Event| matches!(event, Event::Step(_));
            let places: Vec<usize> = (0..events.len()).filter(|&at| is_step(&events[at])).collect();
            fold(&events[..=places[n_steps - 1]])
        };
        let (here, there) = (until(&events), until(&later));
        assert_eq!(there.step(), here.step() + 1000);
        assert_eq!(there.steps().seconds(), here.steps().seconds());
        assert_eq!(there.steps().bubble_ratio(), here.steps().bubble_ratio());
        assert_eq!(there.steps().rate(), here.steps().rate());
        assert_eq!(there.eta_seconds(), here.eta_seconds());
        assert_eq!(there.loss().trend(), here.loss().trend());
        for (there, here) in there.ranks().iter().zip(here.ranks()) {
            assert_eq!(there.busy_of_window(), here.busy_of_window());
            assert_eq!(there.computing_seconds(), here.computing_seconds());
        }
        let (there, here) = (account(&there).unwrap(), account(&here).unwrap());
        assert_eq!(there.steps, (here.steps.0 + 1000, here.steps.1 + 1000));
        assert_eq!(there.window_seconds, here.window_seconds);
    }
}

#[test]
fn what_the_first_step_lost_is_counted() {
    let mut later = resumed(&first_run("one", 3), "zero", 40);
    later.retain(|event| !matches!(event, Event::Span(span) if span.step == 41));
    if let Some(Event::Step(step)) = later.iter_mut().find(|event| matches!(event, Event::Step(_)))
    {
        step.dropped = 7;
    }
    let mut export = Export::new(ExportFormat::StepsCsv, None);
    let mut text = Vec::new();
    for event in &later {
        export.push(event, &mut text).unwrap();
    }
    export.finish(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let rows: Vec<&str> = text.lines().collect();
    assert!(rows[0].ends_with(",missing_ops,continues_run,continues_step"), "{}", rows[0]);
    assert!(rows[1].starts_with("41,") && rows[1].ends_with(",64,zero,40"), "{}", rows[1]);
    assert!(rows[2].starts_with("42,") && rows[2].ends_with(",0,zero,40"), "{}", rows[2]);
}

#[test]
fn exports_say_what_a_run_continues() {
    let events = resumed(&first_run("one", 3), "zero", 40);
    let written = |format| {
        let mut export = Export::new(format, None);
        let mut bytes = Vec::new();
        for event in &events {
            export.push(event, &mut bytes).unwrap();
        }
        export.finish(&mut bytes).unwrap();
        bytes
    };
    let trace = written(ExportFormat::ChromeTrace);
    let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
    let continues = serde_json::json!({"run": "zero", "step": 40});
    assert_eq!(trace["otherData"]["continues"], continues);
    let metrics = String::from_utf8(written(ExportFormat::Prometheus)).unwrap();
    let line = "pptop_continues_step{run=\"one\",continues=\"zero\"} 40";
    assert!(metrics.contains(line), "{metrics}");
    #[cfg(feature = "tensorboard")]
    {
        let file = written(ExportFormat::TensorBoard);
        let has = |text: &[u8]| file.windows(text.len()).any(|part| part == text);
        assert!(has(b"continues") && has(b"zero from step 40"));
    }
}

/// Writes the log of a run below `runs`.
fn keep(runs: &Path, events: &[Event]) -> Model {
    let model = fold(events);
    let dir = runs.join(&model.hello().unwrap().run);
    fs::create_dir(&dir).unwrap();
    let mut text = Vec::new();
    for event in events {
        event.write_line(&mut text).unwrap();
    }
    fs::write(dir.join("events.jsonl"), text).unwrap();
    model
}

fn losses(events: &[Event]) -> Vec<(u64, f64)> {
    let loss = |step: &StepEvent| (step.step, f64::from(step.loss.unwrap()));
    let of = |event: &Event| if let Event::Step(step) = event { Some(loss(step)) } else { None };
    events.iter().filter_map(of).collect()
}

#[test]
fn a_chain_of_runs_is_one_curve_without_the_replayed_steps() {
    let folder = tempfile::tempdir().unwrap();
    let first = first_run("first", 30);
    let second = resumed(&first_run("second", 30), "first", 20);
    let third = resumed(&first_run("third", 10), "second", 40);
    keep(folder.path(), &first);
    keep(folder.path(), &second);
    let mut model = keep(folder.path(), &third);
    let continues = model.wants_before().unwrap().clone();
    let before = Before::read(folder.path(), &continues).unwrap();
    model.set_before(&before);
    model.set_before(&before);
    assert_eq!(model.wants_before(), None, "once is enough");
    let wanted: Vec<(u64, f64)> = losses(&first[..])
        .into_iter()
        .filter(|(step, _)| *step <= 20)
        .chain(losses(&second).into_iter().filter(|(step, _)| *step <= 40))
        .chain(losses(&third))
        .collect();
    let shown: Vec<(u64, f64)> =
        model.loss().buckets().iter().map(|bucket| (bucket.first_step, bucket.max)).collect();
    assert_eq!(shown, wanted);
    assert_eq!(model.metrics().lr.steps(), Some((1, 50)));
    let marks: Vec<u64> = model.loss().marks().iter().map(|mark| mark.step).collect();
    assert_eq!(marks, [20, 40], "a validation belongs to the run whose step is shown");
    let seams: Vec<String> = model.seams().map(ToString::to_string).collect();
    assert_eq!(seams, ["first from step 20", "second from step 40"]);

    // Without the first log the curve begins with the second; without that one it is the run's own.
    fs::remove_dir_all(folder.path().join("first")).unwrap();
    let before = Before::read(folder.path(), &continues).unwrap();
    let mut model = fold(&third);
    model.set_before(&before);
    assert_eq!(model.loss().steps(), Some((21, 50)));
    fs::remove_dir_all(folder.path().join("second")).unwrap();
    assert_eq!(Before::read(folder.path(), &continues), None);
    assert_eq!(fold(&third).loss().steps(), Some((41, 50)));
}

#[test]
fn a_hostile_chain_ends() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    fs::create_dir(&runs).unwrap();
    // Each of two runs continues the other, and a third one itself.
    keep(&runs, &resumed(&first_run("a", 3), "b", 40));
    keep(&runs, &resumed(&first_run("b", 3), "a", 40));
    keep(&runs, &resumed(&first_run("c", 3), "c", 40));
    // One lies elsewhere.
    keep(folder.path(), &first_run("outside", 3));
    for run in ["a", "b", "c"] {
        let of = Continues { run: run.to_owned(), step: 41, elapsed_seconds: 0.0 };
        let before = Before::read(&runs, &of);
        assert!(before.is_some(), "{run}");
    }
    for run in ["../outside", "..", ".", "", "/", "runs/a", "a/../a", "a\0"] {
        let of = Continues { run: run.to_owned(), step: 3, elapsed_seconds: 0.0 };
        assert_eq!(Before::read(&runs, &of), None, "{run:?}");
    }
}
