//! JSON that is safe to show on a terminal.
//!
//! Names and messages may hold anything, also characters that a terminal obeys. A line of the log
//! has their escapes instead, so that `cat events.jsonl` does no harm and nothing is lost.

use std::io;

use serde::Serialize;
use serde_json::ser::Formatter;

/// Whether a character controls the terminal, changes the order of other characters, or is
/// invisible. `pp-schedule` has the same list, because neither crate depends on the other by
/// default; a test keeps the two equal.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            // The soft hyphen, the Arabic letter mark, the Mongolian vowel separator.
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            // Fillers of Hangul, which are drawn as nothing.
            | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}'
            // Zero width, marks of direction; separators of lines and paragraphs; embeddings and
            // overrides.
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            // Joiners, invisible operators, isolates, and what was deprecated.
            | '\u{2060}'..='\u{206f}'
            // The byte order mark, annotations, tags.
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// Writes each character of [`is_obeyed`] as its escape.
struct Escaped;

impl Formatter for Escaped {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        // Nearly every text is printable ASCII.
        let is_plain = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        while !is_plain(rest)
            && let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_obeyed(c))
        {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Writes a value as JSON on one line, without a character that a terminal obeys.
///
/// # Errors
/// As [`serde_json::to_writer`].
pub fn write_json<T: ?Sized + Serialize>(
    into: impl io::Write,
    value: &T,
) -> Result<(), serde_json::Error> {
    value.serialize(&mut serde_json::Serializer::with_formatter(into, Escaped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_obeyed_here_as_in_the_schedules() {
        for c in char::MIN..=char::MAX {
            assert_eq!(is_obeyed(c), pp_schedule::is_obeyed(c), "{c:?}");
        }
    }

    #[test]
    fn text_is_written_here_as_in_the_schedules() {
        let all: String = (char::MIN..=char::MAX).collect();
        let mut text = Vec::new();
        write_json(&mut text, &all).unwrap();
        assert!(String::from_utf8(text).unwrap() == pp_schedule::to_json(&all).unwrap());
    }

    #[test]
    fn what_is_obeyed_is_written_as_its_escape() {
        let mut text = Vec::new();
        write_json(&mut text, "\u{9b}2J \u{1b} é \u{e0001}").unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), r#""\u009b2J \u001b é \udb40\udc01""#);
    }
}
