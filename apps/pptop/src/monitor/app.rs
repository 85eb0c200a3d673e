//! The loop: read what is new, draw, look for keys and signals.

use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pp_telemetry::{EVENTS_FILE, Follower};
use ratatui::crossterm::event::{self, Event as Input, MouseButton, MouseEventKind};
use ratatui::layout::{Position, Rect};
use rustix::process::Signal;

use super::child::Trainer;
use super::input::Action;
use super::state::{Effect, State};
use super::summary::summary;
use super::terminal::{Screen, Signals};
use super::tty::{Found, Tty};
use super::view::{Theme, draw, target};

/// How long one waits for a key before the next look at the log.
const TICK: Duration = Duration::from_millis(100);
/// How long one reads a log that has much in it before the screen is drawn.
const READ_TIME: Duration = Duration::from_millis(40);
/// How often the screen is drawn when nothing has happened: some of it tells how long that is.
const REDRAW_EVERY: Duration = Duration::from_millis(500);

/// The exit code of a program whose terminal hangs up: 128 and the number of SIGHUP.
const HANGUP: i32 = 129;

/// For the end-to-end tests alone: set to `1`, the monitor panics after its first frame, so that a test can see that
/// the terminal is given back.
const TEST_PANIC: &str = "PPTOP_TEST_PANIC";

/// A run to be watched.
#[derive(Debug)]
pub struct Launch {
    /// Its directory, with its log.
    pub run_dir: PathBuf,
    /// The process that trains; its standard error goes to `stderr.log` in the directory.
    pub child: Child,
    /// Whether it was started by this program, so that leaving has to be asked about.
    pub launched_here: bool,
    /// Whether to draw with plain characters only.
    pub ascii: bool,
    /// Whether clicks and the wheel are taken; without, the terminal selects text with them.
    pub mouse: bool,
}

/// How the loop came to its end.
enum Ending {
    /// The user left, and the run goes on.
    Detached,
    /// The run is over, and the user has seen it.
    Over,
    /// A signal asks for this exit code.
    Signalled(i32),
}

/// Watches a run until the user leaves; then says on the normal screen what came of it.
///
/// The exit code is that of the run, 0 for a run that goes on, or that of the signal which ended the monitor.
///
/// # Errors
/// The terminal cannot be used. The run is not touched by that.
pub fn run(launch: Launch) -> anyhow::Result<i32> {
    let Launch { run_dir, child, launched_here, ascii, mouse } = launch;
    let theme = Theme::from_env(ascii);
    let signals = Signals::register().context("cannot look for signals")?;
    let mut app = App::new(&run_dir, Trainer::new(child, &run_dir), launched_here);
    let ending = {
        let mut screen = Screen::enter(mouse).context("cannot use the terminal")?;
        app.watch(&mut screen, &signals, theme)?
    };
    let code = match ending {
        Ending::Signalled(code) => return Ok(code),
        Ending::Detached => 0,
        Ending::Over => app.state.exit_code().unwrap_or(0),
    };
    // Whoever closes the pipe or the terminal here does not want the summary.
    let _ = stdout().write_all(summary(&app.state, &run_dir).as_bytes());
    Ok(code)
}

struct App {
    state: State,
    follower: Follower,
    trainer: Trainer,
    /// When the log last had something new.
    heard: Instant,
    drawn: Option<Instant>,
    leave_when_over: bool,
}

impl App {
    fn new(run_dir: &Path, trainer: Trainer, launched_here: bool) -> Self {
        Self {
            state: State::new(trainer.state().clone(), launched_here),
            follower: Follower::new(&run_dir.join(EVENTS_FILE)),
            trainer,
            heard: Instant::now(),
            drawn: None,
            leave_when_over: false,
        }
    }

