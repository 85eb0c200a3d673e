//! GPUs that a run watches, through a library that stands in for NVIDIA's.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nvml_stand_in::SCRIPT_FILE;
use pp_telemetry::{Event, Follower, Gpu};

use crate::home::{Home, words};

const GPUS: &str = "driver = 580.95.05\ncuda = 13000\ngpu GPU-a\npci = 00000000:10:00.0\nname = one\nutilisation = 70\ntotal_bytes = 1000\nused_bytes = 600\n";
const PATIENCE: Duration = Duration::from_mins(1);

/// A copy of the library in the home, and where it is.
fn library(home: &Home) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let file =
        format!("{}nvml_stand_in{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let folders = program.ancestors().skip(1).take(2).map(Path::to_owned);
    let found = folders.map(|folder| folder.join(&file)).find(|path| path.exists()).unwrap();
    let path = home.path("libnvidia-ml.so.1");
    fs::copy(found, &path).unwrap();
    path
}

fn says(home: &Home, script: &str) {
    fs::write(home.path("new"), script).unwrap();
    fs::rename(home.path("new"), home.path(SCRIPT_FILE)).unwrap();
}

/// What the log says of the GPU, and how many steps it has.
fn looks(home: &Home) -> (Vec<Gpu>, u64) {
    let (mut looks, mut step) = (Vec::new(), 0);
    let mut follower = Follower::new(&home.path("run/events.jsonl"));
    while !follower
        .poll(|event| match event {
            Event::Gpu(gpu) => looks.push(*gpu),
            Event::Step(done) => step = done.step,
            _ => {}
        })
        .unwrap()
        .at_end
    {}
    (looks, step)
}

#[track_caller]
fn until(home: &Home, what: &str, is_so: impl Fn(&[Gpu], u64) -> bool) -> u64 {
    let began = Instant::now();
    loop {
        let (looks, step) = looks(home);
        if is_so(&looks, step) {
            return step;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: {:?}", looks.last());
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_library_that_hangs_and_a_gpu_that_goes_never_hold_the_training_up() {
    let home = Home::new();
    let library = library(&home);
    says(&home, GPUS);
    let line = "train --headless --json --model sleep --pp 2 --micro-batches 4 --steps 100000 --run-dir run --nvml-lib";
    let mut arguments = words(line);
    let path = library.display().to_string();
    arguments.push(&path);
    let mut run = home.start(&arguments);
    run.wait_for("step");
    until(&home, "a look", |looks, _| {
        looks.last().is_some_and(|gpu| gpu.utilisation == Some(0.7) && gpu.error.is_none())
    });
    says(&home, &format!("{GPUS}lost\n"));
    until(&home, "it is lost", |looks, _| looks.last().is_some_and(|gpu| gpu.error.is_some()));
    says(&home, GPUS);
    let before =
        until(&home, "it is back", |looks, _| looks.last().is_some_and(|gpu| gpu.error.is_none()));
    says(&home, &format!("{GPUS}hang_ms = 600000\n"));
    until(&home, "it does not answer, and the steps go on", |looks, step| {
        let is_silent = |gpu: &Gpu| gpu.error.as_deref() == Some("does not answer");
        looks.last().is_some_and(is_silent) && step > before + 20
    });
    says(&home, GPUS);
    until(&home, "it answers", |looks, _| looks.last().is_some_and(|gpu| gpu.error.is_none()));
    run.signal(rustix::process::Signal::TERM);
    assert_eq!(run.finish().code, Some(143));
}

#[test]
fn a_library_in_the_working_directory_needs_no_slash() {
    let home = Home::new();
    let library = library(&home);
    says(&home, GPUS);
    fs::rename(library, home.path("lib.so")).unwrap();
    for name in ["lib.so", "./lib.so"] {
        let told = home.stdout(&format!("devices --json --nvml-lib {name}"));
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["nvml"]["driver"], "580.95.05", "{name}: {told}");
    }
    // A name with no file in the working directory is left to the dynamic loader.
    let told = home.stdout("devices --json --nvml-lib libnothing.so.9");
    assert!(told.contains("libnothing.so.9"), "{told}");
}
