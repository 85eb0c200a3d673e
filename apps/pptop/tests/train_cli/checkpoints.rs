//! Checkpoints as a user meets them: written, listed, resumed, and left behind by runs that were
//! stopped or killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::home::{Events, Home, Ran, words};

const TINY: &str = "--layers 2 --width 16 --heads 2 --context 16 --batch-size 8 --pp 2 --eval-every 100 --kernels rule";

/// The steps of a run with the bits of their losses, and the hash of its final weights.
fn trace(events: &Events) -> (Vec<(u64, String)>, Value) {
    let steps = events.all().iter().filter(|event| event["ev"] == "step");
    let bits = |event: &Value| event["loss_bits"].as_str().unwrap_or_default().to_owned();
    let steps = steps.map(|event| (event["step"].as_u64().unwrap(), bits(event))).collect();
    (steps, events.all().last().unwrap()["weights_hash"].clone())
}

/// The part after a step.
fn after(trace: &(Vec<(u64, String)>, Value), step: u64) -> (Vec<(u64, String)>, Value) {
    (trace.0.iter().filter(|(at, _)| *at > step).cloned().collect(), trace.1.clone())
}

/// The names of the checkpoints in a folder.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

fn refused(ran: &Ran, parts: &[&str]) {
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert!(parts.iter().all(|part| ran.stderr.contains(part)), "{parts:?}: {}", ran.stderr);
}

#[test]
fn a_run_is_resumed_by_its_id_by_its_folder_and_as_the_latest() {
    let home = Home::new();
    let calm =
        home.train(&format!("{TINY} --steps 12 --checkpoint-every 4 --run-dir state/runs/calm"));
    let calm = trace(&calm);
    let dir = home.path("state/runs/calm/checkpoints");
    assert_eq!(names(&dir), ["step-00000004", "step-00000008", "step-00000012"]);
    fs::remove_dir_all(dir.join("step-00000012")).unwrap();
    let one = dir.join("step-00000004").display().to_string();
    for (nth, (name, step)) in
        [("calm", 8), ("latest", 8), (dir.to_str().unwrap(), 8), (&one, 4)].into_iter().enumerate()
    {
        // The job comes from the checkpoint; what is given changes a part of it.
        // Not among the kept runs: it has checkpoints of its own, and would be the latest.
        let run = format!("r{nth}");
        let events = home.train(&format!("--resume {name} --schedule zb-v --run-dir {run}"));
        assert_eq!(trace(&events), after(&calm, step), "--resume {name}");
        let hello = &events.all()[0];
        let continues = &hello["continues"];
        assert_eq!((&continues["run"], &continues["step"]), (&json!("calm"), &json!(step)));
        assert!(continues["elapsed_seconds"].as_f64().unwrap() > 0.0, "{continues}");
        assert_eq!((&hello["schedule"], &hello["steps"]), (&json!("zb-v"), &json!(12)));
        let log = fs::read_to_string(home.path(&run).join("events.jsonl")).unwrap();
        assert!(log.contains("schedule: zb-v instead of 1f1b"), "the log says what differs");
    }
}

#[test]
fn a_resumed_run_is_resumed_again_from_another_folder() {
    let home = Home::new();
    home.write("book", "the text of a book, again and again. ".repeat(100).as_bytes());
    let calm = trace(&home.train(&format!("{TINY} --data book --steps 9 --run-dir calm")));
    let every = "--checkpoint-every 3 --checkpoint-dir kept";
    home.train(&format!("{TINY} --data book --steps 9 {every} --run-dir first"));
    fs::remove_dir_all(home.path("kept/step-00000006")).unwrap();
    fs::remove_dir_all(home.path("kept/step-00000009")).unwrap();
    // Its own checkpoints hold the whole job as well, with the path of the file.
    let again = home.train(&format!("--resume kept {every} --pp 1 --run-dir second"));
    assert_eq!(trace(&again), after(&calm, 3));
    fs::remove_dir_all(home.path("kept/step-00000009")).unwrap();
    fs::create_dir(home.path("elsewhere")).unwrap();
    let kept = home.path("kept").display().to_string();
    let elsewhere = format!(
        "cd elsewhere && exec \"$0\" train --headless --json --resume {kept} --run-dir third"
    );
    let third = home.start_through(&["sh", "-c", &elsewhere], &[]).finish();
    assert_eq!(third.code, Some(0), "{}", third.stderr);
    assert_eq!(trace(&Events::of(&third.stdout)), after(&calm, 6));
    // A file that changed is other data, unless it is named now.
    home.write("book", "another book, and other words in it; and so on. ".repeat(100).as_bytes());
    let line = format!("train --headless --resume {kept}/step-00000006 --steps 20");
    refused(&home.run(&words(&line)), &["data", "--data"]);
    assert_eq!(home.run(&words(&format!("{line} --data book"))).code, Some(0));
}

