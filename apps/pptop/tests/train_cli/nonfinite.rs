//! Trainings that go wrong, as a user meets them: exit codes, words, and what is saved.

use serde_json::{Value, json};

use crate::home::{Events, Home, words};

/// Its second step is not finite: the first one throws the weights far away.
const STEEP: &str = "train --headless --model wine-mlp --pp 2 --steps 20 --optimizer sgd --lr 1e30 --warmup 0 --kernels rule --eval-every 100";

/// The message on the last line of standard error.
fn last_word(stderr: &str) -> &str {
    stderr.lines().last().unwrap()
}

#[test]
fn a_step_that_is_not_finite_ends_the_run_with_words() {
    let home = Home::new();
    let flags = "--run-dir run --save w.safetensors --checkpoint-every 1";
    let ran = home.run(&words(&format!("{STEEP} {flags}")));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let [alarm, saved, last] = ran.stderr.lines().collect::<Vec<_>>()[..] else {
        panic!("{}", ran.stderr)
    };
    assert!(alarm.starts_with("pptop: the loss is not finite from step 2 on; "), "{alarm}");
    let good = home.path("run/checkpoints/step-00000001").canonicalize().unwrap();
    let named = "pptop: step 2 is not saved; the last good checkpoint is that of step 1 in ";
    assert!(saved.starts_with(named), "{saved}");
    assert!(saved.ends_with("step-00000001; --save is not written"), "{saved}");
    assert!(
        last.starts_with("pptop: training failed: step 2 is not applied: its loss is "),
        "{last}"
    );
    assert!(last.ends_with("or --on-nonfinite skip") && last.chars().count() <= 300, "{last}");
    assert!(!home.path("w.safetensors").exists());
    home.stdout(&format!("checkpoint verify {}", good.display()));
    // Everybody who looks at the run sees it first.
    let report = home.stdout("report run");
    let lines: Vec<&str> = report.lines().collect();
    assert!(lines[0].starts_with("ALARM  the loss is not finite from step 2 on"), "{report}");
    assert!(lines[1].starts_with("ended  step 2 is not applied: its loss is "), "{report}");
    assert!(lines[2].contains("failed (1)"), "{report}");
    let snapshot: Value = serde_json::from_str(&home.stdout("snapshot run --json")).unwrap();
    let found = ["alarm_kind", "alarm_step", "exit_code"].map(|key| &snapshot[key]);
    assert_eq!(found, [&json!("loss_not_finite"), &json!(2), &json!(1)]);
    let screen = home.stdout("snapshot run");
    assert!(screen.contains("loss not finite"), "{screen}");
    let log = std::fs::read_to_string(home.path("run/events.jsonl")).unwrap();
    let log = Events::of(&log);
    let end = log.one("end");
    assert_eq!((&end["code"], &end["steps"]), (&json!(1), &json!(1)));
    assert_eq!(end["saved"].as_str().unwrap(), saved.strip_prefix("pptop: ").unwrap());
}

#[test]
fn skipped_steps_are_counted_and_too_many_of_them_end_the_run() {
    let home = Home::new();
    let ran = home.run(&words(&format!("{STEEP} --json --run-dir run --on-nonfinite skip:4")));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let last = last_word(&ran.stderr);
    assert!(last.contains("step 5 is not applied, nor are the 3 before it: "), "{last}");
    let events = Events::of(&ran.stdout);
    let steps: Vec<&Value> = events.kind("step").iter().map(|step| &step["step"]).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5]);
    let warned = events.kind("warn").iter().any(|warn| {
        let message = warn["message"].as_str().unwrap();
        message.starts_with("the loss of step 4 is ") && message.ends_with("(3 skipped so far)")
    });
    assert!(warned, "{}", ran.stdout);
    assert_eq!(events.one("end")["steps"], 4);
    let said = "is not saved, and there is no checkpoint to resume from";
    assert!(events.one("end")["saved"].as_str().unwrap().ends_with(said), "{}", ran.stdout);
}

#[test]
fn a_loss_that_diverges_ends_the_run_if_that_was_asked_for() {
    let home = Home::new();
    let job = "--pp 2 --layers 2 --width 32 --heads 2 --context 16 --batch-size 8 --micro-batches 4 --steps 30 --kernels rule";
    let wild = "--lr 1000 --optimizer sgd --clip-norm 1000000 --lr-schedule constant --warmup 0";
    let flags = "--on-spike stop --checkpoint-every 1 --run-dir run";
    let ran = home.run(&words(&format!("train --headless {job} {wild} {flags}")));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let [alarm, saved, last] = ran.stderr.lines().collect::<Vec<_>>()[..] else {
        panic!("{}", ran.stderr)
    };
    let alarm = alarm.strip_prefix("pptop: ").unwrap();
    assert!(alarm.starts_with("the loss diverges: "), "{alarm}");
    let end = Events::of(&std::fs::read_to_string(home.path("run/events.jsonl")).unwrap());
    let end = end.one("end").clone();
    let step = end["steps"].as_u64().unwrap();
    let named = format!(
        "pptop: step {step} is not saved; the last good checkpoint is that of step {}",
        step - 1
    );
    assert!(saved.starts_with(&named), "{saved}");
    assert_eq!(last, format!("pptop: stopped after step {step}: {alarm}"));
    assert_eq!(end["reason"].as_str(), last.strip_prefix("pptop: "));
    let report = home.stdout("report run");
    assert!(report.starts_with(&format!("ALARM  {alarm}\nended  stopped after step ")), "{report}");
}

#[test]
fn weights_that_are_not_finite_are_read_only_by_whoever_asks_for_them() {
    let home = Home::new();
    let line = format!("{STEEP} --on-nonfinite continue --run-dir run --save w.safetensors");
    let ran = home.run(&words(&line));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("these weights replace no other file"), "{}", ran.stderr);
    let line = STEEP.replace("--lr 1e30", "--lr 1e-3 --steps 2").replace("--steps 20", "");
    let ran = home.run(&words(&format!("{line} --init w.safetensors --run-dir two")));
    assert_eq!((ran.code, ran.stderr.lines().count()), (Some(2), 1), "{}", ran.stderr);
    for part in ["w.safetensors", "is not finite there", "--allow-nonfinite"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    assert!(!home.path("two").exists(), "a refused run leaves nothing");
    let flags = "--init w.safetensors --allow-nonfinite --on-nonfinite continue --run-dir three";
    let ran = home.run(&words(&format!("{line} {flags}")));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let alone = home.run(&words(&format!("{line} --allow-nonfinite")));
    assert_eq!(alone.code, Some(2));
    assert!(alone.stderr.contains("--init"), "{}", alone.stderr);
}

#[test]
fn a_policy_that_there_is_not_is_refused() {
    let home = Home::new();
    for (flags, parts) in [
        ("--on-nonfinite ignore", ["'ignore'", "stop, skip or continue"]),
        ("--on-nonfinite skip:0", ["'skip:0'", "skip:N"]),
        ("--on-spike skip", ["'skip'", "warn or stop"]),
    ] {
        let ran = home.run(&words(&format!("train {flags}")));
        assert_eq!((ran.code, ran.stderr.lines().count()), (Some(2), 1), "{flags}");
        assert!(parts.iter().all(|part| ran.stderr.contains(part)), "{flags}: {}", ran.stderr);
    }
}
