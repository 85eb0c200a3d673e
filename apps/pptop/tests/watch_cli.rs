//! The commands about runs that are there already, where there is no terminal.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/at_home.rs"]
mod at_home;
#[path = "common/folder.rs"]
mod folder;
#[path = "common/ran.rs"]
mod ran;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use folder::Folder;
use ran::Ran;
use serde_json::Value;

const LOG: &[u8] = include_bytes!("fixtures/one_f_one_b_p4_m8.jsonl");

/// A folder with the folder of the runs in it.
struct Home(Folder);

impl Home {
    fn new() -> Self {
        let folder = Folder::new();
        fs::create_dir(folder.path("runs")).unwrap();
        Self(folder)
    }

    /// A home with the recorded run in it.
    fn with_run() -> Self {
        let home = Self::new();
        home.0.write("runs/gpt-1/events.jsonl", LOG);
        home
    }

    fn run(&self, line: &str) -> Ran {
        Ran::of(&mut at_home::pptop(&self.0.path(""), line))
    }

    #[track_caller]
    fn well(&self, line: &str) -> String {
        self.run(line).well(line)
    }
}

#[test]
fn attach_writes_lines_where_there_is_no_terminal() {
    let home = Home::with_run();
    let lines = home.well("attach");
    assert!(lines.starts_with("gpt-20261101-141233: 1f1b on 4 ranks, 8 micro-batches"));
    assert_eq!(lines.lines().filter(|line| line.contains("  loss ")).count(), 120);
    assert!(lines.ends_with("ended with exit code 0 after 120 steps: finished\n"), "{lines}");
    let json = home.well("attach --json gpt-1");
    let events: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.first().unwrap()["ev"], "hello");
    assert_eq!(events.iter().filter(|event| event["ev"] == "step").count(), 120);
    assert_eq!(events.last().unwrap()["ev"], "end");
    let once = home.well("attach --once --plain");
    assert_eq!(once.lines().count(), 1);
    assert!(once.contains("step 120/120") && once.contains("theory 27.3 %"), "{once}");
}

/// A file gets UTF-8 whatever the locale says, unless ASCII is asked for.
#[test]
fn a_snapshot_in_a_file_is_utf8_unless_ascii_is_wanted() {
    let home = Home::with_run();
    let dir = home.0.path("");
    let snapshot = |variables: &[(&str, &str)], more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pptop"));
        command.args(["snapshot", "--size", "80x24"]).args(more).envs(variables.iter().copied());
        let ran = Ran::of(command.env("PPTOP_STATE_DIR", &dir).env("XDG_CONFIG_HOME", &dir));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.stdout.is_ascii()
    };
    assert!(!snapshot(&[("LC_ALL", "C"), ("TERM", "vt100")], &[]));
    assert!(snapshot(&[("LC_ALL", "C.UTF-8")], &["--ascii"]));
    assert!(snapshot(&[("LC_ALL", "C.UTF-8"), ("PPTOP_ASCII", "1")], &[]));
    assert!(!snapshot(&[("LC_ALL", "C"), ("PPTOP_ASCII", "0")], &[]));
}

