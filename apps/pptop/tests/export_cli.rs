//! `pptop export`, run as a user runs it on a recorded log.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/folder.rs"]
mod folder;
#[path = "common/ran.rs"]
#[expect(dead_code, reason = "what is exported may be no text")]
mod ran;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use folder::Folder;
use pp_telemetry::{Event, Export, ExportFormat, Line};
use ran::Ran;

const LOG: &str = "tests/fixtures/one_f_one_b_p4_m8.jsonl";
const FORMATS: [(&str, ExportFormat); 6] = [
    ("chrome-trace", ExportFormat::ChromeTrace),
    ("csv", ExportFormat::StepsCsv),
    ("csv --what spans", ExportFormat::SpansCsv),
    ("tensorboard", ExportFormat::TensorBoard),
    ("svg", ExportFormat::Svg),
    ("prometheus", ExportFormat::Prometheus),
];

/// A folder with a run that is kept, and a place for what is exported.
struct Home(Folder);

impl Home {
    fn new() -> Self {
        let folder = Folder::new();
        folder.write("state/runs/gpt-20261101-141233/events.jsonl", fs::read(LOG).unwrap());
        fs::create_dir(folder.path("out")).unwrap();
        Self(folder)
    }

    fn out(&self, name: &str) -> String {
        self.0.path("out").join(name).to_str().unwrap().to_owned()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pptop"));
        command.args(line.split_whitespace()).env("PPTOP_STATE_DIR", self.0.path("state"));
        command
    }

    fn stdout(&self, line: &str) -> Vec<u8> {
        let output = self.command(line).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{line}");
        output.stdout
    }

