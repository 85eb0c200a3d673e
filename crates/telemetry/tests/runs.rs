//! The runs that are kept.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pp_telemetry::{
    COMPRESSED_FILE, EVENTS_FILE, End, Event, FindError, Follower, Hello, Keep, Recorder, Standing,
    find_run, list_runs, tidy,
};

struct TestDir(tempfile::TempDir);

impl TestDir {
    fn new() -> Self {
        Self(tempfile::TempDir::with_prefix("pp-runs-").unwrap())
    }

    /// A run that began at some time, and perhaps has ended.
    fn run(&self, id: &str, started_unix_ms: u64, code: Option<i32>) -> Recorder {
        let recorder = pp_telemetry::recorder(&self.0.path().join(id)).unwrap();
        recorder.record(Event::Hello(Box::new(Hello {
            schema: 1,
            run: id.to_owned(),
            pid: std::process::id(),
            started_unix_ms,
            ..Hello::default()
        })));
        if let Some(code) = code {
            recorder.finish(End { code, reason: "finished".to_owned(), ..End::default() });
        } else {
            // The summary that names the run is renewed each second.
            let deadline = SystemTime::now() + Duration::from_secs(10);
            while find_run(self.0.path(), id)
                .is_ok_and(|run| run.status.is_none_or(|status| status.run.is_empty()))
            {
                assert!(SystemTime::now() < deadline);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        recorder
    }

    /// Makes a run look as if nothing had been written for so long.
    fn age(&self, id: &str, by: Duration) {
        for entry in fs::read_dir(self.0.path().join(id)).unwrap() {
            let file = fs::File::options().append(true).open(entry.unwrap().path()).unwrap();
            file.set_modified(SystemTime::now() - by).unwrap();
        }
        let dir = fs::File::open(self.0.path().join(id)).unwrap();
        dir.set_modified(SystemTime::now() - by).unwrap();
    }

    fn ids(&self) -> Vec<String> {
        list_runs(self.0.path()).unwrap().into_iter().map(|run| run.id).collect()
    }
}

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn a_run_is_found_by_all_its_names() {
    let dir = TestDir::new();
    assert!(matches!(find_run(dir.0.path(), "latest"), Err(FindError::NoRuns(_))));
    dir.run("gpt-1", 1000, Some(0));
    dir.run("gpt-2", 3000, Some(3));
    let live = dir.run("mlp-1", 2000, None);
    assert_eq!(dir.ids(), ["gpt-2", "mlp-1", "gpt-1"]);
    assert_eq!(find_run(dir.0.path(), "latest").unwrap().id, "gpt-2");
    assert_eq!(find_run(dir.0.path(), "m").unwrap().id, "mlp-1");
    assert_eq!(find_run(dir.0.path(), "gpt-1").unwrap().standing(), Standing::Finished);
    let pid = std::process::id().to_string();
    assert_eq!(find_run(dir.0.path(), &pid).unwrap().standing(), Standing::Live);
    let folder = dir.0.path().join("gpt-1");
    assert_eq!(find_run(dir.0.path(), folder.to_str().unwrap()).unwrap().id, "gpt-1");
    let log = folder.join(EVENTS_FILE);
    assert_eq!(
        find_run(dir.0.path(), log.to_str().unwrap()).unwrap().standing(),
        Standing::Finished
    );

    let refused = |name: &str| find_run(dir.0.path(), name).unwrap_err().to_string();
    let both = refused("gpt");
    assert!(both.contains("2 runs begin with \"gpt\": gpt-2 gpt-1"), "{both}");
    for (name, remedy) in [
        ("", "name latest, the beginning of an id such as gpt-2"),
        ("nothing", "name latest, the beginning of an id such as gpt-2"),
        ("gtp-2", "did you mean gpt-2?"),
        ("mpl-1", "did you mean mlp-1?"),
        ("lastest", "did you mean latest?"),
        ("/nowhere/x.jsonl", "name a run that can be read"),
        ("4000000000", "the process id of a run"),
    ] {
        assert!(refused(name).contains(remedy), "{}", refused(name));
    }
    let empty = TestDir::new();
    assert!(refused(empty.0.path().to_str().unwrap()).contains("contains no run"));
    // A link is not followed.
    let link = dir.0.path().join("link.jsonl");
    std::os::unix::fs::symlink(&log, &link).unwrap();
    assert!(refused(link.to_str().unwrap()).contains("symbolic link"));
    drop(live);
}

#[test]
fn a_process_that_is_gone_has_died() {
    let dir = TestDir::new();
    let _recorder = dir.run("one", 1, None);
    let path = dir.0.path().join("one/status.json");
    let mut run = find_run(dir.0.path(), "one").unwrap();
    assert_eq!(run.standing(), Standing::Live);
    run.status.as_mut().unwrap().pid_began += 1;
    assert_eq!(run.standing(), Standing::Died);
    run.status.as_mut().unwrap().host = "elsewhere".to_owned();
    assert_eq!(run.standing(), Standing::Unknown);
    assert!(path.is_file());
}

#[test]
fn finished_logs_are_compressed_and_old_runs_go() {
    let dir = TestDir::new();
    for (id, started) in [("a", 2), ("b", 3), ("c", 4), ("d", 5)] {
        dir.run(id, started, Some(0));
        dir.age(id, HOUR);
    }
    let _live = dir.run("live", 1, None);
    // Nothing that is no run is touched.
    fs::create_dir(dir.0.path().join("notes")).unwrap();
    fs::write(dir.0.path().join("notes/mine.txt"), "keep").unwrap();

    fs::write(dir.0.path().join("a/screen-3.txt"), "a screen").unwrap();
    fs::write(dir.0.path().join("a/step-3.trace.json"), "{}").unwrap();
    dir.age("a", HOUR);

    let told = tidy(dir.0.path(), Keep { runs: 3, ..Keep::default() }, true).unwrap();
    assert_eq!(
        (told.removed, told.compressed.len(), told.failed.len()),
        (vec!["a".to_owned()], 3, 0)
    );
    assert_eq!(dir.ids().len(), 5);

    let done = tidy(dir.0.path(), Keep { runs: 3, ..Keep::default() }, false).unwrap();
    assert_eq!((done.removed, done.failed.len()), (vec!["a".to_owned()], 0));
    assert_eq!(dir.ids(), ["d", "c", "b", "live"]);
    let run = find_run(dir.0.path(), "d").unwrap();
    assert_eq!(run.log.file_name().unwrap(), COMPRESSED_FILE);
    let mut n_events = 0;
    let mut follower = Follower::new(&run.log);
    while !follower.poll(|_| n_events += 1).unwrap().at_end {}
    assert_eq!(n_events, 2);
    assert!(dir.0.path().join("notes/mine.txt").is_file());

    dir.age("b", 40 * 24 * HOUR);
    let done = tidy(dir.0.path(), Keep::default(), false).unwrap();
    assert_eq!(done.removed, ["b"]);
    // The newest run and the live run stay, however little may be kept.
    let nothing = Keep { runs: 0, bytes: 0, age: Duration::ZERO };
    let done = tidy(dir.0.path(), nothing, false).unwrap();
    assert_eq!(done.removed, ["c"]);
    assert_eq!(dir.ids(), ["d", "live"]);
}

#[test]
fn the_newest_run_and_every_checkpoint_stay_whatever_their_size() {
    let dir = TestDir::new();
    for (id, started) in [("old", 1), ("weights", 2), ("middle", 3), ("new", 4)] {
        dir.run(id, started, Some(0));
        dir.age(id, HOUR);
    }
    fs::write(dir.0.path().join("weights/checkpoint.safetensors"), vec![0; 100_000]).unwrap();
    dir.age("weights", HOUR);
    // Logs that do not compress to nothing, each larger than all that is kept.
    let done = tidy(dir.0.path(), Keep { bytes: 1, ..Keep::default() }, false).unwrap();
    assert_eq!((done.removed, done.failed.len()), (vec!["middle".to_owned(), "old".to_owned()], 0));
    assert_eq!(dir.ids(), ["new", "weights"]);
}

#[test]
fn a_folder_with_something_else_in_it_is_left_whole() {
    let dir = TestDir::new();
    dir.run("one", 1, Some(0));
    for name in [
        "notes.txt",
        "checkpoint.safetensors.step1000",
        "checkpoint.safetensors.partial",
        "events.jsonl.bak",
        "events.jsonl~",
        "screen-last.txt",
        ".notes.new",
    ] {
        let path = dir.0.path().join("one").join(name);
        fs::write(&path, "mine").unwrap();
        let failed = pp_telemetry::remove(&dir.0.path().join("one")).unwrap_err().to_string();
        assert!(failed.contains(name), "{failed}");
        assert!(
            dir.0.path().join("one/events.jsonl").is_file()
                && dir.0.path().join("one/status.json").is_file()
        );
        fs::remove_file(path).unwrap();
    }
    // A folder and a link are none of its files, whatever their names are.
    fs::create_dir(dir.0.path().join("one/screen-1.txt")).unwrap();
    assert!(pp_telemetry::remove(&dir.0.path().join("one")).is_err());
    fs::remove_dir(dir.0.path().join("one/screen-1.txt")).unwrap();
    std::os::unix::fs::symlink("/nowhere", dir.0.path().join("one/screen-1.txt")).unwrap();
    assert!(pp_telemetry::remove(&dir.0.path().join("one")).is_err());
    fs::remove_file(dir.0.path().join("one/screen-1.txt")).unwrap();
    pp_telemetry::remove(&dir.0.path().join("one")).unwrap();
    assert!(!dir.0.path().join("one").exists());
}

/// A folder with all that a folder of runs may hold.
fn varied(dir: &TestDir) {
    for (nth, id) in ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8"].into_iter().enumerate()
    {
        dir.run(id, 1000 + nth as u64, Some(0));
        // Logs of different sizes that compress to different sizes.
        let mut log = fs::OpenOptions::new();
        let mut log = log.append(true).open(dir.0.path().join(id).join(EVENTS_FILE)).unwrap();
        for line in 0..(nth * 977) {
            let number = line.wrapping_mul(2_654_435_761) % 1_000_003;
            writeln!(log, "{{\"ev\":\"log\",\"elapsed_ns\":{number},\"message\":\"m\"}}").unwrap();
        }
    }
    fs::write(dir.0.path().join("r1/checkpoint.safetensors.step1000"), "mine").unwrap();
    fs::write(dir.0.path().join("r2/checkpoint.safetensors"), "weights").unwrap();
    fs::create_dir(dir.0.path().join("r3/sub")).unwrap();
    fs::write(dir.0.path().join("r4/screen-3.txt"), "a screen").unwrap();
    fs::write(dir.0.path().join("r4/.pptop-1-0.new"), "half").unwrap();
    // Compressed by somebody else, and another file under that name.
    let log = fs::read(dir.0.path().join("r5/events.jsonl")).unwrap();
    fs::write(dir.0.path().join("r5/events.jsonl.zst"), zstd::encode_all(&log[..], 1).unwrap())
        .unwrap();
    fs::write(dir.0.path().join("r6/events.jsonl.zst"), zstd::encode_all(&b"mine"[..], 1).unwrap())
        .unwrap();
    for id in ["r0", "r1", "r2", "r4", "r5", "r6", "r7"] {
        dir.age(id, HOUR);
    }
    let status = dir.0.path().join("r3/status.json");
    fs::File::options()
        .append(true)
        .open(status)
        .unwrap()
        .set_modified(SystemTime::now() - HOUR)
        .unwrap();
    fs::create_dir(dir.0.path().join("notes")).unwrap();
    fs::write(dir.0.path().join("notes/mine.txt"), "keep").unwrap();
}

/// Every file below a folder, with its size.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with(".tidy.lock") {
            found.push((path.clone(), path.metadata().unwrap().len()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_dry_run_says_exactly_what_is_done_then() {
    let day = 24 * HOUR;
    for keep in [
        Keep::default(),
        Keep { runs: 0, ..Keep::default() },
        Keep { runs: 4, ..Keep::default() },
        Keep { age: Duration::from_mins(30), ..Keep::default() },
        Keep { bytes: 0, ..Keep::default() },
        Keep { bytes: 30_000, ..Keep::default() },
        Keep { bytes: 120_000, ..Keep::default() },
        Keep { runs: 6, bytes: 200_000, age: day },
    ] {
        let dir = TestDir::new();
        varied(&dir);
        let before = files(dir.0.path());
        let told = tidy(dir.0.path(), keep, true).unwrap();
        assert_eq!(files(dir.0.path()), before, "a dry run has changed something");
        assert!(!dir.0.path().join(".tidy.lock").exists(), "a dry run makes no lock");
        let ids = dir.ids();
        let done = tidy(dir.0.path(), keep, false).unwrap();
        assert_eq!(told, done, "{keep:?}");
        let left: Vec<String> = dir.ids();
        let gone: Vec<&String> = ids.iter().filter(|id| !left.contains(id)).collect();
        assert_eq!(gone, done.removed.iter().collect::<Vec<_>>(), "{keep:?}");
        for id in &left {
            let plain = dir.0.path().join(id).join(EVENTS_FILE).exists();
            assert_eq!(done.compressed.contains(id), !plain, "{keep:?} {id}");
        }
        // What is somebody's stays, and so does the newest.
        for path in [
            "r1/checkpoint.safetensors.step1000",
            "r2/checkpoint.safetensors",
            "r3/sub",
            "r8/events.jsonl",
            "notes/mine.txt",
        ] {
            assert!(dir.0.path().join(path).exists(), "{keep:?} {path}");
        }
    }
}

#[test]
fn a_run_that_began_in_the_future_is_not_the_newest_for_ever() {
    let dir = TestDir::new();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    let year = 365 * 24 * 3_600_000;
    dir.run("wrong", now + year, Some(0));
    dir.age("wrong", HOUR);
    dir.run("right", now, Some(0));
    assert_eq!(dir.ids(), ["right", "wrong"]);
    assert_eq!(find_run(dir.0.path(), "latest").unwrap().id, "right");
    // Of one second the one with the higher number is newer.
    for id in ["gpt", "gpt-2", "gpt-10", "gpt-9"] {
        dir.run(id, 5000, Some(0));
    }
    assert_eq!(dir.ids()[2..], ["gpt-10", "gpt-9", "gpt-2", "gpt"]);
}

#[test]
fn a_folder_here_does_not_hide_a_run_of_its_name() {
    let dir = TestDir::new();
    // The tests run in a directory that has such a folder.
    dir.run("tests", 1, Some(0));
    assert!(std::path::Path::new("tests").is_dir());
    assert_eq!(find_run(dir.0.path(), "tests").unwrap().dir, dir.0.path().join("tests"));
}
