//! The monitor as a job of a shell: stopped, in the background, in other terminals and locales.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::terminal::{DEADLINE, POLL, RESTORED, Terminal, is_alive, step};

#[test]
fn stopped_and_continued_from_outside_it_draws_anew() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.respawn("", "demo");
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 2));
    let monitor = terminal.monitor();
    kill_process(monitor, Signal::STOP).unwrap();
    // Another program changed the terminal's modes meanwhile.
    let tty = terminal.tmux(&["display-message", "-p", "#{pane_tty}"]);
    let tty = fs::OpenOptions::new().write(true).read(true).open(tty.trim()).unwrap();
    let sane = Command::new("stty").arg("sane").stdin(tty.try_clone().unwrap()).status().unwrap();
    assert!(sane.success());
    std::io::Write::write_all(
        &mut &tty,
        b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1049l\x1b[?25h\x1b[?2004l",
    )
    .unwrap();
    drop(tty);
    assert_eq!(terminal.modes(), RESTORED);
    kill_process(monitor, Signal::CONT).unwrap();
    terminal.wait("the modes again", |_| terminal.modes() == "1 1 0");
    let screen = terminal.wait("the screen again", |screen| step(screen).is_some());
    assert!(screen.contains("devices"), "{screen}");
    // In raw mode a key needs no Enter, and nothing is echoed.
    terminal.press("3");
    terminal.wait_for("[3]Devices");
    terminal.press("q");
    terminal.wait_dead();
}

#[test]
fn in_the_background_it_leaves_the_terminal_alone_and_ends_on_a_signal() {
    let Some(terminal) = Terminal::open() else { return };
    let program = env!("CARGO_BIN_EXE_pptop");
    let line = format!("clear; {program} demo & echo $! >{}/pid", terminal.dir.path().display());
    terminal.tmux(&["send-keys", "-l", &line]);
    terminal.press("Enter");
    let began = Instant::now();
    while fs::read_to_string(terminal.dir.path().join("pid"))
        .map_or(true, |text| text.trim().is_empty())
    {
        assert!(began.elapsed() < DEADLINE);
        thread::sleep(POLL);
    }
    // The shell keeps the terminal as it was.
    thread::sleep(Duration::from_millis(500));
    assert_eq!(terminal.modes(), RESTORED);
    assert!(is_alive(terminal.monitor()));
    terminal.tmux(&["send-keys", "-l", "clear; fg"]);
    terminal.press("Enter");
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    // Stopped from outside and sent to the background, it gives the terminal back.
    kill_process(terminal.monitor(), Signal::STOP).unwrap();
    terminal.wait("the shell", |_| {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", terminal.monitor().as_raw_nonzero()));
        stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
    });
    // This shell leaves the terminal's mode as it is: a line ends with a line feed in it.
    terminal.tmux(&["send-keys", "-l", "bg"]);
    terminal.press("C-j");
    terminal.wait("the modes of the shell", |_| terminal.modes() == RESTORED);
    kill_process(terminal.monitor(), Signal::TERM).unwrap();
    let began = Instant::now();
    while is_alive(terminal.monitor()) {
        assert!(began.elapsed() < DEADLINE, "it does not end in the background");
        thread::sleep(POLL);
    }
    terminal.tmux(&["send-keys", "-l", "stty sane; clear; echo a''b"]);
    terminal.press("C-j");
    terminal.wait("the shell's own line", |screen| screen.lines().any(|line| line == "ab"));
}

/// What is drawn follows the terminal and the locale.
#[test]
fn characters_and_colours_are_those_that_the_terminal_has() {
    let Some(terminal) = Terminal::open() else { return };
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/one_f_one_b_p4_m8.jsonl");
    fs::copy(log, terminal.dir.path().join("recorded.jsonl")).unwrap();
    for (environment, is_ascii, has_colour) in [
        ("LC_ALL=C TERM=screen", true, true),
        ("LC_ALL=de_DE.ISO-8859-1 TERM=screen", true, true),
        ("LC_ALL=C.UTF-8 LANG=C TERM=screen", false, true),
        ("LC_ALL=C.UTF-8 TERM=linux", true, true),
        ("LC_ALL=C.UTF-8 TERM=vt100", true, false),
        ("-u TERM LC_ALL=C.UTF-8", true, false),
        ("LC_ALL=C PPTOP_ASCII=0 TERM=screen", false, true),
        ("LC_ALL=C.UTF-8 TERM=vt100 PPTOP_COLOR=always", true, true),
    ] {
        terminal
            .respawn(&format!("-u NO_COLOR -u COLORTERM {environment}"), "attach recorded.jsonl");
        let screen = terminal.wait_for("step 120/120");
        assert_eq!(screen.is_ascii(), is_ascii, "{environment}:\n{screen}");
        let coloured = terminal.tmux(&["capture-pane", "-p", "-e"]);
        let is_coloured = coloured.contains("[34m") || coloured.contains("[44m");
        assert_eq!(is_coloured, has_colour, "{environment}:\n{coloured}");
        assert!(!coloured.contains("[38;5;") && !coloured.contains("[48;5;"), "{environment}");
        terminal.press("q");
        terminal.wait_dead();
    }
}
