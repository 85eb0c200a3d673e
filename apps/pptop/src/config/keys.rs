//! Keys as text: `q`, `Ctrl-c`, `F1`, `Space`, `Shift-Tab`.
//!
//! A key is printed in one form; other forms are read as well (`ctrl-C`, `pgup`). A key that no
//! terminal can send is refused, because it would never do anything: Ctrl-i arrives as Tab.

use std::fmt;
use std::str::FromStr;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use pp_schedule::is_obeyed;

use super::values::{Refused, excerpt};

/// The highest function key.
const F_MAX: u8 = 24;

/// Keys that have a name; the first of a code is the one that is printed.
const NAMED: [(&str, KeyCode); 18] = [
    ("Space", KeyCode::Char(' ')),
    ("Enter", KeyCode::Enter),
    ("Esc", KeyCode::Esc),
    ("Tab", KeyCode::Tab),
    ("Backspace", KeyCode::Backspace),
    ("Delete", KeyCode::Delete),
    ("Insert", KeyCode::Insert),
    ("Left", KeyCode::Left),
    ("Right", KeyCode::Right),
    ("Up", KeyCode::Up),
    ("Down", KeyCode::Down),
    ("Home", KeyCode::Home),
    ("End", KeyCode::End),
    ("PageUp", KeyCode::PageUp),
    ("PageDown", KeyCode::PageDown),
    ("Escape", KeyCode::Esc),
    ("PgUp", KeyCode::PageUp),
    ("PgDn", KeyCode::PageDown),
];

/// Modifiers, in the order in which they are printed.
const MODIFIERS: [(&str, KeyModifiers); 3] = [
    ("Ctrl-", KeyModifiers::CONTROL),
    ("Alt-", KeyModifiers::ALT),
    ("Shift-", KeyModifiers::SHIFT),
];

/// A key with its modifiers. Two keys that a terminal sends alike are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    code: KeyCode,
    modifiers: KeyModifiers,
}

impl Key {
    /// The key of an event; `None` for those that cannot be bound, such as a modifier alone.
    pub fn of(event: KeyEvent) -> Option<Self> {
        Self::new(event.code, event.modifiers).ok()
    }

    /// A key in the one form that it has here.
    ///
    /// # Errors
    /// Why no terminal sends it, and what to bind instead.
    pub fn new(code: KeyCode, modifiers: KeyModifiers) -> Result<Self, Refused> {
        let modifiers =
            modifiers & (KeyModifiers::CONTROL | KeyModifiers::ALT | KeyModifiers::SHIFT);
        let has_control = modifiers.contains(KeyModifiers::CONTROL);
        let has_shift = modifiers.contains(KeyModifiers::SHIFT);
        let refused = |why: &str, remedy: &str| {
            let key = Self { code, modifiers };
            Err(Refused::new(format!("{key} {why}"), remedy))
        };
        let (code, modifiers) = match code {
            KeyCode::BackTab => (KeyCode::Tab, modifiers | KeyModifiers::SHIFT),
            KeyCode::Char(' ') if has_shift => {
                return refused("arrives as Space", "use Space or Ctrl-Space");
            }
            KeyCode::Char(' ') => (code, modifiers),
            KeyCode::Char(c) if is_obeyed(c) || c.is_whitespace() => {
                return refused("is not a key", "use a visible character, or a name such as Space");
            }
            // Terminals send one byte for a letter with Ctrl, whatever its case.
            KeyCode::Char(c) if has_control => match c.to_ascii_lowercase() {
                'i' => return refused("arrives as Tab", "use Tab, or Ctrl with another letter"),
                'm' => {
                    return refused("arrives as Enter", "use Enter, or Ctrl with another letter");
                }
                c @ 'a'..='z' => (KeyCode::Char(c), modifiers - KeyModifiers::SHIFT),
                _ => {
                    return refused(
                        "cannot be sent by a terminal",
                        "use Ctrl with a letter a to z",
                    );
                }
            },
            // The character says already whether Shift was held.
            KeyCode::Char(c) if has_shift => {
                (KeyCode::Char(c.to_ascii_uppercase()), modifiers - KeyModifiers::SHIFT)
            }
            KeyCode::F(n) if !(1..=F_MAX).contains(&n) => {
                return refused("is not a key", "use F1 to F24");
            }
            KeyCode::Char(_) | KeyCode::F(_) => (code, modifiers),
            _ if NAMED.iter().any(|(_, named)| *named == code) => (code, modifiers),
            _ => return refused("cannot be bound", "use a character or a key with a name"),
        };
        Ok(Self { code, modifiers })
    }

