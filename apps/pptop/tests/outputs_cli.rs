//! An output of `pptop` never replaces a file that it reads, a file of a run, or, without
//! `--force`, any other file.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/folder.rs"]
mod folder;
#[path = "common/ran.rs"]
mod ran;

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use folder::Folder;
use ran::Ran;

const LOG: &str = "tests/fixtures/one_f_one_b_p4_m8.jsonl";
const COSTS: &str =
    "{\"forward\": [1,1], \"input_grad\": [1,1], \"weight_grad\": [1,1], \"comm\": 0.5}\n";
const PLAN: &str = "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n";

/// A folder with a run, in which `pptop` runs without anything of the tester's environment.
struct Home(Folder);

impl Home {
    fn new() -> Self {
        let folder = Folder::new();
        folder.write("run/events.jsonl", fs::read(LOG).unwrap());
        folder.write("costs.json", COSTS);
        folder.write("plan.csv", PLAN);
        folder.write("mine", "mine");
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pptop"));
        self.here(command.args(line.split_whitespace()));
        command
    }

    fn here(&self, command: &mut Command) {
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.path("")).env("PPTOP_STATE_DIR", self.path("state"));
        command.current_dir(self.path("")).stdin(Stdio::null());
    }

    /// Runs a line of the shell in which `pptop` is the program.
    fn shell(&self, line: &str) -> Ran {
        let mut command = Command::new("sh");
        let pptop = env!("CARGO_BIN_EXE_pptop");
        self.here(command.args(["-c", &format!("pptop() {{ {pptop} \"$@\"; }}; {line}")]));
        Ran::of(&mut command)
    }

    fn runs(&self, line: &str) -> String {
        Ran::of(&mut self.command(line)).well(line)
    }

    /// Runs a command that has to be refused, and to change nothing.
    fn refused(&self, line: &str, parts: &[&str]) {
        let before = contents(&self.path(""));
        Ran::of(&mut self.command(line)).refused(line, parts);
        assert!(contents(&self.path("")) == before, "{line} has changed something");
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }
}

/// Every file with its bytes, and every link, in order.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(contents(&path));
            found.push((path, b"a folder".to_vec()));
        } else if kind.is_file() {
            found.push((path.clone(), fs::read(&path).unwrap()));
        } else {
            found.push((path, b"a link or a pipe".to_vec()));
        }
    }
    found.sort();
    found
}

#[test]
fn an_export_never_takes_the_place_of_what_it_reads() {
    let home = Home::new();
    fs::hard_link(home.path("run/events.jsonl"), home.path("hard")).unwrap();
    symlink("run", home.path("link")).unwrap();
    symlink("run/events.jsonl", home.path("soft")).unwrap();
    let here = home.path("run/events.jsonl").display().to_string();
    for output in [
        "run/events.jsonl",
        "./run/../run/events.jsonl",
        "link/events.jsonl",
        "hard",
        "soft",
        "/proc/self/cwd/run/events.jsonl",
        here.as_str(),
    ] {
        for format in ["csv", "chrome-trace", "svg", "tensorboard", "prometheus"] {
            let line = format!("export {format} run -o {output} --force");
            // Some are refused for their ending already.
            home.refused(&line, &[output.split('/').next_back().unwrap()]);
        }
    }
    home.refused("export csv run -o hard --force", &["-o hard is the file that the export reads"]);
    home.refused("export csv link -o hard --force", &["is the file that the export reads"]);
    home.refused("export csv hard -o soft --force", &["is the file that the export reads"]);
    // What the run has not written yet is its own as well.
    let own = "belongs to the run";
    home.refused("export prometheus run -o run/stderr.log", &["stderr.log", own]);
    home.refused("export tensorboard run -o run/checkpoint.safetensors", &["safetensors"]);
    home.refused("export csv run -o run", &["-o run is the folder of the run"]);
    for (line, parts) in [
        ("schedule export plan.csv -o plan.csv --force", ["-o plan.csv", "the file that"]),
        ("schedule export plan.csv -o ./plan.csv --force", ["-o ./plan.csv", "the file that"]),
        (
            "schedule export 1f1b --pp 2 --micro-batches 2 --costs costs.json -o costs.json --force",
            ["-o costs.json", "the file that --costs reads"],
        ),
    ] {
        home.refused(line, &parts);
    }
    home.0.write(".config/pptop/config.toml", "theme = \"dark\"\n");
    home.refused("export tensorboard run -o .config/pptop/config.toml --force", &["config.toml"]);
    home.refused(
        "schedule export gpipe --pp 2 --micro-batches 2 --format text -o .config/pptop/config.toml --force",
        &["config.toml"],
    );
}

