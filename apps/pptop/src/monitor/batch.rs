//! The keys that are there at once.
//!
//! A terminal that knows bracketed paste says what was pasted. From any other, pasted text comes as
//! keys, many at once, which nobody types: such a batch is known by that, and no letter of it may
//! write a file, leave, or answer a question.

use std::io;
use std::time::Duration;

use crossterm::event::{self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::tty::{Found, Tty};

/// Events that are taken at once.
const EVENTS_MAX: usize = 4096;
/// How long one waits behind a key with consequences: pasted text may come in parts.
const MORE_AFTER: Duration = Duration::from_millis(20);
/// Keys that make a batch look pasted.
const PASTED_KEYS: usize = 3;

/// Events that were there at once.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) inputs: Vec<Input>,
    /// Whether it looks like text that was pasted.
    pub(super) is_pasted: bool,
}

impl Batch {
    /// Takes what is there, and behind a key that `has_consequences` also what comes a moment
    /// later.
    pub(super) fn read(
        tty: &Tty,
        has_consequences: impl Fn(&KeyEvent) -> bool,
    ) -> io::Result<Self> {
        let mut inputs = Vec::new();
        let mut has_waited = false;
        loop {
            while inputs.len() < EVENTS_MAX && event::poll(Duration::ZERO)? {
                inputs.push(event::read()?);
            }
            let is_open = matches!(inputs.last(), Some(Input::Key(key)) if has_consequences(key));
            if has_waited || !is_open || tty.wait(MORE_AFTER)? == Found::Gone {
                break;
            }
            has_waited = true;
        }
        let is_pasted = looks_pasted(&inputs);
        Ok(Self { inputs, is_pasted })
    }
}

/// Whether keys that came at once are text: three of them, with two letters that are not there to
/// move about.
fn looks_pasted(inputs: &[Input]) -> bool {
    let typed: Vec<char> = inputs
        .iter()
        .filter_map(|input| match input {
            Input::Key(key)
                if key.kind == KeyEventKind::Press
                    && !key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) =>
            {
                match key.code {
                    KeyCode::Char(letter) => Some(letter),
                    KeyCode::Enter => Some('\n'),
                    _ => None,
                }
            }
            _ => None,
        })
        .collect();
    let mut letters: Vec<char> =
        typed.iter().copied().filter(|c| !matches!(c, 'h' | 'j' | 'k' | 'l' | '\n')).collect();
    letters.sort_unstable();
    letters.dedup();
    typed.len() >= PASTED_KEYS && letters.len() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_does_not_look_pasted_and_text_does() {
        let looks = |text: &str| {
            let code = |c| if c == '\n' { KeyCode::Enter } else { KeyCode::Char(c) };
            let key = |c| Input::Key(KeyEvent::new(code(c), KeyModifiers::NONE));
            looks_pasted(&text.chars().map(key).collect::<Vec<_>>())
        };
        for text in ["fix this", "q\ns\n", "x\ns\n", "list\n", "yes", "rm -rf *\n"] {
            assert!(looks(text), "{text:?}");
        }
        for text in ["", "s", "1q", "s\n", "jjj\n", "kkkk", "]]]]", "[[[\n", "jjs\n"] {
            assert!(!looks(text), "{text:?}");
        }
    }
}
