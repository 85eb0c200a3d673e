//! What a run writes never replaces what it reads or what somebody else wrote, and is never lost.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use pp_telemetry::status_of;
use rustix::process::Signal;
use safetensors::SafeTensors;

use crate::home::{Events, Home, Ran, words};

const TINY: &str = "train --headless --json --model wine-mlp --pp 1 --steps 1";
const SLEEP: &str = "train --headless --json --run-dir run --model sleep --pp 2 --micro-batches 4 --sleep-forward-ms 1 \
                     --sleep-input-grad-ms 1 --sleep-weight-grad-ms 1";

/// Runs a command that has to be refused with one line, and to change nothing.
#[track_caller]
fn refused(home: &Home, line: &str, parts: &[&str]) {
    let bytes = |home: &Home| {
        let files = home.contents();
        files.into_iter().map(|path| (fs::read(&path).ok(), path)).collect::<Vec<_>>()
    };
    let before = bytes(home);
    let ran = home.run(&words(line));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{line}: {}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{line}: {}", ran.stderr);
    for part in parts {
        assert!(ran.stderr.contains(part), "{line}: `{part}` is not in: {}", ran.stderr);
    }
    assert!(bytes(home) == before, "{line} has changed something");
}

fn mode(home: &Home, name: &str) -> u32 {
    fs::metadata(home.path(name)).unwrap().permissions().mode() & 0o7777
}

