//! The one table: every key, what it asks for, where it means something, and what is said about it.

use super::Action;
use crate::monitor::state::View;

/// Something that keys can be bound to.
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
    In(View),
    /// Wherever the spans of a step are seen.
    Steps,
    /// Wherever one can go to the left and to the right.
    Across,
    /// The same, but for a replay, which shows the step that it is at.
    HeldSteps,
    /// Wherever the spans of a step are seen, and everywhere in a replay, which goes to that step.
    Seek,
    /// Wherever there are ranks or lines to choose from.
    Lists,
    /// Wherever more can be shown of what is chosen.
    Choices,
    Replay,
    Runs,
    /// In the view of the loss, where there are several runs.
    RunsOfLoss,
    /// While the run goes on.
    Live,
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
        "leave; a run that was started here: detach, stop or cancel",
        Some("quit"),
    ),
    entry(
        Place::Live,
        &[bind("stop", Action::Stop, &["x"])],
        "end the run: after this step, with a checkpoint, at once",
        Some("stop"),
    ),
    entry(
        Place::Everywhere,
        &[bind("help", Action::Help, &["?", "F1"])],
        "these keys",
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
        Place::Everywhere,
        &[bind("freeze", Action::Freeze, &["Space"])],
        "freeze the screen (a replay: pause); the training never notices",
        Some("freeze"),
    ),
    entry(
        Place::Replay,
        &[bind("slower", Action::Speed(-1), &["<"]), bind("faster", Action::Speed(1), &[">"])],
        "replay: slower, faster",
        Some("speed"),
    ),
    entry(
        Place::Replay,
        &[bind("loop", Action::Loop, &["L"])],
        "replay: begin again at the end",
        Some("loop"),
    ),
    entry(
        Place::Runs,
        &[bind("next-run", Action::Run(1), &["n"]), bind("previous-run", Action::Run(-1), &["p"])],
        "the next, the previous of the runs that are watched",
        Some("run"),
    ),
    entry(
        Place::Seek,
        &[
            bind("previous-step", Action::StepBy(-1), &["["]),
            bind("next-step", Action::StepBy(1), &["]"]),
        ],
        "the recorded step before, behind",
        Some("step"),
    ),
    entry(
        Place::Seek,
        &[
            bind("ten-back", Action::StepBy(-10), &["{"]),
            bind("ten-on", Action::StepBy(10), &["}"]),
        ],
        "ten recorded steps back, on",
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
        "follow the newest step again",
        None,
    ),
    entry(
        Place::Steps,
        &[
            bind("zoom-in", Action::ZoomIn, &["+"]),
            bind("zoom-out", Action::ZoomOut, &["-"]),
            bind("zoom-fit", Action::ZoomFit, &["="]),
        ],
        "timeline: larger, smaller, the whole step",
        Some("zoom"),
    ),
    entry(
        Place::In(View::Timeline),
        &[bind("timeline-mode", Action::Mode, &["z"])],
        "timeline: with the plan, measured alone, over other steps",
        Some("mode"),
    ),
    entry(
        Place::In(View::Timeline),
        &[bind("export-trace", Action::ExportTrace, &["e"])],
        "timeline: write the step as a Chrome trace into the run's folder",
        Some("export"),
    ),
    entry(
        Place::In(View::Devices),
        &[bind("sort", Action::Sort, &["o"])],
        "devices: sort by another column",
        Some("sort"),
    ),
    entry(
        Place::In(View::Loss),
        &[bind("metric", Action::Metric, &["m"])],
        "loss: another number",
        Some("metric"),
    ),
    entry(
        Place::In(View::Loss),
        &[bind("log-scale", Action::LogScale, &["y"]), bind("range", Action::Range, &["r"])],
        "loss: logarithmic axis, another part of the run",
        Some("axes"),
    ),
    entry(
        Place::RunsOfLoss,
        &[bind("compare", Action::Compare, &["c"])],
        "loss: lay another of the runs over this one",
        Some("compare"),
    ),
    entry(
        Place::In(View::Bubble),
        &[bind("definition", Action::Definition, &["b"])],
        "bubble: what the numbers mean",
        Some("meaning"),
    ),
    entry(
        Place::In(View::Log),
        &[bind("filter", Action::Filter, &["/"]), bind("warnings", Action::Warnings, &["w"])],
        "log: look for a text, warnings alone",
        Some("filter"),
    ),
    entry(
        Place::Across,
        &[
            bind("pan-left", Action::Pan(-1.0), &["h", "Left"]),
            bind("pan-right", Action::Pan(1.0), &["l", "Right"]),
        ],
        "left, right: the cursor, or along a step that is zoomed",
        None,
    ),
    entry(
        Place::Lists,
        &[
            bind("down", Action::Scroll(1), &["j", "Down"]),
            bind("up", Action::Scroll(-1), &["k", "Up"]),
        ],
        "another rank or line; the wheel too",
        None,
    ),
    entry(
        Place::Lists,
        &[
            bind("page-down", Action::Page(1), &["PageDown"]),
            bind("page-up", Action::Page(-1), &["PageUp"]),
        ],
        "a screen of them on, back",
        None,
    ),
    entry(
        Place::Lists,
        &[
            bind("first", Action::Edge { last: false }, &["g"]),
            bind("last", Action::Edge { last: true }, &["G"]),
        ],
        "the first, the last of them",
        None,
    ),
    entry(
        Place::In(View::Overview),
        &[
            bind("next-panel", Action::Panel(1), &["Tab"]),
            bind("previous-panel", Action::Panel(-1), &["Shift-Tab"]),
        ],
        "overview: the next, the previous panel",
        None,
    ),
    entry(
        Place::Choices,
        &[bind("enter", Action::Enter, &["Enter"])],
        "more about what is chosen",
        None,
    ),
    entry(
        Place::Everywhere,
        &[bind("snapshot", Action::Snapshot, &["s"])],
        "write the screen into the run's folder",
        None,
    ),
    entry(
        Place::Everywhere,
        &[bind("full", Action::Full, &["f"]), bind("back", Action::Back, &["Esc"])],
        "the chosen panel alone; back, which never leaves",
        None,
    ),
    entry(
        Place::Everywhere,
        &[
            bind("redraw", Action::Redraw, &["Ctrl-l"]),
            bind("suspend", Action::Suspend, &["Ctrl-z"]),
        ],
        "draw the screen anew; suspend this monitor, fg comes back",
        None,
    ),
];

