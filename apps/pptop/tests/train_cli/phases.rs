//! What a run does beside its steps, and what it says when the training goes wrong.

use serde_json::Value;

use crate::home::{Events, Home, words};

fn log(home: &Home) -> Events {
    Events::of(&std::fs::read_to_string(home.path("run/events.jsonl")).unwrap())
}

const WINE: &str =
    "train --headless --run-dir run --model wine-mlp --batch-size 16 --micro-batches 4";

#[test]
fn everything_that_lasts_is_a_phase_in_the_log() {
    let home = Home::new();
    let line = format!("{WINE} --json --pp 2 --steps 5 --eval-every 2 --save w.safetensors");
    let stdout = Events::of(&home.stdout(&line));
    assert!(stdout.kind("phase").is_empty(), "the lines on standard output are a contract");
    let log = log(&home);
    let names = |events: &[&Value]| -> Vec<(String, Value)> {
        events
            .iter()
            .map(|e| (e["phase"].as_str().unwrap().to_owned(), e["step"].clone()))
            .collect()
    };
    let phases = log.kind("phase");
    let over: Vec<&Value> = phases.iter().filter(|e| !e["dur_ns"].is_null()).copied().collect();
    let at = |name: &str, step: Value| (name.to_owned(), step);
    assert_eq!(
        names(&over),
        [
            at("profiling", Value::Null),
            at("cutting", Value::Null),
            at("rehearsing", Value::Null),
            at("building", Value::Null),
            at("evaluating", 2.into()),
            at("evaluating", 4.into()),
            at("evaluating", 5.into()),
            at("saving", 5.into()),
        ]
    );
    for over in &over {
        let begun = |e: &&&Value| e["phase"] == over["phase"] && e["start_ns"] == over["start_ns"];
        let begun: Vec<_> = phases.iter().filter(begun).collect();
        assert!(begun.len() >= 2 && begun[0]["dur_ns"].is_null(), "it is told when it begins");
        let ns = |key: &str| over[key].as_u64().unwrap();
        assert_eq!(ns("start_ns") + ns("dur_ns"), ns("elapsed_ns"));
        assert_eq!(over["done"], over["total"]);
    }
    let kinds: Vec<&str> = log.all().iter().map(|e| e["ev"].as_str().unwrap()).collect();
    let hello = kinds.iter().position(|kind| *kind == "hello").unwrap();
    assert!(kinds[..hello].iter().all(|kind| *kind == "phase"), "{kinds:?}");
    // The clock of the run began with it, and not with its first step.
    let step = log.kind("step")[0]["elapsed_seconds"].as_f64().unwrap();
    let ready = over[3]["elapsed_ns"].as_f64().unwrap() * 1e-9;
    assert!(step > ready, "{step} {ready}");
    assert_eq!(log.one("hello")["eval_every"], 2);

    let report: Value = serde_json::from_str(&home.stdout("report run --json")).unwrap();
    let phases = report["standing"]["phases"].as_array().unwrap();
    let evaluating = phases.iter().find(|phase| phase["phase"] == "evaluating").unwrap();
    assert_eq!(evaluating["count"], 3);
    assert!(evaluating["seconds"].as_f64().unwrap() > 0.0);
    let text = home.stdout("report run");
    assert!(
        text.contains("outside the steps: evaluating took ") && text.contains(", 3 times"),
        "{text}"
    );
    let lines = home.stdout("attach run --plain");
    assert!(lines.contains("evaluating after step 4: "), "{lines}");
    let trace = home.stdout("export chrome-trace run -o -");
    assert!(
        trace.contains(r#""name":"evaluating","cat":"phase","ph":"X""#),
        "the driver has a track"
    );
}

#[test]
fn a_loss_that_diverges_is_told_everywhere() {
    let home = Home::new();
    let job = "--pp 2 --layers 2 --width 32 --heads 2 --context 16 --batch-size 8 --micro-batches 4 --steps 30";
    let wild = "--lr 1000 --optimizer sgd --clip-norm 1000000 --lr-schedule constant --warmup 0 --on-nonfinite continue";
    let line = format!("train --headless --json --run-dir run {job} {wild}");
    let ran = home.run(&words(&line));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let goes_wrong =
        |text: &str| text.contains("the loss diverges: ") || text.contains("not finite");
    assert_eq!(ran.stderr, "", "with --json it is a line like others");
    let warned = Events::of(&ran.stdout);
    assert!(warned.kind("warn").iter().any(|warn| goes_wrong(warn["message"].as_str().unwrap())));
    assert!(warned.kind("warn").len() <= 4, "told once: {:?}", warned.kind("warn"));
    let plain = format!("{line} --run-dir plain").replace("--json --run-dir run", "");
    let plain = home.run(&words(&plain));
    assert!(plain.code == Some(0) && goes_wrong(&plain.stderr), "{}", plain.stderr);
    let report = home.stdout("report run");
    assert!(report.starts_with("ALARM  the loss "), "{report}");
    let snapshot: Value = serde_json::from_str(&home.stdout("snapshot run --json")).unwrap();
    let kind = snapshot["alarm_kind"].as_str().unwrap();
    assert!(["diverging", "loss_not_finite"].contains(&kind), "{snapshot}");
    assert!(goes_wrong(snapshot["alarm"].as_str().unwrap()));
    let screen = home.stdout("snapshot run");
    assert!(screen.contains("diverging") || screen.contains("not finite"), "{screen}");
    let status = pp_telemetry::status_of(&home.path("run")).unwrap();
    assert!(goes_wrong(&status.alarm.unwrap()));
}

#[test]
fn what_trains_well_raises_no_alarm() {
    let home = Home::new();
    for (name, flags) in [
        ("labels", "--model seed-mlp --steps 12 --pp 2"),
        ("wine", "--model wine-mlp --steps 300 --pp 2"),
        (
            "sleep",
            "--model sleep --pp 2 --sleep-forward-ms 0.1 --sleep-input-grad-ms 0.1 --sleep-weight-grad-ms 0.1 --steps 60",
        ),
        (
            "text",
            "--layers 1 --width 16 --heads 2 --context 16 --batch-size 8 --micro-batches 2 --pp 2 --steps 200",
        ),
    ] {
        let run = home.train(&format!("{flags} --run-dir {name}"));
        assert!(run.kind("warn").is_empty(), "{name}: {:?}", run.kind("warn"));
        let snapshot: Value =
            serde_json::from_str(&home.stdout(&format!("snapshot {name} --json"))).unwrap();
        assert_eq!((&snapshot["alarm"], &snapshot["spikes"]), (&Value::Null, &0.into()), "{name}");
    }
}

/// What is only found out by measuring leaves a log that says so; what can be told before leaves
/// nothing.
#[test]
fn a_cut_by_hand_that_does_not_fit_is_refused_before_anything_is_written() {
    let home = Home::new();
    for flags in ["--schedule 1f1b", "--schedule zb-auto", "--schedule auto --virtual-stages 1"] {
        let line = format!("{WINE} --pp 2 --steps 1 {flags} --partition 1,2");
        let ran = home.run(&words(&line));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{line}: {}", ran.stderr);
        assert!(ran.stderr.contains("--partition 1,2"), "{}", ran.stderr);
        assert_eq!(home.contents(), Vec::<std::path::PathBuf>::new(), "{flags}");
    }
}