    fn watch(
        &mut self,
        screen: &mut Screen,
        signals: &Signals,
        theme: Theme,
    ) -> anyhow::Result<Ending> {
        let tty = Tty::open().context("cannot find the terminal")?;
        let panics = std::env::var_os(TEST_PANIC).is_some_and(|value| value == "1");
        loop {
            if let Some(code) = signals.exit_code() {
                return Ok(Ending::Signalled(code));
            }
            if signals.take_suspend() {
                screen.suspend().context("cannot take the terminal back")?;
                self.drawn = None;
            }
            let (changed, more) = self.read();
            if self.leave_when_over && self.state.is_over() && !more {
                return Ok(Ending::Over);
            }
            if changed || self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW_EVERY) {
                screen
                    .terminal()
                    .draw(|frame| draw(frame, &self.state, theme))
                    .context("cannot draw on the terminal")?;
                self.drawn = Some(Instant::now());
                assert!(!panics, "{TEST_PANIC} is set");
            }
            // With more to read, only keys that are already there are taken.
            let wait = if more { Duration::ZERO } else { TICK };
            if tty.wait(wait).context("cannot wait for keys")? == Found::Gone {
                return Ok(Ending::Signalled(HANGUP));
            }
            while event::poll(Duration::ZERO).context("cannot read keys")? {
                let input = event::read().context("cannot read keys")?;
                self.drawn = None;
                if let Some(ending) = self.handle(&input, screen)? {
                    return Ok(ending);
                }
            }
        }
    }

    /// Reads what the log and the process have to say; tells whether there was anything, and whether there is more.
    fn read(&mut self) -> (bool, bool) {
        let was_over = self.state.is_over();
        // The process first: when it is gone, what is read afterwards is all that will ever be there.
        if let Err(error) = self.trainer.poll() {
            self.state.set_trouble(format!(
                "cannot look after process {}: {error}",
                self.trainer.state().pid
            ));
        }
        let began = Instant::now();
        let mut n_events = 0;
        let mut more = false;
        while self.state.trouble().is_none() {
            match self.follower.poll(|event| self.state.apply(&event)) {
                Ok(poll) => {
                    n_events += poll.n_events;
                    more = !poll.at_end;
                    if poll.at_end || began.elapsed() > READ_TIME {
                        break;
                    }
                }
                Err(error) => self.state.set_trouble(error.to_string()),
            }
        }
        if n_events > 0 {
            self.heard = Instant::now();
        }
        let child = if more { self.state.child().clone() } else { self.trainer.state().clone() };
        self.state.observe(child, self.heard.elapsed().as_secs_f64(), self.follower.n_bad_lines());
        (n_events > 0 || self.state.is_over() != was_over, more && self.state.trouble().is_none())
    }

    fn handle(&mut self, input: &Input, screen: &mut Screen) -> anyhow::Result<Option<Ending>> {
        let action = match input {
            Input::Key(key) => self.state.keymap().action_of(*key, self.state.overlay()),
            Input::Mouse(mouse) => match mouse.kind {
                MouseEventKind::ScrollUp => Some(Action::Scroll(-1)),
                MouseEventKind::ScrollDown => Some(Action::Scroll(1)),
                MouseEventKind::Down(MouseButton::Left) => {
                    let size = screen.terminal().size().context("cannot use the terminal")?;
                    let area = Rect::from((Position::ORIGIN, size));
                    if let Some(target) = target(&self.state, area, mouse.column, mouse.row) {
                        self.state.point_at(target);
                    }
                    None
                }
                _ => None,
            },
            _ => None,
        };
        let Some(effect) = action.and_then(|action| self.state.act(action)) else {
            return Ok(None);
        };
        match effect {
            Effect::Detach => return Ok(Some(Ending::Detached)),
            Effect::Leave => return Ok(Some(Ending::Over)),
            Effect::Stop { then_leave } => {
                self.leave_when_over = then_leave;
                self.signal(Signal::TERM);
            }
            Effect::Kill => self.signal(Signal::KILL),
            Effect::Ask(_)
            | Effect::Seek(_)
            | Effect::Snapshot
            | Effect::ExportTrace(_)
            | Effect::Run(_) => {}
            Effect::Redraw => screen.terminal().clear().context("cannot draw on the terminal")?,
            Effect::Suspend => screen.suspend().context("cannot take the terminal back")?,
        }
        Ok(None)
    }

    fn signal(&mut self, signal: Signal) {
        if let Err(error) = self.trainer.signal(signal) {
            self.state
                .set_trouble(format!("cannot end process {}: {error}", self.trainer.state().pid));
        }
    }
}
