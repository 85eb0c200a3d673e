//! The list in a terminal: it reads the runs again and again, draws, and does what keys ask for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossterm::event::{
    Event as Input, KeyCode, KeyEvent, KeyEventKind, MouseButton, MouseEventKind,
};
use pp_telemetry::{Run, list_runs, remove};
use ratatui::layout::{Position, Rect};

use super::comparison::Comparison;
use super::row::Row;
use super::state::{Over, RunsAction, RunsEffect, RunsState};
use super::view::{At, at, draw};
use crate::config::Key;
use crate::monitor::batch::Batch;
use crate::monitor::input::{Action, Keymap};
use crate::monitor::terminal::{Held, Screen, Signals};
use crate::monitor::tty::Found;
use crate::monitor::view::Theme;

/// How often the runs are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The exit code of a program whose terminal hangs up: 128 and the number of SIGHUP.
const HANGUP: i32 = 129;
const PASTED: &str = "ignored: this key looked like pasted text; press it again";

/// Which runs are listed, and how.
#[derive(Debug)]
pub struct ListLaunch<'a> {
    /// The folder of all runs.
    pub runs_dir: &'a Path,
    /// Colours and characters.
    pub theme: Theme,
    /// Which key does what.
    pub keymap: &'a Keymap,
    /// Whether clicks and the wheel are taken.
    pub mouse: bool,
    /// How long one waits for a key.
    pub interval: Duration,
}

/// What came of the list.
#[derive(Debug)]
pub enum Chosen {
    /// Nothing: the user has left.
    Nothing,
    /// A run is to be watched.
    Open(Box<Run>),
    /// A run is to be played again.
    Replay(Box<Run>),
    /// The losses of two runs are to be laid over each other.
    LayOver([Box<Run>; 2]),
    /// A signal has ended it, with this exit code.
    Signalled(i32),
}

/// Shows the list until a run is chosen or the user leaves. `state` keeps where one is for the next
/// time.
///
/// # Errors
/// The terminal cannot be used, or the folder not be read.
pub fn choose(launch: &ListLaunch<'_>, state: &mut Option<RunsState>) -> anyhow::Result<Chosen> {
    let signals = Signals::register().context("cannot listen for signals")?;
    let mut rows = Rows::default();
    let found = rows.read(launch.runs_dir).context("cannot read the runs")?;
    let state = match state {
        Some(state) => {
            state.set_rows(found);
            state
        }
        None => state.insert(RunsState::new(found)),
    };
    let mut screen =
        Screen::new(launch.mouse, launch.theme.few_colours).context("cannot use the terminal")?;
    let mut list = List::new();
    loop {
        if let Some(code) = signals.exit_code() {
            return Ok(Chosen::Signalled(code));
        }
        if signals.take_suspend() {
            screen.suspend().context("cannot stop")?;
        }
        match screen.hold(&signals).context("cannot take the terminal")? {
            Held::Already => {}
            Held::Anew => list.is_drawn = false,
            Held::InBackground => {
                if screen.tty().wait_gone(launch.interval).context("cannot wait")? == Found::Gone {
                    return Ok(Chosen::Signalled(HANGUP));
                }
                continue;
            }
        }
        list.look(launch.runs_dir, &mut rows, state);
        if !list.is_drawn {
            let drawn = screen.terminal().draw(|frame| draw(frame, state, launch.theme));
            drawn.context("cannot draw on the terminal")?;
            list.is_drawn = true;
        }
        let wait = screen.tty().wait(launch.interval).context("cannot wait for keys")?;
        if wait == Found::Gone {
            return Ok(Chosen::Signalled(HANGUP));
        }
        let writes = |key: &KeyEvent| {
            action_of(launch.keymap, state, *key).is_some_and(RunsAction::has_consequences)
        };
        let batch = Batch::read(screen.tty(), writes).context("cannot read keys")?;
        for input in &batch.inputs {
            state.set_now(list.began.elapsed());
            let Some(action) = list.take(input, launch.keymap, state, &mut screen)? else {
                continue;
            };
            if batch.is_pasted && !state.takes_pasted(action) {
                state.set_note(PASTED.to_owned());
                continue;
            }
            match state.act(action) {
                None => {}
                Some(RunsEffect::Leave) => return Ok(Chosen::Nothing),
                Some(RunsEffect::Open(dir)) => match run_of(&dir) {
                    Ok(run) => return Ok(Chosen::Open(run)),
                    Err(why) => state.set_note(why),
                },
                Some(RunsEffect::Replay(dir)) => match run_of(&dir) {
                    Ok(run) => return Ok(Chosen::Replay(run)),
                    Err(why) => state.set_note(why),
                },
                Some(RunsEffect::Delete(dir)) => {
                    state.set_note(delete(&dir));
                    list.looked = None;
                }
                Some(RunsEffect::Compare(dirs)) => list.compare(dirs),
                Some(RunsEffect::LayOver([first, second])) => {
                    match (run_of(&first), run_of(&second)) {
                        (Ok(first), Ok(second)) => return Ok(Chosen::LayOver([first, second])),
                        (Err(why), _) | (_, Err(why)) => state.set_note(why),
                    }
                }
                Some(RunsEffect::Redraw) => {
                    screen.terminal().clear().context("cannot draw on the terminal")?;
                }
                Some(RunsEffect::Suspend) => screen.suspend().context("cannot stop")?,
            }
        }
    }
}