#[test]
fn an_existing_file_is_replaced_only_by_force() {
    let home = Home::new();
    for line in [
        "export csv run -o",
        "export chrome-trace run -o",
        "export svg run -o",
        "export tensorboard run -o",
        "export prometheus run -o",
        "schedule export 1f1b --pp 2 --micro-batches 2 -o",
    ] {
        home.refused(&format!("{line} mine"), &["-o mine already exists", "--force"]);
        assert_eq!(home.runs(&format!("{line} mine --force")), "");
        assert_ne!(fs::read(home.path("mine")).unwrap(), b"mine", "{line}");
        fs::write(home.path("mine"), "mine").unwrap();
        assert_eq!(home.runs(&format!("{line} new")), "");
        assert!(fs::metadata(home.path("new")).unwrap().len() > 20, "{line}");
        fs::remove_file(home.path("new")).unwrap();
    }
    fs::create_dir(home.path("logs")).unwrap();
    home.runs("export tensorboard run -o logs");
    home.refused("export tensorboard run -o logs", &["already exists", "--force"]);
    home.runs("export tensorboard run -o logs --force");
    home.runs("man --dir pages");
    // Pages that say the same are no loss.
    home.runs("man --dir pages");
    home.0.write("pages/pptop-runs.1", "mine");
    home.refused("man --dir pages", &["pptop-runs.1 already exists", "--force"]);
    home.runs("man --dir pages --force");
    assert!(fs::read_to_string(home.path("pages/pptop-runs.1")).unwrap().contains(".TH "));
}

#[test]
fn a_known_ending_has_to_mean_what_is_written() {
    let home = Home::new();
    let export = "schedule export 1f1b --pp 2 --micro-batches 2";
    for (line, parts) in [
        (format!("{export} -o t.png"), ["t.png", ".csv"]),
        (format!("{export} -o t.PDF"), ["t.PDF", ".csv"]),
        (format!("{export} --format csv -o t.json"), ["t.json", ".csv"]),
        (format!("{export} --format svg -o t.csv"), ["t.csv", ".svg"]),
        (format!("{export} --format json -o t.json.gz"), ["t.json.gz", ".json"]),
        (format!("{export} --format chrome-trace -o t.svg"), ["t.svg", ".json"]),
        ("export csv run -o t.json".to_owned(), ["t.json", ".csv"]),
        ("export svg run -o t.png".to_owned(), ["t.png", ".svg"]),
        ("export chrome-trace run -o t.csv".to_owned(), ["t.csv", ".json"]),
        ("export prometheus run -o t.safetensors".to_owned(), ["t.safetensors", ".prom"]),
        ("export tensorboard run -o t.zst".to_owned(), ["t.zst", "leave .zst out"]),
    ] {
        home.refused(&line, &parts);
    }
    for (name, begin) in
        [("a.csv", "0F0,"), ("a.json", "{"), ("a.svg", "<svg"), ("a.plan", "0F0,"), ("a", "0F0,")]
    {
        home.runs(&format!("{export} -o {name}"));
        let text = fs::read_to_string(home.path(name)).unwrap();
        assert!(text.starts_with(begin), "{name}: {text}");
    }
    home.runs(&format!("{export} --format chrome-trace -o trace.json"));
    home.runs("export prometheus run -o metrics.txt");
}

#[test]
fn devices_and_pipes_are_written_through() {
    let home = Home::new();
    let csv = home.runs("export csv run");
    let plan = home.runs("schedule export 1f1b --pp 2 --micro-batches 2");
    for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        assert_eq!(home.runs(&format!("export csv run -o {name}")), csv, "{name}");
        let line = format!("schedule export 1f1b --pp 2 --micro-batches 2 -o {name}");
        assert_eq!(home.runs(&line), plan, "{name}");
    }
    assert_eq!(home.runs("export csv run -o /dev/null"), "");
    assert!(!home.path("-").exists());
    let through = home.shell(
        "pptop export csv run -o /dev/stdout > out; pptop export csv run -o /dev/fd/3 3> three",
    );
    assert_eq!((through.code, through.stderr.as_str()), (Some(0), ""));
    assert_eq!(fs::read_to_string(home.path("out")).unwrap(), csv);
    assert_eq!(fs::read_to_string(home.path("three")).unwrap(), csv);
    let piped = home.shell("mkfifo p; cat p & pptop export csv run -o p; wait");
    assert_eq!((piped.code, piped.stdout.as_str()), (Some(0), csv.as_str()), "{}", piped.stderr);
    let alone = home.shell("mkfifo q; pptop export csv run -o q");
    alone.refused(
        "a pipe without a reader",
        &["cannot write q", "no process opened it for reading"],
    );
}

