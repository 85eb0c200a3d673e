//! Keys: one table from which the handler, the help, the bottom line and the names of the configuration are made.

use std::collections::BTreeMap;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind};

use super::state::{Choice, Overlay, View};
use crate::config::Key;

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Leave.
    Quit,
    /// Ask how to end the run.
    Stop,
    /// Show or hide the keys.
    Help,
    /// Close what lies over the screen, or go back to the overview.
    Back,
    /// Answer a question.
    Choose(Choice),
    /// Type a character into a prompt.
    Type(char),
    /// Take back the last character of a prompt.
    Erase,
    /// Do what a prompt says.
    Accept,
    /// Show another view.
    Show(View),
    /// Choose another panel: the next, or the one before.
    Panel(i8),
    /// Show more of what is chosen.
    Enter,
    /// Show the chosen panel alone.
    Full,
    /// Let the screen stand still, or go on.
    Freeze,
    /// Show another recorded step.
    StepBy(i64),
    /// Show the newest recorded step.
    NewestStep,
    /// Ask for a step to go to.
    GoTo,
    /// Ask for a text to look for.
    Filter,
    /// Show less of the step, larger.
    ZoomIn,
    /// Show more of the step.
    ZoomOut,
    /// Show the whole step.
    ZoomFit,
    /// Move along the step, or the cursor on it.
    Pan(f64),
    /// Choose another rank or line.
    Scroll(isize),
    /// The same by a screen.
    Page(isize),
    /// To the first or to the last.
    Edge {
        /// Whether the last is meant.
        last: bool,
    },
    /// How the timeline shows its step: measured, planned under it, laid over others.
    Mode,
    /// Write a trace of what the timeline shows.
    ExportTrace,
    /// Sort the devices by another column.
    Sort,
    /// Another number in the chart.
    Metric,
    /// A logarithmic axis, or not.
    LogScale,
    /// Another part of the run in the chart.
    Range,
    /// What the numbers mean.
    Definition,
    /// Warnings alone, or everything.
    Warnings,
    /// Write the screen into a file.
    Snapshot,
    /// Another run of those that are watched.
    Run(i8),
    /// Slower or faster.
    Speed(i8),
    /// Begin again at the end of a replay, or not.
    Loop,
    /// Draw everything anew.
    Redraw,
    /// Give the terminal back to the shell for a while.
    Suspend,
}

/// Something that keys can be bound to.
#[derive(Debug)]
struct Binding {
    /// Its name in the configuration.
    name: &'static str,
    action: Action,
    /// Its keys, unless the configuration says otherwise.
    keys: &'static [&'static str],
}

const fn bind(name: &'static str, action: Action, keys: &'static [&'static str]) -> Binding {
    Binding { name, action, keys }
}

/// Where a key means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Everywhere,
    In(View),
    /// Wherever the spans of a step are seen.
    Steps,
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
    /// While the run goes on.
    Live,
}

