//! Signals and limits: what was ignored stays ignored, a start that is ended says so, and a limit
//! is a full disk.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::home::{Events, Home, words};

const SLEEP: &str = "train --headless --json --run-dir run --model sleep --pp 2 --micro-batches 4";
const FAST: &str = "--sleep-forward-ms 0.2 --sleep-input-grad-ms 0.2 --sleep-weight-grad-ms 0.2";
const DEADLINE: Duration = Duration::from_mins(1);

fn log(home: &Home) -> String {
    std::fs::read_to_string(home.path("run/events.jsonl")).unwrap_or_default()
}

fn end(home: &Home) -> Value {
    serde_json::from_str(log(home).lines().last().unwrap()).unwrap()
}

/// `nohup` ignores SIGHUP, a shell's background job SIGINT and SIGQUIT: neither ends such a run.
#[test]
fn signals_that_were_ignored_at_the_start_stay_ignored() {
    let ignores = ["env", "--default-signal=TERM", "--ignore-signal=HUP,INT,QUIT"];
    let home = Home::new();
    let mut run = home.start_through(&ignores, &words(&format!("{SLEEP} --steps 100000")));
    run.wait_for("step");
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::HUP, Signal::INT] {
        run.signal(signal);
    }
    // Several steps later it still trains; what was ignored did not count as a first signal either.
    (0..5).for_each(|_| drop(run.wait_for("step")));
    run.signal(Signal::TERM);
    let ran = run.finish();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(143), ""));
    assert!(end(&home)["reason"].as_str().unwrap().contains("SIGTERM"), "{}", end(&home));
}

/// What is measured, cut and built takes its time; a signal ends that at once, and the log says
/// how.
#[test]
fn a_signal_while_the_run_starts_ends_it_with_a_last_line() {
    for (signal, code, name) in
        [(Signal::TERM, 143, "SIGTERM"), (Signal::INT, 130, "SIGINT"), (Signal::HUP, 129, "SIGHUP")]
    {
        let home = Home::new();
        let line = "train --headless --json --run-dir run --pp 2 --layers 120 --width 256 --batch-size 64 --steps 1000";
        let run = home.start(&words(line));
        let began = Instant::now();
        while !log(&home).contains("profiling") {
            assert!(began.elapsed() < DEADLINE, "it does not begin to measure");
            std::thread::sleep(Duration::from_millis(5));
        }
        // A viewer that attaches now sees the current phase.
        let snapshot: Value = serde_json::from_str(&home.stdout("snapshot run --json")).unwrap();
        assert_eq!((&snapshot["run"], &snapshot["step"]), (&json!("run"), &json!(0)));
        assert!(home.stdout("snapshot run").contains("STARTING"));
        run.signal(signal);
        let ran = run.finish();
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(code), ""), "{name}");
        let end = end(&home);
        assert_eq!(
            (&end["ev"], &end["code"], &end["steps"]),
            (&json!("end"), &json!(code), &json!(0))
        );
        let reason = end["reason"].as_str().unwrap();
        assert!(reason.starts_with(&format!("stopped by {name} while ")), "{reason}");
        assert!(reason.ends_with("before the first step"), "{reason}");
        assert_eq!(Events::of(&ran.stdout).one("end"), &end);
        let status = pp_telemetry::status_of(&home.path("run")).unwrap();
        assert_eq!((status.code, status.state), (Some(code), pp_telemetry::State::Ended));
    }
}

/// The whole of what was trained is written, but nobody waits for a text of a billion letters.
#[test]
fn a_signal_while_a_sample_is_made_ends_it_and_keeps_the_weights() {
    let home = Home::new();
    let line = "train --headless --json --run-dir run --pp 1 --layers 1 --width 8 --heads 2 --context 16 --batch-size 2 \
                --micro-batches 1 --steps 2 --sample 1000000 --save w.safetensors";
    let run = home.start(&words(line));
    let began = Instant::now();
    while !log(&home).contains("sampling") {
        assert!(began.elapsed() < DEADLINE, "no sample is made");
        std::thread::sleep(Duration::from_millis(5));
    }
    run.signal(Signal::TERM);
    let ran = run.finish();
    assert_eq!(ran.code, Some(143), "{}", ran.stderr);
    let end = end(&home);
    assert_eq!((&end["code"], &end["steps"]), (&json!(143), &json!(2)));
    assert!(home.path("w.safetensors").exists());
}

/// Runs the program through a shell that lets no file grow beyond so many kilobytes.
fn limited(home: &Home, kilobytes: u32, line: &str) -> (Option<i32>, String, String) {
    // A block is of 512 bytes in one shell and of 1024 in another.
    let limit = format!("ulimit -f {}; exec \"$0\" \"$@\"", kilobytes * 2);
    let mut shell = Command::new("sh");
    shell.args(["-c", &limit, env!("CARGO_BIN_EXE_pptop")]).args(words(line));
    shell.current_dir(home.path("")).env("PPTOP_STATE_DIR", home.path("state"));
    let output = shell.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_limit_on_the_size_of_files_costs_the_log_and_not_the_training() {
    let home = Home::new();
    let (code, stdout, stderr) = limited(&home, 32, &format!("{SLEEP} {FAST} --steps 200"));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one warning: {stderr}");
    assert!(stderr.contains("recording has stopped: "), "{stderr}");
    let run = Events::of(&stdout);
    assert_eq!((run.kind("step").len(), &run.one("end")["code"]), (200, &json!(0)));
}

/// So short a run is over before a step could tell of the disk: the end tells.
#[test]
fn a_log_that_only_the_last_lines_made_too_long_is_told_as_well() {
    for steps in [2, 4, 8, 16] {
        let home = Home::new();
        let line = format!("{SLEEP} --spans all --steps {steps} {FAST}");
        let (code, _, stderr) = limited(&home, 5, &line);
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(stderr.matches("recording has stopped").count(), 1, "{steps} steps: {stderr}");
    }
}

#[test]
fn a_result_beyond_the_limit_is_an_error_with_a_message() {
    let job =
        "train --headless --model wine-mlp --pp 1 --batch-size 16 --micro-batches 1 --steps 1";
    for flag in ["--save", "--dump-step"] {
        let home = Home::new();
        let (code, _, stderr) = limited(&home, 6, &format!("{job} {flag} w.safetensors"));
        assert_eq!(code, Some(1), "{flag}: {stderr}");
        let last = stderr.lines().last().unwrap();
        assert!(
            last.contains("w.safetensors") && last.contains("File too large"),
            "{flag}: {last}"
        );
        let files = home.contents();
        let left: Vec<_> =
            files.iter().filter(|path| path.parent() == Some(&home.path(""))).collect();
        assert!(left.iter().all(|path| !path.ends_with("w.safetensors")), "{left:?}");
    }
}

#[test]
fn a_command_whose_output_meets_the_limit_says_so() {
    let home = Home::new();
    let line = "schedule export 1f1b --pp 64 --micro-batches 512 --format svg -o plan.svg";
    let (code, _, stderr) = limited(&home, 4, line);
    assert!(matches!(code, Some(1 | 2)), "{code:?}: {stderr}");
    assert!(stderr.contains("File too large"), "{stderr}");
}
