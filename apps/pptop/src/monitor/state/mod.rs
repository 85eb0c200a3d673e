//! What the monitor knows and what it looks at. Nothing here reads a file, a clock or the terminal.

mod bubble;
mod devices;
mod dialog;
mod log;
mod loss;
mod ops;
mod plan;
mod playback;
mod timeline;
mod view;

use std::sync::Arc;

use pp_telemetry::{Event, Model, Request};

pub(crate) use bubble::{BubbleState, Found};
pub(crate) use devices::{DevicesState, Sort};
pub use dialog::Choice;
pub(crate) use dialog::Dialog;
pub(crate) use log::{Entry, LogState};
pub(crate) use loss::{LossState, Metric, Part};
pub(crate) use ops::{Dependency, bytes, critical_path, first_compute_ns, usual_ns};
pub(crate) use plan::Planned;
pub use playback::Playback;
pub(crate) use timeline::{Mode, TimelineState};
pub(crate) use view::{Panel, Prompt, PromptKind};
pub use view::{Target, View};

use super::input::{Action, Keymap, Where};

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
    /// Its process id; 0 where nothing is known of it, as of a log alone.
    pub pid: u32,
    /// Whether it is gone, and nobody knows its exit code.
    pub is_gone: bool,
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
    /// Its process is gone without a last word.
    Died,
    /// A recorded run is played, so many times as fast.
    Replay(f64),
    /// A recorded run stands still.
    Paused,
}

