//! What is asked of a run over its socket.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use pp_telemetry::{Process, Request, ask, status_of};
use serde_json::json;

use crate::home::{Events, Home, Running, words};

const SLEEP: &str =
    "train --headless --json --run-dir run --model sleep --pp 2 --micro-batches 4 --steps 100000";

/// A run that has finished its first step, and its socket.
fn started(home: &Home) -> (Running, PathBuf) {
    let mut run = home.start(&words(SLEEP));
    let socket = run.wait_for("hello")["socket"].as_str().map(PathBuf::from).unwrap();
    run.wait_for("step");
    (run, socket)
}

/// The checkpoints in the folder of the run.
fn checkpoints(home: &Home) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.path("run/checkpoints")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.join("manifest.json").is_file());
    paths.sort();
    paths
}

#[test]
fn a_run_writes_its_weights_down_and_ends_when_it_is_asked_to() {
    let home = Home::new();
    let (run, socket) = started(&home);
    assert_eq!(ask(&socket, "run", Request::Ping).unwrap(), "here");
    let status = status_of(&home.path("run")).unwrap();
    assert_eq!(Process::of(&status).is_alive(), Some(true));
    assert_eq!(ask(&socket, "run", Request::Checkpoint).unwrap(), "after this step");
    assert_eq!(ask(&socket, "run", Request::Stop).unwrap(), "after this step");
    let ran = run.finish();
    assert_eq!(ran.code, Some(143));
    let events = Events::of(&ran.stdout);
    let end = events.all().last().unwrap();
    assert_eq!((&end["ev"], &end["code"]), (&json!("end"), &json!(143)));
    assert!(end["reason"].as_str().unwrap().starts_with("stopped by request after step "), "{end}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let [checkpoint] = &checkpoints(&home)[..] else { panic!("one checkpoint was asked for") };
    assert_eq!((mode(checkpoint), mode(&checkpoint.join("manifest.json"))), (0o700, 0o600));
    let weights = std::fs::read(checkpoint.join("model-00001-of-00002.safetensors")).unwrap();
    safetensors::SafeTensors::deserialize(&weights).unwrap();
    let log = std::fs::read_to_string(home.path("run/events.jsonl")).unwrap();
    for event in ["requested", "copied: ", "is durable after "] {
        assert!(log.contains(event), "the log says that it is {event}");
    }
    assert!(!socket.exists(), "the socket goes with the run");
    let status = status_of(&home.path("run")).unwrap();
    assert_eq!(Process::of(&status).is_alive(), Some(false));
}

#[test]
fn of_the_checkpoints_that_were_asked_for_the_newest_three_stay() {
    let home = Home::new();
    let (run, socket) = started(&home);
    let log = || std::fs::read_to_string(home.path("run/events.jsonl")).unwrap();
    for nth in 1..=5 {
        ask(&socket, "run", Request::Checkpoint).unwrap();
        while log().matches(" is durable after ").count() < nth {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        if nth == 1 {
            home.write("run/checkpoints/notes.txt", b"mine");
        }
    }
    ask(&socket, "run", Request::Stop).unwrap();
    run.finish();
    assert_eq!(checkpoints(&home).len(), 3);
    assert_eq!(std::fs::read(home.path("run/checkpoints/notes.txt")).unwrap(), b"mine");
}

#[test]
fn weights_that_cannot_be_written_keep_the_run_going() {
    let home = Home::new();
    let (run, socket) = started(&home);
    // No folder can be put in the place of a file.
    std::fs::write(home.path("run/checkpoints"), "in the way").unwrap();
    ask(&socket, "run", Request::CheckpointAndStop).unwrap();
    let mut log = String::new();
    while !log.contains("no checkpoint of step ") {
        log = std::fs::read_to_string(home.path("run/events.jsonl")).unwrap();
        assert!(!log.contains("\"ev\":\"end\""), "it ended all the same");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    ask(&socket, "run", Request::Stop).unwrap();
    assert_eq!(run.finish().code, Some(143));
}