#[test]
fn what_is_read_must_not_grow_by_what_is_written() {
    let home = Home::new();
    let before = fs::read(home.path("run/events.jsonl")).unwrap();
    for line in [
        "pptop export csv run >> run/events.jsonl",
        "pptop attach --json run >> run/events.jsonl",
        "pptop snapshot run/events.jsonl >> run/events.jsonl",
        "pptop export csv run -o /dev/stdout >> run/events.jsonl",
        "pptop export csv run -o /dev/fd/3 3>> run/events.jsonl",
    ] {
        let part = if line.contains("/dev/fd/3") { "reads; name" } else { "goes into" };
        home.shell(line).refused(line, &[part]);
        assert!(fs::read(home.path("run/events.jsonl")).unwrap() == before, "{line}");
    }
}

#[test]
fn exports_follow_the_umask() {
    let home = Home::new();
    for (umask, mode) in [("022", 0o644), ("077", 0o600), ("002", 0o664)] {
        let ran = home.shell(&format!(
            "umask {umask}; pptop export csv run -o a.csv && pptop schedule export gpipe --pp 2 --micro-batches 2 -o b.svg \
             && pptop export csv run -o a.csv --force"
        ));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        assert_eq!((home.mode("a.csv"), home.mode("b.svg")), (mode, mode), "{umask}");
        fs::remove_file(home.path("a.csv")).unwrap();
        fs::remove_file(home.path("b.svg")).unwrap();
    }
}

#[test]
fn a_log_may_come_through_a_pipe() {
    let home = Home::new();
    let said = |line: &str| {
        let ran = home.shell(line);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{line}");
        ran.stdout
    };
    let log = "run/events.jsonl";
    for command in ["export csv", "export svg", "export prometheus", "snapshot --json", "report"] {
        let from_file = said(&format!("pptop {command} ./{log}"));
        assert!(from_file.len() > 100);
        let from = |line: &str| said(&line.replace("COMMAND", command));
        assert_eq!(from(&format!("cat {log} | pptop COMMAND -")), from_file);
        assert_eq!(from(&format!("cat {log} | pptop COMMAND /dev/stdin")), from_file);
        assert_eq!(from(&format!("pptop COMMAND - < {log}")), from_file);
        assert_eq!(from(&format!("pptop COMMAND /dev/fd/3 3< {log}")), from_file);
        let fifo = format!("rm -f p; mkfifo p; cat {log} > p & sleep 0.1; pptop COMMAND p; wait");
        assert_eq!(from(&fifo), from_file);
    }
    assert!(said(&format!("cat {log} | pptop attach --once -")).contains("step"));
    for (line, part) in [
        ("pptop report - < /dev/null", "contains no run"),
        ("echo roses | pptop report -", "not the log of a run"),
        ("yes | pptop export csv -", "not the log of a run"),
        ("pptop snapshot - < /dev/zero", "not the log of a run"),
        ("mkfifo q; pptop report q", "no process opened it for writing"),
        ("pptop report ./mine", "contains no run"),
    ] {
        home.shell(line).refused(line, &[part]);
    }
}

#[test]
fn a_file_needs_no_home_and_a_folder_may_be_a_link() {
    let home = Home::new();
    symlink("run", home.path("link")).unwrap();
    symlink("events.jsonl", home.path("run/other.jsonl")).unwrap();
    let log = home.path("run/events.jsonl");
    let pptop = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pptop"));
        Ran::of(command.args(args).env_clear().current_dir(home.path("")).stdin(Stdio::null()))
    };
    for name in [log.to_str().unwrap(), "run/events.jsonl", "run", "./link", "link"] {
        for command in
            [&["snapshot", "--csv"][..], &["report"], &["export", "csv"], &["runs", "info"]]
        {
            let ran = pptop(&[command, &[name]].concat());
            assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{command:?} {name}");
        }
    }
    assert_eq!(pptop(&["snapshot", "latest"]).code, Some(1));
    pptop(&["snapshot", "link/other.jsonl"]).refused("a link to a log", &["symbolic link"]);
    // A list of runs that cannot be read is not asked for a file.
    let mut command = home.command("snapshot --csv mine.log");
    fs::copy(&log, home.path("mine.log")).unwrap();
    assert_eq!(Ran::of(command.env("PPTOP_STATE_DIR", home.path("mine"))).code, Some(0));
}

