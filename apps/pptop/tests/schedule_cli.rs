//! `pptop bubble` and `pptop schedule`, run as a user runs them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/ran.rs"]
mod ran;

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ran::Ran;
use serde_json::{Value, json};

fn pptop(args: &[&str]) -> Ran {
    Ran::of(Command::new(env!("CARGO_BIN_EXE_pptop")).args(args))
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Runs a command that must succeed quietly.
fn stdout(line: &str) -> String {
    pptop(&words(line)).well(line)
}

fn json_of(line: &str) -> Value {
    serde_json::from_str(&stdout(line)).unwrap()
}

/// Runs a command that must be refused in a line with all of `parts` in it (and perhaps a grid
/// after a blank line).
fn refused(args: &[&str], parts: &[&str]) {
    let mut ran = pptop(args);
    if let Some((line, grid)) = ran.stderr.split_once("\n\n") {
        assert!(grid.trim_start().starts_with("cell"), "{args:?}: {grid}");
        ran.stderr = line.to_owned();
    }
    ran.refused(&format!("{args:?}"), parts);
}

/// A file of this content, named after the test that wants it.
fn file(name: &str, content: &[u8]) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_bare_bubble_prints_the_notebooks_eleven_values_first() {
    let rows = json_of("bubble --json");
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 44);
    let published = [
        (4, 4, 0.429),
        (4, 8, 0.273),
        (4, 16, 0.158),
        (4, 32, 0.086),
        (4, 64, 0.045),
        (4, 100, 0.029),
        (8, 16, 0.304),
        (16, 32, 0.319),
        (32, 64, 0.326),
        (8, 32, 0.179),
        (16, 64, 0.190),
    ];
    for ((p, m, value), row) in published.into_iter().zip(rows) {
        assert_eq!(
            (&row["schedule"], &row["pp"], &row["micro_batches"]),
            (&json!("gpipe"), &json!(p), &json!(m))
        );
        assert_eq!(row["seed_figure"], json!({"value": value, "definition": "bubble_ratio"}));
        assert!((row["simulated"]["bubble_ratio"].as_f64().unwrap() - value).abs() <= 0.0005);
    }
    let of = |schedule: &str, p: u32, m: u32| {
        rows.iter()
            .find(|row| row["schedule"] == schedule && row["pp"] == p && row["micro_batches"] == m)
            .unwrap()
    };
    assert_eq!(
        of("1f1b", 4, 32)["seed_figure"],
        json!({"value": 0.094, "definition": "bubble_overhead"})
    );
    assert_eq!(
        of("interleaved-1f1b", 4, 32)["seed_figure"],
        json!({"value": 0.047, "definition": "bubble_overhead"})
    );
    assert_eq!(of("naive", 4, 32)["seed_figure"], json!({"value": 0.0, "definition": "none"}));
    assert_eq!(of("naive", 4, 32)["simulated"]["bubble_ratio"], json!(0.75));
    for row in rows {
        for name in ["bubble_ratio", "bubble_overhead", "span_bubble"] {
            let number = |side: &str| row[side][name].as_f64().unwrap();
            assert!((number("closed_form") - number("simulated")).abs() < 1e-9, "{row}");
        }
        assert_eq!(row["closed_form"]["peak_activations"], row["simulated"]["peak_activations"]);
    }
    let table = stdout("bubble");
    for (_, _, value) in published {
        assert!(table.contains(&format!("{value:.3} bubble_ratio")), "{value} is not in:\n{table}");
    }
}

