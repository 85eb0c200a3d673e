//! The JSON that scripts rely on.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::home::{Events, Home};

/// Whether a value has the type that a letter stands for: s text, u whole number, n number, a
/// array, o object, b truth, z null; a letter after another is an alternative.
fn is_of(value: &Value, letters: &str) -> bool {
    letters.chars().any(|letter| match letter {
        's' => value.is_string(),
        'u' => value.is_u64(),
        'n' => value.is_number(),
        'a' => value.is_array(),
        'o' => value.is_object(),
        'b' => value.is_boolean(),
        'z' => value.is_null(),
        _ => panic!("no type {letter}"),
    })
}

/// Checks `key:letters` of an object, all of which it must have.
fn typed(object: &Value, keys: &str) {
    for entry in keys.split_whitespace() {
        let (key, letters) = entry.split_once(':').unwrap();
        let value = object.get(key).unwrap_or_else(|| panic!("no {key} in {object}"));
        assert!(is_of(value, letters), "{key}: {letters} in {object}");
    }
}

const WINE_2X2: &str = "--model wine-mlp --dp 2 --pp 2 --micro-batches 4 --batch-size 16";

/// Standard output of a headless run, and its log.
fn recorded(home: &Home, flags: &str) -> (String, String) {
    let stdout = home.stdout(&format!("train --headless --json --run-dir run {flags}"));
    (stdout, std::fs::read_to_string(home.path("run/events.jsonl")).unwrap())
}

