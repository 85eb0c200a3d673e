//! Jobs of other programs: the files of ranks, `collect`, and `import`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/at_home.rs"]
mod at_home;
#[path = "common/folder.rs"]
mod folder;
#[path = "common/ran.rs"]
mod ran;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use folder::Folder;
use ran::Ran;
use serde_json::{Value, json};

const MS: u64 = 1_000_000;
const FIXTURE: &[u8] = include_bytes!("fixtures/one_f_one_b_p4_m8.jsonl");

fn pptop(home: &Folder, line: &str) -> Ran {
    Ran::of(&mut at_home::pptop(&home.path(""), line))
}

#[track_caller]
fn well(home: &Folder, line: &str) -> String {
    pptop(home, line).well(line)
}

#[track_caller]
fn refused(home: &Folder, line: &str, why: &str) {
    pptop(home, line).refused(line, &[why]);
}

/// Two ranks of GPipe with two micro-batches: operations take 10 ms, messages no time.
fn job(dir: &Path, n_steps: u64) {
    fs::create_dir_all(dir).unwrap();
    for rank in 0..2_u64 {
        let mut text = format!(
            "{}\n",
            json!({"ev": "rank", "schema": 1, "rank": rank, "pp": 2, "pipeline": [0, 1],
                "program": "emitter 1.0", "schedule": "ScheduleGPipe", "boot": "elsewhere",
                "host": "elsewhere", "elapsed_ns": 0, "unix_ns": 1_800_000_000_000 * MS})
        );
        for step in 1..=n_steps {
            let start = step * 100 * MS;
            for (op, slot, mb) in
                [("F", rank, 0), ("F", rank + 1, 1), ("B", 4 - rank, 0), ("B", 5 - rank, 1)]
            {
                let start_ns = start + slot * 10 * MS;
                writeln!(
                    text,
                    "{}",
                    json!({"ev": "span", "step": step, "rank": rank,
                    "stage": rank, "mb": mb, "op": op, "start_ns": start_ns, "dur_ns": 10 * MS})
                )
                .unwrap();
            }
            writeln!(
                text,
                "{}",
                json!({"ev": "rank_step", "step": step, "start_ns": start,
                "end_ns": start + 70 * MS})
            )
            .unwrap();
        }
        writeln!(text, "{}", json!({"ev": "rank_end", "code": 0, "reason": "finished"})).unwrap();
        fs::write(dir.join(format!("rank-{rank}.jsonl")), text).unwrap();
    }
}