/// A process on another machine cannot be checked from here: its run has ended when its log says
/// so.
#[test]
fn a_run_of_another_machine_is_followed_to_its_end() {
    let home = Home::with_run();
    let dir = home.0.path("runs/gpt-1");
    let at = LOG.iter().rposition(|&byte| byte == b'{').unwrap();
    fs::write(dir.join("events.jsonl"), &LOG[..at]).unwrap();
    let status = r#"{"schema":1,"run":"gpt-1","pid":1,"host":"elsewhere","state":"running"}"#;
    fs::write(dir.join("status.json"), status).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_pptop"))
        .args(["attach", "gpt-1"])
        .env("PPTOP_STATE_DIR", home.0.path(""))
        .env("XDG_CONFIG_HOME", home.0.path(""))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().map(Result::unwrap);
    while !next().unwrap().starts_with("step 120") {}
    // Long enough for several looks.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(child.try_wait().unwrap(), None, "it ended before its run");
    let log = fs::OpenOptions::new().append(true).open(dir.join("events.jsonl"));
    std::io::Write::write_all(&mut log.unwrap(), &LOG[at..]).unwrap();
    let rest: Vec<String> = std::iter::from_fn(next).collect();
    assert!(rest.last().unwrap().starts_with("ended with exit code 0"), "{rest:?}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_snapshot_is_a_screen_or_the_numbers_of_the_run() {
    let home = Home::with_run();
    let screen = home.well("snapshot --size 80x24");
    assert_eq!(screen.lines().count(), 24);
    assert!(screen.contains("ENDED  step 120/120"));
    for view in ["timeline", "devices", "loss", "bubble", "log"] {
        let screen = home.well(&format!("snapshot --view {view} --size 100x30 --ascii"));
        assert!(screen.is_ascii() && screen.lines().count() == 30, "{view}: {screen}");
    }
    let svg = home.well("snapshot --svg --size 80x24");
    roxmltree::Document::parse(&svg).unwrap();
    let numbers: Value = serde_json::from_str(&home.well("snapshot --json")).unwrap();
    assert_eq!(numbers["step"], 120);
    let window = &numbers["window"];
    let parts = ["work", "inherent", "imbalance", "copy", "starved", "other"];
    let sum: f64 =
        parts.iter().map(|part| window[format!("{part}_seconds")].as_f64().unwrap()).sum();
    assert!((sum - window["seconds"].as_f64().unwrap()).abs() < 1e-9);
    let csv = home.well("snapshot --csv");
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((rows.len(), rows[0].len()), (2, rows[1].len()));
    let at = rows[0].iter().position(|name| *name == "bubble_ratio").unwrap();
    assert_eq!(rows[1][at], numbers["bubble_ratio"].to_string());
    assert!(home.well("snapshot --prometheus").contains("# TYPE pptop_bubble_ratio gauge"));
}

#[test]
fn a_report_says_what_why_and_next_and_bounds_decide_its_exit_code() {
    let home = Home::with_run();
    let report = home.well("report");
    for part in ["cost   bubble 29.7 %", "cause  fill and drain of 1f1b", "try    --schedule "] {
        assert!(report.contains(part), "{part} is not in: {report}");
    }
    assert_eq!(home.run("report --max-bubble 0.30 --min-samples-per-s 30").code, Some(0));
    let missed = home.run("report latest --max-bubble 0.25");
    assert_eq!(missed.code, Some(1));
    assert!(missed.stderr.contains("is above --max-bubble 0.25"), "{}", missed.stderr);
    assert!(missed.stdout.contains("cost   "), "the report stands all the same");
    let json = home.run("report --json --min-samples-per-s 1000");
    assert_eq!(json.code, Some(1));
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(report["verdict"]["part"], "inherent");
    assert_eq!(report["missed"].as_array().unwrap().len(), 1);
}

#[test]
fn bounds_of_a_run_without_a_step_are_missed() {
    let home = Home::new();
    let hello = LOG.split_inclusive(|&byte| byte == b'\n').next().unwrap();
    home.0.write("runs/young/events.jsonl", hello);
    let ran = home.run("report --max-bubble 1");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("no bubble was measured"), "{}", ran.stderr);
    assert!(ran.stdout.contains("no diagnosis"), "{}", ran.stdout);
}

#[test]
fn what_cannot_be_done_is_refused_in_a_line() {
    let home = Home::with_run();
    home.0.write("empty.jsonl", "");
    for line in [
        "attach nothing",
        "attach gpt-1 gpt-1 --plain",
        "replay gpt-1",
        "replay gpt-1 --speed 0",
        "replay gpt-1 --start later",
        "demo",
        "demo --pp 65",
        "demo --schedule chimera --pp 3",
        "snapshot --view nothing",
        "snapshot --size 0x5",
        "snapshot --json --csv",
        "snapshot empty.jsonl",
        "report --max-bubble 1.5",
        "report --min-samples-per-s -1",
        "report runs",
        "runs info nothing",
        "runs prune --keep-days never",
    ] {
        home.run(line).refused(line, &[]);
    }
}

