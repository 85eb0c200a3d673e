//! Runs that fail, are killed or stall, and the parent that starts them again.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::home::{Events, Home, words};

const TINY: &str = "--layers 2 --width 16 --heads 2 --context 16 --batch-size 8 --micro-batches 4 --pp 2 --dp 2 --eval-every 100 --kernels rule --steps 5";
const TRAIN: &str = "train --headless --json --run-dir state/runs/run --checkpoint-every 1";

/// The bits of the loss of every step, the last ones where a step was made again, and the hash of
/// the final weights.
fn trace(events: &Events) -> (BTreeMap<u64, Value>, Value) {
    let steps = events.kind("step").into_iter();
    let steps = steps.map(|step| (step["step"].as_u64().unwrap(), step["loss_bits"].clone()));
    (steps.collect(), events.all().last().unwrap()["weights_hash"].clone())
}

fn calm() -> (BTreeMap<u64, Value>, Value) {
    trace(&Home::new().train(&format!("{TINY} --run-dir run")))
}

/// The events of the log of a run.
fn log(home: &Home, run: &str) -> String {
    fs::read_to_string(home.path("state/runs").join(run).join("events.jsonl")).unwrap_or_default()
}

/// Every point at which a run can fail: each rank's ops, and what all ranks do together.
const POINTS: [(u32, &str); 8] = [
    (0, "0F1"),
    (1, "1F1"),
    (0, "0B1"),
    (1, "1B1"),
    (1, "reduce"),
    (0, "optimizer"),
    (1, "copy"),
    (0, "write"),
];

#[test]
fn a_run_that_fails_anywhere_ends_with_the_bits_of_the_calm_run() {
    let calm = calm();
    assert_eq!(calm.0.len(), 5);
    for kind in ["panic", "kill"] {
        for (rank, point) in POINTS {
            let home = Home::new();
            let line =
                format!("{TRAIN} {TINY} --restarts 2 --inject-fault {rank}:3:{point}:{kind}");
            let ran = home.run(&words(&line));
            assert_eq!(ran.code, Some(0), "{point}:{kind}: {}", ran.stderr);
            let events = Events::of(&ran.stdout);
            assert_eq!(trace(&events), calm, "{point}:{kind}");
            if (point, kind) == ("write", "panic") {
                // The ranks train on, and a later checkpoint is whole.
                assert!(ran.stderr.contains("no checkpoint of step 3: "), "{}", ran.stderr);
                continue;
            }
            let said = match kind {
                "kill" => "restart 1 of 2 after SIGKILL killed it after step ",
                _ => "restart 1 of 2 after rank ",
            };
            assert!(ran.stderr.contains(said), "{point}:{kind}: {}", ran.stderr);
            assert!(ran.stderr.contains("; it resumes from the checkpoint of step "));
            assert!(log(&home, "run-restart-1").contains(said), "{point}:{kind}: it is in the log");
            let hellos = events.kind("hello");
            assert_eq!(hellos.len(), 2, "{point}:{kind}");
            assert_eq!(hellos[1]["continues"]["run"], "run");
            assert_eq!(hellos[0]["checkpoints"], hellos[1]["checkpoints"], "one folder for all");
        }
    }
}

#[test]
fn without_restarts_a_panic_ends_the_run_and_names_its_place() {
    for (rank, point, place) in [
        (1, "1F1", ", step 3, op 1F1: panicked"),
        (1, "reduce", ", step 3, while it averages gradients: panicked"),
        (0, "optimizer", ", step 3, while it updates its weights: panicked"),
        (1, "copy", ", step 3, while it copies its tensors: panicked"),
    ] {
        let home = Home::new();
        let line = format!("{TRAIN} {TINY} --inject-fault {rank}:3:{point}:panic");
        let begun = Instant::now();
        let ran = home.run(&words(&line));
        assert!(begun.elapsed() < Duration::from_secs(5), "{point}: {:?}", begun.elapsed());
        assert_eq!(ran.code, Some(1), "{point}: {}", ran.stderr);
        let last = ran.stderr.lines().last().unwrap();
        // Both replicas have the rank, and either may be the first.
        let rank = format!("training failed: rank {rank}");
        assert!(last.contains(&rank) && last.contains(place), "{point}: {}", ran.stderr);
    }
}

#[test]
fn a_run_that_was_killed_is_listed_as_died_and_resumed() {
    let calm = calm();
    let home = Home::new();
    let ran = home.run(&words(&format!("{TRAIN} {TINY} --inject-fault 1:4:1B1:kill")));
    assert_eq!((ran.code, ran.stderr.as_str()), (None, ""), "a signal ends it without a word");
    assert!(home.stdout("runs list").contains("died"));
    let events = home.train("--resume latest --run-dir state/runs/next");
    let (steps, hash) = trace(&events);
    assert_eq!(hash, calm.1);
    assert!(!steps.is_empty() && steps.iter().all(|(step, bits)| calm.0[step] == *bits));
}