/// What the loop keeps between two looks.
struct List {
    began: Instant,
    looked: Option<Instant>,
    is_drawn: bool,
    sender: Sender<Result<Comparison, String>>,
    receiver: Receiver<Result<Comparison, String>>,
}

impl List {
    fn new() -> Self {
        let (sender, receiver) = channel();
        let began = Instant::now();
        Self { began, looked: Some(began), is_drawn: false, sender, receiver }
    }

    /// Reads the runs when it is time for that, and takes what was read of two logs.
    fn look(&mut self, runs_dir: &Path, rows: &mut Rows, state: &mut RunsState) {
        for came in self.receiver.try_iter() {
            match came {
                Ok(comparison) => state.show_comparison(comparison),
                Err(why) => state.set_note(why),
            }
            self.is_drawn = false;
        }
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        self.is_drawn = false;
        match rows.read(runs_dir) {
            Ok(found) => state.set_rows(found),
            Err(error) => state.set_note(format!("cannot read the runs: {error}")),
        }
    }

    /// What an event asks for; a click chooses at once.
    fn take(
        &mut self,
        input: &Input,
        keymap: &Keymap,
        state: &mut RunsState,
        screen: &mut Screen,
    ) -> anyhow::Result<Option<RunsAction>> {
        let action = match input {
            Input::Key(key) => action_of(keymap, state, *key),
            Input::Paste(text) => {
                state.paste(text);
                None
            }
            Input::Resize(..) => None,
            Input::Mouse(mouse) => match mouse.kind {
                MouseEventKind::ScrollUp => Some(RunsAction::Move(-1)),
                MouseEventKind::ScrollDown => Some(RunsAction::Move(1)),
                MouseEventKind::Down(MouseButton::Left) => {
                    let size = screen.terminal().size().context("cannot use the terminal")?;
                    let area = Rect::from((Position::ORIGIN, size));
                    match at(state, area, mouse.column, mouse.row) {
                        Some(At::Row(row)) => state.choose_at(row),
                        Some(At::Answer(answer)) => state.choose_answer(answer),
                        None => {}
                    }
                    None
                }
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        self.is_drawn = false;
        Ok(action)
    }

    /// Reads two logs beside everything else: a compressed one may take a while.
    fn compare(&self, dirs: [PathBuf; 2]) {
        let sender = self.sender.clone();
        let work = move || {
            let read = || -> Result<Comparison, String> {
                let (first, second) = (run_of(&dirs[0])?, run_of(&dirs[1])?);
                Ok(Comparison::read([&first, &second]))
            };
            // Without a receiver, the outcome is not needed.
            let _ = sender.send(read());
        };
        if let Err(error) = std::thread::Builder::new().name("compare".to_owned()).spawn(work) {
            let _ = self.sender.send(Err(format!("cannot read the logs now: {error}")));
        }
    }
}

/// What a key asks for: the keys of the monitor mean here what they mean there.
fn action_of(keymap: &Keymap, state: &RunsState, event: KeyEvent) -> Option<RunsAction> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let key = Key::of(event)?;
    let typed = match event.code {
        KeyCode::Char(letter) if key.is_plain() => Some(letter),
        _ => None,
    };
    let is_way_out = "Ctrl-c".parse() == Ok(key);
    match state.over() {
        Some(Over::Ask(dialog)) => {
            return match (event.code, typed) {
                _ if is_way_out => Some(RunsAction::Back),
                (KeyCode::Enter, _) if event.kind == KeyEventKind::Repeat => None,
                (KeyCode::Enter, _) => Some(RunsAction::Accept),
                (KeyCode::Esc, _) => Some(RunsAction::Back),
                (KeyCode::Down | KeyCode::Right | KeyCode::Tab, _) | (_, Some('j')) => {
                    Some(RunsAction::Answer(1))
                }
                (KeyCode::Up | KeyCode::Left | KeyCode::BackTab, _) | (_, Some('k')) => {
                    Some(RunsAction::Answer(-1))
                }
                (_, Some(letter)) => dialog.choice_of(letter).map(RunsAction::Choose),
                _ => None,
            };
        }
        Some(Over::Prompt(_)) => {
            return match (event.code, typed) {
                _ if is_way_out => Some(RunsAction::Back),
                (KeyCode::Enter, _) => Some(RunsAction::Accept),
                (KeyCode::Backspace, _) => Some(RunsAction::Erase),
                (KeyCode::Esc, _) => Some(RunsAction::Back),
                (_, Some(letter)) => Some(RunsAction::Type(letter)),
                _ => None,
            };
        }
        _ if is_way_out => return Some(RunsAction::Quit),
        Some(Over::Comparison(_)) | None => {}
    }
    let action = match keymap.anywhere(key) {
        Some(Action::Quit) => Some(RunsAction::Quit),
        Some(Action::Back) => Some(RunsAction::Back),
        Some(Action::Scroll(by)) => Some(RunsAction::Move(by)),
        Some(Action::Page(by)) => Some(RunsAction::Page(by * 10)),
        Some(Action::Edge { last }) => Some(RunsAction::Edge { last }),
        Some(Action::Filter) => Some(RunsAction::Filter),
        Some(Action::Sort) => Some(RunsAction::Sort),
        Some(Action::Freeze) => Some(RunsAction::Mark),
        Some(Action::Enter) => Some(RunsAction::Open),
        Some(Action::Redraw) => Some(RunsAction::Redraw),
        Some(Action::Suspend) => Some(RunsAction::Suspend),
        _ => None,
    };
    let action = action.or(match (event.code, typed) {
        (KeyCode::Home, _) => Some(RunsAction::Edge { last: false }),
        (KeyCode::End, _) => Some(RunsAction::Edge { last: true }),
        (KeyCode::Delete, _) | (_, Some('d')) => Some(RunsAction::Delete),
        (_, Some('c')) => Some(RunsAction::Compare),
        (_, Some('r')) => Some(RunsAction::Replay),
        _ => None,
    });
    let is_held = event.kind == KeyEventKind::Repeat;
    action.filter(|a| !is_held || matches!(a, RunsAction::Move(_) | RunsAction::Page(_)))
}

fn run_of(dir: &Path) -> Result<Box<Run>, String> {
    match Run::of(dir) {
        Ok(Some(run)) => Ok(Box::new(run)),
        Ok(None) => Err(format!("{} no longer holds a run", dir.display())),
        Err(error) => Err(format!("cannot read {}: {error}", dir.display())),
    }
}

/// Removes the files of a run that is over, and says what came of it. How it stands is looked at
/// once more: the question may have been open for long.
fn delete(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let run = match run_of(dir) {
        Ok(run) => run,
        Err(why) => return why,
    };
    if run.standing().is_alive() {
        return format!("{name} has not ended; nothing was deleted");
    }
    match remove(dir) {
        Ok(()) => format!("{name} was deleted"),
        Err(error) => format!("{name} was not deleted: {error}"),
    }
}

/// Rows that were made; what has not changed is not read again.
#[derive(Debug, Default)]
struct Rows {
    before: Vec<Row>,
}

impl Rows {
    fn read(&mut self, runs_dir: &Path) -> io::Result<Vec<Row>> {
        let rows: Vec<Row> = list_runs(runs_dir)?
            .into_iter()
            .map(|run| {
                let same = self.before.iter().find(|row| {
                    row.run.dir == run.dir
                        && (row.run.bytes, row.run.modified) == (run.bytes, run.modified)
                });
                match same {
                    Some(row) if run.status.is_none() => row.clone(),
                    _ => Row::of(run),
                }
            })
            .collect();
        self.before.clone_from(&rows);
        Ok(rows)
    }
}