#[test]
fn a_run_tells_its_story_in_lines() {
    let home = Home::new();
    let flags = format!("{WINE_2X2} --steps 5 --eval-every 2 --seed 7");
    let (stdout, log) = recorded(&home, &flags);
    let run = Events::of(&stdout);
    let kinds: Vec<&str> = run.all().iter().map(|event| event["ev"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["hello", "step", "step", "eval", "step", "step", "eval", "step", "eval", "end"]
    );

    let hello = run.one("hello");
    typed(
        hello,
        "schema:u run:s pid:u argv:a model:s schedule:s pp:u dp:u virtual_stages:u micro_batches:u batch_size:u cores:u \
         seed:u parameters:u device_map:a stages:a plan:a",
    );
    let sizes = ["schema", "pp", "dp", "virtual_stages", "micro_batches", "batch_size", "seed"]
        .map(|key| hello[key].as_u64().unwrap());
    assert_eq!(sizes, [1, 2, 2, 1, 4, 16, 7]);
    assert_eq!((&hello["model"], &hello["schedule"]), (&json!("wine-mlp"), &json!("1f1b")));
    assert_eq!(hello["run"], "run");
    let argv: Vec<&str> = hello["argv"].as_array().unwrap()[1..].iter().map(text).collect();
    assert_eq!(argv.join(" "), format!("train --headless --json --run-dir run {flags}"));
    assert_eq!(
        hello["plan"],
        json!(["0F0,0F1,0B0,0F2,0B1,0F3,0B2,0B3", "1F0,1B0,1F1,1B1,1F2,1B2,1F3,1B3"])
    );
    let stages = hello["stages"].as_array().unwrap();
    let mut next_layer = 0;
    for (number, stage) in stages.iter().enumerate() {
        typed(stage, "stage:u rank:u layers:a parameters:u parameter_bytes:u");
        assert_eq!((&stage["stage"], &stage["rank"]), (&json!(number), &json!(number)));
        let [first, last] = [0, 1].map(|end| stage["layers"][end].as_u64().unwrap());
        assert!(first == next_layer && first <= last, "{stage}");
        next_layer = last + 1;
        assert_eq!(
            stage["parameter_bytes"].as_u64().unwrap(),
            4 * stage["parameters"].as_u64().unwrap()
        );
    }
    assert_eq!((stages.len(), next_layer), (2, 4));
    let total: u64 = stages.iter().map(|stage| stage["parameters"].as_u64().unwrap()).sum();
    assert_eq!(hello["parameters"], total);

    for (number, step) in run.kind("step").into_iter().enumerate() {
        typed(
            step,
            "step:u loss:n loss_bits:s lr:n grad_norm:n seconds:n elapsed_seconds:n samples:u tokens:u bubble_ratio:n \
             idle_of_step:n starved_ratio:n window_seconds:n dropped:u",
        );
        assert_eq!(step["step"], number + 1);
        let bits = (step["loss"].as_f64().unwrap() as f32).to_bits();
        assert_eq!(step["loss_bits"], format!("{bits:08x}"));
        assert_eq!((&step["samples"], &step["tokens"]), (&json!(16), &json!(0)));
        assert!(step["window_seconds"].as_f64() < step["seconds"].as_f64(), "{step}");
    }
    for (eval, after) in run.kind("eval").into_iter().zip([2, 4, 5]) {
        typed(eval, "step:u loss:n accuracy:n");
        assert_eq!(eval["step"], after);
        assert!((0.0..=1.0).contains(&eval["accuracy"].as_f64().unwrap()));
    }
    let end = run.one("end");
    typed(end, "code:u reason:s steps:u rank:z op:z weights_hash:s wall_seconds:n");
    assert_eq!(
        (&end["code"], &end["reason"], &end["steps"]),
        (&json!(0), &json!("finished"), &json!(5))
    );
    let hash = run.weights_hash();
    assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{hash}");

    // The log has these very lines, and more of other kinds.
    let said = |line: &&str| {
        let kind = Events::of(line).all()[0]["ev"].clone();
        ["hello", "step", "eval", "warn", "end"].iter().any(|&shown| kind == shown)
    };
    assert_eq!(log.lines().filter(said).collect::<Vec<_>>(), stdout.lines().collect::<Vec<_>>());
    let log = Events::of(&log);
    assert_eq!(log.kind("mem").len(), 5 * 4);
    for mem in log.kind("mem") {
        typed(
            mem,
            "step:u replica:u rank:u live_bytes:u peak_bytes:u parameter_bytes:u stash_bytes:u",
        );
    }
}

/// What the first line says of memory is what later lines find.
#[test]
fn memory_is_planned_and_kept() {
    let job = "--model gpt --layers 2 --width 64 --context 32 --pp 2 --micro-batches 4 --batch-size 16 --steps 3";
    let mut peaks = Vec::new();
    for flags in ["", " --recompute", " --recompute=0"] {
        let home = Home::new();
        let (stdout, log) = recorded(&home, &format!("{job} --schedule gpipe{flags}"));
        let run = Events::of(&stdout);
        let planned = run.one("hello")["memory_plan"].as_array().unwrap();
        assert_eq!(planned.len(), 2);
        for (rank, planned) in planned.iter().enumerate() {
            let keys = "rank:u peak_bytes:u parameter_bytes:u gradient_bytes:u optimizer_bytes:u packed_bytes:u stash_bytes:u temporary_bytes:u";
            typed(planned, keys);
            let log = Events::of(&log);
            let mut of_rank = log.kind("mem").into_iter().filter(|mem| mem["rank"] == rank);
            let held = of_rank.next_back().unwrap()["peak_bytes"].as_f64().unwrap();
            let planned = planned["peak_bytes"].as_f64().unwrap();
            assert!((held / planned - 1.0).abs() < 0.05, "{flags}: {held} held, {planned} planned");
            peaks.push(held);
        }
    }
    assert!(peaks[2] < peaks[0] && peaks[3] < peaks[1], "all stages run again: {peaks:?}");
    assert!(peaks[4] < peaks[0], "the first does: {peaks:?}");
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The notebook's map: the replicas of a stage are neighbours.
#[test]
fn two_replicas_of_two_stages_have_the_notebooks_devices() {
    let home = Home::new();
    let run = home.train(&format!("{WINE_2X2} --steps 1 --device cpu"));
    let entry = |stage: u32, replica: u32, device: &str| json!({"stage": stage, "rank": stage, "replica": replica, "device": device});
    let map =
        [entry(0, 0, "cpu:0"), entry(0, 1, "cpu:1"), entry(1, 0, "cpu:2"), entry(1, 1, "cpu:3")];
    assert_eq!(run.one("hello")["device_map"], json!(map));
    let plain = home.stdout(&format!("train {WINE_2X2} --steps 1 --device cpu"));
    assert!(plain.contains("stage 0: cpu:0, cpu:1 · stage 1: cpu:2, cpu:3"), "{plain}");
}

/// The bubble of each step by its definition, from nothing but the spans of a log.
fn bubbles(log: &Events, n_ranks: u32) -> BTreeMap<u64, f64> {
    #[derive(Clone, Copy)]
    struct Window {
        first: u64,
        last: u64,
        busy: u64,
    }
    let mut windows: BTreeMap<(u64, u64), Window> = BTreeMap::new();
    for span in log.kind("span") {
        typed(
            span,
            "step:u replica:u rank:u stage:u mb:u op:s start_ns:u dur_ns:u cpu_ns:u bytes:u",
        );
        if !["F", "B", "I", "W"].contains(&text(&span["op"])) {
            continue;
        }
        let [step, replica, start, length] =
            ["step", "replica", "start_ns", "dur_ns"].map(|key| span[key].as_u64().unwrap());
        let empty = Window { first: u64::MAX, last: 0, busy: 0 };
        let window = windows.entry((step, replica)).or_insert(empty);
        window.first = window.first.min(start);
        window.last = window.last.max(start + length);
        window.busy += length;
    }
    let mut steps: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for ((step, _), window) in windows {
        let capacity = f64::from(n_ranks) * (window.last - window.first) as f64;
        steps.entry(step).or_default().push(1.0 - window.busy as f64 / capacity);
    }
    let mean = |ratios: Vec<f64>| ratios.iter().sum::<f64>() / ratios.len() as f64;
    steps.into_iter().map(|(step, ratios)| (step, mean(ratios))).collect()
}

#[test]
fn anyone_can_recompute_the_bubble() {
    for flags in [
        format!("{WINE_2X2} --steps 4"),
        "--model sleep --schedule interleaved-1f1b --pp 3 --micro-batches 6 --steps 2 --sleep-forward-ms 1 \
         --sleep-input-grad-ms 1 --sleep-weight-grad-ms 1"
            .to_owned(),
    ] {
        let home = Home::new();
        let (_, log) = recorded(&home, &format!("{flags} --spans all"));
        let log = Events::of(&log);
        let n_ranks = log.one("hello")["pp"].as_u64().unwrap() as u32;
        let bubbles = bubbles(&log, n_ranks);
        let steps = log.kind("step");
        assert_eq!(bubbles.len(), steps.len());
        for step in steps {
            let (own, said) =
                (bubbles[&step["step"].as_u64().unwrap()], step["bubble_ratio"].as_f64().unwrap());
            assert!((own - said).abs() < 1e-9, "{flags}: {own} from the spans, {said} in the line");
        }
        // An op of the plan is a span, on the rank and stage that the plan says.
        let plan = log.one("hello")["plan"].as_array().unwrap();
        let replicas = log.one("hello")["dp"].as_u64().unwrap() as usize;
        let n_ops: usize = plan.iter().map(|row| text(row).split(',').count()).sum();
        let of_step_1 = |kinds: &[&str]| {
            log.kind("span")
                .iter()
                .filter(|span| span["step"] == 1 && kinds.contains(&text(&span["op"])))
                .count()
        };
        assert_eq!(of_step_1(&["F", "B"]), n_ops * replicas);
        assert_eq!(of_step_1(&["optim"]), plan.len() * replicas);
        assert_eq!(of_step_1(&["all_reduce"]), if replicas > 1 { plan.len() * replicas } else { 0 });
    }
}

#[test]
fn spans_are_kept_for_the_steps_that_were_asked_for() {
    let home = Home::new();
    let flags = "--model wine-mlp --steps 7 --batch-size 16 --micro-batches 2 --pp 2 --spans 3";
    let (_, log) = recorded(&home, flags);
    let mut steps: Vec<u64> =
        Events::of(&log).kind("span").iter().map(|span| span["step"].as_u64().unwrap()).collect();
    steps.sort_unstable();
    steps.dedup();
    assert_eq!(steps, [3, 6]);
}

#[test]
fn the_seed_decides_everything() {
    let home = Home::new();
    let flags = "--layers 2 --width 16 --heads 2 --context 16 --dropout 0.1 --steps 3 --batch-size 8 --micro-batches 4 \
                 --partition uniform";
    let one = home.train(&format!("{flags} --pp 2 --seed 3"));
    assert_eq!(one.kind("step")[0]["tokens"], 8 * 16);
    for (others, same) in [
        ("--pp 2 --seed 3", true),
        ("--pp 4 --seed 3 --schedule gpipe", true),
        ("--stages 1 --seed 3 --schedule naive", true),
        ("--ranks 2 --seed 3 --schedule interleaved-1f1b", true),
        ("--pp 2 --seed 4", false),
    ] {
        let other = home.train(&format!("{flags} {others}"));
        assert_eq!(other.bits() == one.bits(), same, "{others}");
        assert_eq!(other.weights_hash() == one.weights_hash(), same, "{others}");
    }
    // Each run has a folder of its own.
    assert_eq!(pp_telemetry::list_runs(&home.path("state/runs")).unwrap().len(), 6);
}

#[test]
fn a_number_that_json_does_not_have_is_null_and_named() {
    let home = Home::new();
    let flags =
        "--model wine-mlp --steps 3 --pp 1 --optimizer sgd --lr 1e30 --on-nonfinite continue";
    let (stdout, log) = recorded(&home, flags);
    let run = Events::of(&stdout);
    let last = run.kind("step")[2];
    assert_eq!((&last["loss"], &last["nonfinite"]), (&Value::Null, &json!("nan")));
    let bits = u32::from_str_radix(text(&last["loss_bits"]), 16).unwrap();
    assert!(f32::from_bits(bits).is_nan());
    assert!(!stdout.contains("NaN") && !log.contains("NaN"));
}

#[test]
fn the_notebooks_job_is_a_preset() {
    let home = Home::new();
    let run = home.train("--preset seed --pp 2 --steps 1 --partition uniform");
    let hello = run.one("hello");
    assert_eq!(
        ["batch_size", "micro_batches", "parameters"].map(|key| hello[key].as_u64().unwrap()),
        [256, 32, 11_126_282]
    );
    assert_eq!(run.kind("step")[0]["lr"], 0.001);
    // A small model shows the same flags' effect on the lines: steps 1, 10, 11 … of a run that says
    // every step.
    let plain = home.stdout("train --model wine-mlp --steps 12 --pp 1 --eval-every 6");
    assert_eq!(
        plain.lines().filter(|line| line.starts_with("step ") && line.contains("loss")).count(),
        12 + 2
    );
    for part in
        ["step 12/12", "bubble_ratio", "theory", "devices 1  stages 1", "the most frequent class"]
    {
        assert!(plain.contains(part), "{part} is not in:\n{plain}");
    }
}

#[test]
fn a_sample_is_text_beside_the_lines() {
    let home = Home::new();
    let line = "train --layers 1 --width 8 --heads 1 --context 8 --pp 1 --steps 1 --batch-size 8 --sample 30";
    let words: Vec<&str> = line.split_whitespace().collect();
    let plain = home.run(&words);
    assert_eq!((plain.code, plain.stderr.as_str()), (Some(0), ""));
    let json = home.run(&[&words[..], &["--json"]].concat());
    assert_eq!(Events::of(&json.stdout).one("end")["code"], 0);
    assert!(!json.stderr.is_empty() && plain.stdout.contains(json.stderr.trim_end_matches('\n')));
}

#[test]
fn a_comparison_has_a_row_for_each_strategy_and_two_to_compare_with() {
    let home = Home::new();
    let line = "compare --model wine-mlp --pp 2 --batch-size 16 --micro-batches 4 --steps 6 --seed 5 --json";
    let ran = home.run(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let table: Value = serde_json::from_str(&ran.stdout).unwrap();
    typed(&table, "job:o cores:u rounds:u rows:a");
    typed(&table["job"], "model:s steps:u batch_size:u seed:u");
    assert_eq!((&table["rounds"], &table["job"]["seed"]), (&json!(3), &json!(5)));
    let rows = table["rows"].as_array().unwrap();
    let labels: Vec<&str> = rows.iter().map(|row| text(&row["label"])).collect();
    assert_eq!(labels, ["naive", "gpipe", "1f1b", "interleaved-1f1b", "one device", "naive m=1"]);
    for row in rows {
        typed(
            row,
            "label:s baseline:b schedule:s pp:u dp:u virtual_stages:u micro_batches:u step_seconds_mean:n \
             step_seconds_median:n step_seconds_p95:n samples_per_second:n speedup:n final_loss:n loss_bits_equal:bz \
             verdict:s outcome:s loss_change:n bubble_ratio:o bubble_overhead:o span_bubble:o bubble_notebook:n memory:a",
        );
        for number in ["bubble_ratio", "bubble_overhead", "span_bubble"] {
            typed(&row[number], "closed_form:n simulated:n measured:n");
        }
        let memory = row["memory"].as_array().unwrap();
        assert_eq!(memory.len() as u64, row["pp"].as_u64().unwrap());
        for (rank, of_rank) in memory.iter().enumerate() {
            typed(of_rank, "rank:u live_bytes:u mean_bytes:u peak_bytes:u reserved_bytes:uz");
            assert_eq!(of_rank["rank"], rank);
            assert!(of_rank["live_bytes"].as_u64() <= of_rank["peak_bytes"].as_u64(), "{of_rank}");
        }
        assert!(["converged", "partly", "not"].contains(&text(&row["verdict"])));
    }
    let column = |key: &str| rows.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!(
        json!(column("loss_bits_equal")),
        json!([true, true, true, true, true, null]),
        "every cut of the same micro-batches has the same bits"
    );
    assert_eq!(json!(column("baseline")), json!([false, false, false, false, true, true]));
    assert_eq!(json!(column("pp")), json!([2, 2, 2, 2, 1, 2]));
    assert_eq!(json!(column("micro_batches")), json!([4, 4, 4, 4, 4, 1]));
    assert_eq!(rows[4]["speedup"], 1.0);
    let forms: Vec<f64> =
        rows.iter().map(|row| row["bubble_ratio"]["closed_form"].as_f64().unwrap()).collect();
    for (form, expected) in forms.iter().zip([0.5, 0.2, 0.2, 1.0 / 9.0, 0.0, 0.5]) {
        assert!((form - expected).abs() < 1e-12, "{forms:?}");
    }
    // A comparison is no run: it leaves no log, and nothing but what multiplies fastest here.
    let state = home.path("state");
    assert_eq!(home.contents(), [state.clone(), state.join("kernels.json")]);

    let chosen = home.run(&[
        "compare",
        "--model",
        "wine-mlp",
        "--pp",
        "2",
        "--steps",
        "3",
        "--schedules",
        "1f1b,gpipe",
    ]);
    assert_eq!(chosen.code, Some(0), "{}", chosen.stderr);
    for part in
        ["1f1b", "gpipe", "one device", "naive m=1", "bubble (theory)", "peak MiB", "--wide"]
    {
        assert!(chosen.stdout.contains(part), "{part} is not in:\n{}", chosen.stdout);
    }
}

#[test]
fn a_model_that_sleeps_is_compared_with_one_rank_that_sleeps_for_all() {
    let home = Home::new();
    let line = "compare --model sleep --pp 4 --micro-batches 4 --steps 3 --schedules gpipe,auto --sleep-slow-rank 1:2 \
                --sleep-forward-ms 1 --sleep-input-grad-ms 1 --sleep-weight-grad-ms 1 --json";
    let ran = home.run(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let table: Value = serde_json::from_str(&ran.stdout).unwrap();
    for row in table["rows"].as_array().unwrap() {
        assert_eq!(
            row["loss_bits_equal"],
            Value::Null,
            "another number of stages is another model"
        );
        let least = match text(&row["label"]) {
            // Three ranks take 3 ms and one 6 for each of four micro-batches.
            "one device" | "naive m=1" => 0.060,
            _ => 0.024,
        };
        assert!(row["step_seconds_median"].as_f64().unwrap() >= least, "{row}");
    }
}

#[test]
fn a_plan_from_measured_costs_needs_no_more_layers_than_ranks() {
    let home = Home::new();
    let line = "train --model wine-mlp --pp 4 --schedule auto --steps 1";
    let ran = home.run(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("planned from measured op times"),
        "{}\n{}",
        ran.stdout,
        ran.stderr
    );
}

#[test]
fn devices_say_what_can_be_used_and_why_not() {
    let home = Home::new();
    let found: Value = serde_json::from_str(&home.stdout("devices --json")).unwrap();
    typed(&found, "devices:a unavailable:a");
    let cpu = &found["devices"][0];
    typed(cpu, "id:s kind:s cores:u memory_bytes:u usable:b");
    assert_eq!(
        (&cpu["id"], &cpu["kind"], &cpu["usable"]),
        (&json!("cpu"), &json!("cpu"), &json!(true))
    );
    assert!(cpu["memory_bytes"].as_u64().unwrap() > 1 << 20);
    let has_cuda = found["devices"].as_array().unwrap().iter().any(|d| d["kind"] == "cuda");
    let missing = found["unavailable"].as_array().unwrap();
    assert_eq!(missing.iter().any(|d| d["kind"] == "cuda"), !has_cuda);
    for device in missing {
        typed(device, "kind:s reason:s fix:s");
    }
    let plain = home.stdout("devices");
    assert!(plain.starts_with("cpu ") && plain.contains("cores"), "{plain}");
    assert!(home.contents().is_empty());
}