#[test]
fn bubble_combines_the_sizes_ranks_outermost() {
    let rows = json_of("bubble --schedule 1f1b --stages 4,8 --micro-batches 4,8,16 --json");
    let sizes: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["pp"].as_u64().unwrap(), row["micro_batches"].as_u64().unwrap()))
        .collect();
    assert_eq!(sizes, [(4, 4), (4, 8), (4, 16), (8, 4), (8, 8), (8, 16)]);
    let row = &json_of("bubble --schedule gpipe --ranks 4 --micro-batches 8 --json")[0];
    let expected = json!({
        "schedule": "gpipe", "pp": 4, "micro_batches": 8, "virtual_stages": 1,
        "closed_form": {
            "bubble_ratio": 9.0 / 33.0, "bubble_overhead": 0.375, "span_bubble": 9.0 / 33.0, "idle_per_rank": 9.0,
            "peak_activations": [8, 8, 8, 8],
        },
        "simulated": {
            "makespan": 33.0, "busy": [24.0, 24.0, 24.0, 24.0], "idle": [9.0, 9.0, 9.0, 9.0], "span": [33.0, 30.0, 27.0, 24.0],
            "bubble_ratio": 9.0 / 33.0, "bubble_overhead": 0.375, "span_bubble": 9.0 / 33.0,
            "peak_activations": [8, 8, 8, 8], "peak_memory": [8.0, 8.0, 8.0, 8.0],
            "lower_bound": 33.0, "lower_bound_reason": "rank 3: fill 3 + work 24 + drain 6",
        },
        "seed_figure": {"value": 0.273, "definition": "bubble_ratio"},
    });
    assert_eq!(row, &expected);
}

#[test]
fn a_schedule_that_nobody_named_is_left_out_where_it_does_not_fit() {
    let ran = pptop(&words("bubble --pp 4 --micro-batches 9 --json"));
    assert_eq!(ran.code, Some(0));
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).unwrap().as_array().unwrap().len(), 3);
    assert!(
        ran.stderr.starts_with("pptop: left out: interleaved-1f1b with p=4 refuses m=9"),
        "{}",
        ran.stderr
    );
}

#[test]
fn bubble_takes_every_schedule_at_once() {
    let ran = pptop(&words("bubble --schedule all --pp 4 --micro-batches 6,8 --json"));
    assert_eq!(ran.code, Some(0));
    let rows: Value = serde_json::from_str(&ran.stdout).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2 * 17 - 1);
    assert!(ran.stderr.starts_with("pptop: left out: dualpipe-v with p=4 does not run m=6"));
    let of = |name: &str| rows.iter().rfind(|row| row["schedule"] == name).unwrap();
    assert_eq!(of("zb-v")["simulated"]["peak_memory"], json!([4.0, 4.0, 4.0, 4.0]));
    assert_eq!(of("zb-v")["simulated"]["makespan"], 25.5);
    refused(&words("bubble --schedule dualpipe-v --pp 4 --micro-batches 6"), &["m=8 or more"]);
}

/// Four stages, the last one twice as long.
const UNEQUAL: &str =
    r#"{"forward":[1,1,1,2],"input_grad":[1,1,1,2],"weight_grad":[1,1,1,2],"comm":0.1"#;

#[test]
fn a_plan_made_for_costs_keeps_the_limit_and_says_which() {
    let costs = file("unequal.json", format!("{UNEQUAL}}}").as_bytes());
    let line = format!("schedule simulate auto --pp 4 --micro-batches 12 --costs {costs}");
    let of = |flags: &str| json_of(&format!("{line} --json {flags}"))["simulated"].clone();
    let (default, low) = (of(""), of("--memory-limit 2"));
    assert_eq!(default["memory_limit"], json!([4.0, 4.0, 4.0, 4.0]));
    assert_eq!(low["memory_limit"], json!([2.0, 2.0, 2.0, 2.0]));
    for simulated in [&default, &low] {
        assert_eq!(simulated["fits_memory"], true);
    }
    assert!(default["makespan"].as_f64() < low["makespan"].as_f64());
    assert!(stdout(&line).contains("memory limit 4 on each rank: kept"));

    let limited = file("limited.json", format!("{UNEQUAL},\"memory_limit\":3}}").as_bytes());
    let line = format!("schedule simulate auto --pp 4 --micro-batches 12 --costs {limited}");
    assert!(stdout(&line).contains("memory limit 3 on each rank: kept"));
    refused(
        &words(&format!("{line} --memory-limit 2")),
        &["--memory-limit 2", "has a memory_limit too", "one of the two"],
    );
}