#[test]
fn a_relative_state_directory_is_below_the_working_directory() {
    let home = Home::new();
    home.0.write("state/runs/gpt-1/events.jsonl", fs::read(LOG).unwrap());
    let mut command = home.command("runs list --json");
    let ran = Ran::of(command.env("PPTOP_STATE_DIR", "state"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains(home.path("state/runs/gpt-1").to_str().unwrap()), "{}", ran.stdout);
    let mut command = home.command("doctor --json");
    let ran = Ran::of(command.env("XDG_STATE_HOME", "here"));
    assert!(ran.stdout.contains("XDG_STATE_HOME=here"), "{}", ran.stdout);
}

#[test]
fn names_need_not_be_text() {
    let home = Home::new();
    let odd = |name: &[u8]| home.path("").join(std::ffi::OsStr::from_bytes(name));
    let dir = odd(b"r\xffn");
    fs::create_dir_all(dir.join("runs/\u{e9}")).unwrap();
    fs::copy(LOG, dir.join("runs/\u{e9}/events.jsonl")).unwrap();
    fs::create_dir_all(dir.join("runs").join(std::ffi::OsStr::from_bytes(b"b\xfe"))).unwrap();
    fs::copy(
        LOG,
        dir.join("runs").join(std::ffi::OsStr::from_bytes(b"b\xfe")).join("events.jsonl"),
    )
    .unwrap();
    fs::copy(LOG, odd(b"l\xff.jsonl")).unwrap();
    fs::write(odd(b"p\xff.csv"), PLAN).unwrap();
    let pptop = |args: &[&[u8]], state: &Path| {
        let mut command = home.command("");
        command.args(args.iter().map(|arg| std::ffi::OsStr::from_bytes(arg)));
        let output = command.env("PPTOP_STATE_DIR", state).env("HOME", &dir).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    for args in [
        &[&b"snapshot"[..], b"l\xff.jsonl"][..],
        &[b"report", b"./l\xff.jsonl"],
        &[b"snapshot", b"b\xfe"],
        &[b"runs", b"info", b"--json", b"b\xfe"],
        &[b"runs", b"list", b"--json"],
        &[b"runs", b"list"],
        &[b"runs", b"prune", b"--dry-run", b"--json"],
        &[b"export", b"csv", b"l\xff.jsonl", b"-o", b"o\xff.csv"],
        &[b"schedule", b"check", b"p\xff.csv"],
        &[b"schedule", b"show", b"p\xff.csv"],
        &[b"schedule", b"export", b"p\xff.csv", b"-o", b"e\xff.svg"],
        &[b"man", b"--dir", b"m\xff"],
        &[b"config", b"init"],
        &[b"config", b"print", b"--json"],
        &[b"config", b"validate"],
        &[b"config", b"path"],
    ] {
        let (code, _, stderr) = pptop(args, &dir);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{args:?}");
    }
    for args in [&[&b"schedule"[..], b"show", b"\xff"][..], &[b"snapshot", b"\xff"], &[b"\xff"]] {
        let (code, _, stderr) = pptop(args, &dir);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
    }
    assert_ne!(pptop(&[b"doctor", b"--json"], &dir).0, Some(101));
}

#[test]
fn a_byte_order_mark_and_other_line_ends_change_nothing() {
    let home = Home::new();
    let simulate = "schedule simulate 1f1b --pp 2 --micro-batches 4 --json --costs";
    let wanted = home.runs(&format!("{simulate} costs.json"));
    let check = home.runs("schedule check plan.csv");
    for (name, text) in [("costs.json", COSTS), ("plan.csv", PLAN)] {
        let marked = format!("\u{feff}{}", text.replace('\n', "\r\n"));
        home.0.write(&format!("marked-{name}"), marked);
    }
    assert_eq!(home.runs(&format!("{simulate} marked-costs.json")), wanted);
    assert_eq!(home.runs("schedule check marked-plan.csv").replace("marked-", ""), check);
    home.0.write("config.toml", "\u{feff}theme = \"dark\"\r\n[keep]\r\nruns = 7\r\n");
    home.runs("config validate config.toml");
    let mut log = fs::File::create(home.path("marked.jsonl")).unwrap();
    log.write_all(b"\xef\xbb\xbf").unwrap();
    let text = fs::read_to_string(LOG).unwrap().replace('\n', "\r\n");
    log.write_all(text.as_bytes()).unwrap();
    assert_eq!(home.runs("export csv ./marked.jsonl"), home.runs("export csv run"));
}