/// Keys that belong together, with what is said about them.
#[derive(Debug)]
struct Entry {
    bindings: &'static [Binding],
    place: Place,
    /// What the help says.
    help: &'static str,
    /// What the bottom line says, in the order of the table.
    hint: Option<&'static str>,
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
const TABLE: &[Entry] = &[
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
        Place::Steps,
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

/// A line of the help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HelpLine {
    pub(crate) keys: String,
    pub(crate) text: &'static str,
    /// Whether it means something where one is.
    pub(crate) is_here: bool,
}

/// A key of the bottom line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hint {
    pub(crate) keys: String,
    pub(crate) what: &'static str,
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
    fn contains(self, at: Where) -> bool {
        let has_steps = matches!(at.view, View::Overview | View::Timeline);
        match self {
            Self::Everywhere => true,
            Self::In(view) => view == at.view,
            Self::Steps => has_steps,
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
    fn is_about_steps(self) -> bool {
        matches!(self, Self::Steps | Self::HeldSteps | Self::Seek)
    }
}

/// Which key does what.
#[derive(Debug, Clone, PartialEq)]
pub struct Keymap {
    /// By entry of the table and by binding: its keys.
    keys: Vec<Vec<Vec<Key>>>,
}

impl Default for Keymap {
    fn default() -> Self {
        Self::new(&BTreeMap::new())
    }
}

impl Keymap {
    /// The keys of the table, but for those that `other` gives to an action of this name. A key that was given away is no longer that of
    /// the action which has it otherwise.
    pub fn new(other: &BTreeMap<String, Vec<Key>>) -> Self {
        let is_taken = |key: &Key| other.values().flatten().any(|taken| taken == key);
        let usual = |binding: &Binding| {
            let parsed = binding.keys.iter().filter_map(|key| key.parse().ok());
            parsed.filter(|key| !is_taken(key)).collect()
        };
        let of_binding =
            |binding: &Binding| other.get(binding.name).cloned().unwrap_or_else(|| usual(binding));
        let keys =
            TABLE.iter().map(|entry| entry.bindings.iter().map(of_binding).collect()).collect();
        Self { keys }
    }

    fn bound(&self) -> impl Iterator<Item = (Key, Action, Place)> {
        let bindings =
            TABLE.iter().flat_map(|entry| entry.bindings.iter().map(|b| (b.action, entry.place)));
        bindings
            .zip(self.keys.iter().flatten())
            .flat_map(|((action, place), keys)| keys.iter().map(move |&key| (key, action, place)))
    }

    /// The first key of an action, for a hint.
    pub(crate) fn key_of(&self, action: Action) -> Option<String> {
        self.bound().find(|(_, bound, _)| *bound == action).map(|(key, ..)| key.to_string())
    }

    /// The first key of an action and what it does; nothing where it has none.
    pub(crate) fn hint(&self, action: Action, what: &str) -> String {
        self.key_of(action).map_or_else(String::new, |key| format!("{key} {what}"))
    }

    /// What a key asks for where one is, and while `overlay` lies over the screen.
    pub(crate) fn action_of(
        &self,
        event: KeyEvent,
        at: Where,
        overlay: Option<&Overlay>,
    ) -> Option<Action> {
        if event.kind == KeyEventKind::Release {
            return None;
        }
        let key = Key::of(event)?;
        // Whatever is configured, there is a way out.
        if "Ctrl-c".parse() == Ok(key) {
            let asks = matches!(overlay, Some(Overlay::Ask(_)));
            return Some(if asks { Action::Back } else { Action::Quit });
        }
        let typed = match event.code {
            KeyCode::Char(letter) if key.is_plain() => Some(letter),
            _ => None,
        };
        match overlay {
            Some(Overlay::Ask(dialog)) if typed.is_some() => {
                return dialog.choice_of(typed?).map(Action::Choose);
            }
            Some(Overlay::Prompt(_)) => match (event.code, typed) {
                (KeyCode::Enter, _) => return Some(Action::Accept),
                (KeyCode::Backspace, _) => return Some(Action::Erase),
                (KeyCode::Esc, _) => return Some(Action::Back),
                (_, Some(letter)) => return Some(Action::Type(letter)),
                _ => {}
            },
            _ => {}
        }
        // What lies over the screen is the same everywhere.
        self.bound_at(key, overlay.is_none().then_some(at))
    }

    /// What a key asks for in a place; `None` for any.
    fn bound_at(&self, key: Key, at: Option<Where>) -> Option<Action> {
        self.bound()
            .find(|(bound, _, place)| *bound == key && at.is_none_or(|at| place.contains(at)))
            .map(|(_, action, _)| action)
    }

    fn names(&self, at: usize) -> impl Iterator<Item = String> {
        self.keys[at].iter().flatten().map(ToString::to_string)
    }

    /// The help: first what means something where one is.
    pub(crate) fn help(&self, at: Where) -> Vec<HelpLine> {
        let line = |(index, entry): (usize, &'static Entry)| HelpLine {
            keys: self.names(index).collect::<Vec<_>>().join(" "),
            text: entry.help,
            is_here: entry.place.contains(at),
        };
        let mut lines: Vec<HelpLine> = TABLE.iter().enumerate().map(line).collect();
        lines.sort_by_key(|line| !line.is_here);
        lines
    }

    /// The bottom line: what belongs to this view alone comes behind the first four.
    pub(crate) fn hints(&self, at: Where) -> Vec<Hint> {
        let mut hints: Vec<(bool, Hint)> = Vec::new();
        for (index, entry) in TABLE.iter().enumerate().filter(|(_, e)| e.place.contains(at)) {
            let Some(what) = entry.hint else { continue };
            let firsts: Vec<String> = self.keys[index]
                .iter()
                .filter_map(|keys| keys.first().map(ToString::to_string))
                .collect();
            let keys = match firsts.as_slice() {
                [] => continue,
                [first, .., last] if firsts.len() > 3 => format!("{first}-{last}"),
                _ => firsts.join(" "),
            };
            hints.push((entry.place.is_about_steps(), Hint { keys, what }));
        }
        // What is for every step gives way to what is for this view.
        hints.sort_by_key(|(is_late, _)| *is_late);
        hints.into_iter().map(|(_, hint)| hint).collect()
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyModifiers;

    use super::*;
    use crate::monitor::state::Dialog;

    const AT: Where =
        Where { view: View::Overview, is_replay: false, has_runs: false, is_over: false };

    fn press(code: KeyCode, modifiers: KeyModifiers, overlay: Option<&Overlay>) -> Option<Action> {
        Keymap::default().action_of(KeyEvent::new(code, modifiers), AT, overlay)
    }

    #[test]
    fn a_key_means_something_where_the_help_says_so() {
        let keymap = Keymap::default();
        let views = View::ALL.into_iter();
        let all = views.flat_map(|view| {
            [(false, false), (false, true), (true, true)].map(|(is_replay, is_over)| Where {
                view,
                is_replay,
                is_over,
                ..AT
            })
        });
        for at in all {
            for line in keymap.help(at) {
                for key in line.keys.split(' ') {
                    let action = keymap.bound_at(key.parse().unwrap(), Some(at));
                    assert_eq!(action.is_some(), line.is_here, "{key} at {at:?}");
                }
            }
        }
        let at = |view, is_replay| Where { view, is_replay, is_over: is_replay, ..AT };
        let is_there = |letter, at| {
            let event = KeyEvent::new(KeyCode::Char(letter), KeyModifiers::NONE);
            keymap.action_of(event, at, None).is_some()
        };
        for (letter, view, live, replayed) in [
            ('x', View::Loss, true, false),
            ('[', View::Loss, false, true),
            ('[', View::Overview, true, true),
            (':', View::Log, false, true),
            ('j', View::Loss, false, false),
            ('b', View::Overview, false, false),
            ('b', View::Bubble, true, true),
            ('e', View::Overview, false, false),
            ('e', View::Timeline, true, true),
        ] {
            let found = (is_there(letter, at(view, false)), is_there(letter, at(view, true)));
            assert_eq!(found, (live, replayed), "{letter} in {view:?}");
        }
    }

    #[test]
    fn every_key_of_the_table_is_one_and_stands_there_once() {
        let keymap = Keymap::default();
        let n_written: usize = TABLE.iter().flat_map(|e| e.bindings).map(|b| b.keys.len()).sum();
        let keys: Vec<_> = keymap.bound().map(|(key, ..)| key).collect();
        assert_eq!(keys.len(), n_written);
        for (at, one) in keys.iter().enumerate() {
            assert!(!keys[at + 1..].contains(one), "{one} stands twice");
        }
        let mut names: Vec<_> = action_names().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), action_names().count());
    }

    #[test]
    fn control_makes_another_key() {
        let letter = KeyCode::Char('l');
        assert_eq!(press(letter, KeyModifiers::CONTROL, None), Some(Action::Redraw));
        assert_eq!(press(letter, KeyModifiers::NONE, None), Some(Action::Pan(1.0)));
        assert_eq!(press(KeyCode::Char('!'), KeyModifiers::NONE, None), None);
    }

    #[test]
    fn a_question_takes_only_its_answers() {
        let asked = Overlay::Ask(Dialog::Quit);
        let press = |code| press(code, KeyModifiers::NONE, Some(&asked));
        assert_eq!(press(KeyCode::Char('D')), Some(Action::Choose(Choice::Detach)));
        assert_eq!(press(KeyCode::Char('k')), None);
        assert_eq!(press(KeyCode::Char('x')), None);
        assert_eq!(press(KeyCode::Esc), Some(Action::Back));
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        let keymap = Keymap::new(&BTreeMap::from([("back".to_owned(), vec![])]));
        assert_eq!(keymap.action_of(control_c, AT, Some(&asked)), Some(Action::Back));
        assert_eq!(keymap.action_of(control_c, AT, None), Some(Action::Quit));
    }

    #[test]
    fn the_configuration_has_the_last_word_but_for_the_way_out() {
        let key = |text: &str| text.parse::<Key>().unwrap();
        let other = BTreeMap::from([
            ("quit".to_owned(), vec![]),
            ("freeze".to_owned(), vec![key("q"), key("F5")]),
        ]);
        let keymap = Keymap::new(&other);
        let press = |code, modifiers| keymap.action_of(KeyEvent::new(code, modifiers), AT, None);
        assert_eq!(press(KeyCode::Char('q'), KeyModifiers::NONE), Some(Action::Freeze));
        assert_eq!(press(KeyCode::Char(' '), KeyModifiers::NONE), None);
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Action::Quit));
        assert!(keymap.help(AT).iter().any(|line| line.keys == "q F5"));
    }
}
