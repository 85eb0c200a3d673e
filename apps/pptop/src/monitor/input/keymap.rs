//! Which key does what: the table, with what the configuration says otherwise.

use std::collections::BTreeMap;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind};

use super::Action;
use super::table::{Binding, Entry, Place, TABLE, Where};
use crate::config::Key;
use crate::monitor::screen::Overlay;

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
    /// The keys of the table. `other` replaces the keys of the actions that it names. A key that it
    /// gives to one action is taken from the action that has it by default.
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

    /// Which key leaves; Ctrl-c does whatever is configured.
    pub(crate) fn leaves(&self) -> String {
        let key = self.key_of(Action::Quit);
        format!("{} leaves", key.as_deref().unwrap_or("Ctrl-c"))
    }

    /// The keys that go down and up a list: `j k`.
    pub(crate) fn scroll_keys(&self) -> String {
        let keys = [1, -1].map(|by| self.key_of(Action::Scroll(by)));
        keys.into_iter().flatten().collect::<Vec<_>>().join(" ")
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
            Some(Overlay::Ask(dialog)) => {
                // What is held down was pressed before the question was there.
                if event.kind == KeyEventKind::Repeat && event.code == KeyCode::Enter {
                    return None;
                }
                match (event.code, typed) {
                    (KeyCode::Enter, _) => return Some(Action::Accept),
                    (KeyCode::Esc, _) => return Some(Action::Back),
                    (KeyCode::Down | KeyCode::Right | KeyCode::Tab, _) | (_, Some('j')) => {
                        return Some(Action::Answer(1));
                    }
                    (KeyCode::Up | KeyCode::Left | KeyCode::BackTab, _) | (_, Some('k')) => {
                        return Some(Action::Answer(-1));
                    }
                    (_, Some(letter)) => return dialog.choice_of(letter).map(Action::Choose),
                    _ => {}
                }
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
        let action = self.bound_at(key, overlay.is_none().then_some(at));
        let is_held = event.kind == KeyEventKind::Repeat;
        action.filter(|action| !is_held || action.may_repeat())
    }

    /// Whether a key writes a file or leaves, somewhere.
    pub(crate) fn has_consequences(&self, event: KeyEvent) -> bool {
        let key = Key::of(event);
        self.bound().any(|(bound, action, _)| Some(bound) == key && action.has_consequences())
    }

    /// What a key asks for, wherever it does.
    pub(crate) fn anywhere(&self, key: Key) -> Option<Action> {
        self.bound_at(key, None)
    }

    /// What a key asks for in a place; `None` for any. The key that ends a run says why where it
    /// cannot.
    fn bound_at(&self, key: Key, at: Option<Where>) -> Option<Action> {
        self.bound()
            .find(|(bound, _, place)| {
                *bound == key && (*place == Place::Live || at.is_none_or(|at| place.contains(at)))
            })
            .map(|(_, action, _)| action)
    }

    fn names(&self, at: usize) -> impl Iterator<Item = String> {
        self.keys[at].iter().flatten().map(ToString::to_string)
    }

    /// The help: first what does something where one is, then what does in another view. What does
    /// nothing in any, such as the keys of a replay while a run is live, is left out.
    pub(crate) fn help(&self, at: Where) -> Vec<HelpLine> {
        let line = |(index, entry): (usize, &'static Entry)| HelpLine {
            keys: self.names(index).collect::<Vec<_>>().join(" "),
            text: entry.help,
            is_here: entry.place.contains(at),
        };
        let works = |(_, entry): &(usize, &'static Entry)| {
            entry.place.contains(at) || entry.place.is_elsewhere(at)
        };
        let mut lines: Vec<HelpLine> = TABLE.iter().enumerate().filter(works).map(line).collect();
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
            let what = if entry.place == Place::Freeze && at.is_replay { "pause" } else { what };
            hints.push((entry.place.is_about_steps(), Hint { keys, what }));
        }
        // What is for every step gives way to what is for this view.
        hints.sort_by_key(|(is_late, _)| *is_late);
        hints.into_iter().map(|(_, hint)| hint).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossterm::event::KeyModifiers;

    use super::*;
    use crate::monitor::action_names;
    use crate::monitor::screen::{Choice, Dialog, Question, View};

    const AT: Where = Where {
        view: View::Overview,
        is_replay: false,
        has_runs: false,
        can_stop: true,
        can_freeze: true,
        has_step: true,
        has_steps: true,
        has_loss: true,
        has_account: true,
        is_held: false,
        n_ranks: 4,
        n_lines: 4,
    };

    fn press(code: KeyCode, modifiers: KeyModifiers, overlay: Option<&Overlay>) -> Option<Action> {
        Keymap::default().action_of(KeyEvent::new(code, modifiers), AT, overlay)
    }

    /// Every combination of what may be so.
    fn everywhere() -> impl Iterator<Item = Where> {
        let is = |bits: u32, at: u32| bits >> at & 1 == 1;
        View::ALL.into_iter().flat_map(move |view| {
            (0..1 << 9).flat_map(move |bits| {
                [0, 1, 4].map(|n| Where {
                    view,
                    is_replay: is(bits, 0),
                    has_runs: is(bits, 1),
                    can_stop: is(bits, 2),
                    can_freeze: is(bits, 3),
                    has_step: is(bits, 4),
                    has_steps: is(bits, 5),
                    has_loss: is(bits, 6),
                    has_account: is(bits, 7),
                    is_held: is(bits, 8),
                    n_ranks: n,
                    n_lines: n,
                })
            })
        })
    }

    #[test]
    fn a_key_means_something_where_the_help_says_so() {
        let keymap = Keymap::default();
        for at in everywhere() {
            let help = keymap.help(at);
            for (entry, keys) in TABLE.iter().zip(&keymap.keys) {
                let is_here = entry.place.contains(at);
                let line = help.iter().find(|line| line.text == entry.help);
                assert_eq!(line.is_some_and(|line| line.is_here), is_here, "{at:?}");
                for key in keys.iter().flatten() {
                    // The key that ends a run says why it does not.
                    let wanted = is_here || entry.place == Place::Live;
                    assert_eq!(keymap.bound_at(*key, Some(at)).is_some(), wanted, "{key} {at:?}");
                }
            }
        }
    }

    #[test]
    fn the_bottom_line_offers_what_works_and_nothing_else() {
        let keymap = Keymap::default();
        let offers = |at| -> Vec<String> {
            let hints = keymap.hints(at).into_iter();
            hints.map(|hint| format!("{} {}", hint.keys, hint.what)).collect()
        };
        for at in everywhere() {
            let of_table = |entry: &&Entry| entry.place.contains(at) && entry.hint.is_some();
            assert_eq!(offers(at).len(), TABLE.iter().filter(of_table).count(), "{at:?}");
            let offers = offers(at).join("  ");
            assert_eq!(offers.contains("x stop"), at.can_stop, "{at:?}");
            assert_eq!(offers.contains("Space"), at.can_freeze, "{at:?}");
        }
        let ended = Where { can_stop: false, can_freeze: false, ..AT };
        assert_eq!(offers(ended).join("  "), "q quit  ? help  1-6 view  [ ] step  + - = zoom");
        let replay = Where { is_replay: true, can_stop: false, ..AT };
        assert!(offers(replay).join("  ").contains("Space pause  < > speed"));
        let starting = Where {
            has_step: false,
            has_steps: false,
            has_loss: false,
            has_account: false,
            n_ranks: 0,
            n_lines: 0,
            ..AT
        };
        assert_eq!(offers(starting).join("  "), "q quit  x stop  ? help  1-6 view  Space freeze");
        let help = keymap.help(ended);
        assert!(!help.iter().any(|line| line.text.starts_with("end the run")));
        assert!(!help.iter().any(|line| line.text.starts_with("replay")));
        // What is for another view is told, but as such.
        assert!(help.iter().any(|line| line.text.starts_with("loss:") && !line.is_here));
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
        let asked = Overlay::Ask(Dialog::new(Question::Quit, Duration::ZERO));
        let press = |code| press(code, KeyModifiers::NONE, Some(&asked));
        assert_eq!(press(KeyCode::Char('D')), Some(Action::Choose(Choice::Detach)));
        assert_eq!(press(KeyCode::Char('x')), None);
        assert_eq!(press(KeyCode::Char(' ')), None);
        assert_eq!(press(KeyCode::Esc), Some(Action::Back));
        assert_eq!(press(KeyCode::Enter), Some(Action::Accept));
        for (code, by) in [
            (KeyCode::Down, 1),
            (KeyCode::Tab, 1),
            (KeyCode::Char('j'), 1),
            (KeyCode::Up, -1),
            (KeyCode::BackTab, -1),
            (KeyCode::Char('k'), -1),
        ] {
            assert_eq!(press(code), Some(Action::Answer(by)), "{code:?}");
        }
        let held =
            KeyEvent::new_with_kind(KeyCode::Enter, KeyModifiers::NONE, KeyEventKind::Repeat);
        assert_eq!(Keymap::default().action_of(held, AT, Some(&asked)), None);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        let keymap = Keymap::new(&BTreeMap::from([("back".to_owned(), vec![])]));
        assert_eq!(keymap.action_of(control_c, AT, Some(&asked)), Some(Action::Back));
        assert_eq!(keymap.action_of(control_c, AT, None), Some(Action::Quit));
    }

    /// Terminals with another protocol say that a key is held down, and that it is let go.
    #[test]
    fn a_key_that_is_held_does_nothing_twice_and_letting_go_is_none() {
        let press = |letter, kind| {
            let code = KeyCode::Char(letter);
            let event = KeyEvent::new_with_kind(code, KeyModifiers::NONE, kind);
            Keymap::default().action_of(event, AT, None)
        };
        for letter in ['q', 'x', 's', ' ', '?', ':'] {
            assert!(press(letter, KeyEventKind::Press).is_some(), "{letter}");
            assert_eq!(press(letter, KeyEventKind::Repeat), None, "{letter}");
        }
        for letter in ['j', '[', '+', 'l'] {
            assert!(press(letter, KeyEventKind::Repeat).is_some(), "{letter}");
            assert_eq!(press(letter, KeyEventKind::Release), None, "{letter}");
        }
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