/// What lies over the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Overlay {
    /// The keys, from this line of them on.
    Help(usize),
    /// A question.
    Ask(Dialog),
    /// A line to be typed.
    Prompt(Prompt),
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
    /// Ask the run for something else.
    Ask(Request),
    /// Go to a step of a replay.
    Seek(u64),
    /// Write the screen into a file.
    Snapshot,
    /// Write the step of the timeline as a trace.
    ExportTrace(u64),
    /// Look at another of the runs.
    Run(i8),
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
    read_only: bool,
    keymap: Arc<Keymap>,
    overlay: Option<Overlay>,
    view: View,
    panel: Option<Panel>,
    playback: Option<Playback>,
    /// Which of how many runs this is.
    place: (usize, usize),
    timeline: TimelineState,
    devices: DevicesState,
    loss: LossState,
    log: LogState,
    bubble: BubbleState,
    first_rank: usize,
    stopping: bool,
    /// What came of the last thing that was asked for.
    note: Option<String>,
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
            read_only: false,
            keymap: Arc::default(),
            overlay: None,
            view: View::Overview,
            panel: None,
            playback: None,
            place: (0, 1),
            timeline: TimelineState::default(),
            devices: DevicesState::default(),
            loss: LossState::default(),
            log: LogState::default(),
            bubble: BubbleState::default(),
            first_rank: 0,
            note: None,
            stopping: false,
            silent_seconds: 0.0,
            n_bad_lines: 0,
            trouble: None,
        }
    }

    /// A run as it was read, without its process.
    pub fn of(model: Model, child: ChildState) -> Self {
        Self { model, ..Self::new(child, false) }
    }

    /// Takes other keys.
    pub fn set_keymap(&mut self, keymap: Arc<Keymap>) {
        self.keymap = keymap;
    }

    /// Whether this is for somebody who only looks.
    pub fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
    }

    /// A recorded run that is played.
    #[must_use]
    pub fn replayed(self, playback: Playback) -> Self {
        Self { playback: Some(playback), ..self }
    }

    /// Looks at another view.
    pub(crate) fn set_view(&mut self, view: View) {
        self.view = view;
    }

    /// Which of how many runs this is.
    pub fn set_place(&mut self, at: usize, n_runs: usize) {
        self.place = (at, n_runs);
    }

    /// Forgets what was read, to read it anew from another place.
    pub fn restart(&mut self) {
        self.model = Model::new();
        self.frozen = None;
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

    pub(crate) fn overlay(&self) -> Option<&Overlay> {
        self.overlay.as_ref()
    }

    pub(crate) fn keymap(&self) -> &Keymap {
        &self.keymap
    }

    /// What the user looks at, as far as keys depend on it.
    pub(crate) fn at(&self) -> Where {
        Where { view: self.view, is_replay: self.playback.is_some(), has_runs: self.place.1 > 1 }
    }

    pub(crate) fn view(&self) -> View {
        self.view
    }

    /// The panel of the overview that is chosen.
    pub(crate) fn panel(&self) -> Option<Panel> {
        self.panel
    }

    pub(crate) fn playback(&self) -> Option<&Playback> {
        self.playback.as_ref()
    }

    pub(crate) fn playback_mut(&mut self) -> Option<&mut Playback> {
        self.playback.as_mut()
    }

    pub(crate) fn place(&self) -> (usize, usize) {
        self.place
    }

    pub(crate) fn devices(&self) -> &DevicesState {
        &self.devices
    }

    pub(crate) fn loss(&self) -> &LossState {
        &self.loss
    }

    pub(crate) fn log(&self) -> &LogState {
        &self.log
    }

    /// Where the time goes, as it was last looked at.
    pub(crate) fn bubble(&self) -> &BubbleState {
        &self.bubble
    }

    /// Looks anew where the time goes, if there is something new. Takes milliseconds: not for every frame.
    pub fn refresh_bubble(&mut self) {
        self.bubble.refresh(self.frozen.as_deref().unwrap_or(&self.model));
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// What came of the last thing that was asked for.
    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    pub(crate) fn set_note(&mut self, note: String) {
        self.note = Some(note);
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

    /// Whether nothing more will come: the process is gone, or it never was.
    pub(crate) fn is_over(&self) -> bool {
        self.child.code.is_some()
            || self.child.is_gone
            || self.playback.is_some()
            || (!self.launched_here && self.model.end().is_some())
    }

    /// How the run has ended: what its process says, or else its log.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.child.code.or_else(|| self.model.end().map(|end| end.code))
    }

    pub(crate) fn status(&self) -> Status {
        if let Some(playback) = &self.playback {
            return if playback.is_paused {
                Status::Paused
            } else {
                Status::Replay(playback.speed)
            };
        }
        if let Some(code) = self.exit_code() {
            return if self.was_stopped(code) { Status::Stopped } else { Status::Ended(code) };
        }
        if self.child.is_gone {
            return if self.stopping { Status::Stopped } else { Status::Died };
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
        if self.child.is_gone && self.stopping && self.exit_code().is_none() {
            return Some("the process was killed".to_owned());
        }
        if self.status() == Status::Died {
            let pid = self.child.pid;
            return Some(format!(
                "process {pid} is gone without a last word: killed, or its disk is full"
            ));
        }
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
        self.note = None;
        if let Some(overlay) = self.overlay.take() {
            return self.act_on_overlay(overlay, action);
        }
        match action {
            Action::Quit if self.is_over() => return Some(Effect::Leave),
            Action::Quit if !self.launched_here => return Some(Effect::Detach),
            Action::Quit => self.overlay = Some(Overlay::Ask(Dialog::Quit)),
            Action::Stop if self.read_only => {
                self.note = Some("this monitor only looks: it cannot end the run".to_owned());
            }
            Action::Stop if self.is_over() => {}
            Action::Stop => self.overlay = Some(Overlay::Ask(Dialog::Stop)),
            Action::Help => self.overlay = Some(Overlay::Help(0)),
            Action::GoTo => self.overlay = Some(Overlay::Prompt(Prompt::new(PromptKind::Step))),
            Action::Filter => {
                self.view = View::Log;
                self.overlay = Some(Overlay::Prompt(Prompt::new(PromptKind::Filter)));
            }
            Action::Back => self.back(),
            Action::Show(view) => self.view = view,
            Action::Panel(by) => {
                self.panel = Some(self.panel.map_or(Panel::Devices, |panel| panel.neighbour(by)));
            }
            Action::Enter | Action::Full if self.view == View::Overview => {
                self.view = self.panel.unwrap_or(Panel::Timeline).view();
            }
            Action::Full => self.view = View::Overview,
            Action::Freeze => self.freeze(),
            Action::StepBy(by) => return self.step_by(by),
            Action::NewestStep => self.timeline.follow(),
            Action::ZoomIn => self.timeline.zoom_in(),
            Action::ZoomOut => self.timeline.zoom_out(),
            Action::ZoomFit => self.timeline.fit(),
            Action::Definition => self.bubble.toggle_definitions(),
            Action::Run(by) => return Some(Effect::Run(by)),
            Action::Speed(by) => {
                if let Some(playback) = &mut self.playback {
                    playback.change_speed(by);
                }
            }
            Action::Loop => {
                if let Some(playback) = &mut self.playback {
                    playback.is_loop ^= true;
                }
            }
            Action::ExportTrace => {
                return self.timeline.step(self.shown()).map(|step| Effect::ExportTrace(step.step));
            }
            Action::Snapshot => return Some(Effect::Snapshot),
            Action::Redraw => return Some(Effect::Redraw),
            Action::Suspend => return Some(Effect::Suspend),
            Action::Choose(_) | Action::Type(_) | Action::Erase | Action::Accept => {}
            _ => self.act_on_view(action),
        }
        None
    }

    fn act_on_overlay(&mut self, overlay: Overlay, action: Action) -> Option<Effect> {
        match (overlay, action) {
            (_, Action::Back) | (Overlay::Help(_), Action::Help) => {}
            (Overlay::Help(first), Action::Scroll(by)) => {
                self.overlay = Some(Overlay::Help(first.saturating_add_signed(by)));
            }
            (Overlay::Help(first), Action::Page(by)) => {
                self.overlay = Some(Overlay::Help(first.saturating_add_signed(10 * by)));
            }
            (Overlay::Prompt(prompt), Action::Accept) => return self.accept(prompt),
            (Overlay::Prompt(mut prompt), Action::Type(letter)) => {
                prompt.push(letter);
                self.overlay = Some(Overlay::Prompt(prompt));
            }
            (Overlay::Prompt(mut prompt), Action::Erase) => {
                prompt.pop();
                self.overlay = Some(Overlay::Prompt(prompt));
            }
            (Overlay::Ask(_), Action::Choose(choice)) => return self.choose(choice),
            (Overlay::Help(_) | Overlay::Prompt(_), Action::Quit | Action::Show(_)) => {
                return self.act(action);
            }
            (overlay, Action::Redraw | Action::Suspend) => {
                self.overlay = Some(overlay);
                let redraw = action == Action::Redraw;
                return Some(if redraw { Effect::Redraw } else { Effect::Suspend });
            }
            (overlay, _) => self.overlay = Some(overlay),
        }
        None
    }

    /// What a key means depends on the view.
    fn act_on_view(&mut self, action: Action) {
        let model = self.frozen.as_deref().unwrap_or(&self.model);
        match self.view {
            View::Timeline => self.timeline.act(action, model),
            View::Devices => self.devices.act(action, model),
            View::Loss => self.loss.act(action),
            View::Log => self.log.act(action, model),
            View::Overview | View::Bubble => {}
        }
        match action {
            Action::Pan(by) if self.view == View::Overview => self.timeline.pan(by),
            // They have a choice of their own.
            _ if matches!(self.view, View::Devices | View::Log) => {}
            Action::Scroll(by) => self.scroll(by),
            Action::Page(by) => self.scroll(8 * by),
            Action::Edge { last } => self.scroll(if last { isize::MAX } else { isize::MIN }),
            _ => {}
        }
    }

    fn scroll(&mut self, by: isize) {
        let last = self.shown().ranks().len().saturating_sub(1);
        self.first_rank = self.first_rank.saturating_add_signed(by).min(last);
    }

    /// Does what a click means; a second one on a rank shows more of it.
    pub fn point_at(&mut self, target: Target) {
        let model = self.frozen.as_deref().unwrap_or(&self.model);
        match target {
            Target::View(view) => self.view = view,
            Target::Rank(index) if !self.devices.is_chosen(index) => self.devices.choose(index),
            Target::Rank(_) if self.view == View::Devices => {
                self.devices.act(Action::Enter, model);
            }
            Target::Rank(_) => self.view = View::Devices,
        }
    }

    /// One thing after another, and the overview in the end.
    fn back(&mut self) {
        let is_closed = match self.view {
            View::Timeline => self.timeline.back(),
            View::Devices => self.devices.back(),
            View::Log => self.log.back(),
            View::Bubble => self.bubble.back(),
            View::Overview | View::Loss => false,
        };
        if is_closed {
            return;
        }
        if self.view == View::Overview && self.panel.take().is_none() {
            self.timeline.reset();
        }
        self.view = View::Overview;
    }

    fn freeze(&mut self) {
        if let Some(playback) = &mut self.playback {
            playback.is_paused ^= true;
            return;
        }
        self.frozen = match self.frozen {
            Some(_) => None,
            None => Some(Box::new(self.model.clone())),
        };
    }

    fn step_by(&mut self, by: i64) -> Option<Effect> {
        let model = self.frozen.as_deref().unwrap_or(&self.model);
        if self.playback.is_some() {
            let to = i64::try_from(model.step()).unwrap_or(i64::MAX).saturating_add(by).max(1);
            return Some(Effect::Seek(to.unsigned_abs()));
        }
        self.timeline.step_by(model.recorded(), by);
        None
    }

    fn accept(&mut self, prompt: Prompt) -> Option<Effect> {
        match prompt.kind {
            PromptKind::Filter => self.log.set_filter(prompt.text),
            PromptKind::Step => {
                let Ok(step) = prompt.text.trim().parse::<u64>() else {
                    self.note = Some(format!("{:?} is no step; accepted: a number", prompt.text));
                    return None;
                };
                if self.playback.is_some() {
                    return Some(Effect::Seek(step));
                }
                let model = self.frozen.as_deref().unwrap_or(&self.model);
                match self.timeline.go_to(model.recorded(), step) {
                    Some(found) if found == step => {}
                    Some(found) => {
                        self.note = Some(format!("step {step} is not at hand; this is {found}"));
                    }
                    None => self.note = Some("no step is at hand yet".to_owned()),
                }
            }
        }
        None
    }

    fn choose(&mut self, choice: Choice) -> Option<Effect> {
        if self.is_over() {
            return (choice == Choice::Detach).then_some(Effect::Leave);
        }
        match choice {
            Choice::Detach => Some(Effect::Detach),
            Choice::StopAndLeave | Choice::Stop => {
                self.stopping = true;
                Some(Effect::Stop { then_leave: choice == Choice::StopAndLeave })
            }
            Choice::CheckpointAndStop => {
                self.stopping = true;
                Some(Effect::Ask(Request::CheckpointAndStop))
            }
            Choice::Checkpoint => Some(Effect::Ask(Request::Checkpoint)),
            Choice::Kill => {
                self.stopping = true;
                Some(Effect::Kill)
            }
            Choice::Cancel => None,
        }
    }

    /// What was asked for did not reach the run.
    pub(crate) fn not_stopping(&mut self) {
        self.stopping = false;
    }
}
