//! The one table of keys: each key with its action, the places where it works, and its help text.

use super::Action;
use crate::monitor::screen::View;

/// An action to which keys can be bound.
#[derive(Debug)]
pub(super) struct Binding {
    /// Its name in the configuration.
    pub(super) name: &'static str,
    pub(super) action: Action,
    /// Its keys, unless the configuration says otherwise.
    pub(super) keys: &'static [&'static str],
}

const fn bind(name: &'static str, action: Action, keys: &'static [&'static str]) -> Binding {
    Binding { name, action, keys }
}

/// Where a key means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Everywhere,
    /// Wherever the run can be ended from here.
    Live,
    /// Wherever the screen can stand still, or the replay.
    Freeze,
    /// In the timeline, once there is a step.
    Timeline,
    /// In the devices, where there are several.
    Devices,
    /// In the loss, once there is one.
    Loss,
    /// In the bubble, once it is known where the time goes.
    Bubble,
    Log,
    /// Wherever the spans of a step are seen.
    Steps,
    /// Wherever one can go to the left and to the right.
    Across,
    /// Wherever the spans of a step are seen, where another step than the newest is held.
    HeldSteps,
    /// Wherever the spans of a step are seen and there are others, and everywhere in a replay,
    /// which goes to that step.
    Seek,
    /// Wherever there are ranks or lines to choose from.
    Lists,
    /// In the overview.
    Overview,
    /// Wherever more can be shown of what is chosen.
    Choices,
    Replay,
    Runs,
    /// In the view of the loss, where there are several runs.
    RunsOfLoss,
}

/// Keys that belong together, with what is said about them.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) bindings: &'static [Binding],
    pub(super) place: Place,
    /// What the help says.
    pub(super) help: &'static str,
    /// What the bottom line says, in the order of the table.
    pub(super) hint: Option<&'static str>,
}

const fn entry(
    place: Place,
    bindings: &'static [Binding],
    help: &'static str,
    hint: Option<&'static str>,
) -> Entry {
    Entry { bindings, place, help, hint }
}