#[test]
fn runs_are_listed_told_of_and_pruned() {
    let home = Home::with_run();
    let list = home.well("runs list");
    assert!(list.lines().nth(1).unwrap().starts_with("gpt-1  finished"), "{list}");
    for part in ["state", "step", "loss", "time", "schedule", "sizes", "120/120", "1f1b", "p4 m8"] {
        assert!(list.contains(part), "{part} is not in: {list}");
    }
    assert!(list.lines().all(|line| line.chars().count() <= 80), "{list}");
    let json: Value = serde_json::from_str(&home.well("runs list --json")).unwrap();
    assert_eq!((&json[0]["steps"], &json[0]["sizes"]), (&120.into(), &"p4 m8".into()));
    assert!(json[0]["seconds"].as_f64().unwrap() > 1.0);
    // However long their names are.
    let long = Home::new();
    long.0.write(&format!("runs/{}/events.jsonl", "long-".repeat(40)), LOG);
    let list = long.well("runs list");
    assert!(list.lines().all(|line| line.chars().count() <= 80), "{list}");
    let info: Value = serde_json::from_str(&home.well("runs info gpt --json")).unwrap();
    assert_eq!(info["bytes"], LOG.len());
    assert_eq!(home.well("runs prune --keep-runs 0 --dry-run"), "nothing to do\n");
    assert!(home.0.path("runs/gpt-1/events.jsonl").is_file());
    let empty = Home::new();
    assert!(empty.well("runs list").starts_with("no runs in "));
}

/// What must not leave the program as it is: C0 and C1, what turns the order of others round, and
/// what nobody sees.
const OBEYED: &str = "\u{1b}[31m \u{9b}2J \u{85} \u{7f} \u{202e}abc\u{2066} \u{200b}\u{feff} \u{2028}x\u{2029} \u{e0041}";