    /// Runs a command that has to be refused with one line, and to leave nothing behind.
    fn refused(&self, line: &str, parts: &[&str]) {
        let before = names(&self.0.path("out"));
        Ran::of(&mut self.command(line)).refused(line, parts);
        assert_eq!(names(&self.0.path("out")), before, "{line}");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What the library makes of the log.
fn wanted(format: ExportFormat, steps: Option<&str>) -> Vec<u8> {
    let mut export = Export::new(format, steps.map(|steps| steps.parse().unwrap()));
    let mut bytes = Vec::new();
    for line in fs::read(LOG).unwrap().split(|&byte| byte == b'\n') {
        if let Ok(Line::Event(event)) = Event::parse(line) {
            export.push(&event, &mut bytes).unwrap();
        }
    }
    export.finish(&mut bytes).unwrap();
    bytes
}

#[test]
fn each_format_goes_to_standard_output_or_to_a_file() {
    let home = Home::new();
    for (format, kind) in FORMATS {
        let mut bytes = wanted(kind, None);
        if format == "prometheus" {
            // How the run stands follows from more than its log.
            let all = home.stdout("export prometheus gpt");
            assert!(all.starts_with(&bytes));
            bytes = all;
            assert!(String::from_utf8_lossy(&bytes).contains("pptop_run_standing"));
        }
        // By the beginning of its name, as the latest, by default, and as a file.
        for run in ["gpt", "latest", "", LOG, "gpt -o -"] {
            assert_eq!(home.stdout(&format!("export {format} {run}")), bytes, "{format} {run}");
        }
        let path = home.out("file");
        for force in ["", " --force"] {
            assert!(home.stdout(&format!("export {format} gpt -o {path}{force}")).is_empty());
            assert_eq!(fs::read(&path).unwrap(), bytes, "{format}");
        }
        assert_eq!(names(&home.0.path("out")), ["file"]);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn some_steps_are_exported_alone() {
    let home = Home::new();
    for (format, kind) in &FORMATS[..5] {
        for steps in ["2..3", "2..2"] {
            let line = format!("export {format} gpt --steps {steps}");
            assert_eq!(home.stdout(&line), wanted(*kind, Some(steps)), "{line}");
        }
        assert_eq!(
            home.stdout(&format!("export {format} gpt --steps 3")),
            wanted(*kind, Some("3..3"))
        );
    }
    let rows = String::from_utf8(home.stdout("export csv --steps 119..")).unwrap();
    let steps: Vec<&str> = rows.lines().skip(1).map(|row| row.split_once(',').unwrap().0).collect();
    assert_eq!(steps, ["119", "120"]);
}

#[test]
fn a_directory_gets_an_event_file_under_the_name_that_tensorboard_looks_for() {
    let home = Home::new();
    let out = home.out("");
    for force in ["", " --force"] {
        home.stdout(&format!("export tensorboard gpt -o {out}{force}"));
    }
    // A second export takes the place of the first where that is asked for.
    assert_eq!(names(&home.0.path("out")), ["events.out.tfevents.1793542353.pptop"]);
    let path = home.out("events.out.tfevents.1793542353.pptop");
    assert_eq!(fs::read(path).unwrap(), wanted(ExportFormat::TensorBoard, None));
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let home = Home::new();
    let empty = home.out("empty.jsonl");
    fs::write(&empty, "").unwrap();
    let poem = home.out("poem.jsonl");
    fs::write(&poem, "roses\nare\nred\n").unwrap();
    home.0.write("state/runs/hollow/status.json", "{}");
    for (format, _) in FORMATS {
        home.refused(&format!("export {format} nobody"), &["nobody"]);
        home.refused(&format!("export {format} /nowhere/x.jsonl"), &["/nowhere/x.jsonl"]);
        home.refused(&format!("export {format} {poem}"), &["none of 3 lines is an event"]);
        home.refused(&format!("export {format} hollow"), &["cannot read"]);
    }
    home.refused(&format!("export svg {empty}"), &["no step was recorded in full"]);
    home.refused("export", &["chrome-trace csv tensorboard svg prometheus"]);
    home.refused(
        "export pdf gpt",
        &["no command 'pdf'", "chrome-trace csv tensorboard svg prometheus"],
    );
    home.refused("export csv gpt --what ranks", &["'ranks'", "steps or spans"]);
    home.refused("export svg gpt --what spans", &["--what"]);
    home.refused("export prometheus gpt --steps 1..2", &["--steps"]);
}

#[test]
fn bad_steps_are_refused() {
    let home = Home::new();
    let path = home.out("file");
    for (format, _) in &FORMATS[..5] {
        for steps in ["x", "..", "3..1", "0..4", "-1..4", "1..2..3", "1.5", "99999999999999999999"]
        {
            home.refused(&format!("export {format} gpt --steps {steps} -o {path}"), &["--steps"]);
        }
        let beyond = "no step of 121..130 is in the log; it has steps 1..120";
        home.refused(&format!("export {format} gpt --steps 121..130"), &[beyond]);
        home.refused(&format!("export {format} gpt --steps 121..130 -o {path}"), &[beyond]);
    }
    home.refused("export svg gpt --steps 5..9", &["steps whose spans were recorded"]);
}

#[test]
fn a_place_that_cannot_be_written_is_refused() {
    let home = Home::new();
    let target = home.out("target");
    fs::write(&target, "mine").unwrap();
    let link = home.out("link");
    symlink(&target, &link).unwrap();
    let dangling = home.out("dangling");
    symlink(home.out("nowhere"), &dangling).unwrap();
    for (format, _) in FORMATS {
        let refused = |path: &str, part: &str| {
            home.refused(&format!("export {format} gpt -o {path}"), &["cannot write", part]);
        };
        refused(&home.out("missing/file"), "No such file");
        refused(&format!("{target}/file"), "Not a directory");
        refused(&link, "symbolic link");
        refused(&dangling, "symbolic link");
        // A directory is where an event file belongs.
        if format != "tensorboard" {
            refused("/", "names no file");
            refused(&home.out(""), "it is a folder");
        }
    }
    assert_eq!(fs::read_to_string(target).unwrap(), "mine");
}

#[test]
fn lines_that_are_no_events_are_told_of() {
    let home = Home::new();
    let log = home.out("log.jsonl");
    let mut text = fs::read(LOG).unwrap();
    text.extend_from_slice(b"no event\n{\"ev\":\"step\"}\n{\"ev\":\"end\",\"torn");
    fs::write(&log, text).unwrap();
    let output = home.command(&format!("export csv {log}")).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, wanted(ExportFormat::StepsCsv, None));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("pptop: skipped 2 lines of "), "{stderr}");
}

#[test]
fn a_reader_that_goes_away_ends_the_export_quietly() {
    let home = Home::new();
    let mut child = home
        .command("export chrome-trace gpt")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut head = [0; 16];
    child.stdout.take().unwrap().read_exact(&mut head).unwrap();
    assert_eq!(&head, b"{\"traceEvents\":[");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn bytes_are_not_written_to_a_terminal() {
    let home = Home::new();
    // `script` gives a command a terminal; where it is missing there is nothing to try this with.
    let pptop = env!("CARGO_BIN_EXE_pptop");
    let done = Command::new("script")
        .args(["-qec", &format!("{pptop} export tensorboard {LOG}"), "/dev/null"])
        .env("PPTOP_STATE_DIR", home.0.path("state"))
        .stdin(Stdio::null())
        .output();
    let Ok(done) = done else { return };
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("binary data to a terminal; use -o FILE"), "{said}");
}
