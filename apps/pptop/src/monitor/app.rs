//! The loop: read what is new, draw, look for keys and signals.

use std::io::{Write as _, stdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossterm::event::{Event as Input, KeyEvent, MouseButton, MouseEventKind};
use pp_telemetry::{NotProven, Request};
use ratatui::layout::{Position, Rect};

use super::accountant::Accountant;
use super::batch::Batch;
use super::errand::{Errands, Purpose, purpose_of};
use super::input::{Action, Keymap};
use super::screenshot::Screenshot;
use super::state::{Effect, OtherRun};
use super::summary::summary;
use super::terminal::{Held, Screen, Signals};
use super::tty::Found;
use super::view::{Theme, draw, target};
use super::watched::{Read, Watch, Watched};
use crate::ability::in_ascii;
use crate::monitor::screen::View;

/// How often the screen is drawn when nothing has happened: parts of it show elapsed time.
const REDRAW_EVERY: Duration = Duration::from_millis(500);
/// The least interval between two accounts of the time.
const ACCOUNT_EVERY: Duration = Duration::from_secs(1);

/// The note for a key that arrived in a burst, as pasted text does.
const PASTED: &str = "ignored: this key looked like pasted text; press it again";

/// The exit code of a program whose terminal hangs up: 128 and the number of SIGHUP.
const HANGUP: i32 = 129;

/// Only for the end-to-end tests: if set to `1`, the monitor panics after its first frame, so that
/// a test can check that the terminal is restored.
#[cfg(feature = "fault-injection")]
const TEST_PANIC: &str = "PPTOP_TEST_PANIC";

/// What to watch, and how.
#[derive(Debug)]
pub struct Launch {
    /// The runs.
    pub runs: Vec<Watch>,
    /// Colours and characters.
    pub theme: Theme,
    /// Which key does what.
    pub keymap: Keymap,
    /// Whether clicks and the wheel are taken.
    pub mouse: bool,
    /// How long one waits for a key before the next look at the log.
    pub interval: Duration,
    /// Whether nothing may be done to the run.
    pub read_only: bool,
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

/// Watches runs until the user leaves. Then it prints on the normal screen how the shown run ended.
///
/// The exit code is that of a run that was started here, 0 for a run that goes on or was found, or
/// that of the signal which ended the monitor.
///
/// # Errors
/// The terminal cannot be used, or there is no run to watch. The runs are not touched by that.
pub fn run(launch: Launch) -> anyhow::Result<i32> {
    watch_all(launch, false)
}

fn watch_all(launch: Launch, is_compared: bool) -> anyhow::Result<i32> {
    let (theme, mouse, interval) = (launch.theme, launch.mouse, launch.interval);
    let signals = Signals::register().context("cannot listen for signals")?;
    let mut app = App::new(launch);
    anyhow::ensure!(!app.runs.is_empty(), "there is no run to watch");
    if is_compared {
        app.runs[0].state.set_view(View::Loss);
        app.lay_next_over();
    }
    let ending = {
        let mut screen =
            Screen::new(mouse, theme.few_colours).context("cannot use the terminal")?;
        app.watch(&mut screen, &signals, theme, interval)?
    };
    let watched = &app.runs[app.at];
    let code = match ending {
        Ending::Signalled(code) => return Ok(code),
        Ending::Over if watched.is_child() => watched.state.exit_code().unwrap_or(0),
        Ending::Detached | Ending::Over => 0,
    };
    // A user who closes the pipe or the terminal here does not want the summary.
    let summary = summary(&watched.state, &watched.dir);
    let summary = if theme.ascii { in_ascii(&summary) } else { summary };
    let _ = stdout().write_all(summary.as_bytes());
    Ok(code)
}

/// The same for two runs: the loss of the second is laid over that of the first.
///
/// # Errors
/// As [`run`].
pub fn compare(launch: Launch) -> anyhow::Result<i32> {
    watch_all(launch, true)
}

struct App {
    /// What the clock of the questions counts from.
    began: Instant,
    /// At least one.
    runs: Vec<Watched>,
    at: usize,
    keymap: Arc<Keymap>,
    /// The run that is laid over that one in the view of the loss.
    over: Option<usize>,
    errands: Errands,
    accountant: Accountant,
    drawn: Option<Instant>,
    /// When the notes were last told how much time has passed.
    passed: Instant,
    /// When one may look again where the time goes; `None` for now.
    account_at: Option<Instant>,
    leave_when_over: bool,
}

impl App {
    fn new(launch: Launch) -> Self {
        let keymap = Arc::new(launch.keymap);
        let n_runs = launch.runs.len();
        let mut runs: Vec<Watched> = launch.runs.into_iter().map(Watched::new).collect();
        for (at, watched) in runs.iter_mut().enumerate() {
            watched.state.set_place(at, n_runs);
            watched.state.set_keymap(Arc::clone(&keymap));
            watched.state.set_read_only(launch.read_only);
        }
        Self {
            began: Instant::now(),
            runs,
            at: 0,
            keymap,
            over: None,
            errands: Errands::new(),
            accountant: Accountant::new(),
            drawn: None,
            passed: Instant::now(),
            account_at: None,
            leave_when_over: false,
        }
    }

    fn watch(
        &mut self,
        screen: &mut Screen,
        signals: &Signals,
        theme: Theme,
        interval: Duration,
    ) -> anyhow::Result<Ending> {
        #[cfg(feature = "fault-injection")]
        let panics = std::env::var_os(TEST_PANIC).is_some_and(|value| value == "1");
        loop {
            if let Some(code) = signals.exit_code() {
                return Ok(Ending::Signalled(code));
            }
            if signals.take_suspend() {
                screen.suspend().context("cannot stop")?;
            }
            match screen.hold(signals).context("cannot take the terminal")? {
                Held::Already => {}
                Held::Anew => self.drawn = None,
                // The foreground job keeps the terminal; signals are still handled.
                Held::InBackground => {
                    if screen.tty().wait_gone(interval).context("cannot wait")? == Found::Gone {
                        return Ok(Ending::Signalled(HANGUP));
                    }
                    continue;
                }
            }
            let (read, more_of_any) = self.read();
            self.pass();
            let state = &self.runs[self.at].state;
            if self.leave_when_over && state.is_over() && !read.more {
                return Ok(Ending::Over);
            }
            if read.changed || self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW_EVERY) {
                self.account(read.more);
                self.lay_over();
                let state = &self.runs[self.at].state;
                screen
                    .terminal()
                    .draw(|frame| draw(frame, state, theme))
                    .context("cannot draw on the terminal")?;
                self.drawn = Some(Instant::now());
                #[cfg(feature = "fault-injection")]
                assert!(!panics, "{TEST_PANIC} is set");
            }
            // With more to read, only keys that are already there are taken.
            let wait = if more_of_any { Duration::ZERO } else { interval };
            if screen.tty().wait(wait).context("cannot wait for keys")? == Found::Gone {
                return Ok(Ending::Signalled(HANGUP));
            }
            let keymap = Arc::clone(&self.keymap);
            let writes = |key: &KeyEvent| keymap.has_consequences(*key);
            let batch = Batch::read(screen.tty(), writes).context("cannot read keys")?;
            for input in &batch.inputs {
                if let Some(ending) = self.handle(input, batch.is_pasted, screen, theme)? {
                    return Ok(ending);
                }
            }
        }
    }

    /// Lets time pass for what is shown for some seconds only.
    fn pass(&mut self) {
        let elapsed = std::mem::replace(&mut self.passed, Instant::now()).elapsed();
        for (at, watched) in self.runs.iter_mut().enumerate() {
            if watched.state.pass(elapsed) && at == self.at {
                self.drawn = None;
            }
        }
    }

    /// Reads from all logs and processes. Returns what was read of the shown run, and whether any
    /// log has more.
    fn read(&mut self) -> (Read, bool) {
        let (mut shown, mut more_of_any) = (Read::default(), false);
        for (at, watched) in self.runs.iter_mut().enumerate() {
            let read = watched.read();
            more_of_any |= read.more;
            if at == self.at {
                shown = read;
            }
        }
        for (run, looked) in self.accountant.found() {
            self.runs[run].state.looked(looked);
            shown.changed |= run == self.at;
        }
        let outcomes: Vec<_> = self.errands.back().collect();
        for outcome in outcomes {
            if !outcome.is_good && outcome.purpose == Purpose::End {
                self.not_stopping(outcome.run);
            }
            let state = &mut self.runs[outcome.run].state;
            if outcome.is_good {
                state.set_note(outcome.note);
            } else {
                state.set_error(outcome.note);
            }
            shown.changed = true;
        }
        (shown, more_of_any)
    }

    /// That a run should end did not reach it.
    fn not_stopping(&mut self, run: usize) {
        self.runs[run].state.not_stopping();
        self.leave_when_over = false;
    }

    /// Lays the next of the other runs over this one; after the last of them none.
    fn lay_next_over(&mut self) {
        let from = self.over.map_or(0, |over| over + 1);
        self.over = (from..self.runs.len()).find(|&run| run != self.at);
        self.lay_over();
    }

    /// Brings what is laid over this run up to date.
    fn lay_over(&mut self) {
        let Some(over) = self.over.filter(|&over| over != self.at) else {
            if self.runs[self.at].state.loss().other().is_some() {
                self.runs[self.at].state.lay_over(None);
            }
            return;
        };
        let (id, model) = (self.runs[over].dir.file_name(), self.runs[over].state.model());
        let name = match (model.hello(), id) {
            (Some(hello), _) => hello.run.clone(),
            (None, Some(id)) => id.to_string_lossy().into_owned(),
            (None, None) => "the other run".to_owned(),
        };
        let known = self.runs[self.at].state.loss().other();
        if known.is_some_and(|known| known.name == name && known.step == model.step()) {
            return;
        }
        let other = OtherRun::of(&name, model);
        self.runs[self.at].state.lay_over(Some(other));
    }

    /// Asks where the time goes, when somebody wants to see it and it is time for that.
    fn account(&mut self, more: bool) {
        let state = &mut self.runs[self.at].state;
        // What is read of a log is soon all that there is; a fast replay has always more.
        let is_wanted = matches!(state.view(), View::Overview | View::Devices | View::Bubble)
            && (!more || state.playback().is_some());
        if is_wanted && self.account_at.is_none_or(|at| Instant::now() >= at) {
            if let Some(question) = state.question() {
                self.accountant.ask(self.at, question);
            }
            self.account_at = Some(Instant::now() + ACCOUNT_EVERY);
        }
    }

    fn handle(
        &mut self,
        input: &Input,
        is_pasted: bool,
        screen: &mut Screen,
        theme: Theme,
    ) -> anyhow::Result<Option<Ending>> {
        let state = &mut self.runs[self.at].state;
        state.set_now(self.began.elapsed());
        let action = match input {
            Input::Key(key) => {
                let action = state.keymap().action_of(*key, state.at(), state.overlay());
                match action.filter(|action| is_pasted && !state.takes_pasted(*action)) {
                    Some(_) => {
                        state.set_note(PASTED.to_owned());
                        self.drawn = None;
                        None
                    }
                    None => action,
                }
            }
            Input::Paste(text) => {
                state.paste(text);
                self.drawn = None;
                None
            }
            Input::Resize(..) => {
                self.drawn = None;
                None
            }
            Input::Mouse(mouse) => match mouse.kind {
                MouseEventKind::ScrollUp => Some(Action::Scroll(-1)),
                MouseEventKind::ScrollDown => Some(Action::Scroll(1)),
                MouseEventKind::Down(MouseButton::Left) => {
                    let size = screen.terminal().size().context("cannot use the terminal")?;
                    let area = Rect::from((Position::ORIGIN, size));
                    if let Some(target) = target(state, area, mouse.column, mouse.row) {
                        state.point_at(target);
                        self.drawn = None;
                    }
                    None
                }
                _ => None,
            },
            _ => None,
        };
        // What means nothing, such as a mouse that moves, changes nothing.
        let Some(action) = action else { return Ok(None) };
        self.drawn = None;
        if matches!(action, Action::Show(View::Overview | View::Devices | View::Bubble)) {
            self.account_at = None;
        }
        if action == Action::Stop {
            let why = self.runs[self.at].out_of_reach();
            self.runs[self.at].state.set_out_of_reach(why);
        }
        match self.runs[self.at].state.act(action) {
            Some(effect) => self.bring_about(effect, screen, theme),
            None => Ok(None),
        }
    }

    /// Does what lies outside of the state.
    fn bring_about(
        &mut self,
        effect: Effect,
        screen: &mut Screen,
        theme: Theme,
    ) -> anyhow::Result<Option<Ending>> {
        let n_runs = self.runs.len();
        let watched = &mut self.runs[self.at];
        match effect {
            Effect::Detach => return Ok(Some(Ending::Detached)),
            Effect::Leave => return Ok(Some(Ending::Over)),
            Effect::Stop { then_leave } => {
                self.leave_when_over = then_leave;
                self.stop();
            }
            Effect::Kill => self.kill(),
            Effect::Ask(request) => self.ask(request),
            Effect::Seek(step) => watched.seek(step),
            Effect::Restart => watched.play_again(),
            Effect::Run(by) => {
                let view = watched.state.view();
                let on = if by < 0 { n_runs - 1 } else { 1 };
                self.at = (self.at + on) % n_runs;
                self.runs[self.at].state.set_view(view);
                self.account_at = None;
            }
            Effect::Compare => self.lay_next_over(),
            Effect::Snapshot => {
                // After a draw the terminal holds an empty buffer for the next one.
                let size = screen.terminal().size().context("cannot use the terminal")?;
                let size = (size.width, size.height);
                let text = Screenshot::of_state(&watched.state, size, theme).text();
                let step = watched.state.model().step();
                self.errands.snapshot(self.at, text, &watched.files, step);
            }
            Effect::ExportTrace(step) => {
                self.errands.export_trace(self.at, watched.log.clone(), &watched.files, step);
            }
            Effect::Redraw => screen.clear().context("cannot draw on the terminal")?,
            Effect::Suspend => screen.suspend().context("cannot stop")?,
        }
        Ok(None)
    }

    /// Asks the run to end: by a signal where it was started here, else over its socket.
    fn stop(&mut self) {
        if !self.runs[self.at].is_child() {
            self.ask(Request::Stop);
        } else if !self.runs[self.at].terminate_child() {
            self.not_stopping(self.at);
        }
    }

    fn kill(&mut self) {
        if !self.runs[self.at].kill() {
            self.not_stopping(self.at);
        }
    }

    fn ask(&mut self, request: Request) {
        let watched = &mut self.runs[self.at];
        if watched.has_process() {
            self.errands.ask(self.at, watched.dir.clone(), request);
        } else {
            watched.state.set_error(NotProven::NoStatus.to_string());
            if purpose_of(request) == Purpose::End {
                self.not_stopping(self.at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use pp_telemetry::Run;
    use tempfile::TempDir;

    use super::*;
    use crate::monitor::screen::Choice;
    use crate::monitor::state::ChildState;

    const LOG: &[u8] = include_bytes!("../../tests/fixtures/one_f_one_b_p4_m8.jsonl");

    /// A folder with a log in it, removed after its test.
    struct Folder(TempDir);

    impl Folder {
        fn new(log: &[u8]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(pp_telemetry::EVENTS_FILE), log).unwrap();
            Self(dir)
        }

        fn run(&self) -> Box<Run> {
            Box::new(Run::of(self.0.path()).unwrap().unwrap())
        }
    }

    fn app(runs: Vec<Watch>) -> App {
        App::new(Launch {
            runs,
            theme: Theme::plain(false, false),
            keymap: Keymap::default(),
            mouse: false,
            interval: Duration::from_millis(100),
            read_only: false,
        })
    }

    /// Reads until an errand has come back.
    fn read_note(app: &mut App) -> String {
        app.runs[0].state.set_note(String::new());
        loop {
            app.read();
            if let Some(note) = app.runs[0].state.note().filter(|note| !note.is_empty()) {
                return note.to_owned();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn only_what_should_have_ended_the_run_takes_that_back() {
        let hello = LOG.split_inclusive(|&byte| byte == b'\n').next().unwrap();
        let folder = Folder::new(hello);
        let mut app = app(vec![Watch::Found(folder.run())]);
        app.read();
        // Nothing can be asked of a run whose process is unknown.
        let known = ChildState { pid: std::process::id(), ..ChildState::default() };
        app.runs[0].state.observe(known, 0.0, 0);
        app.runs[0].state.act(Action::Stop);
        app.runs[0].state.set_now(Duration::from_secs(1));
        app.runs[0].state.act(Action::Choose(Choice::Stop));
        let effect = app.runs[0].state.act(Action::Accept);
        assert_eq!(effect, Some(Effect::Stop { then_leave: false }));
        app.leave_when_over = true;
        let is_stopping = |app: &App| (app.runs[0].state.is_stopping(), app.leave_when_over);
        app.errands.snapshot(0, String::new(), Path::new("/nonexistent"), 1);
        assert!(read_note(&mut app).contains("cannot write /nonexistent/screen-1.txt"));
        app.errands.ask(0, "/nonexistent".into(), Request::Checkpoint);
        read_note(&mut app);
        assert_eq!(is_stopping(&app), (true, true));
        app.errands.ask(0, "/nonexistent".into(), Request::CheckpointAndStop);
        read_note(&mut app);
        assert_eq!(is_stopping(&app), (false, false));
    }

    #[test]
    fn a_replay_is_accounted_for_while_there_is_more_and_a_log_when_it_is_read() {
        let folder = Folder::new(LOG);
        let replay =
            Watch::Replay { run: folder.run(), speed: 1.0, start: Some(9), is_loop: false };
        for (watch, is_found) in [(replay, true), (Watch::Found(folder.run()), false)] {
            let mut app = app(vec![watch]);
            app.runs[0].state.set_view(View::Bubble);
            app.account(true);
            let bubble = app.runs[0].state.bubble();
            assert_eq!(bubble.is_computing(), is_found);
            assert!(bubble.found().is_none(), "the loop does not wait for it");
            app.account_at = None;
            app.account(false);
            assert!(app.runs[0].state.bubble().is_computing());
            // It is there some time later, when the loop looks.
            while app.runs[0].state.bubble().is_computing() {
                std::thread::sleep(Duration::from_millis(1));
                app.read();
            }
            assert!(app.runs[0].state.bubble().found().is_some());
        }
    }
}