#[test]
fn what_cannot_be_resumed_is_refused_in_one_line() {
    let home = Home::new();
    let run = |line: &str| home.run(&words(&format!("train --headless {line}")));
    refused(
        &run("--resume latest"),
        &["--resume", "no run has a checkpoint", "start without --resume"],
    );
    refused(&run("--resume nothing-there"), &["--resume", "nothing-there"]);
    home.train(&format!("{TINY} --steps 6 --checkpoint-every 2 --run-dir calm"));
    refused(&run("--resume calm"), &["cannot resume", "6 steps", "--steps"]);
    refused(&run("--resume calm --init w"), &["--init"]);
    refused(
        &run("--resume calm --width 32 --steps 9"),
        &["cannot resume", "blocks.0.attention.proj.bias is [16] there, [32] in the model"],
    );
    refused(&run("--resume calm --model wine-mlp"), &["--layers belongs to --model gpt"]);
    refused(
        &run("--resume calm --steps 9 --optimizer sgd"),
        &["cannot resume", "the optimizer adamw", "this run sgd"],
    );
    // A broken one that is named: the message names the newest whole one beside it.
    let last = home.path("calm/checkpoints/step-00000006");
    let weights = last.join("model-00001-of-00002.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    bytes[1000] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let named = run("--resume calm/checkpoints/step-00000006 --steps 9");
    refused(&named, &["model-00001-of-00002.safetensors", "use ", "step-00000004"]);
    // Looked for, the older one is taken, and that is said.
    let ran = run("--resume calm --steps 9");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("skipped a checkpoint: ") && ran.stderr.contains("step-00000004"));
    assert!(ran.stdout.contains("resumed after step 4 of run calm"), "{}", ran.stdout);
    let verified = home.run(&words("checkpoint verify calm"));
    assert_eq!(verified.code, Some(1));
    let lines: Vec<&str> = verified.stdout.lines().collect();
    assert_eq!(lines.iter().filter(|line| line.starts_with("whole ")).count(), 2, "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("broken ")).count(), 1, "{lines:?}");
}

#[test]
fn a_run_that_trains_is_not_resumed_and_its_folder_is_its_own() {
    let home = Home::new();
    let line = format!(
        "train --headless --json {TINY} --steps 100000 --checkpoint-every 1 --checkpoint-dir kept --run-dir state/runs/live"
    );
    let mut run = home.start(&words(&line));
    while names(&home.path("kept")).is_empty() {
        run.wait_for("step");
    }
    let ran = home.run(&words("train --headless --resume live --run-dir other"));
    refused(&ran, &["--resume", "live has not ended"]);
    let other =
        home.run(&words(&format!("train --headless {TINY} --steps 2 --checkpoint-dir kept")));
    refused(&other, &["a run still writes checkpoints into ", "/kept"]);
    run.signal(Signal::TERM);
    assert_eq!(run.finish().code, Some(143));
}

#[test]
fn signals_ask_for_a_checkpoint_and_stop_with_one() {
    let home = Home::new();
    let line = format!(
        "train --headless --json {TINY} --steps 100000 --checkpoint-dir kept --run-dir run --save w.safetensors"
    );
    let mut run = home.start(&words(&line));
    run.wait_for("step");
    let count = || {
        let log = fs::read_to_string(home.path("run/events.jsonl")).unwrap();
        log.matches(" is durable after ").count()
    };
    for nth in 1..=2 {
        run.signal(Signal::USR1);
        while count() < nth {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    run.signal(Signal::USR2);
    let ran = run.finish();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(140), ""));
    let events = Events::of(&ran.stdout);
    let end = events.all().last().unwrap();
    let steps = end["steps"].as_u64().unwrap();
    assert_eq!(end["reason"], format!("stopped by SIGUSR2 after step {steps}"));
    let saved = end["saved"].as_str().unwrap();
    // With the whole path, for a reader in another folder.
    let kept = home.path("kept").canonicalize().unwrap();
    let place = format!("step {steps} is saved in {}/step-", kept.display());
    assert!(saved.contains(&place), "{saved}");
    // The checkpoint comes first: there may be little time.
    let (_, after) = saved.split_once(" is saved in ").unwrap();
    assert!(after.contains("--save: the weights of step"), "{saved}");
    // The weights are those of the checkpoint.
    home.stdout("checkpoint export kept -o exported.safetensors");
    let read = |name: &str| fs::read(home.path(name)).unwrap();
    let (saved, exported) = (read("w.safetensors"), read("exported.safetensors"));
    let tensors = |bytes| {
        let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
        let mut all: Vec<(String, Vec<u8>)> =
            file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
        all.sort();
        all
    };
    assert_eq!(tensors(&saved), tensors(&exported));
}

/// A terminal that closes may send SIGHUP twice.
#[test]
fn a_second_hangup_costs_no_checkpoint() {
    let home = Home::new();
    let line = format!(
        "train --headless --json {TINY} --steps 100000 --checkpoint-dir kept --run-dir run"
    );
    let mut run = home.start(&words(&line));
    run.wait_for("step");
    for _ in 0..3 {
        run.signal(Signal::HUP);
    }
    let ran = run.finish();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(129), ""));
    let end = Events::of(&ran.stdout).all().last().unwrap().clone();
    assert!(end["saved"].as_str().unwrap().contains(" is saved in "), "{end}");
    assert_eq!(names(&home.path("kept")).len(), 1);
}