    /// Whether it is pressed without Ctrl and Alt.
    pub fn is_plain(self) -> bool {
        !self.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, modifier) in MODIFIERS {
            if self.modifiers.contains(modifier) {
                f.write_str(name)?;
            }
        }
        match self.code {
            KeyCode::F(n) => write!(f, "F{n}"),
            code => match (NAMED.iter().find(|(_, named)| *named == code), code) {
                (Some((name, _)), _) => f.write_str(name),
                (None, KeyCode::Char(c)) if !is_obeyed(c) => write!(f, "{c}"),
                (None, _) => f.write_str("this key"),
            },
        }
    }
}

impl FromStr for Key {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let (mut name, mut modifiers) = (text, KeyModifiers::NONE);
        // A lone `-` is a key as well: what is left is never empty.
        while let Some((rest, modifier)) = without_modifier(name) {
            if modifiers.contains(modifier) {
                return Err(no_key(text));
            }
            (name, modifiers) = (rest, modifiers | modifier);
        }
        let code = code_of(name).ok_or_else(|| no_key(text))?;
        Self::new(code, modifiers)
    }
}

fn without_modifier(name: &str) -> Option<(&str, KeyModifiers)> {
    MODIFIERS.iter().find_map(|(prefix, modifier)| {
        let (head, rest) = name.split_at_checked(prefix.len())?;
        (head.eq_ignore_ascii_case(prefix) && !rest.is_empty()).then_some((rest, *modifier))
    })
}

fn code_of(name: &str) -> Option<KeyCode> {
    let mut characters = name.chars();
    if let (Some(c), None) = (characters.next(), characters.next()) {
        return Some(KeyCode::Char(c)).filter(|_| c != ' ');
    }
    if let Some((_, code)) = NAMED.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        return Some(*code);
    }
    let digits = name.strip_prefix(['F', 'f'])?;
    let is_number = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).map(KeyCode::F)
}