/// A failure that comes back is not waited out.
#[test]
fn the_same_failure_at_the_same_step_ends_the_chain() {
    let home = Home::new();
    let line = format!("{TRAIN} {TINY} --restarts 9 --inject-fault 1:3:1F1:panic:again");
    let ran = home.run(&words(&line));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("pptop: restart ").count(), 1, "{}", ran.stderr);
    let last = ran.stderr.lines().last().unwrap();
    for part in ["no restart after rank 1", ", step 3, op 1F1: ", "twice in a row"] {
        assert!(last.contains(part), "{part}: {last}");
    }
    assert!(!home.path("state/runs/run-restart-2").exists());
}

#[test]
fn a_run_without_a_checkpoint_starts_anew_and_says_so() {
    let calm = calm();
    let home = Home::new();
    let line = format!(
        "train --headless --json --run-dir run {TINY} --checkpoint-at-end --dump-step first.safetensors --restarts 1 --inject-fault 0:3:0F1:kill"
    );
    let ran = home.run(&words(&line));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("there is no checkpoint, so it starts anew"), "{}", ran.stderr);
    let events = Events::of(&ran.stdout);
    assert_eq!(trace(&events), calm);
    assert_eq!(events.kind("hello")[1]["continues"], Value::Null);
    assert!(home.path("first.safetensors").exists());
    assert!(home.path("run/checkpoints/step-00000005").exists(), "in the folder of the first run");
}

/// All that a restart could do is to make every step again.
#[test]
fn a_run_whose_last_step_is_saved_is_not_started_again() {
    let home = Home::new();
    let line = format!(
        "train --headless --json --run-dir run {TINY} --checkpoint-at-end --sample 1000000 --restarts 2"
    );
    let mut run = home.start(&words(&line));
    let pid = run.wait_for("hello")["pid"].as_i64().unwrap();
    let last = home.path("run/checkpoints/step-00000005");
    let begun = Instant::now();
    while !last.exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "no checkpoint is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    let ran = run.finish();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    let export = format!("pptop checkpoint export {} -o ", last.canonicalize().unwrap().display());
    for part in ["no restart after SIGKILL killed it", "all 5 steps are made", &export] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    assert!(!home.path("run-restart-1").exists());
    home.stdout(&format!("checkpoint export {} -o w.safetensors", last.display()));
}

/// The run removes those of an earlier run with its id, and its own ones take their names.
#[test]
fn a_checkpoint_with_the_name_of_an_older_one_counts() {
    let calm = calm();
    let home = Home::new();
    let every = "--checkpoint-every 1 --checkpoint-dir kept --keep 9";
    home.train(&format!("{TINY} {every} --run-dir old/run"));
    let line = format!(
        "{TRAIN} {TINY} --checkpoint-dir kept --keep 1 --restarts 1 --inject-fault 0:5:0F1:kill"
    );
    let ran = home.run(&words(&line));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("; it resumes from the checkpoint of step "), "{}", ran.stderr);
    let events = Events::of(&ran.stdout);
    assert_eq!(trace(&events), calm);
    assert_eq!(events.kind("hello")[1]["continues"]["run"], "run");
    let kept = fs::read_dir(home.path("kept")).unwrap().map(|entry| entry.unwrap().file_name());
    let kept: Vec<_> = kept.filter(|name| name != ".lock").collect();
    assert_eq!(kept, ["step-00000005"], "those of the earlier run are gone");
}

#[test]
fn a_restart_that_resumes_leaves_out_what_belongs_to_initial_weights() {
    let home = Home::new();
    home.train(&format!("{TINY} --save w.safetensors --run-dir first"));
    let line = format!(
        "{TRAIN} {TINY} --init w.safetensors --allow-nonfinite --restarts 2 --inject-fault 0:4:0F1:kill"
    );
    let ran = home.run(&words(&line));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("; it resumes from the checkpoint of step "), "{}", ran.stderr);
}

/// A restart that starts anew continues no run. It is of the chain all the same.
#[test]
fn a_chain_is_resumed_by_the_name_of_its_first_run() {
    let home = Home::new();
    let line = format!(
        "train --headless --json --run-dir state/runs/run {TINY} --checkpoint-every 4 --restarts 1 --inject-fault 0:3:0F1:kill"
    );
    let ran = home.run(&words(&line));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("it starts anew"), "{}", ran.stderr);
    let events = home.train("--resume run --steps 6 --run-dir next");
    let continues = &events.all()[0]["continues"];
    assert_eq!((&continues["run"], &continues["step"]), (&json!("run-restart-1"), &json!(4)));
}

