//! Small inputs that would cost much: each is refused with the bound that it exceeds, or costs
//! little.
//!
//! No time is measured here: what used to take minutes or gigabytes would not end, or end with
//! another message.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/at_home.rs"]
mod at_home;
#[path = "common/folder.rs"]
mod folder;
#[path = "common/ran.rs"]
#[expect(dead_code, reason = "all that is tried here is refused")]
mod ran;

use std::fmt::Write as _;

use folder::Folder;
use ran::Ran;

const LOG: &str = include_str!("fixtures/one_f_one_b_p4_m8.jsonl");

fn run(folder: &Folder, line: &str) -> Ran {
    Ran::of(&mut at_home::pptop(&folder.path(""), line))
}

#[track_caller]
fn refused(folder: &Folder, line: &str, what: &str) {
    run(folder, line).refused(line, &[what]);
}

#[test]
fn devices_folders_and_pipes_are_no_files_to_be_read() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("runs")).unwrap();
    let simulate = "schedule simulate gpipe --pp 2 --micro-batches 2 --costs";
    let train = "train --headless --model wine-mlp --steps 1 --pp 1";
    for (line, what) in [
        ("schedule check /dev/zero", "device"),
        ("schedule check /dev/null", "device"),
        ("schedule check runs", "folder"),
        (&format!("{simulate} /dev/zero"), "device"),
        (&format!("{simulate} runs"), "folder"),
        (&format!("{train} --init /dev/zero"), "device"),
        (&format!("{train} --init runs"), "folder"),
        (&format!("{train} --schedule /dev/zero"), "device"),
        ("train --headless --model gpt --steps 1 --data /dev/zero", "/dev/zero"),
        ("report /dev/zero", "/dev/zero"),
        ("snapshot /dev/zero", "/dev/zero"),
    ] {
        refused(&folder, line, what);
    }
}

#[test]
fn files_that_claim_to_hold_much_are_refused_by_what_they_are() {
    let folder = Folder::new();
    let train = "train --headless --model wine-mlp --steps 1 --pp 1 --init";
    let head = |json: &str| [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    folder.write("huge.st", u64::MAX.to_le_bytes());
    folder.write("other.st", head(r#"{"x":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#));
    folder.write("deep.st", head(&"[".repeat(1 << 20)));
    refused(&folder, &format!("{train} huge.st"), "18446744073709551615 bytes");
    refused(&folder, &format!("{train} other.st"), "the model has no x");
    refused(&folder, &format!("{train} deep.st"), "invalid type: sequence");
    // A terabyte that takes no room on a disk.
    let sparse = std::fs::File::create(folder.path("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    refused(&folder, "schedule check sparse", "1099511627776 bytes");
    refused(
        &folder,
        "schedule simulate gpipe --pp 2 --micro-batches 2 --costs sparse",
        "1099511627776",
    );
    refused(&folder, "train --headless --model gpt --steps 1 --data sparse", "MiB");
    folder.write("commas.csv", ",".repeat(20_000_001));
    refused(&folder, "schedule check commas.csv", "20000001 cells, but at most 20000000");
    folder.write("rows.csv", format!("0F0\n{}", "\n".repeat(1_000_000)));
    refused(&folder, "schedule check rows.csv", "row 1 contains no op");
    folder.write("cell.csv", format!("0F{}\n", "1".repeat(1_000_000)));
    refused(&folder, "schedule check cell.csv", "is not an op");
}

#[test]
fn sizes_that_take_more_than_seconds_are_refused_with_both_numbers() {
    let folder = Folder::new();
    for (line, what) in [
        ("schedule simulate naive --pp 1 --micro-batches 20000000", "40000000 ops"),
        ("schedule show gpipe --pp 4294967295 --micro-batches 4294967295", "ops"),
        ("schedule simulate auto --pp 256 --micro-batches 2048", "at most 666666 of auto"),
        ("schedule simulate zb-auto --pp 512 --micro-batches 4096", "1666666"),
        ("schedule export 1f1b --pp 64 --micro-batches 100000 --format svg", "12800000 ops"),
        ("bubble --schedule 1f1b --pp 1024 --micro-batches 8192,8191,8190", "sizes together"),
        ("train --headless --model seed-mlp --batch-size 1000000 --steps 1", "65536"),
    ] {
        refused(&folder, line, what);
    }
}

fn hello(keys: &str) -> String {
    format!("{{\"ev\":\"hello\",\"schema\":1,\"run\":\"r\",{keys}}}\n")
}

#[test]
fn a_first_line_that_names_too_much_is_refused_and_said_to_be() {
    let folder = Folder::new();
    let stages = vec!["{}"; 1_000_000].join(",");
    folder.write("stages.jsonl", hello(&format!("\"pp\":65536,\"dp\":1,\"stages\":[{stages}]")));
    for command in ["report", "snapshot", "attach --once"] {
        refused(&folder, &format!("{command} stages.jsonl"), "more than 262144 stages");
    }
    folder.write("line.jsonl", hello(&format!("\"model\":\"{}\"", "m".repeat(17 << 20))));
    refused(&folder, "report line.jsonl", "16 MiB");
    let sparse = std::fs::File::create(folder.path("sparse.jsonl")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    refused(&folder, "report sparse.jsonl", "without the end of a line");
}

/// What is within the bounds is shown, and costs what it is worth.
#[test]
fn a_log_of_as_much_as_may_be_is_shown() {
    let folder = Folder::new();
    let mut stages = String::new();
    for stage in 0..100_000 {
        let comma = if stage > 0 { "," } else { "" };
        write!(stages, "{comma}{{\"stage\":{stage},\"rank\":{}}}", stage % 65_536).unwrap();
    }
    let large = hello(&format!("\"pp\":65536,\"dp\":1,\"micro_batches\":1,\"stages\":[{stages}]"));
    folder.write("large.jsonl", &large);
    // The same few bytes two thousand times, and a step after each.
    let small = hello("\"pp\":65536,\"dp\":1,\"micro_batches\":4000000000");
    let step = "{\"ev\":\"step\",\"step\":18446744073709551615,\"loss\":1.0,\"seconds\":1e300}\n";
    let span = "{\"ev\":\"span\",\"step\":18446744073709551615,\"rank\":4000000000,\"replica\":4000000000,\
                \"stage\":4294967295,\"mb\":4294967295,\"op\":\"F\",\"start_ns\":18446744073709551615,\
                \"dur_ns\":18446744073709551615}\n";
    folder.write("hellos.jsonl", format!("{small}{span}{step}").repeat(2000));
    let near = span
        .replace("4000000000", "0")
        .replace("\"start_ns\":18446744073709551615", "\"start_ns\":0");
    folder.write("extreme.jsonl", format!("{LOG}{span}{near}{step}{step}{near}"));
    for log in ["large.jsonl", "hellos.jsonl", "extreme.jsonl"] {
        for command in [
            "report",
            "report --json",
            "attach --once",
            "snapshot --size 80x24",
            "snapshot --view timeline",
            "snapshot --view devices",
            "snapshot --view bubble",
            "snapshot --view loss",
            "snapshot --prometheus",
            "export csv",
            "export csv --what=spans",
            "export prometheus",
        ] {
            let (command, flags) = command
                .split_once(" --")
                .map_or((command, String::new()), |(c, f)| (c, format!("--{f}")));
            let ran = run(&folder, &format!("{command} {log} {flags}"));
            let code = ran.code.unwrap();
            assert!(matches!(code, 0 | 2), "{command} {log}: {code} {}", ran.stderr);
            assert!(!ran.stderr.contains("panicked"), "{command} {log}: {}", ran.stderr);
        }
    }
}
