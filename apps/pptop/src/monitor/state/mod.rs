//! What the monitor knows and what it looks at. Nothing here reads a file, a clock or the terminal.

mod dialog;
mod timeline;

use pp_telemetry::{Event, Model};

pub use dialog::Choice;
pub(crate) use dialog::Dialog;
pub(crate) use timeline::TimelineState;

use super::input::Action;

/// A run without a sign of life for this long, and for three steps, is called stale.
const STALE_SECONDS_MIN: f64 = 5.0;

/// Exit codes of a process that a signal has ended.
const CODE_HUP: i32 = 129;
const CODE_INT: i32 = 130;
const CODE_KILL: i32 = 137;
const CODE_TERM: i32 = 143;

/// What is known of the process that trains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChildState {
    /// Its process id.
    pub pid: u32,
    /// Its exit code, once it has ended; 128 and the signal for one that was killed.
    pub code: Option<i32>,
    /// The last line that it wrote to its standard error.
    pub last_error: Option<String>,
}

/// How the run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Status {
    /// The process runs, but has not said yet what it trains.
    Starting,
    /// It trains.
    Live,
    /// It trains, and the screen stands still.
    Frozen,
    /// Nothing was heard of it for so many seconds.
    Stale(f64),
    /// Somebody ended it.
    Stopped,
    /// It has ended with this exit code.
    Ended(i32),
}

/// What lies over the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlay {
    /// The keys.
    Help,
    /// A question.
    Ask(Dialog),
}

/// What the program has to do for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Leave, and let the run go on.
    Detach,
    /// Leave: the run is over.
    Leave,
    /// Ask the run to end after its step; leave when it has, if so wished.
    Stop {
        /// Whether to leave when it has ended.
        then_leave: bool,
    },
    /// End the run at once.
    Kill,
    /// Draw everything anew.
    Redraw,
    /// Give the terminal back to the shell for a while.
    Suspend,
}

/// What the monitor knows and what it looks at.
#[derive(Debug, Clone)]
pub struct State {
    model: Model,
    /// What the screen shows while it stands still.
    frozen: Option<Box<Model>>,
    child: ChildState,
    launched_here: bool,
    overlay: Option<Overlay>,
    timeline: TimelineState,
    first_rank: usize,
    stopping: bool,
    silent_seconds: f64,
    n_bad_lines: u64,
    trouble: Option<String>,
}

impl State {
    /// A run that was just started, or found; `launched_here` says that leaving has to be asked about.
    pub fn new(child: ChildState, launched_here: bool) -> Self {
        Self {
            model: Model::new(),
            frozen: None,
            child,
            launched_here,
            overlay: None,
            timeline: TimelineState::default(),
            first_rank: 0,
            stopping: false,
            silent_seconds: 0.0,
            n_bad_lines: 0,
            trouble: None,
        }
    }

    /// Takes one more event into account.
    pub fn apply(&mut self, event: &Event) {
        self.model.apply(event);
        self.silent_seconds = 0.0;
    }

    /// Takes over what the process does, for how long the log has been silent, and how many of its lines were bad.
    pub fn observe(&mut self, child: ChildState, silent_seconds: f64, n_bad_lines: u64) {
        self.child = child;
        self.silent_seconds = silent_seconds;
        self.n_bad_lines = n_bad_lines;
    }

    /// Something is wrong with the monitor itself, such as a log that cannot be read.
    pub(crate) fn set_trouble(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    /// What the screen shows: the run, or how it stood when the screen was frozen.
    pub(crate) fn shown(&self) -> &Model {
        self.frozen.as_deref().unwrap_or(&self.model)
    }

    /// The run as it stands.
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) fn child(&self) -> &ChildState {
        &self.child
    }

    pub(crate) fn overlay(&self) -> Option<Overlay> {
        self.overlay
    }

