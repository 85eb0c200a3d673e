//! What the monitor knows and what it looks at. Nothing here reads a file, a clock or the terminal.

mod act;
mod bubble;
mod devices;
mod log;
mod loss;
mod note;
mod offers;
mod ops;
mod plan;
mod playback;
mod standing;
mod timeline;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use pp_telemetry::{Before, Event, Model, Request};

pub(crate) use bubble::{AccountRequest, BubbleState, Found, Looked};
pub(crate) use devices::{DevicesState, Sort};
pub(crate) use log::{Entry, LogState};
pub use loss::OtherRun;
pub(crate) use loss::{LossState, Metric, Part};
pub(crate) use ops::{Dependency, bytes, critical_path, first_compute_ns, ops_of, usual_ns};
pub(crate) use plan::Planned;
pub use playback::Playback;
pub use standing::ChildState;
pub(crate) use standing::Status;
pub(crate) use timeline::{Mode, TimelineState};

use note::Note;

use super::input::{Action, Keymap};
use super::screen::{Overlay, Panel, View};

/// A request of a key to the program.
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
    /// Play a replay from its beginning.
    Restart,
    /// Write the screen into a file.
    Snapshot,
    /// Write the step of the timeline as a trace.
    ExportTrace(u64),
    /// Look at another of the runs.
    Run(i8),
    /// Lay the next of the other runs over this one, and after the last of them none.
    Compare,
    /// Draw everything anew.
    Redraw,
    /// Give the terminal back to the shell for a while.
    Suspend,
}

/// What the monitor knows and what it looks at.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "none follows from the others")]
pub struct State {
    model: Model,
    /// What the screen shows while it stands still.
    frozen: Option<Box<Model>>,
    child: ChildState,
    launched_here: bool,
    read_only: bool,
    /// Whether no run is behind it, but simulated devices.
    is_demo: bool,
    keymap: Arc<Keymap>,
    overlay: Option<Overlay>,
    view: View,
    panel: Option<Panel>,
    playback: Option<Playback>,
    /// Which of how many runs this is.
    place: (usize, usize),
    /// The clock that is handed in: what is asked is deaf for a moment.
    now: Duration,
    /// Why the run cannot be ended from here.
    out_of_reach: Option<String>,
    timeline: TimelineState,
    devices: DevicesState,
    loss: LossState,
    log: LogState,
    bubble: BubbleState,
    first_rank: usize,
    /// Rows that the last frame had for the ranks of the overview, and for the help: a key moves
    /// within them.
    seen_rows: (Cell<usize>, Cell<usize>),
    stopping: bool,
    /// What came of the last thing that was asked for.
    note: Option<Note>,
    /// What was said last of how the run stands.
    told: Option<String>,
    silent_seconds: f64,
    /// Whether something has come into the log while it was watched.
    grows: bool,
    /// Whether the run has done something since that was last asked.
    progressed: bool,
    n_bad_lines: u64,
    trouble: Option<String>,
}

impl State {
    /// A run that was just started, or found; `launched_here` says that leaving has to be asked
    /// about.
    pub fn new(child: ChildState, launched_here: bool) -> Self {
        Self {
            model: Model::new(),
            frozen: None,
            child,
            launched_here,
            read_only: false,
            is_demo: false,
            keymap: Arc::default(),
            overlay: None,
            view: View::Overview,
            panel: None,
            playback: None,
            place: (0, 1),
            now: Duration::ZERO,
            out_of_reach: None,
            timeline: TimelineState::default(),
            devices: DevicesState::default(),
            loss: LossState::default(),
            log: LogState::default(),
            bubble: BubbleState::default(),
            first_rank: 0,
            seen_rows: (Cell::new(1), Cell::new(1)),
            note: None,
            told: None,
            stopping: false,
            silent_seconds: 0.0,
            grows: false,
            progressed: false,
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

    /// Makes this a read-only view.
    pub fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
    }

    /// Takes the time of a clock that only goes on.
    pub fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    /// Why the run cannot be ended from here, for the question about it.
    pub fn set_out_of_reach(&mut self, why: Option<String>) {
        self.out_of_reach = why;
    }

    /// Simulated devices in place of a run.
    #[must_use]
    pub fn simulated(self) -> Self {
        Self { is_demo: true, ..self }
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

    /// Lays another run over this one in the view of the loss; `None` takes it away.
    pub fn lay_over(&mut self, other: Option<OtherRun>) {
        self.loss.set_other(other);
    }

    /// Puts the curves of the runs before this one in front of its own.
    pub(crate) fn set_before(&mut self, before: &Before) {
        self.model.set_before(before);
    }

    /// Forgets what was read, to read it anew from another place.
    pub fn restart(&mut self) {
        self.model = Model::new();
        self.frozen = None;
    }

    /// Takes one more event into account.
    pub fn apply(&mut self, event: &Event) {
        self.model.apply(event);
        // Looks at devices go on whatever the run does.
        if !matches!(event, Event::Gpu(_) | Event::Cpu(_) | Event::Dropped(_) | Event::Index(_)) {
            self.silent_seconds = 0.0;
            self.progressed = true;
        }
    }

    /// Whether the run has done something since this was last asked.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progressed)
    }

    /// The log has grown while it was watched.
    pub(crate) fn set_grows(&mut self) {
        self.grows = true;
    }

    /// Takes over what the process does, for how long the log has been silent, and how many of its
    /// lines were bad.
    pub fn observe(&mut self, child: ChildState, silent_seconds: f64, n_bad_lines: u64) {
        self.child = child;
        self.silent_seconds = silent_seconds;
        self.n_bad_lines = n_bad_lines;
        self.model.set_over(self.standing().is_over());
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
    pub fn model(&self) -> &Model {
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

    /// Where the time goes, as a question for another thread, if there is something new.
    pub(crate) fn question(&mut self) -> Option<AccountRequest> {
        self.bubble.question(self.frozen.as_deref().unwrap_or(&self.model))
    }

    /// Takes what another thread has found.
    pub(crate) fn looked(&mut self, looked: Looked) {
        self.bubble.looked(looked);
    }

    /// Looks anew where the time goes, if there is something new, here and now: not in a loop that
    /// draws.
    pub fn refresh_bubble(&mut self) {
        self.bubble.refresh(self.frozen.as_deref().unwrap_or(&self.model));
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn timeline(&self) -> &TimelineState {
        &self.timeline
    }

    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    pub(crate) fn n_bad_lines(&self) -> u64 {
        self.n_bad_lines
    }

    /// Remembers how many rows the frame has for the ranks of the overview.
    pub(crate) fn see_rank_rows(&self, n_rows: usize) {
        self.seen_rows.0.set(n_rows);
    }

    /// Remembers how many rows the frame has for the help.
    pub(crate) fn see_help_rows(&self, n_rows: usize) {
        self.seen_rows.1.set(n_rows);
    }

    /// The first of the ranks to show when only `n_rows` fit.
    pub(crate) fn first_rank(&self, n_rows: usize) -> usize {
        self.first_rank.min(self.shown().ranks().len().saturating_sub(n_rows))
    }
}