#[test]
fn a_run_that_is_asked_to_end_is_not_started_again() {
    let home = Home::new();
    let endless = TINY.replace("--steps 5", "--steps 100000");
    let mut run = home.start(&words(&format!("{TRAIN} {endless} --restarts 3")));
    run.wait_for("step");
    run.signal(Signal::TERM);
    let ran = run.finish();
    assert_eq!(ran.code, Some(143), "{}", ran.stderr);
    assert!(!ran.stderr.contains("restart"), "{}", ran.stderr);
    let end = Events::of(&ran.stdout).one("end").clone();
    assert!(end["reason"].as_str().unwrap().starts_with("stopped by SIGTERM"), "{end}");
    assert!(end["saved"].as_str().unwrap().contains("is saved in"), "{end}");
    assert!(!home.path("state/runs/run-restart-1").exists());
}

/// A batch system sends a signal to the parent and to the run, and a user to the parent alone.
#[test]
fn the_parent_forwards_signals_and_one_that_comes_twice_is_one() {
    let home = Home::new();
    let endless = TINY.replace("--steps 5", "--steps 100000");
    let line = format!(
        "train --headless --json --run-dir run --checkpoint-dir kept {endless} --restarts 3"
    );
    let mut run = home.start(&words(&line));
    let pid = run.wait_for("hello")["pid"].as_i64().unwrap();
    run.wait_for("step");
    run.signal(Signal::USR1);
    let begun = Instant::now();
    let is_durable = || {
        fs::read_dir(home.path("kept")).is_ok_and(|mut found| {
            found.any(|entry| {
                entry.unwrap().file_name().to_str().is_some_and(|name| name.starts_with("step-"))
            })
        })
    };
    while !is_durable() {
        assert!(begun.elapsed() < Duration::from_secs(20), "no checkpoint is written");
        // A pipe that is full would hold up the run.
        run.wait_for("step");
    }
    let child = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(child, Signal::TERM).unwrap();
    run.signal(Signal::TERM);
    let ran = run.finish();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(143), ""));
    let end = Events::of(&ran.stdout).one("end").clone();
    assert!(end["saved"].as_str().unwrap().contains("is saved in"), "{end}");
}

/// A disk that does not answer holds up the next checkpoint, and the run says so.
#[test]
fn a_checkpoint_that_is_not_written_is_told() {
    let home = Home::new();
    let line = format!("{TRAIN} {TINY} --stall-after 0.5 --inject-fault 0:2:write:hang");
    let run = home.start(&words(&line));
    let begun = Instant::now();
    while !log(&home, "run").contains("for the checkpoint of step 2 to be written into ") {
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing is said");
        std::thread::sleep(Duration::from_millis(20));
    }
    run.signal(Signal::KILL);
    let ran = run.finish();
    assert!(ran.stderr.starts_with("pptop: the run has waited "), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

#[test]
fn restarts_without_checkpoints_and_runs_that_are_refused_are_refused_once() {
    let home = Home::new();
    let refused = |line: &str, parts: &[&str]| {
        let ran = home.run(&words(line));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert!(parts.iter().all(|part| ran.stderr.contains(part)), "{parts:?}: {}", ran.stderr);
    };
    let job = format!("train --headless {TINY} --run-dir run --restarts 2");
    refused(&job, &["--restarts needs checkpoints", "add --checkpoint-every"]);
    let too_many = job.replace("--pp 2", "--pp 9");
    refused(&format!("{too_many} --checkpoint-every 1"), &["9 ranks"]);
    refused(
        &format!("{job} --stall-after 0 --on-stall stop"),
        &["--on-stall", "leave one of them out"],
    );
    assert!(!home.path("run").exists());
}

#[test]
fn a_rank_that_hangs_is_named_and_the_run_is_started_again() {
    let calm = calm();
    let stall = "--stall-after 1 --on-stall stop";
    for (rank, point, hangs, waits) in [
        (1, "1F1", "rank 1 has been in 1F1 for ", Some("of rank 1, which has been in 1F1 for ")),
        (0, "optimizer", "rank 0 has updated its weights for ", None),
    ] {
        let home = Home::new();
        let line =
            format!("{TRAIN} {TINY} {stall} --restarts 1 --inject-fault {rank}:3:{point}:hang");
        let begun = Instant::now();
        let ran = home.run(&words(&line));
        assert!(begun.elapsed() < Duration::from_secs(10), "{point}: {:?}", begun.elapsed());
        assert_eq!(ran.code, Some(0), "{point}: {}", ran.stderr);
        assert!(ran.stderr.contains(hangs), "{point}: {}", ran.stderr);
        assert!(waits.is_none_or(|waits| ran.stderr.contains(waits)), "{point}: {}", ran.stderr);
        assert!(ran.stderr.contains("restart 1 of 1 after "), "{point}: {}", ran.stderr);
        let events = Events::of(&ran.stdout);
        assert_eq!(trace(&events), calm, "{point}");
        let end = events.kind("end")[0];
        assert_eq!((&end["code"], &end["rank"]), (&json!(1), &json!(rank)), "{end}");
        assert!(end["reason"].as_str().unwrap().contains("gave no answer within 1s"), "{end}");
        assert!(end["saved"].as_str().unwrap().contains("the last checkpoint is that of step "));
        assert!(log(&home, "run").contains(hangs), "{point}: the log has it");
    }
}
