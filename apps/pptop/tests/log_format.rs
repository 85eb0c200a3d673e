//! Runs that other programs write: the example in Python of `docs/log-format.md`, and one in Rust
//! that has the event recorder alone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/at_home.rs"]
mod at_home;
#[path = "common/folder.rs"]
#[expect(dead_code, reason = "the programs write the files here")]
mod folder;
#[path = "common/ran.rs"]
#[expect(dead_code, reason = "nothing is refused here")]
mod ran;
#[path = "../../../crates/trace/examples/record_run.rs"]
#[expect(dead_code, reason = "its main is for whoever runs the example")]
mod record_run;

use std::process::Command;

use folder::Folder;
use ran::Ran;
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../../docs/log-format.md");

fn pptop(home: &Folder, line: &str) -> String {
    Ran::of(&mut at_home::pptop(&home.path(""), line)).well(line)
}

/// Checks the numbers that both programs write about themselves.
#[track_caller]
fn is_shown(home: &Folder) {
    let numbers: Value = serde_json::from_str(&pptop(home, "snapshot --json")).unwrap();
    for (key, wanted) in [
        ("standing", json!("finished")),
        ("model", json!("mine")),
        ("step", json!(20)),
        ("steps", json!(20)),
        ("pp", json!(2)),
        ("samples_total", json!(160)),
        ("bad_lines", json!(0)),
        ("incomplete_steps", json!(0)),
        ("alarm", json!(null)),
    ] {
        assert_eq!(numbers[key], wanted, "{key}: {numbers}");
    }
    let ranks = numbers["ranks"].as_array().unwrap();
    assert_eq!(ranks.len(), 2);
    for rank in ranks {
        let busy = rank["busy_of_window"].as_f64().unwrap();
        assert!((busy - 0.5).abs() < 0.15, "each rank works for half of the time: {busy}");
    }
    let once = pptop(home, "attach --once --plain");
    assert!(once.contains("finished") && once.contains("step 20/20"), "{once}");
}

#[expect(clippy::print_stderr, reason = "a test that looks at nothing has to say so")]
fn skipped(why: &std::io::Error) {
    eprintln!("SKIPPED: the example of docs/log-format.md was not run: python3: {why}");
}

#[test]
fn the_example_in_python_writes_a_run_that_is_shown() {
    let code = PAGE.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(code.lines().count() <= 15, "the page promises a short one");
    let home = Folder::new();
    let ran =
        Command::new("python3").args(["-c", code]).env("PPTOP_STATE_DIR", home.path("")).output();
    let ran = match ran {
        Ok(ran) => ran,
        Err(why) => {
            skipped(&why);
            return;
        }
    };
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    is_shown(&home);
    let report = pptop(&home, "report");
    assert!(report.contains("fill and drain of gpipe with 2 ranks"), "{report}");
}

#[test]
fn the_recorder_alone_writes_a_run_that_is_shown() {
    let home = Folder::new();
    record_run::record("mine-1", &home.path("runs/mine-1")).unwrap();
    is_shown(&home);
    let numbers: Value = serde_json::from_str(&pptop(&home, "snapshot --json mine-1")).unwrap();
    let bubble = numbers["bubble_ratio"].as_f64().unwrap();
    assert!((bubble - 0.5).abs() < 0.15, "{bubble}");
}
