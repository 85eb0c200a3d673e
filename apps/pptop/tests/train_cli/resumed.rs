//! What is seen of checkpoints and of a run that was resumed: its lines, its numbers, its screens.

use std::fs;

use serde_json::{Value, json};

use crate::home::{Events, Home, words};

const TINY: &str = "--layers 2 --width 16 --heads 2 --context 16 --batch-size 8 --pp 2 --eval-every 100 --kernels rule";

/// A run of 6 steps with checkpoints after steps 3 and 6, and two more from the first of them.
fn chain() -> Home {
    let home = Home::new();
    home.train(&format!("{TINY} --steps 6 --checkpoint-every 3 --run-dir state/runs/one"));
    for run in ["two", "three"] {
        let from = "--resume state/runs/one/checkpoints/step-00000003";
        home.train(&format!("{from} --steps 40 --spans all --run-dir state/runs/{run}"));
    }
    home
}

fn json_of(home: &Home, line: &str) -> Value {
    serde_json::from_str(&home.stdout(line)).unwrap()
}

#[test]
fn every_command_says_what_a_run_continues() {
    let home = chain();
    for line in ["report two", "snapshot two --size 200x60", "attach two --plain", "attach two"] {
        let text = home.stdout(line);
        assert!(text.contains("continues one from step 3"), "{line}: {text}");
    }
    let listed = home.stdout("runs list");
    assert!(listed.contains("two continues one from step 3"), "{listed}");
    assert!(!listed.contains("one continues"), "{listed}");
    for (run, part) in [
        ("two", "continues    one from step 3"),
        ("one", "continued by two from step 3"),
        ("one", "continued by three from step 3"),
        ("one", "saved        the last checkpoint is that of step 6 in "),
        ("one", "checkpoints  "),
    ] {
        let text = home.stdout(&format!("runs info {run}"));
        assert!(text.contains(part), "{part}: {text}");
    }
    let info = json_of(&home, "runs info one --json");
    let forks = info["continued_by"].as_array().unwrap();
    assert_eq!(forks.len(), 2, "two runs from one checkpoint are a fork: {info}");
    assert!(forks.contains(&json!({"run": "two", "step": 3})), "{info}");
    for line in ["snapshot two --json", "runs info two --json"] {
        let continues = &json_of(&home, line)["continues"];
        assert_eq!((&continues["run"], &continues["step"]), (&json!("one"), &json!(3)), "{line}");
    }
    let standing = &json_of(&home, "report two --json")["standing"];
    assert_eq!((&standing["continues"]["step"], &standing["step"]), (&json!(3), &json!(40)));
    let csv = home.stdout("export csv two -o -");
    assert!(csv.lines().next().unwrap().ends_with(",continues_run,continues_step"), "{csv}");
    assert!(csv.lines().nth(1).unwrap().starts_with("4,"), "{csv}");
    let saved = &json_of(&home, "snapshot one --json")["saved"];
    assert!(saved.as_str().unwrap().contains("step-00000006"), "{saved}");
}

#[test]
fn the_loss_page_shows_the_whole_chain_and_its_seam() {
    let home = chain();
    let page = |run: &str| home.stdout(&format!("snapshot {run} --view loss --size 100x30"));
    let (first, second) = (page("one"), page("two"));
    assert!(second.contains("R resumed") && !first.contains("resumed"), "{second}");
    let axis = second.lines().find(|line| line.contains('└') && line.contains("┬")).unwrap();
    assert!(axis.contains("─R─"), "the curve begins before the seam: {second}");
    let overview = home.stdout("snapshot two --size 100x30");
    assert!(overview.contains("resumed after 3"), "{overview}");
    assert!(overview.contains("└1─"), "{overview}");
    // Checkpoints that were only requested and copied have no mark of their own.
    assert!(first.contains("K checkpoint"), "{first}");
    let log = home.stdout("snapshot one --view log --size 120x40");
    for event in ["requested", "copied: ", "is durable after "] {
        assert!(log.contains(&format!("checkpoint of step 6 {event}")), "{event}: {log}");
    }
}

#[test]
fn a_run_names_its_last_checkpoint_at_its_end() {
    let home = Home::new();
    let line =
        format!("train --headless {TINY} --steps 4 --checkpoint-at-end --checkpoint-dir kept");
    let said = home.stdout(&line);
    let last = said.lines().filter(|line| line.contains("the last checkpoint is that of step 4"));
    assert_eq!(last.count(), 1, "{said}");
    let said = home.stdout("train --headless --resume kept --steps 9");
    let steps: Vec<&str> = said.lines().filter(|line| line.starts_with("step ")).collect();
    assert!(steps[0].starts_with("step 5/9 "), "the first step is told: {said}");
    // The flags of checkpoints are the job's: the second run writes its own as well.
    assert!(said.contains("the last checkpoint is that of step 9"), "{said}");
    let said = home.stdout(&format!("train --headless {TINY} --steps 4"));
    assert!(!said.contains("the last checkpoint"), "none was written: {said}");
}