fn set_mode(home: &Home, name: &str, mode: u32) {
    fs::set_permissions(home.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

/// A folder that only its owner may write to, whatever the umask is.
fn folder(home: &Home, name: &str) {
    fs::create_dir(home.path(name)).unwrap();
    set_mode(home, name, 0o755);
}

fn weights(home: &Home, name: &str) -> usize {
    let bytes = fs::read(home.path(name)).unwrap();
    SafeTensors::deserialize(&bytes).unwrap().len()
}

#[test]
fn a_result_never_takes_the_place_of_what_is_read() {
    let home = Home::new();
    home.write("text", &[b'a'; 4000]);
    home.write("plan.csv", b"0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n");
    home.write("lib.so", b"");
    fs::hard_link(home.path("text"), home.path("hard")).unwrap();
    folder(&home, "sub");
    symlink(home.path("sub"), home.path("link")).unwrap();
    home.write("sub/w", b"");
    let here = home.path("text").display().to_string();
    let gpt = "train --headless --layers 1 --width 8 --heads 1 --steps 1 --pp 1 --force";
    for name in ["text", "./text", "sub/../text", "hard", "/proc/self/cwd/text", here.as_str()] {
        for flag in ["--save", "--dump-step"] {
            let parts = [flag, name, "is the file that --data reads"];
            refused(&home, &format!("{gpt} --data text {flag} {name}"), &parts);
        }
    }
    for (line, parts) in [
        ("--init sub/w --save link/w", &["--save link/w", "that --init reads"][..]),
        ("--schedule plan.csv --save ./plan.csv", &["--save", "plan.csv"]),
        ("--nvml-lib ./lib.so --dump-step lib.so", &["--dump-step lib.so"]),
        (
            "--save new --dump-step sub/../new",
            &["--dump-step", "the same file as --save", "two files"],
        ),
        ("--save link/new --dump-step sub/new", &["--dump-step", "the same file as --save"]),
        ("--run-dir run --save run/stderr.log", &["--save run/stderr.log", "belongs to the run"]),
        ("--run-dir run --save run/checkpoint.safetensors", &["checkpoint", "belongs to the run"]),
        ("--run-dir run --save run", &["--save run is the folder of the run"]),
        ("--run-dir a/b --save a", &["--save a is the folder of the run"]),
        ("--run-dir sub --save link/.status.json.new", &["belongs to the run"]),
        ("--save -", &["--save -", "name a file"]),
        ("--save w.csv", &["--save w.csv", ".safetensors"]),
        ("--dump-step d.pt", &["--dump-step d.pt", ".safetensors"]),
    ] {
        refused(&home, &format!("{gpt} {line}"), parts);
    }
}

#[test]
fn an_existing_result_is_replaced_only_by_force() {
    let home = Home::new();
    home.write("w", b"mine");
    for flag in ["--save", "--dump-step"] {
        refused(&home, &format!("{TINY} {flag} w"), &[flag, "w already exists", "--force"]);
    }
    home.stdout(&format!("{TINY} --save w --force"));
    assert!(weights(&home, "w") > 0);
    home.stdout(&format!("{TINY} --run-dir new/run --save new/w.st --dump-step new/run/d"));
    assert!(weights(&home, "new/w.st") > 0 && weights(&home, "new/run/d") > 0);
    assert_eq!((mode(&home, "new/run"), mode(&home, "new")), (0o700, 0o700));
}

/// The name was free when the run began.
#[test]
fn a_name_that_is_taken_meanwhile_costs_nobody_anything() {
    let home = Home::new();
    let mut run = home.start(&words(&format!("{SLEEP} --steps 200 --save w.safetensors")));
    run.wait_for("hello");
    run.signal(Signal::STOP);
    home.write("w.safetensors", b"theirs");
    run.signal(Signal::CONT);
    let ran = run.finish();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(fs::read(home.path("w.safetensors")).unwrap(), b"theirs");
    assert!(weights(&home, "w-2.safetensors") > 0);
    assert!(ran.stderr.contains("w-2.safetensors"), "{}", ran.stderr);
    let log = fs::read_to_string(home.path("run/events.jsonl")).unwrap();
    assert!(!Events::of(&log).kind("warn").is_empty());
    assert!(log.contains("the result is in w-2.safetensors"), "{log}");
}

#[test]
fn a_folder_that_is_gone_does_not_take_the_result_with_it() {
    let home = Home::new();
    folder(&home, "out");
    let mut run = home.start(&words(&format!("{SLEEP} --steps 200 --save out/w.safetensors")));
    run.wait_for("hello");
    run.signal(Signal::STOP);
    fs::remove_dir(home.path("out")).unwrap();
    run.signal(Signal::CONT);
    let ran = run.finish();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(weights(&home, "run/w.safetensors") > 0);
    assert!(ran.stderr.contains("run/w.safetensors"), "{}", ran.stderr);
    assert_eq!(status_of(&home.path("run")).unwrap().files, ["w.safetensors"]);
}

#[test]
fn a_folder_that_was_there_keeps_its_mode() {
    let home = Home::new();
    for (nth, kept) in [0o755, 0o750, 0o711, 0o700].into_iter().enumerate() {
        let name = format!("d{nth}");
        fs::create_dir(home.path(&name)).unwrap();
        set_mode(&home, &name, kept);
        home.stdout(&format!("{TINY} --run-dir {name}"));
        assert_eq!(mode(&home, &name), kept);
        for file in ["events.jsonl", "status.json"] {
            assert_eq!(mode(&home, &format!("{name}/{file}")), 0o600, "{file}");
        }
    }
    for (nth, shared) in [0o777, 0o1777, 0o775, 0o722, 0o757].into_iter().enumerate() {
        let name = format!("s{nth}");
        fs::create_dir(home.path(&name)).unwrap();
        set_mode(&home, &name, shared);
        let parts = ["others may write to it", "chmod go-w", &name];
        refused(&home, &format!("{TINY} --run-dir {name}"), &parts);
        symlink(home.path(&name), home.path(&format!("l{nth}"))).unwrap();
        refused(&home, &format!("{TINY} --run-dir l{nth}"), &["others may write to it"]);
        assert_eq!(mode(&home, &name), shared);
    }
    // Those above it are not the run's either.
    set_mode(&home, "s0", 0o755);
    home.stdout(&format!("{TINY} --run-dir s0/new/run"));
    assert_eq!((mode(&home, "s0"), mode(&home, "s0/new")), (0o755, 0o700));
}

#[test]
fn a_folder_with_files_of_a_run_is_refused_and_one_with_others_is_not() {
    let home = Home::new();
    for name in [
        "events.jsonl",
        "events.jsonl.zst",
        "status.json",
        "checkpoint.safetensors",
        ".status.json.new",
    ] {
        folder(&home, "d");
        home.write(&format!("d/{name}"), b"mine");
        refused(&home, &format!("{TINY} --run-dir d"), &["--run-dir d ", "contains", name]);
        fs::remove_dir_all(home.path("d")).unwrap();
    }
    folder(&home, "d");
    home.write("d/stderr.log", b"old\n");
    home.write("d/notes.txt", b"mine");
    symlink("d", home.path("link")).unwrap();
    home.stdout(&format!("{TINY} --run-dir link"));
    assert_eq!(fs::read(home.path("d/stderr.log")).unwrap(), b"old\n");
    assert_eq!(fs::read(home.path("d/notes.txt")).unwrap(), b"mine");
    assert!(home.path("link").symlink_metadata().unwrap().is_symlink());
    assert!(
        home.stdout("runs info link").contains("link/") || home.path("d/events.jsonl").is_file()
    );
    symlink("nowhere", home.path("dangling")).unwrap();
    refused(&home, &format!("{TINY} --run-dir dangling"), &["dangling", "a broken symbolic link"]);
    // A link within the folder is not followed.
    folder(&home, "e");
    home.write("target", b"mine");
    symlink(home.path("target"), home.path("e/events.jsonl")).unwrap();
    refused(&home, &format!("{TINY} --run-dir e"), &["e already contains a run"]);
    symlink(home.path("target"), home.path("e/stderr.log")).unwrap();
    fs::remove_file(home.path("e/events.jsonl")).unwrap();
    refused(&home, &format!("{TINY} --run-dir e"), &["contains stderr.log"]);
}

/// In a terminal the run is a process of its own, whose words go into a file.
#[test]
fn what_an_earlier_run_has_said_stays() {
    let home = Home::new();
    folder(&home, "d");
    home.write("d/stderr.log", b"old\n");
    let pptop = env!("CARGO_BIN_EXE_pptop");
    let train =
        format!("{pptop} train --model wine-mlp --pp 1 --steps 1 --run-dir d --save d/w --force");
    // `script` gives a command a terminal; where it is missing there is nothing to try this with.
    let done = Command::new("script")
        .args(["-qec", &format!("sh -c 'stty rows 24 cols 80; {train}'"), "/dev/null"])
        .current_dir(home.path(""))
        .env("PPTOP_STATE_DIR", home.path("state"))
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::piped())
        .spawn();
    let Ok(mut done) = done else { return };
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
    while !home.path("d/w").exists() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let mut keys = done.stdin.take().unwrap();
    // The question that comes while the run has not ended yet is closed again.
    for key in [b"q", b"\x1b"].into_iter().cycle() {
        if done.try_wait().unwrap().is_some() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the monitor does not leave");
        let _ = std::io::Write::write_all(&mut keys, key);
        std::thread::sleep(std::time::Duration::from_millis(400));
    }
    assert!(weights(&home, "d/w") > 0, "the parent's check stopped the child");
    assert!(fs::read_to_string(home.path("d/stderr.log")).unwrap().starts_with("old\n"));
}

#[test]
fn results_follow_the_umask_and_a_runs_own_files_do_not() {
    let home = Home::new();
    let pptop = env!("CARGO_BIN_EXE_pptop");
    for (umask, wanted) in [("022", 0o644), ("077", 0o600), ("000", 0o666), ("027", 0o640)] {
        let dir = format!("r{umask}");
        let line = format!(
            "umask {umask}; exec {pptop} {TINY} --run-dir {dir} --save {dir}.w --dump-step {dir}.d"
        );
        let output = Command::new("sh")
            .args(["-c", &line])
            .current_dir(home.path(""))
            .env("PPTOP_STATE_DIR", home.path("state"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(mode(&home, &format!("{dir}.w")), wanted, "{umask}");
        assert_eq!(mode(&home, &format!("{dir}.d")), wanted, "{umask}");
        for file in ["events.jsonl", "status.json"] {
            assert_eq!(mode(&home, &format!("{dir}/{file}")), 0o600, "{umask} {file}");
        }
        assert_eq!(mode(&home, &dir), 0o700, "{umask}");
    }
}

#[test]
fn arguments_and_variables_need_not_be_text() {
    let home = Home::new();
    let name = |bytes: &'static [u8]| OsStr::from_bytes(bytes);
    fs::write(home.path("").join(name(b"d\xff.txt")), [b'a'; 4000]).unwrap();
    fs::write(home.path("").join(name(b"p\xff.csv")), "0F0,0F1,0B0,0B1\n").unwrap();
    let gpt = "train --headless --json --layers 1 --width 8 --heads 1 --pp 1 --micro-batches 2 --batch-size 2 --steps 1";
    let pptop = |more: &[&OsStr]| {
        let output = Command::new(env!("CARGO_BIN_EXE_pptop"))
            .args(words(gpt))
            .args(more)
            .current_dir(home.path(""))
            .env("PPTOP_STATE_DIR", home.path("").join(name(b"s\xff")))
            .env("HOME", home.path("").join(name(b"h\xff")))
            .env("XDG_RUNTIME_DIR", home.path("").join(name(b"x\xff")))
            .output()
            .unwrap();
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    };
    let flag = |flag: &'static str| OsStr::new(flag);
    for more in [
        &[flag("--data"), name(b"d\xff.txt")][..],
        &[flag("--save"), name(b"w\xff")],
        &[flag("--init"), name(b"w\xff"), flag("--dump-step"), name(b"v\xff")],
        &[flag("--run-dir"), name(b"r\xff")],
        &[flag("--schedule"), name(b"p\xff.csv")],
    ] {
        let ran = pptop(more);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{more:?}");
        let argv = Events::of(&ran.stdout).one("hello")["argv"].to_string();
        assert!(argv.contains('\u{fffd}'), "{argv}");
    }
    let log = fs::metadata(home.path("").join(name(b"r\xff")).join("events.jsonl")).unwrap();
    assert!(log.len() > 0);
    // A value that has to be text leaves no run behind.
    let before = home.contents();
    for more in [&[flag("--steps"), name(b"\xff")][..], &[name(b"\xff")], &[name(b"--\xff")]] {
        let ran = pptop(more);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{more:?}: {}", ran.stderr);
    }
    assert_eq!(home.contents(), before);
}