/// All keys.
pub(super) const TABLE: &[Entry] = &[
    entry(
        Place::Everywhere,
        &[bind("quit", Action::Quit, &["q", "Ctrl-c"])],
        "quit; a run started here: detach, stop or cancel",
        Some("quit"),
    ),
    entry(
        Place::Live,
        &[bind("stop", Action::Stop, &["x"])],
        "end the run: after this step, with a checkpoint, or at once",
        Some("stop"),
    ),
    entry(
        Place::Everywhere,
        &[bind("help", Action::Help, &["?", "F1"])],
        "this help",
        Some("help"),
    ),
    entry(
        Place::Everywhere,
        &[
            bind("overview", Action::Show(View::Overview), &["1"]),
            bind("timeline", Action::Show(View::Timeline), &["2"]),
            bind("devices", Action::Show(View::Devices), &["3"]),
            bind("loss", Action::Show(View::Loss), &["4"]),
            bind("bubble", Action::Show(View::Bubble), &["5"]),
            bind("log", Action::Show(View::Log), &["6", "v"]),
        ],
        "overview, timeline, devices, loss, bubble, log",
        Some("view"),
    ),
    entry(
        Place::Freeze,
        &[bind("freeze", Action::Freeze, &["Space"])],
        "freeze the screen, or pause a replay; the training goes on",
        Some("freeze"),
    ),
    entry(
        Place::Replay,
        &[bind("slower", Action::Speed(-1), &["<"]), bind("faster", Action::Speed(1), &[">"])],
        "replay: slower, faster",
        Some("speed"),
    ),
    entry(Place::Replay, &[bind("loop", Action::Loop, &["L"])], "replay: loop", Some("loop")),
    entry(
        Place::Runs,
        &[bind("next-run", Action::Run(1), &["n"]), bind("previous-run", Action::Run(-1), &["p"])],
        "next, previous run",
        Some("run"),
    ),
    entry(
        Place::Seek,
        &[
            bind("previous-step", Action::StepBy(-1), &["["]),
            bind("next-step", Action::StepBy(1), &["]"]),
        ],
        "previous, next recorded step",
        Some("step"),
    ),
    entry(
        Place::Seek,
        &[
            bind("ten-back", Action::StepBy(-10), &["{"]),
            bind("ten-on", Action::StepBy(10), &["}"]),
        ],
        "ten recorded steps back, forward",
        None,
    ),
    entry(
        Place::Seek,
        &[bind("go-to-step", Action::GoTo, &[":"])],
        "go to a step by its number",
        None,
    ),
    entry(
        Place::HeldSteps,
        &[bind("newest-step", Action::NewestStep, &["Home"])],
        "follow the newest step",
        None,
    ),
    entry(
        Place::Steps,
        &[
            bind("zoom-in", Action::ZoomIn, &["+"]),
            bind("zoom-out", Action::ZoomOut, &["-"]),
            bind("zoom-fit", Action::ZoomFit, &["="]),
        ],
        "timeline: zoom in, zoom out, whole step",
        Some("zoom"),
    ),
    entry(
        Place::Timeline,
        &[bind("timeline-mode", Action::Mode, &["z"])],
        "timeline: with the plan, measured only, overlaid steps",
        Some("mode"),
    ),
    entry(
        Place::Timeline,
        &[bind("export-trace", Action::ExportTrace, &["e"])],
        "timeline: save the step as a Chrome trace in the run folder",
        Some("export"),
    ),
    entry(
        Place::Devices,
        &[bind("sort", Action::Sort, &["o"])],
        "devices: next sort column",
        Some("sort"),
    ),
    entry(
        Place::Loss,
        &[bind("metric", Action::Metric, &["m"])],
        "loss: next metric",
        Some("metric"),
    ),
    entry(
        Place::Loss,
        &[bind("log-scale", Action::LogScale, &["y"]), bind("range", Action::Range, &["r"])],
        "loss: log axis, next range",
        Some("axes"),
    ),
    entry(
        Place::RunsOfLoss,
        &[bind("compare", Action::Compare, &["c"])],
        "loss: overlay another run",
        Some("compare"),
    ),
    entry(
        Place::Bubble,
        &[bind("definition", Action::Definition, &["b"])],
        "bubble: what the numbers mean",
        Some("meaning"),
    ),
    entry(
        Place::Log,
        &[bind("filter", Action::Filter, &["/"]), bind("warnings", Action::Warnings, &["w"])],
        "log: search, warnings only",
        Some("filter"),
    ),
    entry(
        Place::Across,
        &[
            bind("pan-left", Action::Pan(-1.0), &["h", "Left"]),
            bind("pan-right", Action::Pan(1.0), &["l", "Right"]),
        ],
        "left, right: move the cursor or a zoomed step",
        None,
    ),
    entry(
        Place::Lists,
        &[
            bind("down", Action::Scroll(1), &["j", "Down"]),
            bind("up", Action::Scroll(-1), &["k", "Up"]),
        ],
        "next, previous rank or line (also the wheel)",
        None,
    ),
    entry(
        Place::Lists,
        &[
            bind("page-down", Action::Page(1), &["PageDown"]),
            bind("page-up", Action::Page(-1), &["PageUp"]),
        ],
        "page down, page up",
        None,
    ),
    entry(
        Place::Lists,
        &[
            bind("first", Action::Edge { last: false }, &["g"]),
            bind("last", Action::Edge { last: true }, &["G"]),
        ],
        "first, last rank or line",
        None,
    ),
    entry(
        Place::Overview,
        &[
            bind("next-panel", Action::Panel(1), &["Tab"]),
            bind("previous-panel", Action::Panel(-1), &["Shift-Tab"]),
        ],
        "overview: next, previous panel",
        None,
    ),
    entry(
        Place::Choices,
        &[bind("enter", Action::Enter, &["Enter"])],
        "details of the selection",
        None,
    ),
    entry(
        Place::Everywhere,
        &[bind("snapshot", Action::Snapshot, &["s"])],
        "save the screen in the run folder",
        None,
    ),
    entry(
        Place::Everywhere,
        &[bind("full", Action::Full, &["f"]), bind("back", Action::Back, &["Esc"])],
        "full panel; back (never quits)",
        None,
    ),
    entry(
        Place::Everywhere,
        &[
            bind("redraw", Action::Redraw, &["Ctrl-l"]),
            bind("suspend", Action::Suspend, &["Ctrl-z"]),
        ],
        "redraw; suspend the monitor (fg resumes)",
        None,
    ),
];