    pub(crate) fn timeline(&self) -> &TimelineState {
        &self.timeline
    }

    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether the run was asked to end and has not ended yet.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping && self.exit_code().is_none()
    }

    /// Whether nothing more will come: the process is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.child.code.is_some()
    }

    /// How the run has ended: what its process says, or else its log.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.child.code.or_else(|| self.model.end().map(|end| end.code))
    }

    pub(crate) fn status(&self) -> Status {
        if let Some(code) = self.exit_code() {
            return if self.was_stopped(code) { Status::Stopped } else { Status::Ended(code) };
        }
        if self.frozen.is_some() {
            return Status::Frozen;
        }
        let step_seconds = self.model.steps().seconds().map_or(0.0, |seconds| seconds.p50);
        // Until the first step is over nobody knows how long one takes.
        if self.model.step() > 0 && self.silent_seconds > STALE_SECONDS_MIN.max(3.0 * step_seconds)
        {
            return Status::Stale(self.silent_seconds);
        }
        if self.model.hello().is_none() { Status::Starting } else { Status::Live }
    }

    /// Whether a run that ended with `code` was asked to: by one of the signals for that, or from here.
    fn was_stopped(&self, code: i32) -> bool {
        matches!(code, CODE_HUP | CODE_INT | CODE_TERM) || (self.stopping && code == CODE_KILL)
    }

    pub(crate) fn n_bad_lines(&self) -> u64 {
        self.n_bad_lines
    }

    /// The first of the ranks to show when only `n_rows` fit.
    pub(crate) fn first_rank(&self, n_rows: usize) -> usize {
        self.first_rank.min(self.shown().ranks().len().saturating_sub(n_rows))
    }

    /// Why the run failed, or what ended it, in one line; `None` if it went to its end, or on.
    pub(crate) fn failure(&self) -> Option<String> {
        let code = self.exit_code().filter(|&code| code != 0)?;
        let Some(end) = self.model.end().filter(|end| end.code != 0) else {
            return Some(match self.child.last_error.as_deref() {
                _ if code == CODE_KILL => "the process was killed".to_owned(),
                Some(last_error) => format!("the run ended with exit code {code}: {last_error}"),
                None => format!("the run ended with exit code {code}, without a word why"),
            });
        };
        // The reason often names the place itself.
        let place = match (end.rank, end.op.as_deref()) {
            (Some(rank), _) if end.reason.contains(&format!("rank {rank}")) => String::new(),
            (Some(rank), Some(op)) => format!("rank {rank}, {op}: "),
            (Some(rank), None) => format!("rank {rank}: "),
            (None, _) => String::new(),
        };
        Some(format!("{place}{}", end.reason))
    }

    /// Does what a key asks for; what lies outside of the state is returned.
    pub fn act(&mut self, action: Action) -> Option<Effect> {
        match action {
            Action::Quit => {
                if self.is_over() {
                    return Some(Effect::Leave);
                }
                if !self.launched_here {
                    return Some(Effect::Detach);
                }
                self.overlay = Some(Overlay::Ask(Dialog::Quit));
            }
            Action::Stop => {
                if !self.is_over() {
                    self.overlay = Some(Overlay::Ask(Dialog::Stop));
                }
            }
            Action::Help => {
                self.overlay =
                    if self.overlay == Some(Overlay::Help) { None } else { Some(Overlay::Help) };
            }
            Action::Back => {
                if self.overlay.take().is_none() {
                    self.timeline.reset();
                }
            }
            Action::Choose(choice) => return self.choose(choice),
            Action::Freeze => {
                self.frozen = match self.frozen {
                    Some(_) => None,
                    None => Some(Box::new(self.model.clone())),
                };
            }
            Action::StepBy(by) => {
                let recorded = self.frozen.as_deref().unwrap_or(&self.model).recorded();
                self.timeline.step_by(recorded, by);
            }
            Action::NewestStep => self.timeline.follow(),
            Action::ZoomIn => self.timeline.zoom_in(),
            Action::ZoomOut => self.timeline.zoom_out(),
            Action::ZoomFit => self.timeline.fit(),
            Action::Pan(by) => self.timeline.pan(by),
            Action::Scroll(by) => {
                let last = self.shown().ranks().len().saturating_sub(1);
                self.first_rank = self.first_rank.saturating_add_signed(by).min(last);
            }
            Action::Redraw => return Some(Effect::Redraw),
            Action::Suspend => return Some(Effect::Suspend),
        }
        None
    }

    fn choose(&mut self, choice: Choice) -> Option<Effect> {
        self.overlay = None;
        if self.is_over() {
            return (choice == Choice::Detach).then_some(Effect::Leave);
        }
        match choice {
            Choice::Detach => Some(Effect::Detach),
            Choice::StopAndLeave | Choice::Stop => {
                self.stopping = true;
                Some(Effect::Stop { then_leave: choice == Choice::StopAndLeave })
            }
            Choice::Kill => {
                self.stopping = true;
                Some(Effect::Kill)
            }
            Choice::Cancel => None,
        }
    }
}
