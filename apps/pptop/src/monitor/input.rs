//! Keys: one table from which both the handler and the help are made.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::{Choice, Overlay};

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Leave.
    Quit,
    /// Ask how to end the run.
    Stop,
    /// Show or hide the keys.
    Help,
    /// Close what lies over the screen; then show the newest step whole.
    Back,
    /// Answer a question.
    Choose(Choice),
    /// Let the screen stand still, or go on.
    Freeze,
    /// Show another recorded step.
    StepBy(i64),
    /// Show the newest recorded step.
    NewestStep,
    /// Show less of the step, larger.
    ZoomIn,
    /// Show more of the step.
    ZoomOut,
    /// Show the whole step.
    ZoomFit,
    /// Move along the step.
    Pan(f64),
    /// Show other ranks.
    Scroll(isize),
    /// Draw everything anew.
    Redraw,
    /// Give the terminal back to the shell for a while.
    Suspend,
}

/// A key of the table.
#[derive(Debug, Clone, Copy)]
struct Key {
    code: KeyCode,
    control: bool,
    action: Action,
}

const fn key(code: KeyCode, action: Action) -> Key {
    Key { code, control: false, action }
}

const fn control(letter: char, action: Action) -> Key {
    Key { code: KeyCode::Char(letter), control: true, action }
}

/// Keys that belong together, with what is said about them.
#[derive(Debug)]
pub(crate) struct Entry {
    keys: &'static [Key],
    /// The keys as the help names them.
    pub(crate) names: &'static str,
    /// What the help says.
    pub(crate) help: &'static str,
    /// What the bottom line says, in the order of the table.
    pub(crate) hint: Option<&'static str>,
}

/// All keys of this screen.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        keys: &[key(KeyCode::Char('q'), Action::Quit), control('c', Action::Quit)],
        names: "q Ctrl-C",
        help: "leave; a run that was started here: detach, stop or cancel",
        hint: Some("q quit"),
    },
    Entry {
        keys: &[key(KeyCode::Char('x'), Action::Stop)],
        names: "x",
        help: "end the run: after this step, at once, or not",
        hint: Some("x stop"),
    },
    Entry {
        keys: &[key(KeyCode::Char('?'), Action::Help), key(KeyCode::F(1), Action::Help)],
        names: "? F1",
        help: "these keys",
        hint: Some("? help"),
    },
    Entry {
        keys: &[key(KeyCode::Char(' '), Action::Freeze)],
        names: "Space",
        help: "freeze the screen, and go on; the training never notices",
        hint: Some("Space freeze"),
    },
    Entry {
        keys: &[
            key(KeyCode::Char('['), Action::StepBy(-1)),
            key(KeyCode::Char(']'), Action::StepBy(1)),
        ],
        names: "[ ]",
        help: "timeline: the recorded step before, behind",
        hint: Some("[ ] step"),
    },
    Entry {
        keys: &[
            key(KeyCode::Char('{'), Action::StepBy(-10)),
            key(KeyCode::Char('}'), Action::StepBy(10)),
        ],
        names: "{ }",
        help: "timeline: ten recorded steps back, on",
        hint: None,
    },
    Entry {
        keys: &[key(KeyCode::Home, Action::NewestStep)],
        names: "Home",
        help: "timeline: follow the newest step again",
        hint: None,
    },
    Entry {
        keys: &[
            key(KeyCode::Char('+'), Action::ZoomIn),
            key(KeyCode::Char('-'), Action::ZoomOut),
            key(KeyCode::Char('='), Action::ZoomFit),
        ],
        names: "+ - =",
        help: "timeline: larger, smaller, the whole step",
        hint: Some("+ - = zoom"),
    },
    Entry {
        keys: &[
            key(KeyCode::Left, Action::Pan(-1.0)),
            key(KeyCode::Right, Action::Pan(1.0)),
            key(KeyCode::Char('h'), Action::Pan(-1.0)),
            key(KeyCode::Char('l'), Action::Pan(1.0)),
        ],
        names: "h l left right",
        help: "timeline: move along the step when it is zoomed",
        hint: None,
    },
    Entry {
        keys: &[
            key(KeyCode::Up, Action::Scroll(-1)),
            key(KeyCode::Down, Action::Scroll(1)),
            key(KeyCode::Char('k'), Action::Scroll(-1)),
            key(KeyCode::Char('j'), Action::Scroll(1)),
        ],
        names: "j k up down",
        help: "other ranks, when not all of them fit; the wheel too",
        hint: None,
    },
    Entry {
        keys: &[key(KeyCode::Esc, Action::Back)],
        names: "Esc",
        help: "back; never leaves",
        hint: None,
    },
    Entry {
        keys: &[control('l', Action::Redraw)],
        names: "Ctrl-L",
        help: "draw the screen anew",
        hint: None,
    },
    Entry {
        keys: &[control('z', Action::Suspend)],
        names: "Ctrl-Z",
        help: "suspend this monitor; `fg` comes back",
        hint: None,
    },
];

/// What a key asks for while `overlay` lies over the screen.
pub(crate) fn action_of(event: KeyEvent, overlay: Option<Overlay>) -> Option<Action> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let is_control = event.modifiers.contains(KeyModifiers::CONTROL);
    if let (Some(Overlay::Ask(dialog)), KeyCode::Char(letter), false) =
        (overlay, event.code, is_control)
    {
        return dialog.choice_of(letter).map(Action::Choose);
    }
    TABLE
        .iter()
        .flat_map(|entry| entry.keys)
        .find(|key| key.code == event.code && key.control == is_control)
        .map(|key| key.action)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::state::Dialog;

    fn press(code: KeyCode, modifiers: KeyModifiers, overlay: Option<Overlay>) -> Option<Action> {
        action_of(KeyEvent::new(code, modifiers), overlay)
    }

    #[test]
    fn no_key_stands_twice_in_the_table() {
        let keys: Vec<_> = TABLE.iter().flat_map(|entry| entry.keys).collect();
        for (at, one) in keys.iter().enumerate() {
            for other in &keys[at + 1..] {
                assert!(
                    (one.code, one.control) != (other.code, other.control),
                    "{one:?} and {other:?}"
                );
            }
        }
    }

    #[test]
    fn control_makes_another_key() {
        let letter = KeyCode::Char('l');
        assert_eq!(press(letter, KeyModifiers::CONTROL, None), Some(Action::Redraw));
        assert_eq!(press(letter, KeyModifiers::NONE, None), Some(Action::Pan(1.0)));
        assert_eq!(press(KeyCode::Char('w'), KeyModifiers::NONE, None), None);
    }

    #[test]
    fn a_question_takes_only_its_answers() {
        let asked = Some(Overlay::Ask(Dialog::Quit));
        let press = |code| press(code, KeyModifiers::NONE, asked);
        assert_eq!(press(KeyCode::Char('D')), Some(Action::Choose(Choice::Detach)));
        assert_eq!(press(KeyCode::Char('k')), None);
        assert_eq!(press(KeyCode::Char('x')), None);
        assert_eq!(press(KeyCode::Esc), Some(Action::Back));
    }
}