/// What keys can be bound to, in the words of the configuration.
pub fn action_names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|entry| entry.bindings).map(|binding| binding.name)
}

/// What the user looks at, as far as keys depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Where {
    pub(crate) view: View,
    pub(crate) is_replay: bool,
    pub(crate) has_runs: bool,
    /// Whether nothing more will come of the run.
    pub(crate) is_over: bool,
}

impl Place {
    pub(super) fn contains(self, at: Where) -> bool {
        let has_steps = matches!(at.view, View::Overview | View::Timeline);
        match self {
            Self::Everywhere => true,
            Self::In(view) => view == at.view,
            Self::Steps => has_steps,
            Self::Across => has_steps || at.view == View::Loss,
            Self::RunsOfLoss => at.has_runs && at.view == View::Loss,
            Self::HeldSteps => has_steps && !at.is_replay,
            Self::Seek => has_steps || at.is_replay,
            Self::Lists => at.view != View::Loss,
            Self::Choices => has_steps || at.view == View::Devices,
            Self::Replay => at.is_replay,
            Self::Runs => at.has_runs,
            Self::Live => !at.is_over && !at.is_replay,
        }
    }

    /// Whether it is about steps: in the bottom line that gives way to what is for this view.
    pub(super) fn is_about_steps(self) -> bool {
        matches!(self, Self::Steps | Self::Across | Self::HeldSteps | Self::Seek)
    }
}
