//! Demos, runs of other processes, recorded runs, and the list of them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use crate::terminal::{Terminal, ends, goes_on, step};

#[test]
fn a_demo_shows_every_view() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.pptop("demo");
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 2));
    for (key, text) in [
        ("2", "[2]Timeline"),
        ("3", "[3]Devices"),
        ("4", "[4]Loss"),
        ("5", "where the time goes"),
        ("6", "[6]Log"),
    ] {
        terminal.press(key);
        terminal.wait_for(text);
    }
    terminal.press("5");
    terminal.wait_for("inherent");
    terminal.press("2");
    terminal.wait_for("[2]Timeline");
    terminal.press("+");
    terminal.press("+");
    terminal.wait_for("x4");
    terminal.press("Space");
    terminal.wait_for("FROZEN");
    terminal.press("?");
    terminal.wait_for("this help");
    // Together with the next key it would be another one.
    terminal.press("Escape");
    terminal.wait("no help", |screen| !screen.contains("this help"));
    terminal.press("Space");
    terminal.wait_for("LIVE");
    terminal.press("1");
    terminal.wait_for("pipeline");
    // Its own folder goes with it, so the screen is written where one is.
    terminal.press("s");
    terminal.wait_for("written: ");
    let names = fs::read_dir(&terminal.dir).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let path = names.into_iter().find(|path| name(path).starts_with("screen-")).unwrap();
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().count(), 24, "{text}");
    for part in ["LIVE", "devices", "timeline", "pipeline", "q quit"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    terminal.press("q");
    terminal.wait_restored("exit=0");
}

#[test]
fn without_a_command_one_watches_what_is_live() {
    let Some(terminal) = Terminal::open() else { return };
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/one_f_one_b_p4_m8.jsonl");
    fs::create_dir_all(terminal.dir.path().join("runs/old")).unwrap();
    fs::copy(log, terminal.dir.path().join("runs/old/events.jsonl")).unwrap();
    terminal.pptop("");
    let screen = terminal.wait_for("no run is live; pptop train starts one");
    for part in ["old", "finished", "120/120", "1f1b", "p4 m8"] {
        assert!(screen.contains(part), "{part} is not in\n{screen}");
    }
    terminal.press("q");
    terminal.wait_restored("exit=0");
    let one = Terminal::background_run_in(&terminal.dir.path().join("runs/one"), "");
    terminal.pptop("");
    let screen = terminal.wait_for("LIVE");
    assert!(screen.contains("step"), "{screen}");
    terminal.press("2");
    terminal.wait_for("[2]Timeline");
    assert!(!terminal.screen().contains("run 1 of"));
    terminal.press("q");
    terminal.wait_restored("exit=0");
    let two = Terminal::background_run_in(&terminal.dir.path().join("runs/two"), "");
    terminal.pptop("");
    terminal.wait_for("LIVE");
    terminal.press("2");
    terminal.wait_for("run 1 of 2");
    terminal.press("n");
    terminal.wait_for("run 2 of 2");
    terminal.press("q");
    terminal.wait_restored("exit=0");
    ends(one);
    ends(two);
}

#[test]
fn one_attaches_late_twice_and_read_only() {
    let Some(terminal) = Terminal::open() else { return };
    let run = terminal.background_run("");
    terminal.pptop("attach run");
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 2));
    // A read-only one beside the first.
    let other = Terminal::open().unwrap();
    let arguments = format!("attach {} --read-only", terminal.run_dir().display());
    other.pptop(&arguments);
    other.wait("a step", |screen| step(screen).is_some_and(|step| step >= 2));
    other.press("x");
    other.wait_for("this monitor is read-only");
    // Killed, it leaves the run and the other monitor alone; the next one sees everything.
    kill_process(other.monitor(), Signal::KILL).unwrap();
    goes_on(&terminal);
    terminal.press("q");
    let screen = terminal.wait_restored("exit=0");
    assert!(screen.contains("is still running as process"), "{screen}");
    terminal.pptop("attach run");
    terminal.wait_for("LIVE");
    terminal.press("x");
    terminal.answer("end the run?", "w", "write a checkpoint");
    terminal.wait_for("STOPPED");
    let checkpoints = std::fs::read_dir(terminal.run_dir().join("checkpoints")).unwrap();
    let manifest =
        |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().path().join("manifest.json");
    assert!(checkpoints.map(manifest).any(|manifest| manifest.is_file()));
    terminal.press("q");
    let screen = terminal.wait_restored("exit=0");
    assert!(screen.contains("was stopped after"), "{screen}");
    ends(run);
}

#[test]
fn an_attached_run_that_is_killed_is_called_dead() {
    let Some(terminal) = Terminal::open() else { return };
    let mut run = terminal.background_run("");
    terminal.pptop("attach run");
    terminal.wait_for("LIVE");
    // Held, it is there and does nothing; killed, it is gone.
    let trainer = terminal.trainer().unwrap();
    kill_process(trainer, Signal::STOP).unwrap();
    terminal.wait_for("SUSPENDED");
    kill_process(trainer, Signal::KILL).unwrap();
    run.wait().unwrap();
    let screen = terminal.wait_for("DIED");
    assert!(screen.contains("is gone without an end record"), "{screen}");
    terminal.press("q");
    terminal.wait_restored("exit=0");
}