#[test]
fn a_run_that_was_not_asked_for_checkpoints_says_that_nothing_is_saved() {
    let home = Home::new();
    let line = format!("train --headless {TINY} --steps 100000 --run-dir run");
    let run = home.start(&words(&line));
    while !fs::read_to_string(home.path("run/events.jsonl"))
        .unwrap_or_default()
        .contains("\"step\":3,")
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    run.signal(Signal::TERM);
    let ran = run.finish();
    assert_eq!(ran.code, Some(143));
    assert!(ran.stdout.contains("cannot be resumed"), "{}", ran.stdout);
    assert!(!home.path("run/checkpoints").exists());
}

#[test]
fn a_run_that_trains_is_not_resumed_by_its_folder_either() {
    let home = Home::new();
    let line = format!(
        "train --headless --json {TINY} --steps 100000 --checkpoint-dir kept --run-dir live"
    );
    let mut run = home.start(&words(&line));
    run.wait_for("step");
    run.signal(Signal::USR1);
    while names(&home.path("kept")).is_empty() {
        run.wait_for("step");
    }
    let checkpoint = format!("kept/{}", names(&home.path("kept"))[0]);
    for name in ["kept", &checkpoint] {
        let line = format!("train --headless --resume {name} --checkpoint-dir other --run-dir r");
        let parts = ["--resume", "has not ended", "stop it first, or name another folder"];
        refused(&home.run(&words(&line)), &parts);
        home.stdout(&format!("checkpoint show {name}"));
    }
    run.signal(Signal::TERM);
    assert_eq!(run.finish().code, Some(143));
    home.stdout(&format!("checkpoint verify {checkpoint}"));
}

#[test]
fn a_run_is_resumed_from_its_own_checkpoints_in_a_shared_folder() {
    let home = Home::new();
    let every = "--checkpoint-every 2 --checkpoint-dir kept --keep 9";
    for (run, steps) in [("a", 4), ("b", 6), ("none", 1)] {
        home.train(&format!("{TINY} --steps {steps} {every} --run-dir state/runs/{run}"));
    }
    let kept = home.path("kept").canonicalize().unwrap();
    let resumed = |name: &str, run: &str, steps: u64, before: (&str, u64)| {
        let events =
            home.train(&format!("--resume {name} --steps {steps} --run-dir state/runs/{run}"));
        let hello = &events.all()[0];
        let continues = &hello["continues"];
        assert_eq!((&continues["run"], &continues["step"]), (&json!(before.0), &json!(before.1)));
        // The flags of checkpoints are the job's, and the folder is found from everywhere.
        assert_eq!(hello["checkpoints"], json!(kept.display().to_string()), "--resume {name}");
    };
    resumed("a", "c", 8, ("a", 4));
    // What continues it is of its chain, also over several runs.
    resumed("a", "d", 10, ("c", 8));
    resumed("a", "e", 11, ("d", 10));
    resumed("b", "f", 7, ("b", 6));
    // A folder stands for the newest of all.
    resumed("kept", "g", 11, ("d", 10));
    let shown = home.stdout("checkpoint show b --json");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["manifest"]["run"], "b");
    let ran = home.run(&words("train --headless --resume none --steps 9"));
    refused(&ran, &["--resume", "the run none has no whole checkpoint in ", "name a run", "a b c"]);
}

