//! Nothing that is pasted or named by a file ends a process.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use crate::terminal::{Terminal, goes_on, step};

/// Pastes a text: as a terminal with bracketed paste does, or as keys.
fn paste(terminal: &Terminal, text: &str, is_bracketed: bool) {
    terminal.tmux(&["set-buffer", "-b", "pasted", text]);
    let flags: &[&str] = if is_bracketed { &["-p"] } else { &[] };
    terminal.tmux(&[&["paste-buffer"], flags, &["-b", "pasted"]].concat());
}

#[test]
fn pasted_text_ends_no_run() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 100_000);
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    for text in ["fix this", "x\ns\n", "q\ns\n"] {
        paste(&terminal, text, true);
        terminal.wait_for("pasted text is ignored here");
        assert!(!terminal.screen().contains("the run?"));
        // The next key removes the note.
        terminal.press("h");
        terminal.wait("nothing said", |screen| !screen.contains("pasted text"));
        paste(&terminal, text, false);
        let question = if text.starts_with('q') { "leave the run?" } else { "end the run?" };
        let screen = terminal.wait_for(question);
        assert!(screen.contains("▸ c  cancel"), "{screen}");
        terminal.closes(question, "Escape");
        goes_on(&terminal);
    }
    let names = fs::read_dir(terminal.run_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let written: Vec<_> =
        names.filter(|name| name.to_string_lossy().starts_with("screen-")).collect();
    assert!(written.is_empty(), "{written:?}");
}

/// A folder whose summary names somebody's process: nothing is sent to that, and the question says
/// why.
#[test]
fn a_process_that_a_file_names_is_left_alone() {
    let Some(terminal) = Terminal::open() else { return };
    let mut victim = Command::new("sleep").arg("600").spawn().unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", victim.id())).unwrap();
    let began = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap();
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/one_f_one_b_p4_m8.jsonl");
    let log = fs::read_to_string(log).unwrap();
    let without_end = &log[..=log.trim_end().rfind('\n').unwrap()];
    fs::create_dir(terminal.dir.path().join("forged")).unwrap();
    fs::write(terminal.dir.path().join("forged/events.jsonl"), without_end).unwrap();
    let status = format!(
        r#"{{"schema":1,"run":"gpt-20261101-141233","pid":{},"pid_began":{began},"host":"{}","state":"running"}}"#,
        victim.id(),
        pp_telemetry::host_name()
    );
    fs::write(terminal.dir.path().join("forged/status.json"), status).unwrap();
    terminal.pptop("attach ./forged");
    terminal.wait_for("step 120/120");
    terminal.press("x");
    let screen = terminal.wait_for("end the run?");
    assert!(screen.contains("This cannot be done from here"), "{screen}");
    assert!(!screen.contains("kill it"), "{screen}");
    for key in ["a", "s", "Down", "Enter"] {
        thread::sleep(Duration::from_millis(350));
        terminal.press(key);
    }
    terminal.wait("no question", |screen| !screen.contains("end the run?"));
    terminal.press("q");
    terminal.wait_restored("exit=0");
    assert!(victim.try_wait().unwrap().is_none(), "the process that was named is alive");
    victim.kill().unwrap();
    victim.wait().unwrap();
}

/// A run that is stopped hears nothing; it is killed all the same, for the system still says who
/// listens.
#[test]
fn a_stopped_run_can_be_killed() {
    let Some(terminal) = Terminal::open() else { return };
    let mut run = terminal.background_run("");
    terminal.pptop("attach ./run");
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    kill_process(terminal.trainer().unwrap(), Signal::STOP).unwrap();
    terminal.press("x");
    terminal.answer("end the run?", "a", "at once");
    let status = run.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    terminal.press("q");
    terminal.wait_restored("exit=0");
}
