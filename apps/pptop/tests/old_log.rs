//! A run that the program of 2026-11-29 recorded, with the output and the exports of that program.
//! Today's program makes the same numbers from its log.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/at_home.rs"]
mod at_home;
#[path = "common/folder.rs"]
mod folder;
#[path = "common/ran.rs"]
#[expect(dead_code, reason = "nothing is refused here")]
mod ran;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use folder::Folder;
use ran::Ran;
use serde_json::Value;

const RUN: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/telemetry/tests/fixtures/seed-mlp-p2-m4");

fn expected(file: &str) -> Vec<u8> {
    fs::read(Path::new(RUN).join(file)).unwrap()
}

/// A folder with the run's name that holds only its log. The name is part of the output.
struct Home {
    folder: Folder,
    run: PathBuf,
}

impl Home {
    fn new() -> Self {
        let folder = Folder::new();
        let log = folder.write("runs/seed-mlp-p2-m4/events.jsonl", expected("events.jsonl"));
        Self { run: log.parent().unwrap().to_owned(), folder }
    }

    fn run(&self, line: &str) -> String {
        let mut command = at_home::pptop(&self.folder.path(""), line);
        Ran::of(command.arg(&self.run)).well(line)
    }
}

/// Checks that today's output has everything of the old output. It may have more.
#[track_caller]
fn has_all(now: &Value, then: &Value, place: &str) {
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            for (key, then) in then {
                let now = now.get(key).unwrap_or_else(|| panic!("{place}.{key} is missing"));
                has_all(now, then, &format!("{place}.{key}"));
            }
        }
        (Value::Array(now), Value::Array(then)) => {
            assert_eq!(now.len(), then.len(), "{place}");
            for (at, (now, then)) in now.iter().zip(then).enumerate() {
                has_all(now, then, &format!("{place}[{at}]"));
            }
        }
        _ => assert_eq!(now, then, "{place}"),
    }
}

#[test]
fn the_numbers_of_an_old_run_are_those_of_then() {
    let home = Home::new();
    for (line, file) in [
        ("snapshot --json", "snapshot.json"),
        ("report --json", "report.json"),
        ("export chrome-trace -o -", "trace.json"),
    ] {
        let now: Value = serde_json::from_str(&home.run(line)).unwrap();
        let then: Value = serde_json::from_slice(&expected(file)).unwrap();
        has_all(&now, &then, line);
    }
}

#[test]
fn an_old_run_is_attached_to_line_by_line() {
    let home = Home::new();
    let lines = |text: &str| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let then = String::from_utf8(expected("attach.jsonl")).unwrap();
    let (now, then) = (lines(&home.run("attach --json")), lines(&then));
    has_all(&Value::from(now), &Value::from(then), "attach");
}

#[test]
fn the_tables_of_an_old_run_are_those_of_then() {
    let home = Home::new();
    for (line, file) in
        [("export csv -o -", "steps.csv"), ("export csv --what spans -o -", "spans.csv")]
    {
        assert_eq!(home.run(line), String::from_utf8(expected(file)).unwrap(), "{line}");
    }
    let out = home.folder.path("out.tfevents");
    home.run(&format!("export tensorboard -o {}", out.display()));
    assert_eq!(fs::read(out).unwrap(), expected("scalars.tfevents"));
}

/// Each sample by its name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

#[test]
fn the_metrics_of_an_old_run_are_those_of_then() {
    let then = String::from_utf8(expected("metrics.txt")).unwrap();
    let now = samples(&Home::new().run("export prometheus -o -"));
    for (name, then) in samples(&then) {
        let now = now.get(&name).unwrap_or_else(|| panic!("{name} is missing"));
        assert!(now.to_bits() == then.to_bits(), "{name}: {now}, was {then}");
    }
}

/// The place and the size of every box.
fn boxes(text: &str) -> Vec<[String; 4]> {
    let page = roxmltree::Document::parse(text).unwrap();
    let of = |node: roxmltree::Node<'_, '_>| {
        ["x", "y", "width", "height"].map(|name| node.attribute(name).unwrap_or("").to_owned())
    };
    page.descendants().filter(|node| node.has_tag_name("rect")).map(of).collect()
}

#[test]
fn the_picture_of_an_old_run_has_its_boxes_where_they_were() {
    let then = String::from_utf8(expected("step.svg")).unwrap();
    let now = Home::new().run("export svg -o -");
    assert!(boxes(&then).len() > 20);
    assert_eq!(boxes(&now), boxes(&then));
}