/// A number that a job does not tell is no 0 and no NaN, wherever it is looked for.
#[test]
fn what_a_job_does_not_tell_is_left_out_everywhere() {
    let home = Folder::new();
    job(&home.path("runs/theirs"), 6);
    let lines = well(&home, "attach theirs --plain");
    assert!(lines.contains("step 6  loss -  bubble 33.3 %  70.0 ms"), "{lines}");
    let numbers: Value = serde_json::from_str(&well(&home, "snapshot theirs --json")).unwrap();
    assert!((numbers["bubble_ratio"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-9, "{numbers}");
    for key in ["loss", "lr", "grad_norm", "samples_total", "samples_per_second", "batch_size"] {
        assert!(numbers.get(key).is_none_or(Value::is_null), "{key}: {numbers}");
    }
    assert_eq!(numbers["alarm"], Value::Null);
    assert_eq!(numbers["schedule"], "gpipe");
    let csv = well(&home, "export csv theirs");
    assert!(csv.lines().nth(1).unwrap().starts_with("1,,,,0.07,0.07,,,0.33"), "{csv}");
    let metrics = well(&home, "export prometheus theirs");
    for name in [
        "pptop_loss{",
        "pptop_learning_rate{",
        "pptop_gradient_norm{",
        "pptop_samples",
        "pptop_planned_steps",
    ] {
        assert!(!metrics.lines().any(|line| line.starts_with(name)), "{name}: {metrics}");
    }
    let report = well(&home, "report theirs");
    for screen in [&report, &well(&home, "snapshot theirs --view overview"), &lines] {
        assert!(!screen.contains("NaN"), "{screen}");
    }
    let trace = well(&home, "export chrome-trace theirs");
    assert!(!trace.contains("\"loss\""), "{trace}");
    for view in ["overview", "timeline", "devices", "loss", "bubble", "log"] {
        let screen = well(&home, &format!("snapshot theirs --view {view} --size 160x50"));
        for odd in [
            "NaN",
            "batch 0",
            "0 cores",
            "0 parameters",
            "0 samples",
            " x stop",
            "--",
            "/0",
            "of 0",
        ] {
            assert!(!screen.contains(odd), "{odd} in {view}:\n{screen}");
        }
    }
}

#[test]
fn a_job_is_collected_into_one_log() {
    let home = Folder::new();
    job(&home.path("theirs"), 6);
    let before = well(&home, "export csv ./theirs");
    // Beside the folder first, and to standard output.
    well(&home, "collect ./theirs -o one.jsonl");
    assert_eq!(well(&home, "export csv one.jsonl"), before);
    assert_eq!(
        well(&home, "collect ./theirs -o -"),
        fs::read_to_string(home.path("one.jsonl")).unwrap()
    );
    refused(&home, "collect ./theirs -o one.jsonl", "--force");
    refused(&home, "collect one.jsonl", "is one log already");
    let told = well(&home, "collect theirs");
    assert!(told.contains("theirs/events.jsonl  6 steps"), "{told}");
    assert_eq!(well(&home, "export csv ./theirs"), before);
    refused(&home, "collect ./theirs", "is one log already");
    // The log stands for the files.
    for rank in 0..2 {
        fs::remove_file(home.path(&format!("theirs/rank-{rank}.jsonl"))).unwrap();
    }
    assert_eq!(well(&home, "export csv ./theirs"), before);
    // A job that was started again since is not in the log.
    job(&home.path("theirs"), 7);
    let told = well(&home, "collect ./theirs --force");
    assert!(told.contains("theirs/events.jsonl  7 steps"), "{told}");
    fs::create_dir(home.path("empty")).unwrap();
    refused(&home, "collect ./empty", "contains no run");
}

#[test]
fn a_trace_of_our_own_becomes_a_run_again() {
    let home = Folder::new();
    home.write("log.jsonl", FIXTURE);
    well(&home, "export chrome-trace log.jsonl -o run.trace.json");
    let told = well(&home, "import chrome-trace run.trace.json");
    let id = told.split_whitespace().next().unwrap();
    assert!(id.starts_with("chrome-trace-"), "{told}");
    // The operations and their times are those of the log.
    let spans = |run: &str| -> Vec<Vec<String>> {
        let csv = well(&home, &format!("export csv {run} --what spans"));
        let mut rows: Vec<Vec<String>> = csv
            .lines()
            .skip(1)
            .map(|line| line.split(',').map(str::to_owned).collect())
            .filter(|row: &Vec<String>| ["F", "B"].contains(&row[5].as_str()))
            .collect();
        rows.sort();
        rows
    };
    let (ours, theirs) = (spans("log.jsonl"), spans(id));
    assert_eq!(ours.len(), theirs.len());
    let first = |rows: &[Vec<String>]| {
        rows.iter().map(|row| row[6].parse::<f64>().unwrap()).fold(f64::INFINITY, f64::min)
    };
    let moved = first(&ours) - first(&theirs);
    for (a, b) in ours.iter().zip(&theirs) {
        assert_eq!(a[..6], b[..6]);
        assert!((a[6].parse::<f64>().unwrap() - b[6].parse::<f64>().unwrap() - moved).abs() < 1.0);
        assert_eq!(a[7], b[7], "how long it took");
    }
    let column = |run: &str, at: usize| -> Vec<f64> {
        let csv = well(&home, &format!("export csv {run}"));
        let cell = |line: &str| line.split(',').nth(at).unwrap().parse().unwrap();
        csv.lines().skip(1).map(cell).collect()
    };
    // The loss and the bubble, which is measured anew.
    for at in [1, 8] {
        let (ours, theirs) = (column("log.jsonl", at), column(id, at));
        for (step, b) in column(id, 0).iter().zip(&theirs) {
            // The log has the spans of some steps only, and these are in the trace.
            let a = ours[*step as usize - 1];
            assert!((a - b).abs() < 1e-6, "step {step}, column {at}: {a} and {b}");
        }
        assert!(theirs.len() > 5);
    }
}

/// A trace of one rank of two, with four stages in a V, as PyTorch's runtime labels it.
fn kineto(rank: u64, n_steps: u64) -> Value {
    let mut events = vec![json!({"ph": "M", "name": "process_name", "args": {"name": "python"}})];
    let mut add = |cat: &str, name: &str, ts: f64, dur: f64| {
        events.push(
            json!({"ph": "X", "cat": cat, "name": name, "pid": 7, "tid": 7, "ts": ts, "dur": dur,
            "args": {"External id": 1, "Ev Idx": 2}}),
        );
    };
    for step in 0..n_steps {
        let mut ts = 1000.5 + 100_000.0 * step as f64;
        for name in [
            format!("PP:{rank}RECV_F0"),
            format!("PP:{rank}F0"),
            format!("PP:{}F0", 3 - rank),
            format!("PP:{}I0", 3 - rank),
            format!("PP:{}W0", 3 - rank),
            format!("PP:{rank}SEND_F0"),
            format!("PP:{rank}B0"),
        ] {
            add("user_annotation", &name, ts, 5000.0);
            // It waits for 1 ms, and works for 4.
            add("cpu_op", "c10d::recv_", ts + 10.0, 5.0);
            add("cpu_op", "aten::linear", ts + 1000.0, 3000.0);
            ts += 6000.0;
        }
        add("user_annotation", "Optimizer.step#SGD.step", ts, 2000.0);
    }
    json!({"schemaVersion": 1, "distributedInfo": {"backend": "gloo", "rank": rank, "world_size": 2},
        "baseTimeNanoseconds": 1_800_000_000_000_000_000_u64, "traceEvents": events,
        "displayTimeUnit": "ms"})
}

#[test]
fn traces_of_pytorch_s_profiler_become_a_run() {
    let home = Folder::new();
    for rank in 0..2 {
        home.write(&format!("trace-{rank}.json"), kineto(rank, 3).to_string().as_bytes());
    }
    let told = well(&home, "import kineto trace-1.json trace-0.json");
    assert!(told.trim_end().ends_with("3 steps"), "{told}");
    let id = told.split_whitespace().next().unwrap();
    let numbers: Value =
        serde_json::from_str(&well(&home, &format!("snapshot {id} --json"))).unwrap();
    assert_eq!(
        (&numbers["pp"], &numbers["dp"], &numbers["step"]),
        (&json!(2), &json!(1), &json!(3))
    );
    assert_eq!(numbers["standing"], "finished");
    let csv = well(&home, &format!("export csv {id} --what spans --steps 2..2"));
    let of = |op: &str| csv.lines().filter(|line| line.split(',').nth(5) == Some(op)).count();
    assert_eq!((of("F"), of("B"), of("I"), of("W")), (4, 2, 2, 2), "{csv}");
    assert_eq!((of("send"), of("optim"), of("wait_act")), (2, 2, 4), "{csv}");
    let forward = csv.lines().find(|line| line.split(',').nth(5) == Some("F")).unwrap();
    assert_eq!(forward.split(',').nth(7), Some("4000000"), "the wait before it is no work: {csv}");
}

#[test]
fn traces_that_say_too_little_are_refused_by_name() {
    let home = Folder::new();
    let write = |name: &str, trace: &Value| home.write(name, trace.to_string().as_bytes());
    let event = |name: &str| json!([{"ph": "X", "cat": "user_annotation", "name": name, "ts": 1, "dur": 1, "pid": 1, "tid": 1}]);
    write("gpipe.json", &event("Forward 0"));
    refused(&home, "import kineto gpipe.json", "ScheduleGPipe");
    write("plain.json", &event("anything"));
    refused(&home, "import kineto plain.json", "Schedule1F1B does not");
    refused(&home, "import chrome-trace plain.json", "pptop import kineto");
    write("one.json", &kineto(1, 1));
    refused(&home, "import kineto one.json", "no trace has stage 0");
    refused(&home, "import kineto one.json one.json", "two traces are of rank 1");
    write("zero.json", &kineto(0, 1));
    write("more.json", &{
        let mut trace = kineto(0, 1);
        trace["distributedInfo"]["rank"] = json!(5);
        trace
    });
    refused(&home, "import kineto zero.json more.json one.json", "name the traces of all ranks");
    refused(&home, "import kineto nothing.json", "nothing.json");
    for (name, text) in [
        ("cut.json", r#"{"traceEvents":[{"ph":"X","#.to_owned()),
        ("text.json", "hello".to_owned()),
        ("none.json", "{}".to_owned()),
        ("empty.json", String::new()),
        ("deep.json", format!("{{\"a\":{}", "[".repeat(100_000))),
        ("number.json", r#"{"traceEvents":[{"ph":"X","ts":1e999}]}"#.to_owned()),
        ("gzip.json.gz", "\u{1f}\u{8b}".to_owned()),
    ] {
        home.write(name, text.as_bytes());
        for kind in ["kineto", "chrome-trace"] {
            refused(&home, &format!("import {kind} {name}"), name);
        }
    }
    assert_eq!(fs::read_dir(home.path("runs")).unwrap().count(), 0, "nothing is left of them");
}