#[test]
fn a_replay_is_paused_moved_and_left() {
    let Some(terminal) = Terminal::open() else { return };
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/one_f_one_b_p4_m8.jsonl");
    fs::copy(log, terminal.dir.path().join("recorded.jsonl")).unwrap();
    terminal.pptop("replay recorded.jsonl --speed 16 --start step=20");
    terminal.wait("step 20", |screen| step(screen).is_some_and(|step| step >= 20));
    terminal.press("Space");
    let paused = step(&terminal.wait_for("PAUSED")).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(step(&terminal.screen()), Some(paused));
    terminal.press("]");
    terminal.wait("the next step", |screen| step(screen) == Some(paused + 1));
    terminal.press("{");
    terminal.wait("ten back", |screen| step(screen) == Some(paused - 9));
    terminal.tmux(&["send-keys", "-l", ":100"]);
    terminal.press("Enter");
    terminal.wait("step 100", |screen| step(screen) == Some(100));
    terminal.press(">");
    terminal.press("Space");
    terminal.wait_for("REPLAY 32x");
    terminal.wait("the end", |screen| step(screen) == Some(120));
    terminal.wait_for(" end");
    terminal.press("Space");
    terminal.wait("the beginning", |screen| step(screen).is_some_and(|step| step < 100));
    terminal.press("q");
    terminal.wait_restored("exit=0");
}

#[test]
fn several_runs_are_watched_at_once() {
    let Some(terminal) = Terminal::open() else { return };
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/one_f_one_b_p4_m8.jsonl");
    fs::copy(log, terminal.dir.path().join("recorded.jsonl")).unwrap();
    let run = terminal.background_run("");
    terminal.pptop("attach recorded.jsonl run");
    terminal.wait_for("step 120/120");
    terminal.press("n");
    terminal.wait("the other run", |screen| step(screen).is_some() && screen.contains("LIVE"));
    terminal.press("2");
    terminal.wait_for("run 2 of 2");
    terminal.press("p");
    terminal.wait_for("run 1 of 2");
    terminal.press("q");
    terminal.wait_restored("exit=0");
    ends(run);
}

/// A run of one step that is over, in the folder of all runs.
fn finished_run(terminal: &Terminal, name: &str, seed: u32) {
    let job =
        format!("train --headless --model sleep --pp 2 --micro-batches 4 --steps 3 --seed {seed}");
    let ran = Command::new(env!("CARGO_BIN_EXE_pptop"))
        .args(job.split_whitespace())
        .arg("--run-dir")
        .arg(terminal.dir.path().join("runs").join(name))
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn the_runs_that_are_kept_are_a_list() {
    let Some(terminal) = Terminal::open() else { return };
    fs::create_dir(terminal.dir.path().join("runs")).unwrap();
    for (name, seed) in [("apple", 1), ("banana", 2), ("cherry", 3)] {
        finished_run(&terminal, name, seed);
    }
    terminal.pptop("");
    let screen = terminal.wait_for("cherry");
    for part in ["3 runs", "finished", "3/3", "1f1b", "p2 m4", "newest first"] {
        assert!(screen.contains(part), "{part} is not in\n{screen}");
    }
    // The newest is chosen; one searches, opens, and comes back.
    terminal.wait("the newest", |screen| screen.contains("▸  cherry"));
    terminal.press("j");
    terminal.wait_for("▸  banana");
    terminal.press("/");
    terminal.wait_for("search /");
    terminal.tmux(&["send-keys", "-l", "app"]);
    terminal.press("Enter");
    terminal.wait("one run", |screen| screen.contains("▸  apple") && !screen.contains("banana"));
    terminal.press("Enter");
    terminal.wait_for("ENDED");
    terminal.press("q");
    terminal.wait_for("▸  apple");
    terminal.press("Escape");
    terminal.wait_for("banana");
    // Two are compared.
    terminal.press("o");
    terminal.wait_for("by loss");
    terminal.press("g");
    terminal.press("Space");
    terminal.press("Space");
    terminal.wait_for("compare the two");
    terminal.press("c");
    let screen = terminal.wait_for("two runs");
    assert!(screen.contains("last loss") && screen.contains("samples a second"), "{screen}");
    terminal.press("Enter");
    terminal.wait_for("[4]Loss");
    terminal.press("q");
    terminal.wait("the list", |screen| screen.contains("3 runs") && !screen.contains("two runs"));
    // What is asked about opens on Cancel, and Enter acts on what is chosen.
    terminal.press("/");
    terminal.wait_for("search /");
    terminal.tmux(&["send-keys", "-l", "banana"]);
    terminal.press("Enter");
    terminal.wait_for("▸● banana");
    terminal.press("d");
    terminal.wait_for("▸ c  cancel: keep it");
    terminal.closes("delete the run?", "Enter");
    assert!(terminal.dir.path().join("runs/banana/events.jsonl").is_file());
    terminal.press("d");
    terminal.answer("delete the run?", "d", "delete the run");
    terminal.wait_for("banana was deleted");
    assert!(!terminal.dir.path().join("runs/banana").exists());
    assert!(terminal.dir.path().join("runs/apple/events.jsonl").is_file());
    terminal.press("q");
    terminal.wait_restored("exit=0");
}