/// What keys can be bound to, in the words of the configuration.
pub fn action_names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|entry| entry.bindings).map(|binding| binding.name)
}

/// What the user looks at, as far as keys depend on it.
#[expect(clippy::struct_excessive_bools, reason = "none follows from the others")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Where {
    pub(crate) view: View,
    pub(crate) is_replay: bool,
    pub(crate) has_runs: bool,
    /// Whether the run can be ended from here.
    pub(crate) can_stop: bool,
    /// Whether there is anything that a frozen screen would miss.
    pub(crate) can_freeze: bool,
    /// Whether the spans of a step were recorded.
    pub(crate) has_step: bool,
    /// Whether those of several are.
    pub(crate) has_steps: bool,
    /// Whether a step is over.
    pub(crate) has_loss: bool,
    /// Whether it is known where the time goes.
    pub(crate) has_account: bool,
    /// Whether another step than the newest is held.
    pub(crate) is_held: bool,
    pub(crate) n_ranks: usize,
    /// Lines of the log.
    pub(crate) n_lines: usize,
}

impl Place {
    /// Whether a key does something where one is: the handler, the bottom line and the help ask
    /// here.
    pub(super) fn contains(self, at: Where) -> bool {
        let sees_step = at.has_step && matches!(at.view, View::Overview | View::Timeline);
        match self {
            Self::Everywhere => true,
            Self::Live => at.can_stop,
            Self::Freeze => at.can_freeze,
            Self::Timeline => at.view == View::Timeline && at.has_step,
            Self::Devices => at.view == View::Devices && at.n_ranks > 1,
            Self::Loss => at.view == View::Loss && at.has_loss,
            Self::Bubble => at.view == View::Bubble && at.has_account,
            Self::Log => at.view == View::Log,
            Self::Overview => at.view == View::Overview,
            Self::Steps => sees_step,
            Self::Across => sees_step || (at.view == View::Loss && at.has_loss),
            Self::RunsOfLoss => at.has_runs && at.view == View::Loss,
            Self::HeldSteps => sees_step && at.is_held && !at.is_replay,
            Self::Seek => at.is_replay || (sees_step && at.has_steps),
            Self::Lists => match at.view {
                View::Loss => false,
                // A rank in full is longer than the screen.
                View::Devices => at.n_ranks > 0,
                View::Bubble => at.has_account && at.n_ranks > 1,
                View::Overview | View::Timeline => at.n_ranks > 1,
                View::Log => at.n_lines > 1,
            },
            Self::Choices => match at.view {
                View::Overview => true,
                View::Timeline => at.has_step,
                View::Devices => at.n_ranks > 0,
                View::Loss | View::Bubble | View::Log => false,
            },
            Self::Replay => at.is_replay,
            Self::Runs => at.has_runs,
        }
    }

    /// Whether it does something in another view, as things stand.
    pub(super) fn is_elsewhere(self, at: Where) -> bool {
        let elsewhere = |view| Where { view, ..at };
        !self.contains(at) && View::ALL.into_iter().any(|view| self.contains(elsewhere(view)))
    }

    /// Whether it is about steps: in the bottom line that gives way to what is for this view.
    pub(super) fn is_about_steps(self) -> bool {
        matches!(self, Self::Steps | Self::Across | Self::HeldSteps | Self::Seek)
    }
}
