//! Foreign text that is shown: names, messages and paths may hold anything, also what a terminal
//! obeys.
//!
//! Three kinds of characters never leave the program as they are: control characters, those of
//! U+0080 to U+009F included; characters that change the order of the others, U+202A to U+202E for
//! example; and characters that nobody sees. Text shows U+FFFD in their place, JSON their escape,
//! so that nothing is lost there.

use std::borrow::Cow;
use std::io;

use serde::Serialize;
use serde_json::ser::Formatter;

/// Whether a terminal obeys this character, or it changes how other characters stand, or cannot be
/// seen.
///
/// ```
/// use pp_schedule::is_obeyed;
///
/// let obeyed = ['\n', '\u{1b}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{200b}', '\u{2028}'];
/// assert!(obeyed.into_iter().all(is_obeyed));
/// assert!(!['a', ' ', 'é', '漢', '\u{301}', '🚀'].into_iter().any(is_obeyed));
/// ```
pub fn is_obeyed(c: char) -> bool {
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

fn replaced(text: &str, is_wrong: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.contains(&is_wrong) { text.replace(is_wrong, "\u{fffd}").into() } else { text.into() }
}

/// A foreign text as a part of one line.
///
/// ```
/// assert_eq!(pp_schedule::clean("run\u{1b}[2J\n\u{202e}1"), "run\u{fffd}[2J\u{fffd}\u{fffd}1");
/// ```
pub fn clean(text: &str) -> Cow<'_, str> {
    replaced(text, is_obeyed)
}

/// A text of several lines: line feeds and tabs stay.
pub fn clean_lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| is_obeyed(c) && c != '\n' && c != '\t')
}

/// JSON without a character that a terminal obeys: each of them is written as its escape, and read
/// as what it is.
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

/// A value as JSON on one line, without a character that a terminal obeys.
///
/// ```
/// assert_eq!(pp_schedule::to_json("\u{9b}2J \u{1b} é")?, r#""\u009b2J \u001b é""#);
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
/// As [`serde_json::to_string`].
pub fn to_json<T: ?Sized + Serialize>(value: &T) -> Result<String, serde_json::Error> {
    let mut text = Vec::new();
    write_json(&mut text, value)?;
    String::from_utf8(text).map_err(serde::ser::Error::custom)
}

/// The same into a buffer or a file.
///
/// # Errors
/// As [`serde_json::to_writer`].
pub fn write_json<T: ?Sized + Serialize>(
    into: impl io::Write,
    value: &T,
) -> Result<(), serde_json::Error> {
    value.serialize(&mut serde_json::Serializer::with_formatter(into, Escaped))
}

/// A foreign text on one line, without control characters, cut to what leaves room for the rest of
/// the message.
pub(crate) fn excerpt(text: &str) -> String {
    const MOST: usize = 32;
    let mut short: String = text.chars().take(MOST).map(visible).collect();
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}

/// A parser's message, which may quote any part of a file: its beginning and its end, where the
/// place is.
pub(crate) fn clipped(message: &str) -> String {
    const MOST: usize = 140;
    const END: usize = 40;
    let characters: Vec<char> = message.chars().map(visible).collect();
    if characters.len() <= MOST {
        return characters.into_iter().collect();
    }
    let (start, end) = (&characters[..MOST - END], &characters[characters.len() - END..]);
    start.iter().chain(&['…']).chain(end).collect()
}

/// What a terminal would obey is shown as unknown.
fn visible(c: char) -> char {
    if is_obeyed(c) { '\u{fffd}' } else { c }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn json_is_the_same_value_and_shows_nothing_that_is_obeyed(
            text in ".*",
            more in prop::collection::vec(prop::char::range('\u{7e}', '\u{2070}'), 0..20),
            tag in prop::char::range('\u{e0000}', '\u{e0080}'),
        ) {
            let text: String = text.chars().chain(more).chain([tag, '"', '\\', '\u{fdd0}']).collect();
            let json = to_json(&text).unwrap();
            prop_assert!(!json.contains(is_obeyed), "{:?}", json);
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn what_is_cleaned_has_as_many_characters(text in ".*") {
            prop_assert!(!clean(&text).contains(is_obeyed));
            prop_assert_eq!(clean(&text).chars().count(), text.chars().count());
            prop_assert!(clean_lines(&text).chars().all(|c| !is_obeyed(c) || c == '\n' || c == '\t'));
        }
    }
}
