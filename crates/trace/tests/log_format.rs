//! `docs/log-format.md` against the reader: every line of JSON on the page is an event of the kind
//! under whose heading it stands, and no kind and no key is missing.

use std::collections::BTreeSet;

use pp_trace::{Event, RankLine};
use serde_json::Value;

const PAGE: &str = include_str!("../../../docs/log-format.md");

/// The kinds, as in the log.
const KINDS: [&str; 16] = [
    "cpu",
    "dropped",
    "end",
    "eval",
    "gpu",
    "hello",
    "index",
    "log",
    "mem",
    "phase",
    "rank",
    "rank_end",
    "rank_step",
    "span",
    "step",
    "warn",
];

/// A new kind needs its name here, in [`KINDS`] and on the page.
fn kind(line: &RankLine) -> &'static str {
    let event = match line {
        RankLine::Head(_) => return "rank",
        RankLine::Step(_) => return "rank_step",
        RankLine::End(_) => return "rank_end",
        RankLine::Event(event) => event,
    };
    match event {
        Event::Hello(_) => "hello",
        Event::Step(_) => "step",
        Event::Span(_) => "span",
        Event::Mem(_) => "mem",
        Event::Gpu(_) => "gpu",
        Event::Cpu(_) => "cpu",
        Event::Eval(_) => "eval",
        Event::Phase(_) => "phase",
        Event::Log(_) => "log",
        Event::Warn(_) => "warn",
        Event::Dropped(_) => "dropped",
        Event::Index(_) => "index",
        Event::End(_) => "end",
    }
}

/// Each line of the JSON blocks of the page, with the heading above it.
fn examples() -> Vec<(&'static str, &'static str)> {
    let (mut heading, mut is_json) = ("", false);
    let mut examples = Vec::new();
    for line in PAGE.lines() {
        match line {
            "```json" => is_json = true,
            "```" => is_json = false,
            _ if is_json => examples.push((heading, line)),
            _ => heading = line.strip_prefix("### ").unwrap_or(heading),
        }
    }
    examples
}

/// A line as the file of a rank may have it: there, all kinds are read.
fn parse(line: &str) -> RankLine {
    match RankLine::parse(line.as_bytes()) {
        Ok(Some(line)) => line,
        other => panic!("{other:?}: {line}"),
    }
}

fn written(line: &RankLine) -> String {
    let mut text = Vec::new();
    line.write_line(&mut text).expect("a line that was read");
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

/// The keys of an object and of the objects within it; not those under a key that names values.
fn keys(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                into.insert(key.clone());
                if key != "nonfinite_fields" {
                    keys(value, into);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, into)),
        _ => {}
    }
}

#[test]
fn each_example_is_read_as_what_it_stands_under() {
    let examples = examples();
    for (heading, line) in &examples {
        let kind = kind(&parse(line));
        assert!(heading.split(' ').any(|word| word == kind), "{kind} under {heading:?}");
    }
    let seen: BTreeSet<&str> = examples.iter().map(|(_, line)| kind(&parse(line))).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), KINDS);
}

/// An example that is read and written again has the same keys and values. So the page has no key
/// that the reader does not know.
#[test]
fn each_example_has_nothing_that_the_reader_does_not_know() {
    for (_, line) in examples() {
        let again: Value = serde_json::from_str(&written(&parse(line))).unwrap();
        let given: Value = serde_json::from_str(line).unwrap();
        assert_eq!(again, given, "{line}");
    }
}

#[test]
fn each_key_is_explained() {
    let mut all = BTreeSet::new();
    for (_, line) in examples() {
        // The page leaves the content of an index record to its writer.
        if kind(&parse(line)) != "index" {
            keys(&serde_json::from_str(line).unwrap(), &mut all);
        }
    }
    for key in all {
        assert!(PAGE.contains(&format!("`{key}`")), "`{key}` is not explained");
    }
}

/// A line is skipped without exactly those keys that the page calls required.
#[test]
fn each_required_key_is_one_on_the_page() {
    for (heading, line) in examples() {
        let Value::Object(whole) = serde_json::from_str(line).unwrap() else { panic!("{line}") };
        for key in whole.keys().filter(|key| *key != "ev" && heading != "index") {
            let mut less = whole.clone();
            less.remove(key);
            let is_required = RankLine::parse(&serde_json::to_vec(&less).unwrap()).is_err();
            let section = PAGE.split(&format!("### {heading}\n")).nth(1).unwrap();
            let section = section.split("\n### ").next().unwrap();
            let section = section.split("\n## ").next().unwrap();
            let is_said = section
                .lines()
                .any(|row| row.contains("required") && row.contains(&format!("`{key}`")));
            assert_eq!(is_required, is_said, "{heading}: `{key}`");
        }
    }
}

/// The page says that this order of the keys is read fast: it is the one that the recorder writes.
#[test]
fn the_example_of_a_span_is_as_the_recorder_writes_it() {
    let (_, line) = examples().into_iter().find(|(heading, _)| *heading == "span").unwrap();
    assert_eq!(written(&parse(line)), line);
}

/// The example of a `hello` has every key that the recorder always writes.
#[test]
fn the_example_of_a_hello_has_every_key() {
    let (_, line) = examples().into_iter().find(|(heading, _)| *heading == "hello").unwrap();
    let Value::Object(given) = serde_json::from_str(line).unwrap() else { panic!("{line}") };
    let all: Value = serde_json::to_value(Event::Hello(Box::default())).unwrap();
    for key in all.as_object().unwrap().keys() {
        assert!(given.contains_key(key), "{key}");
    }
}