#[test]
fn the_latest_run_without_a_whole_checkpoint_is_passed_over() {
    let home = Home::new();
    for (run, steps) in [("one", 4), ("two", 2)] {
        let every = format!("--checkpoint-every 2 --run-dir state/runs/{run}");
        home.train(&format!("{TINY} --steps {steps} {every}"));
    }
    let break_it = |name: &str| {
        let manifest = home.path(&format!("state/runs/{name}/manifest.json"));
        fs::write(manifest, "{").unwrap();
    };
    break_it("two/checkpoints/step-00000002");
    let line = words("train --headless --resume latest --steps 9 --run-dir next");
    let ran = home.run(&line);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for part in ["skipped a checkpoint: ", "no checkpoint of the run two is whole; ", "taking "] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    assert!(ran.stdout.contains("resumed after step 4 of run one"), "{}", ran.stdout);
    for step in [2, 4] {
        break_it(&format!("one/checkpoints/step-0000000{step}"));
    }
    let ran = home.run(&line);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    let last = ran.stderr.lines().last().unwrap();
    assert!(last.ends_with("no run has a checkpoint that is whole; start without --resume"));
}

/// The flags of a job are kept as text.
#[test]
fn a_name_that_is_not_utf8_is_not_kept_and_that_is_said() {
    let home = Home::new();
    home.write("book", "the text of a book, again and again. ".repeat(100).as_bytes());
    let train = |flags: &str| {
        let script = format!(
            "name=$(printf 'b\\377k'); cp book \"$name\"; exec \"$0\" train --headless {TINY} --steps 2 --data \"$name\" {flags}"
        );
        home.start_through(&["sh", "-c", &script], &[]).finish()
    };
    let asked = train("--checkpoint-at-end");
    assert_eq!(asked.code, Some(0), "{}", asked.stderr);
    let told = "cannot be kept in checkpoints: it is not UTF-8; name it again with --resume";
    assert!(asked.stderr.contains(told) && asked.stderr.contains("--data="), "{}", asked.stderr);
    let not_asked = train("--keep 2");
    assert_eq!((not_asked.code, not_asked.stderr.as_str()), (Some(0), ""));
}

/// SIGKILL at 30 moments: whatever it met, the run resumes from a whole checkpoint with the bits of
/// the run that was never killed.
#[test]
fn killed_at_any_moment_it_goes_on_with_the_same_bits() {
    let home = Home::new();
    let steps = 1200;
    let job = format!("{TINY} --steps {steps}");
    let calm = trace(&home.train(&format!("{job} --run-dir calm")));
    let every = "--checkpoint-every 1 --checkpoint-dir kept --keep 2";
    let (mut n_killed, mut seen) = (0, Vec::new());
    for nth in 0.. {
        let from =
            if names(&home.path("kept")).is_empty() { job.as_str() } else { "--resume kept" };
        let line = format!("train --headless --json {from} {every} --run-dir r{nth}");
        let mut run = home.start(&words(&line));
        if nth < 30 {
            run.wait_for("step");
            // From within the first steps to some later ones.
            std::thread::sleep(Duration::from_micros(1700 * (nth * 7 % 30)));
            run.signal(Signal::KILL);
        }
        let ran = run.finish();
        let log = fs::read_to_string(home.path(&format!("r{nth}/events.jsonl"))).unwrap();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let bits = |event: &Value| {
            (event["step"].as_u64().unwrap(), event["loss_bits"].as_str().unwrap().to_owned())
        };
        let made: Vec<_> =
            events.filter(|event| event["ev"] == "step").map(|event| bits(&event)).collect();
        for step in &made {
            assert!(calm.0.contains(step), "run {nth}: {step:?}");
        }
        seen.extend(made.into_iter().map(|(step, _)| step));
        match ran.code {
            None => n_killed += 1,
            Some(0) => {
                let end: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
                assert_eq!(end["weights_hash"], calm.1);
                break;
            }
            other => panic!("run {nth} ended with {other:?}: {}", ran.stderr),
        }
    }
    assert!(n_killed >= 25, "{n_killed} kills met the run");
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.last() == Some(&steps), "it came to its end");
    let whole: Vec<PathBuf> = names(&home.path("kept")).iter().map(PathBuf::from).collect();
    assert_eq!(whole.len(), 2, "{whole:?}");
}