/// The clock of a log begins with its run. What was before is told beside it.
#[test]
fn the_clock_of_a_resumed_run_begins_anew() {
    let home = chain();
    let log = fs::read_to_string(home.path("state/runs/two/events.jsonl")).unwrap();
    let log = Events::of(&log);
    let before = log.one("hello")["continues"]["elapsed_seconds"].as_f64().unwrap();
    assert!(before > 0.0);
    let wall = log.one("end")["wall_seconds"].as_f64().unwrap();
    let steps = log.kind("step");
    let elapsed = |step: &Value| step["elapsed_seconds"].as_f64().unwrap();
    assert!(steps.iter().all(|step| elapsed(step) <= wall), "{wall}");
    // The time of the chain is in its checkpoints.
    let kept = json_of(&home, "checkpoint show state/runs/one/checkpoints/step-00000003 --json");
    assert_eq!(kept["manifest"]["elapsed_seconds"].as_f64(), Some(before));
}

#[test]
fn initial_weights_come_from_a_checkpoint_too() {
    let home = Home::new();
    home.train(&format!(
        "{TINY} --steps 3 --checkpoint-at-end --checkpoint-dir kept --save w.safetensors"
    ));
    let folder = "kept/step-00000003";
    let from_file = home.train(&format!("{TINY} --steps 2 --seed 9 --init w.safetensors"));
    let from_checkpoint =
        home.train(&format!("{TINY} --steps 2 --seed 9 --schedule gpipe --init {folder}"));
    assert_eq!(from_checkpoint.bits(), from_file.bits());
    assert_eq!(from_checkpoint.kind("step")[0]["step"], 1, "the run is a new one");
    assert!(from_checkpoint.one("hello").get("continues").is_none());

    let refused = |flags: &str, parts: &[&str]| {
        let ran = home.run(&words(&format!("train --headless {flags}")));
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert!(parts.iter().all(|part| ran.stderr.contains(part)), "{parts:?}: {}", ran.stderr);
    };
    let wider = TINY.replace("--width 16", "--width 32");
    refused(&format!("{wider} --steps 2 --init {folder}"), &["it has ", " parameters, the model "]);
    refused(
        &format!("{TINY} --steps 2 --init kept"),
        &["kept", "it has neither model.safetensors nor"],
    );
    let weights = home.path("kept/step-00000003/model-00001-of-00002.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let parts =
        ["initial weights", "model-00001-of-00002.safetensors", "not those that were written"];
    refused(&format!("{TINY} --steps 2 --init {folder}"), &parts);
}

#[test]
fn the_copy_for_a_checkpoint_is_in_the_plan() {
    let home = Home::new();
    let job = "--model gpt --layers 2 --width 64 --context 32 --pp 2 --micro-batches 4 --batch-size 16 --steps 3 --partition uniform";
    let asked = home.train(&format!("{job} --checkpoint-every 1 --run-dir run"));
    let not_asked = home.train(job);
    let plan = |run: &Events| run.one("hello")["memory_plan"].as_array().unwrap().clone();
    for (asked, not_asked) in plan(&asked).iter().zip(plan(&not_asked)) {
        let bytes = |key: &str| asked[key].as_u64().unwrap();
        let copy = bytes("parameter_bytes") + bytes("optimizer_bytes");
        assert_eq!(bytes("checkpoint_bytes"), copy);
        assert_eq!(not_asked.get("checkpoint_bytes"), None);
        // The copy comes on top of the planned peak.
        let near = |key: &str| not_asked[key].as_u64().unwrap().abs_diff(bytes(key));
        assert!(near("peak_bytes") * 20 <= bytes("peak_bytes"), "{asked} {not_asked}");
    }
    // And no rank holds it: the measured peaks are the planned ones, with checkpoints as without.
    let log = Events::of(&fs::read_to_string(home.path("run/events.jsonl")).unwrap());
    for planned in plan(&asked) {
        let of_rank = log.kind("mem").into_iter().filter(|mem| mem["rank"] == planned["rank"]);
        let peak = |value: &Value| value["peak_bytes"].as_f64().unwrap();
        let (held, planned) = (of_rank.map(peak).fold(0.0, f64::max), peak(&planned));
        assert!((held / planned - 1.0).abs() < 0.05, "{held} held, {planned} planned");
    }
}

#[test]
fn the_first_step_of_a_resumed_run_is_dumped() {
    let home = Home::new();
    home.train(&format!("{TINY} --steps 3 --checkpoint-at-end --checkpoint-dir kept"));
    home.train("--resume kept --steps 5 --dump-step dump.safetensors");
    assert!(home.path("dump.safetensors").exists());
}
