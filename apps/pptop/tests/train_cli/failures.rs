//! Runs that do not get to their end: a rank that fails, a signal, a reader that goes away.

use std::fs::OpenOptions;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::home::{Events, Home, words};

const SLEEP: &str = "train --headless --json --run-dir run --model sleep --pp 3 --micro-batches 6";

/// The last line of the log.
fn end(home: &Home) -> Value {
    let log = std::fs::read_to_string(home.path("run/events.jsonl")).unwrap();
    let end = Events::of(log.lines().last().unwrap()).all()[0].clone();
    assert_eq!(end["ev"], "end");
    end
}

#[test]
fn a_rank_that_fails_ends_the_run_with_its_name_and_op() {
    for (rank, op, kind, replicas) in [
        (0, "0F3", "error", 1),
        (1, "1F3", "panic", 1),
        (1, "1B2", "error", 2),
        (2, "2B5", "panic", 2),
        (2, "2F0", "error", 1),
        (0, "0B0", "panic", 1),
    ] {
        let home = Home::new();
        let line =
            format!("{SLEEP} --steps 1000 --dp {replicas} --inject-fault {rank}:2:{op}:{kind}");
        let start = Instant::now();
        let ran = home.run(&words(&line));
        let took = start.elapsed();
        assert_eq!(ran.code, Some(1), "{line}: {}", ran.stderr);
        assert!(took < Duration::from_secs(5), "{line}: {took:?}");
        let message = ran.stderr.lines().last().unwrap();
        assert!(message.starts_with("pptop: ") && message.chars().count() <= 300, "{message}");
        for part in [format!("rank {rank}"), "step 2".to_owned(), format!("op {op}")] {
            assert!(message.contains(&part), "{part} is not in: {message}");
        }
        let run = Events::of(&ran.stdout);
        assert_eq!(run.kind("step").len(), 1, "what was finished stays");
        let end = end(&home);
        assert_eq!(run.one("end"), &end);
        assert_eq!((&end["code"], &end["rank"], &end["op"]), (&json!(1), &json!(rank), &json!(op)));
        assert_eq!((&end["steps"], &end["weights_hash"]), (&json!(1), &Value::Null));
        assert!(end["reason"].as_str().unwrap().contains(&format!("rank {rank}")), "{end}");
    }
}

#[test]
fn a_failed_run_leaves_no_results() {
    let home = Home::new();
    let line = "train --headless --model wine-mlp --pp 2 --run-dir run --save w.safetensors --inject-fault 1:3:1B0:error";
    let ran = home.run(&words(line));
    assert_eq!(ran.code, Some(1));
    assert!(!home.path("w.safetensors").exists());
    assert!(ran.stdout.contains("step 2/"), "{}", ran.stdout);
}

#[test]
fn a_signal_ends_the_run_after_the_step() {
    for (signal, code, name) in [(Signal::TERM, 143, "SIGTERM"), (Signal::INT, 130, "SIGINT")] {
        let home = Home::new();
        let mut run = home.start(&words(&format!("{SLEEP} --steps 100000")));
        run.wait_for("step");
        run.signal(signal);
        let start = Instant::now();
        let ran = run.finish();
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(code), ""), "{name}");
        let end = end(&home);
        assert_eq!((&end["code"], &end["weights_hash"]), (&json!(code), &Value::Null));
        assert!(end["reason"].as_str().unwrap().contains(name), "{end}");
        assert!(end["steps"].as_u64().unwrap() >= 1);
        assert_eq!(Events::of(&ran.stdout).one("end"), &end);
    }
}

#[test]
fn a_reader_that_goes_away_changes_nothing_for_the_run() {
    let fast = "--sleep-forward-ms 1 --sleep-input-grad-ms 1 --sleep-weight-grad-ms 1 --steps 5";
    let home = Home::new();
    let mut run = home.start(&words(&format!("{SLEEP} {fast}")));
    run.wait_for("hello");
    let ran = run.abandon();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let end = end(&home);
    assert_eq!((&end["code"], &end["steps"]), (&json!(0), &json!(5)));

    let home = Home::new();
    let ran = home.start(&words(&format!("{SLEEP} {fast}").replace("--json", ""))).abandon();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

/// A full disk is not a reader that has seen enough: that the lines are lost has to be said, once.
#[test]
fn lines_that_cannot_be_written_are_told_and_the_run_goes_on() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let home = Home::new();
    let fast = "--sleep-forward-ms 1 --sleep-input-grad-ms 1 --sleep-weight-grad-ms 1 --steps 3";
    let ran = home.run_into(&words(&format!("{SLEEP} {fast}")), Stdio::from(full));
    assert_eq!(ran.code, Some(0));
    assert!(ran.stderr.contains("cannot write to standard output"), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1);
    assert_eq!(end(&home)["steps"], 3);
}

/// A file system of its own that is full after a quarter of a megabyte: what fits is kept, and the
/// run goes on to its end.
#[test]
fn a_disk_that_is_full_costs_the_log_and_not_the_training() {
    let home = Home::new();
    let script = |command: &str| {
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(["-rm", "sh", "-c", command]).current_dir(home.path("")).output()
    };
    std::fs::create_dir(home.path("small")).unwrap();
    let mount = "mount -t tmpfs -o size=256k none small";
    if !script(mount).is_ok_and(|output| output.status.success()) {
        skipped();
        return;
    }
    let program = env!("CARGO_BIN_EXE_pptop");
    let train = format!(
        "{program} train --headless --json --model sleep --pp 2 --micro-batches 4 --steps 300 --sleep-forward-ms 0.2 --sleep-input-grad-ms 0.2 --sleep-weight-grad-ms 0.2 --run-dir small/run"
    );
    let look = format!("{program} attach --once --plain small/run >look.txt");
    let output = script(&format!("{mount} && {train} && {look}")).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one warning: {stderr}");
    assert!(stderr.contains("recording has stopped: "), "{stderr}");
    let run = Events::of(&String::from_utf8(output.stdout).unwrap());
    assert_eq!((run.kind("step").len(), &run.one("end")["code"]), (300, &json!(0)));
    let look = std::fs::read_to_string(home.path("look.txt")).unwrap();
    // The log has no end; the summary, which has kept its room, has.
    assert!(look.contains("finished") && look.contains("step 300/300"), "{look}");
    assert!(!look.contains("died"), "{look}");
}

#[expect(clippy::print_stderr, reason = "a test that looks at nothing has to say so")]
fn skipped() {
    eprintln!("skipped: this user may not mount anything");
}