#[test]
fn a_file_of_costs_says_how_many_stages_there_are_where_that_is_open() {
    let list = "[1,1,1,1]";
    let text = format!(r#"{{"forward":{list},"input_grad":{list},"weight_grad":{list}}}"#);
    let costs = file("four_stages.json", text.as_bytes());
    let of =
        |name: &str| format!("schedule simulate {name} --pp 2 --micro-batches 4 --costs {costs}");
    for name in ["auto", "looped-bfs", "forward-only"] {
        assert_eq!(json_of(&format!("{} --json", of(name)))["virtual_stages"], 2, "{name}");
    }
    refused(&words(&of("1f1b")), &["forward has 4 entries for 2 stages"]);
}

#[test]
fn what_a_file_of_costs_gets_wrong_is_told_on_one_line() {
    let of = |name: &str, text: &str| {
        let costs = file(name, text.as_bytes());
        words(&format!("schedule simulate auto --pp 2 --micro-batches 4 --costs {costs}"))
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let list = "[1,1]";
    let times = format!(r#""forward":{list},"input_grad":{list},"weight_grad":{list}"#);
    let cases = [
        ("[]".to_owned(), "expected an object of costs"),
        (format!(r#"{{{times},"a\n\n\u001b[31m{}":1}}"#, "x".repeat(5000)), "unknown field"),
        (format!(r#"{{{times},"comm":"{}"}}"#, "x".repeat(5000)), "neither one number"),
        (format!(r#"{{{times},"boundary":[5,0],"memory_limit":1.5}}"#), "rank 0 may hold 1.5"),
    ];
    for (at, (text, part)) in cases.iter().enumerate() {
        let args = of(&format!("wrong_costs_{at}.json"), text);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        refused(&args, &[part]);
    }
}

#[test]
fn the_ending_of_a_file_says_its_format() {
    let of = |ending: &str, flags: &str| {
        let path = file(&format!("ending.{ending}"), b"old");
        stdout(&format!("schedule export 1f1b --pp 2 --micro-batches 2 --force -o {path} {flags}"));
        std::fs::read_to_string(&path).unwrap()
    };
    assert!(of("svg", "").starts_with("<svg"));
    assert!(of("json", "").starts_with("{\"schema\""));
    assert!(of("txt", "").starts_with("rank 0"));
    for csv in [of("csv", ""), of("plan", ""), of("odd", "--format csv")] {
        assert!(csv.starts_with("0F0,0F1"), "{csv}");
    }
}

#[test]
fn simulate_takes_costs_by_flag_and_by_file() {
    let report = json_of(
        "schedule simulate interleaved-1f1b --pp 4 --micro-batches 8 --forward 2 --input-grad 2 --weight-grad 2 --json",
    );
    assert_eq!(report["simulated"]["makespan"], 57.0);
    assert_eq!(report["simulated"]["peak_activations"], json!([11, 9, 7, 5]));
    assert_eq!(report["simulated"]["peak_memory"], json!([5.5, 4.5, 3.5, 2.5]));
    assert_eq!((&report["virtual_stages"], &report["gap"]), (&json!(2), &json!(0.0)));
    // The costs that it reports are a file that it reads.
    let costs = file("costs_of_simulate.json", report["costs"].to_string().as_bytes());
    let again = json_of(&format!(
        "schedule simulate interleaved-1f1b --pp 4 --micro-batches 8 --costs {costs} --json"
    ));
    assert_eq!(again, report);

    let paper = json_of(
        "schedule simulate 1f1b --pp 8 --micro-batches 24 --forward 18.522 --input-grad 18.086 --weight-grad 9.337 --comm 0.601 --json",
    );
    assert!((paper["simulated"]["span_bubble"].as_f64().unwrap() - 0.2431).abs() <= 0.00005);
    assert!(
        stdout("schedule simulate naive --pp 4 --micro-batches 2").contains("bubble_ratio 0.7500")
    );
}

#[test]
fn what_is_exported_comes_back() {
    for name in ["naive", "gpipe", "1f1b", "interleaved-1f1b"] {
        let sizes = format!("{name} --pp 3 --micro-batches 6");
        let csv = stdout(&format!("schedule export {sizes}"));
        let path = file(&format!("back_{name}.csv"), csv.as_bytes());
        assert_eq!(stdout(&format!("schedule export {path}")), csv);
        let of =
            |plan: &str| json_of(&format!("schedule simulate {plan} --json"))["simulated"].clone();
        assert_eq!(of(&path), of(&sizes));
    }
    let json = json_of("schedule export gpipe --pp 2 --micro-batches 2 --format json");
    let expected = json!({
        "schema": 1, "schedule": "gpipe", "pp": 2, "micro_batches": 2, "virtual_stages": 1, "placement": [0, 1],
        "rows": [["0F0", "0F1", "0B0", "0B1"], ["1F0", "1F1", "1B0", "1B1"]],
    });
    assert_eq!(json, expected);
    let path = file("exported.csv", b"old");
    assert_eq!(
        stdout(&format!(
            "schedule export 1f1b --pp 2 --micro-batches 2 --format csv --force -o {path}"
        )),
        ""
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n");
}

#[test]
fn show_draws_to_scale() {
    let picture = "rank 0  F0|F1|......B0---|...B1---|\nrank 1  ...F0|B0---|F1|B1---|......\n";
    let shown = stdout("schedule show 1f1b --pp 2 --micro-batches 2");
    assert!(shown.contains(picture), "{shown}");
    assert!(
        shown.contains("bubble_ratio 0.3333") && shown.contains("peak activations 2 1"),
        "{shown}"
    );
    assert_eq!(stdout("schedule export 1f1b --pp 2 --micro-batches 2 --format text"), picture);
    assert_eq!(
        stdout("schedule show 1f1b --pp 2 --micro-batches 1 --format csv"),
        "0F0,0B0\n1F0,1B0\n"
    );
}

#[test]
fn a_drawing_explains_the_cells_that_it_has() {
    let last = |name: &str| {
        let shown = stdout(&format!("schedule show {name} --pp 2 --micro-batches 4"));
        shown.lines().last().unwrap().to_owned()
    };
    assert_eq!(last("1f1b"), "F3 is F of micro-batch 3: F forward, B backward; dots are idle");
    assert!(last("zb-v").starts_with("1F3 is F of stage 1") && !last("zb-v").contains('B'));
    assert!(last("dualpipe-v").contains("F&B overlapped"));
}

#[test]
fn files_are_taken_with_any_line_end_and_with_bubbles() {
    let contents: [&[u8]; 5] = [
        b"0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n",
        b"0F0,0F1,0B0,0B1\r\n1F0,1B0,1F1,1B1\r\n",
        b"0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1",
        b"0F0,0F1,,,0B0,,0B1\n,1F0,1B0,1F1,1B1,,\n",
        b"0F0,0F1,0I0,0W0,0B1\n1F0,1I0,1F1,1W0,1B1\n",
    ];
    for (at, content) in contents.iter().enumerate() {
        let path = file(&format!("taken_{at}.csv"), content);
        let verdict = json_of(&format!("schedule check {path} --json"));
        assert_eq!(
            (&verdict["valid"], &verdict["pp"], &verdict["micro_batches"]),
            (&json!(true), &json!(2), &json!(2))
        );
        assert!(stdout(&format!("schedule check {path}")).contains("valid"));
    }
    let path = file("forward_only.csv", b"0F0,0F1\n1F0,1F1\n");
    assert_eq!(
        json_of(&format!("schedule check {path} --micro-batches 2 --json"))["forward_only"],
        true
    );
}

/// A file that is no valid plan: `check` names the rule and the cell, on standard error and, when
/// asked, as JSON.
fn invalid(name: &str, content: &[u8], verdict: &Value) {
    let path = file(&format!("{name}.csv"), content);
    let rule = verdict["rule"].as_str().unwrap();
    for command in ["check", "show", "simulate", "export"] {
        refused(&["schedule", command, &path], &["csv: "]);
    }
    let ran = pptop(&["schedule", "check", &path, "--json"]);
    assert_eq!(ran.code, Some(2));
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    for key in ["rank", "cell", "op"] {
        assert_eq!(said[key], verdict[key], "{name}: {key} in {said}");
    }
    assert_eq!((&said["valid"], said["rule"].as_str()), (&json!(false), Some(rule)), "{said}");
    assert!(!said["message"].as_str().unwrap().contains('\n'));
}

#[test]
fn files_that_are_no_valid_plans_are_refused_by_cell() {
    let verdict = |rule: &str, rank: u32, cell: u32, op: &str| json!({"rule": rule, "rank": rank, "cell": cell, "op": op});
    invalid("missing_f", b"0F0,0F1,0B0,0B1\n1F0,1B0,1B1\n", &verdict("missing", 1, 3, "1F1"));
    invalid("missing_b", b"0F0,0F1,0B0\n1F0,1B0,1F1,1B1\n", &verdict("missing", 0, 3, "0B1"));
    invalid("doubled", b"0F0,0F0,0B0\n1F0,1B0\n", &verdict("duplicate", 0, 1, "0F0"));
    invalid("order", b"0B0,0F0\n1F0,1B0\n", &verdict("order", 0, 0, "0B0"));
    invalid("mixed", b"0F0,0B0,0W0\n1F0,1B0\n", &verdict("mixed", 0, 2, "0W0"));
    invalid("deadlock", b"0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n", &verdict("deadlock", 0, 1, "0B0"));
    invalid(
        "two_rows",
        b"0F0,0F1,0B0\n1F0,1B0,1F1,0B1,1B1\n",
        &verdict("stage-on-two-rows", 1, 3, "0B1"),
    );
    invalid("out_of_range", b"0F0,0B0\n1F0,99B0\n", &verdict("range", 1, 1, "99B0"));
    invalid("not_an_op", b"0F0,0B0\n1F0,1X0\n", &verdict("cell", 1, 1, "1X0"));
    invalid(
        "overlapped_with_what_it_needs",
        b"0F0,(0F1;0B1)OVERLAP_F_B,0B0\n",
        &verdict("order", 0, 1, "0B1"),
    );
    invalid(
        "overlapped_halves",
        b"0F0,(0F1;0I0)OVERLAP_F_B\n",
        &verdict("cell", 0, 1, "(0F1;0I0)OVERLAP_F_B"),
    );
    let nowhere = json!({"rule": "format", "rank": null, "cell": null, "op": null});
    invalid(
        "binary",
        b"\x7fELF\x02\x01\0\0\xff\xfe",
        &verdict("format", 0, 0, "\u{fffd}ELF\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
    );
    invalid("empty", b"", &nowhere);
    invalid(
        "gap_in_rows",
        b"0F0,0B0\n\n1F0,1B0\n",
        &json!({"rule": "format", "rank": 1, "cell": 0, "op": null}),
    );
    invalid("gap_in_stages", b"0F0,0B0\n2F0,2B0\n", &verdict("missing", 1, 0, "2F0"));
    invalid("truncated", b"0F0,0F1,0B0,0B1\n1F0,1B0,1F", &verdict("cell", 1, 2, "1F"));
}

#[test]
fn a_refused_plan_is_shown_as_a_grid() {
    let path = file("grid.csv", b"0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n");
    let ran = pptop(&["schedule", "check", &path]);
    let grid = "\n\n  cell   0     1     2     3\nrank 0  0F0  [0B0]  0F1   0B1\nrank 1  1F0   1F1   1B0   1B1\n";
    assert!(ran.stderr.ends_with(grid), "{}", ran.stderr);
}

#[test]
fn sizes_and_names_that_cannot_be_are_refused() {
    let refused = |line: &str, parts: &[&str]| refused(&words(line), parts);
    refused("", &["needs a command", "bubble", "schedule"]);
    refused("schedule", &["needs a command", "show check simulate export"]);
    refused("frobnicate", &["no command 'frobnicate'", "the commands are", "bubble schedule"]);
    refused("schedule show", &["NAME|FILE"]);
    refused(
        "schedule show zb-h9 --pp 4 --micro-batches 8",
        &["`zb-h9`", "naive gpipe 1f1b interleaved-1f1b", "CSV file"],
    );
    refused("bubble --schedule best", &["best", "naive gpipe 1f1b interleaved-1f1b"]);
    refused("schedule show gpipe --micro-batches 8", &["gpipe needs --pp", "--pp 8"]);
    refused("schedule show gpipe --pp 4", &["gpipe needs --micro-batches", "--micro-batches 8"]);
    refused(
        "schedule show gpipe --pp 0 --micro-batches 8",
        &["'0'", "--pp", "use a whole number from 1"],
    );
    refused(
        "schedule show gpipe --pp 4 --micro-batches 0",
        &["'0'", "--micro-batches", "use a whole number from 1"],
    );
    refused("schedule show gpipe --pp -1 --micro-batches 8", &["-1"]);
    refused(
        "schedule show gpipe --pp four --micro-batches 8",
        &["'four'", "--pp", "use a whole number from 1"],
    );
    refused(
        "schedule show gpipe --pp 99999999999 --micro-batches 8",
        &["99999999999", "to 4294967295"],
    );
    refused(
        "schedule show gpipe --pp 4000000000 --micro-batches 4000000000",
        &["32000000000000000000 ops", "at most 20000000", "fewer micro-batches"],
    );
    refused(
        "schedule show 1f1b --pp 4 --micro-batches 8 --virtual-stages 2",
        &["1f1b does not run v=2", "use v=1", "interleaved-1f1b"],
    );
    refused(
        "schedule show gpipe --pp 4 --micro-batches 8 --interleave-group 4",
        &["gpipe has no interleave group", "4"],
    );
    refused(
        "schedule show interleaved-1f1b --pp 4 --micro-batches 9",
        &["p=4", "m=9", "Megatron", "PyTorch", "m=8", "m=10"],
    );
    refused(
        "schedule show interleaved-1f1b --pp 4 --micro-batches 9 --interleave-group 6",
        &["N=6", "use N=5"],
    );
    refused(
        "bubble --schedule interleaved-1f1b --pp 4 --micro-batches 9",
        &["p=4", "m=9", "use m=8 or m=10"],
    );
    refused("bubble --pp 4", &["--micro-batches"]);
    refused("bubble --pp 4,,8 --micro-batches 8", &["--pp"]);
    refused(
        "schedule simulate gpipe --pp 2 --micro-batches 2 --forward NaN",
        &["'NaN'", "--forward", "finite number"],
    );
    refused("schedule simulate gpipe --pp 2 --micro-batches 2 --comm -1", &["-1"]);
    refused(
        "schedule simulate gpipe --pp 2 --micro-batches 2 --forward 0 --input-grad 0 --weight-grad 0",
        &["takes 0", "above 0"],
    );
}

#[test]
fn files_and_flags_that_contradict_each_other_are_refused() {
    let csv = file("contradicted.csv", b"0F0,0B0\n1F0,1B0\n");
    let costs =
        file("contradicted.json", br#"{"forward":[1],"input_grad":[1,1],"weight_grad":[1,1]}"#);
    let no_json = file("no_json.json", b"\xff\0");
    refused(&["schedule", "check", "nowhere.csv"], &["cannot read nowhere.csv", "name a file"]);
    refused(&["schedule", "check", env!("CARGO_TARGET_TMPDIR")], &["cannot read", "name a file"]);
    refused(&["schedule", "show", &csv, "--pp", "3"], &["has 2", "--pp 3", "use --pp 2"]);
    refused(&["schedule", "show", &csv, "--virtual-stages", "2"], &["has 1", "--virtual-stages 2"]);
    refused(&["schedule", "show", &csv, "--interleave-group", "2"], &["--interleave-group 2"]);
    refused(&["schedule", "check", &csv, "--micro-batches", "2"], &["0F1 is missing"]);
    refused(
        &["schedule", "simulate", &csv, "--costs", &costs],
        &["forward has 1 entries for 2 stages", "write 2 entries"],
    );
    refused(
        &["schedule", "simulate", &csv, "--costs", &costs, "--comm", "1"],
        &["--costs", "--comm", "cannot be used with"],
    );
    refused(&["schedule", "simulate", &csv, "--costs", &no_json], &["not UTF-8", "write JSON"]);
    refused(
        &["schedule", "simulate", &csv, "--costs", "nowhere.json"],
        &["cannot read nowhere.json"],
    );
    refused(
        &["schedule", "export", &csv, "-o", "/nowhere/at/all.csv"],
        &["-o /nowhere/at/all.csv", "cannot write", "a folder that exists"],
    );
    let long = "x".repeat(10_000);
    refused(&["schedule", "check", &long], &["xxx", "the schedules are naive gpipe"]);
}

/// A reader that has seen enough is no error: no message, no failure.
#[test]
fn a_closed_pipe_is_quiet() {
    let args = words("schedule export gpipe --pp 64 --micro-batches 512");
    let mut child = Command::new(env!("CARGO_BIN_EXE_pptop"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}
