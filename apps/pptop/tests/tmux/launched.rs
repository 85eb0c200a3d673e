//! A run that `pptop train` starts, and its monitor: looked at, left, killed, suspended.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process, test_kill_process};

use crate::terminal::{POLL, Terminal, goes_on, is_alive, step};

#[test]
fn one_starts_looks_around_and_stops() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 100_000);
    let screen = terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 2));
    assert_eq!(terminal.modes(), "1 1 0");
    for text in
        ["LIVE", "devices", "timeline", "loss", "pipeline", "bubble", "theory 27.3%", "samples/s"]
    {
        assert!(screen.contains(text), "no {text} in\n{screen}");
    }
    let before = step(&screen).unwrap();
    terminal.wait("later steps", |screen| step(screen).is_some_and(|step| step > before + 3));
    // The loss of `sleep` falls, and it is on the screen.
    terminal.wait("the loss falls", |screen| screen.contains('▼'));

    terminal.press("?");
    terminal.wait_for("freeze the screen");
    terminal.press("Escape");
    terminal.wait("no help", |screen| !screen.contains("freeze the screen"));

    terminal.press("Space");
    let frozen = step(&terminal.wait_for("FROZEN"));
    thread::sleep(Duration::from_millis(500));
    assert_eq!(step(&terminal.screen()), frozen);
    terminal.press("Space");
    terminal.wait("it goes on", |screen| step(screen) > frozen);

    terminal.press("[");
    terminal.wait_for("pinned");
    terminal.press("+");
    terminal.wait_for("x2");
    terminal.press("Home");
    terminal.press("=");
    terminal.wait("the newest step again", |screen| {
        !screen.contains("pinned") && !screen.contains("x2")
    });

    terminal.tmux(&["resize-window", "-x", "40", "-y", "12"]);
    terminal.wait("the small screen", |screen| {
        !screen.contains("devices") && screen.contains("theory 27.3%")
    });
    terminal.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    terminal.wait_for("devices");

    terminal.press("q");
    terminal.closes("leave the run?", "Escape");
    terminal.press("C-c");
    terminal.answer("leave the run?", "s", "stop");
    let screen = terminal.wait_restored("exit=143");
    assert!(screen.contains("was stopped after") && screen.contains("bubble"), "{screen}");
    let trainer = terminal.trainer().unwrap();
    assert!(test_kill_process(trainer).is_err(), "the run has ended");
}

#[test]
fn one_detaches_and_the_run_goes_on() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 100_000);
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    terminal.press("q");
    terminal.answer("leave the run?", "d", "detach");
    let screen = terminal.wait_restored("exit=0");
    assert!(screen.contains("is still running as process"), "{screen}");
    goes_on(&terminal);
}

#[test]
fn a_run_that_ends_stays_on_the_screen_until_one_leaves() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 3);
    let screen = terminal.wait_for("the run has ended; q leaves");
    assert!(screen.contains("ENDED") && screen.contains("step 3/3"), "{screen}");
    terminal.press("q");
    let screen = terminal.wait_restored("exit=0");
    assert!(screen.contains("has ended after 3 of 3 steps"), "{screen}");
}

#[test]
fn a_run_that_is_killed_is_seen_at_once() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 100_000);
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    kill_process(terminal.trainer().unwrap(), Signal::KILL).unwrap();
    let screen = terminal.wait_for("failed: the process was killed");
    assert!(screen.contains("DIED"), "{screen}");
    terminal.press("q");
    terminal.wait_restored("exit=137");
}

#[test]
fn the_terminal_is_given_back_after_a_signal() {
    for (signal, exit) in
        [(Signal::TERM, "exit=143"), (Signal::HUP, "exit=129"), (Signal::INT, "exit=130")]
    {
        let Some(terminal) = Terminal::open() else { return };
        terminal.train("", 100_000);
        terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
        kill_process(terminal.monitor(), signal).unwrap();
        terminal.wait_restored(exit);
        goes_on(&terminal);
    }
}

/// The terminal is closed under the monitor. The monitor once stayed behind for ever and read the
/// end of a file as fast as a core can.
#[test]
fn a_terminal_that_goes_away_ends_the_monitor_and_not_the_run() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 100_000);
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    let monitor = terminal.monitor();
    terminal.tmux(&["kill-server"]);
    let began = Instant::now();
    while is_alive(monitor) {
        assert!(began.elapsed() < Duration::from_secs(20), "the monitor stays without a terminal");
        thread::sleep(POLL);
    }
    goes_on(&terminal);
}

#[test]
fn the_terminal_is_given_back_after_a_panic() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("PPTOP_TEST_PANIC=1", 100_000);
    let screen = terminal.wait_restored("exit=101");
    assert!(screen.contains("PPTOP_TEST_PANIC is set"), "{screen}");
}

#[test]
fn one_suspends_and_comes_back() {
    let Some(terminal) = Terminal::open() else { return };
    terminal.train("", 100_000);
    terminal.wait("a step", |screen| step(screen).is_some_and(|step| step >= 1));
    kill_process(terminal.monitor(), Signal::TSTP).unwrap();
    // The shell has the terminal, and says how the program was stopped.
    terminal.wait_restored("exit=1");
    terminal.tmux(&["send-keys", "-l", "clear; fg; echo left=$?"]);
    terminal.press("Enter");
    terminal.wait("the screen again", |screen| step(screen).is_some());
    assert_eq!(terminal.modes(), "1 1 0");
    terminal.press("q");
    terminal.answer("leave the run?", "d", "detach");
    terminal.wait_restored("left=0");
}