fn no_key(text: &str) -> Refused {
    Refused::new(
        format!("{} is not a key", excerpt(text)),
        "use a character, F1 to F24, Space, Enter, Esc, Tab, Left, PageUp and so on, with Ctrl-, Alt- or Shift- before it",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> String {
        match text.parse::<Key>() {
            Ok(key) => key.to_string(),
            Err(refused) => format!("! {}", refused.why),
        }
    }

    #[test]
    fn keys_are_printed_in_one_way() {
        for (text, printed) in [
            ("q", "q"),
            ("Q", "Q"),
            ("-", "-"),
            ("Alt--", "Alt--"),
            ("+", "+"),
            ("ß", "ß"),
            ("Ctrl-c", "Ctrl-c"),
            ("ctrl-C", "Ctrl-c"),
            ("Ctrl-Shift-c", "Ctrl-c"),
            ("Alt-Ctrl-x", "Ctrl-Alt-x"),
            ("Shift-q", "Q"),
            ("F1", "F1"),
            ("f12", "F12"),
            ("Shift-F3", "Shift-F3"),
            ("space", "Space"),
            ("Ctrl-Space", "Ctrl-Space"),
            ("Escape", "Esc"),
            ("PgUp", "PageUp"),
            ("Ctrl-Left", "Ctrl-Left"),
            ("Shift-Tab", "Shift-Tab"),
        ] {
            assert_eq!(read(text), printed, "{text}");
        }
    }

    #[test]
    fn what_is_no_key_or_never_arrives_is_refused() {
        for (text, why) in [
            ("", "\"\" is not a key"),
            (" ", "\" \" is not a key"),
            ("qq", "\"qq\" is not a key"),
            ("Ctrl-", "\"Ctrl-\" is not a key"),
            ("Ctrl-Ctrl-c", "\"Ctrl-Ctrl-c\" is not a key"),
            ("Super-q", "\"Super-q\" is not a key"),
            ("F0", "\"F0\" is not a key"),
            ("F01", "\"F01\" is not a key"),
            ("F25", "F25 is not a key"),
            ("F300", "\"F300\" is not a key"),
            ("F+1", "\"F+1\" is not a key"),
            ("\t", "this key is not a key"),
            ("Ctrl-i", "Ctrl-i arrives as Tab"),
            ("Ctrl-M", "Ctrl-M arrives as Enter"),
            ("Ctrl-1", "Ctrl-1 cannot be sent by a terminal"),
            ("Shift-Space", "Shift-Space arrives as Space"),
        ] {
            assert_eq!(read(text), format!("! {why}"), "{text:?}");
        }
    }

    #[test]
    fn events_of_the_terminal_are_the_keys_that_were_written() {
        let event = KeyEvent::new;
        for (text, event) in [
            ("q", event(KeyCode::Char('q'), KeyModifiers::NONE)),
            ("G", event(KeyCode::Char('G'), KeyModifiers::SHIFT)),
            ("?", event(KeyCode::Char('?'), KeyModifiers::SHIFT)),
            ("Ctrl-c", event(KeyCode::Char('c'), KeyModifiers::CONTROL)),
            ("Shift-Tab", event(KeyCode::BackTab, KeyModifiers::SHIFT)),
            ("Shift-Tab", event(KeyCode::BackTab, KeyModifiers::NONE)),
            ("Space", event(KeyCode::Char(' '), KeyModifiers::NONE)),
        ] {
            let key: Key = text.parse().unwrap();
            assert_eq!(Key::of(event), Some(key), "{text} {event:?}");
        }
        let quit: Key = "q".parse().unwrap();
        assert_ne!(Key::of(event(KeyCode::Char('q'), KeyModifiers::ALT)), Some(quit));
        assert_eq!(Key::of(event(KeyCode::CapsLock, KeyModifiers::NONE)), None);
    }

    fn any_code() -> impl Strategy<Value = KeyCode> {
        let named = (0..NAMED.len()).prop_map(|at| NAMED[at].1);
        prop_oneof![
            any::<char>().prop_map(KeyCode::Char),
            prop::char::range('!', '~').prop_map(KeyCode::Char),
            any::<u8>().prop_map(KeyCode::F),
            named,
            Just(KeyCode::BackTab),
            Just(KeyCode::Null),
        ]
    }

    proptest! {
        #[test]
        fn every_key_is_read_as_it_is_printed(code in any_code(), bits in 0_u8..8) {
            let modifiers = KeyModifiers::from_bits_truncate(bits);
            if let Ok(key) = Key::new(code, modifiers) {
                let text = key.to_string();
                prop_assert_eq!(text.parse::<Key>().ok(), Some(key), "{}", text);
                prop_assert_eq!(Key::of(KeyEvent::new(code, modifiers)), Some(key));
                prop_assert_eq!(Key::new(key.code, key.modifiers).ok(), Some(key));
            }
        }

        #[test]
        fn no_text_panics_and_what_is_read_is_printed_alike(text in "(?i)(ctrl-|alt-|shift-){0,3}.{0,6}") {
            if let Ok(key) = text.parse::<Key>() {
                prop_assert_eq!(key.to_string().parse::<Key>().ok(), Some(key));
            }
        }
    }
}