/// Issue 10, number 21: U+0080 to U+009F were escaped nowhere.
#[test]
fn what_a_terminal_obeys_leaves_by_no_command_and_no_file() {
    let home = Home::new();
    let json = serde_json::to_string(OBEYED).unwrap();
    let json = json.trim_matches('"');
    let log = String::from_utf8(LOG.to_vec()).unwrap();
    for text in ["gpt-20261101-141233", "\"1f1b", "\"cpu:0", "\"gpt\""] {
        assert!(log.contains(text), "{text}");
    }
    let log = log
        .replace("gpt-20261101-141233", json)
        .replace("\"1f1b", &format!("\"{json}"))
        .replace("\"cpu:0", &format!("\"{json}"))
        .replace("\"gpt\"", &format!("\"{json}\""));
    let mut log = log.into_bytes();
    for line in [
        format!(r#"{{"ev":"log","elapsed_ns":5,"message":"{json}"}}"#),
        format!(r#"{{"ev":"warn","elapsed_ns":5,"message":"{json}"}}"#),
        format!(r#"{{"ev":"gpu","uuid":"{json}","name":"{json}","throttle":["{json}"]}}"#),
        format!(r#"{{"ev":"end","code":1,"reason":"{json}","op":"{json}","steps":9}}"#),
    ] {
        log.extend_from_slice(line.as_bytes());
        log.push(b'\n');
    }
    let obeyed = |c: char| pp_schedule::is_obeyed(c) && c != '\n';
    let id = "evil\u{9b}31m\u{202e}";
    home.0.write(&format!("runs/{id}/events.jsonl"), log);
    for line in [
        "attach",
        "attach --json",
        "attach --once",
        "attach --once --json",
        "report",
        "report --json",
        "snapshot",
        "snapshot --json",
        "snapshot --csv",
        "snapshot --prometheus",
        "snapshot --svg",
        "snapshot --view log",
        "snapshot --view devices",
        "snapshot --view log --svg",
        "snapshot --size 19x4",
        "snapshot --size 59x12",
        "runs list",
        "runs list --json",
        "runs info",
        "runs info --json",
        "export prometheus latest",
        "export csv latest",
        "export svg latest",
        "export chrome-trace latest",
        // And what is refused, with what it names.
        "report no\u{9b}such\u{202e}run",
        "schedule check no\u{9b}\u{2028}such.csv",
        "schedule simulate no\u{9b}schedule --pp 2 --micro-batches 2",
        "no\u{9b}command",
        "report --no\u{9b}flag",
        "snapshot --view \u{9b}\u{200b}",
        "bubble --pp \u{9b}",
        "schedule check a\u{9b}\u{202e}.csv",
    ] {
        home.0.write("a\u{9b}\u{202e}.csv", "0\u{9b}F0,\u{202e}0B0\n");
        let ran = home.run(line);
        for (name, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
            assert!(!text.contains(obeyed), "{line}: {name}: {text:?}");
        }
        if line.ends_with("--json") {
            let value: Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
            assert!(value.is_object() || value.is_array(), "{line}");
        }
    }
    // Nothing is lost in JSON.
    let hello: Value =
        serde_json::from_str(home.run("attach --json").stdout.lines().next().unwrap()).unwrap();
    assert_eq!(hello["run"], OBEYED);
}

/// Issue 10, number 21: each cell after a wide character was one too far to the right.
#[test]
fn wide_characters_take_two_cells_of_a_snapshot() {
    const WIDE: &str = "漢字🚀e\u{301}";
    // As many cells.
    const NARROW: &str = "abcdefg";
    let home = Home::new();
    let log = String::from_utf8(LOG.to_vec()).unwrap();
    for (id, name) in [("narrow", NARROW), ("wide", WIDE)] {
        let log = log.replace("gpt-20261101-141233", name);
        home.0.write(&format!("runs/{id}/events.jsonl"), log);
    }
    for size in ["80x24", "160x50"] {
        let narrow = home.well(&format!("snapshot narrow --size {size}"));
        let wide = home.well(&format!("snapshot wide --size {size}"));
        assert!(wide.contains(WIDE), "{wide}");
        assert_eq!(wide, narrow.replace(NARROW, WIDE), "{size}");
    }
    let svg = home.well("snapshot wide --svg --size 80x24");
    let x_of = |text: &str| {
        let line = svg.lines().find(|line| line.contains(&format!(">{text}"))).expect(text);
        let x = line.split("x=\"").nth(1).unwrap().split('"').next().unwrap();
        x.parse::<f64>().unwrap()
    };
    let columns = ((x_of("字") - x_of("漢")) / 8.4, (x_of("🚀") - x_of("字")) / 8.4);
    assert!((columns.0 - 2.0).abs() < 0.05 && (columns.1 - 2.0).abs() < 0.05, "{columns:?}");
}

#[test]
fn what_a_log_says_never_reaches_a_terminal_as_an_order() {
    let home = Home::new();
    let evil = "\\u001b[2J\\u001b]0;x\\u0007evil\\nname";
    let log = String::from_utf8(LOG.to_vec()).unwrap().replace("gpt-20261101-141233", evil);
    home.0.write("runs/evil\u{1b}[31m/events.jsonl", log);
    for line in [
        "attach",
        "attach --once",
        "report",
        "snapshot",
        "snapshot --prometheus",
        "runs list",
        "runs info",
        "export prometheus latest",
        "export csv latest",
        "export svg latest",
    ] {
        let said = home.well(line);
        assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{line}: {said:?}");
    }
    assert_eq!(home.well("attach --once").lines().count(), 1);
}

#[test]
fn what_is_no_run_is_refused_by_every_command() {
    let home = Home::new();
    home.0.write("text.jsonl", "hello\nworld\n");
    home.0.write("empty.jsonl", "");
    home.0.write("newer.jsonl", "{\"ev\":\"hello\",\"schema\":2}\n");
    for file in ["text.jsonl", "empty.jsonl", "newer.jsonl"] {
        for command in ["attach", "attach --once", "attach --json", "snapshot", "report"] {
            let line = format!("{command} {file}");
            home.run(&line).refused(&line, &[]);
        }
    }
}
