//! Takes the terminal, and restores it in every case.
//!
//! A program that does not restore it leaves a shell without echo, on the wrong screen, with an
//! invisible cursor. So there is one [`leave`], which undoes everything and may be called any
//! number of times. Every end of the program calls it: the end of [`run`](super::run) and every
//! error through a guard, a panic through a hook, and signals through flags that the loop reads.

use std::io::{self, Stdout, Write as _, stdout};
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crossterm::cursor::{Hide, Show};
use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use crossterm::execute;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Position, Rect};
use rustix::process::{Signal, getpid, kill_process};
use signal_hook::consts::signal::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU};

use super::sixteen::Sixteen;
use super::tty::Tty;

/// Whether the terminal is ours at the moment.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// The thread that draws: only its panic may give the terminal back.
static UI_THREAD: Mutex<Option<ThreadId>> = Mutex::new(None);
/// What other threads said when they panicked, to be told when the terminal is given back.
static OTHER_PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn take(mouse: bool) -> io::Result<()> {
    TAKEN.store(true, Ordering::SeqCst);
    // The library believes that the mode is still what it has set: after a stop it is what the
    // shell has set.
    disable_raw_mode()?;
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, Hide, EnableBracketedPaste)?;
    if mouse { execute!(stdout(), EnableMouseCapture) } else { Ok(()) }
}

/// Gives the terminal back, if it is ours; may be called at any time, and more than once.
pub(crate) fn leave() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    // Each is tried even when another fails: the terminal may already be gone.
    let _ =
        execute!(stdout(), DisableMouseCapture, DisableBracketedPaste, LeaveAlternateScreen, Show);
    // Where somebody else has the terminal, its mode is theirs.
    if Tty::open().is_ok_and(|tty| tty.is_foreground()) {
        let _ = disable_raw_mode();
    }
    let mut panics = OTHER_PANICS.lock().unwrap_or_else(PoisonError::into_inner);
    for panic in panics.drain(..) {
        let _ = writeln!(io::stderr(), "{panic}");
    }
}

/// Whether the terminal may be drawn on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// It was ours, and is.
    Already,
    /// It was taken just now: nothing is on it.
    Anew,
    /// Somebody else has it.
    InBackground,
}

/// A terminal that is given back when this goes out of scope.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Sixteen<Stdout>>>,
    tty: Tty,
    mouse: bool,
}

impl Screen {
    /// The terminal of this thread; [`Screen::hold`] takes it, and the mouse as well if so wished.
    pub(crate) fn new(mouse: bool, few_colours: bool) -> io::Result<Self> {
        *UI_THREAD.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current().id());
        install_panic_hook();
        let terminal = Terminal::new(CrosstermBackend::new(Sixteen::new(stdout(), few_colours)))?;
        Ok(Self { terminal, tty: Tty::open()?, mouse })
    }

    pub(crate) fn terminal(&mut self) -> &mut Terminal<CrosstermBackend<Sixteen<Stdout>>> {
        &mut self.terminal
    }

    /// Where the keys come from.
    pub(crate) fn tty(&self) -> &Tty {
        &self.tty
    }

    /// Takes the terminal where it is not ours yet, or no longer as we left it: somebody may have
    /// stopped this process and let it go on. In the background nothing is taken, and what was
    /// taken is given back.
    pub(crate) fn hold(&mut self, signals: &Signals) -> io::Result<Held> {
        if !self.tty.is_foreground() {
            leave();
            return Ok(Held::InBackground);
        }
        let was_stopped = signals.take_continued();
        if TAKEN.load(Ordering::SeqCst) && !was_stopped {
            return Ok(Held::Already);
        }
        let taken = take(self.mouse).and_then(|()| self.clear());
        if taken.is_err() {
            leave();
        }
        taken.map(|()| Held::Anew)
    }

    /// Empties the screen, so that all of it is drawn again. The terminal is asked nothing: not
    /// every one answers.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::from((Position::ORIGIN, size)))
    }

    /// Gives the terminal back and stops this process until the shell lets it go on; then it has to
    /// be held anew.
    #[expect(clippy::unused_self, reason = "who has no screen has none to give back")]
    pub(crate) fn suspend(&mut self) -> io::Result<()> {
        leave();
        Ok(kill_process(getpid(), Signal::STOP)?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Makes a panic of the drawing thread readable: the terminal is restored before the message is
/// printed. The message of any other thread is kept until the terminal is restored.
fn install_panic_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let ui_thread = *UI_THREAD.lock().unwrap_or_else(PoisonError::into_inner);
            if ui_thread == Some(thread::current().id()) || !TAKEN.load(Ordering::SeqCst) {
                leave();
                before(info);
            } else {
                OTHER_PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(info.to_string());
            }
        }));
    });
}

/// How long the loop may take to follow a signal.
const PATIENCE: Duration = Duration::from_secs(1);

/// The exit code of a process that a signal has ended.
fn exit_code(signal: usize) -> i32 {
    128 + i32::try_from(signal).unwrap_or(0)
}

/// The signals that the loop looks for.
#[derive(Debug)]
pub(crate) struct Signals {
    /// The last signal that asks to end; 0 for none.
    ending: Arc<AtomicUsize>,
    suspending: Arc<AtomicBool>,
    continued: Arc<AtomicBool>,
}

impl Signals {
    /// From now on these signals only set flags.
    pub(crate) fn register() -> io::Result<Self> {
        let signals =
            Self { ending: Arc::default(), suspending: Arc::default(), continued: Arc::default() };
        for (signal, number) in [(SIGTERM, 15), (SIGHUP, 1), (SIGINT, 2)] {
            signal_hook::flag::register_usize(signal, Arc::clone(&signals.ending), number)?;
        }
        signal_hook::flag::register(SIGTSTP, Arc::clone(&signals.suspending))?;
        signal_hook::flag::register(SIGCONT, Arc::clone(&signals.continued))?;
        // In the background the terminal is left alone. Should it be touched all the same, a
        // process that these have stopped would not see that it is to end.
        for signal in [SIGTTOU, SIGTTIN] {
            signal_hook::flag::register(signal, Arc::default())?;
        }
        signals.watch_over_the_loop();
        Ok(signals)
    }

    /// The loop checks for signals between two waits. If it does not return from a wait, the
    /// process ends anyway.
    fn watch_over_the_loop(&self) {
        let ending = Arc::clone(&self.ending);
        let watch = move || {
            loop {
                thread::sleep(PATIENCE);
                if ending.load(Ordering::SeqCst) != 0 {
                    thread::sleep(PATIENCE);
                    // A terminal that accepts no more output blocks its writer.
                    let _ = thread::Builder::new().spawn(leave);
                    thread::sleep(PATIENCE);
                    std::process::exit(exit_code(ending.load(Ordering::SeqCst)));
                }
            }
        };
        // Without this thread the loop still looks for signals itself.
        let _ = thread::Builder::new().name("signals".to_owned()).spawn(watch);
    }

    /// The exit code that a signal to end asks for, once one has come.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        match self.ending.load(Ordering::SeqCst) {
            0 => None,
            number => Some(exit_code(number)),
        }
    }

    /// Whether this process was stopped and goes on since the last look.
    pub(crate) fn take_continued(&self) -> bool {
        self.continued.swap(false, Ordering::SeqCst)
    }

    /// Whether a signal to suspend has come since the last look.
    pub(crate) fn take_suspend(&self) -> bool {
        self.suspending.swap(false, Ordering::SeqCst)
    }
}
