//! How a run stands: the same word in every command, screen, line and format.

use rustix::process::Signal;
use serde_json::Value;

use crate::home::{Home, Running, words};

/// Steps that take long enough for every command to see the run in the middle of them.
const TRAIN: &str =
    "train --headless --json --run-dir run --model sleep --pp 2 --micro-batches 4 --steps 100000";

/// A run that has finished so many steps that the rest can be estimated, in its log as well.
fn started(home: &Home) -> Running {
    let mut run = home.start(&words(TRAIN));
    for _ in 0..6 {
        run.wait_for("step");
    }
    while json(home)["step"].as_u64().is_none_or(|step| step < 6) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    run
}

fn json(home: &Home) -> Value {
    serde_json::from_str(&home.stdout("snapshot run --json")).unwrap()
}

/// All that says how the run stands.
fn told(home: &Home) -> Vec<(&'static str, String)> {
    [
        "snapshot run --size 80x24",
        "snapshot run --size 40x10",
        "snapshot run --size 160x50",
        "snapshot run --size 160x50 --view timeline",
        "snapshot run --size 160x50 --view devices",
        "snapshot run --size 160x50 --view bubble",
        "snapshot run --svg",
        "attach run --once --plain",
        "report run",
        "runs info run/",
    ]
    .into_iter()
    .map(|line| (line, home.stdout(line)))
    .collect()
}

#[track_caller]
fn assert_told(home: &Home, word: &str, state: &str, standing: &str) {
    for (line, text) in told(home) {
        let folded = text.to_lowercase();
        // A small screen says what is not usual.
        let is_usual = standing == "live" && line.contains("40x10");
        assert!(is_usual || folded.contains(word), "{line}: no {word} in\n{text}");
        if standing != "live" {
            assert!(!text.contains("LIVE") && !text.contains("ETA"), "{line}:\n{text}");
        }
    }
    let json = json(home);
    assert_eq!((&json["state"], &json["standing"]), (&state.into(), &standing.into()), "{json}");
    assert_eq!(json["eta_seconds"].is_null(), standing != "live", "{json}");
    let info: Value = serde_json::from_str(&home.stdout("runs info run/ --json")).unwrap();
    assert_eq!((&info["state"], &info["standing"]), (&state.into(), &standing.into()), "{info}");
    let alive = u8::from(matches!(standing, "live" | "suspended"));
    for line in ["snapshot run --prometheus", "export prometheus run"] {
        let text = home.stdout(line);
        assert!(text.contains(&format!("standing=\"{standing}\"}} 1\n")), "{line}: {text}");
        let is_alive =
            |l: &str| l.starts_with("pptop_run_alive{") && l.ends_with(&format!(" {alive}"));
        assert!(text.lines().any(is_alive), "{line}: {text}");
    }
}

#[test]
fn a_run_that_was_killed_has_died_everywhere() {
    let home = Home::new();
    let run = started(&home);
    assert_told(&home, "live", "live", "live");
    run.signal(Signal::KILL);
    assert_eq!(run.finish().code, None);
    assert_told(&home, "died", "died", "died");
    let lines = home.stdout("attach run --plain");
    assert!(lines.ends_with("the log ends here, without an end record: died\n"), "{lines}");
}

#[test]
fn a_run_that_is_held_is_called_so_and_goes_on() {
    let home = Home::new();
    let run = started(&home);
    run.signal(Signal::STOP);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while json(&home)["standing"] != "suspended" {
        assert!(std::time::Instant::now() < deadline, "it is not held");
    }
    assert_told(&home, "suspended", "live", "suspended");
    run.signal(Signal::CONT);
    run.signal(Signal::TERM);
    assert_eq!(run.finish().code, Some(143));
    assert_told(&home, "stopped", "stopped", "stopped");
    // The exit code is for scripts; who reads is told who stopped it.
    let line = home.stdout("attach run --once --plain");
    assert!(line.contains("stopped (SIGTERM)") && !line.contains("143"), "{line}");
    let lines = home.stdout("attach run --plain");
    let last = lines.lines().last().unwrap();
    assert!(last.starts_with("stopped (SIGTERM) after ") && !last.contains("143"), "{last}");
    assert_eq!(json(&home)["exit_code"], 143);
}

/// A log alone says nothing of a process, so its run is not called live.
#[test]
fn a_log_without_its_folder_is_unknown() {
    let home = Home::new();
    let run = started(&home);
    std::fs::copy(home.path("run/events.jsonl"), home.path("copy.jsonl")).unwrap();
    run.signal(Signal::KILL);
    run.finish();
    let text = home.stdout("snapshot copy.jsonl --size 80x24");
    assert!(text.contains("UNKNOWN") && !text.contains("LIVE") && !text.contains("ETA"), "{text}");
    let json: Value = serde_json::from_str(&home.stdout("snapshot copy.jsonl --json")).unwrap();
    assert_eq!((&json["state"], &json["eta_seconds"]), (&"unknown".into(), &Value::Null));
}

/// The arithmetic follows from the model and the throughput, the MFU from the peak of its devices.
#[test]
fn throughput_is_told_in_operations_where_the_arithmetic_is_known() {
    let home = Home::new();
    let train = "train --headless --layers 1 --width 16 --heads 2 --context 8 --pp 1 --steps 3 --batch-size 8 \
                 --micro-batches 4 --peak-flops 2G --run-dir run";
    home.stdout(train);
    let told = json(&home);
    let number = |key: &str| told[key].as_f64().unwrap();
    let weights = 12 * 16 * 16 + 16 * 256;
    let of_sample = f64::from(6 * weights * 8 + 12 * 16 * 8 * 8);
    let flops = of_sample * number("samples_per_second");
    assert!((number("flops") / flops - 1.0).abs() < 1e-9, "{told}");
    assert!((number("mfu") / (flops / 2e9) - 1.0).abs() < 1e-9, "{told}");
    let drawn = home.stdout("snapshot run --size 160x50");
    assert!(drawn.contains("FLOP/s") && drawn.contains("MFU"), "{drawn}");
    // Layers that sleep compute nothing that could be counted.
    home.stdout("train --headless --model sleep --pp 1 --steps 2 --run-dir other");
    let other: Value = serde_json::from_str(&home.stdout("snapshot other --json")).unwrap();
    assert!(other["flops"].is_null() && other["mfu"].is_null(), "{other}");
}
