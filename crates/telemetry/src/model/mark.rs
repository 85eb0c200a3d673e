//! Marks in a log from which one can begin to read.
//!
//! A mark says what all lines before it amount to. One that was damaged would therefore be worse
//! than none: it carries a checksum, and a reader passes over a mark that does not match it. Logs
//! of older versions have marks without a checksum; those are taken if what they say can be.

use pp_trace::{INDEX_HEAD as HEAD, Index, LineError, write_json};
use serde::{Deserialize, Serialize};

use super::Model;

/// What follows where the mark has a checksum: eight hexadecimal digits, then [`CHECK_END`] and
/// what is checked.
const CHECK: &[u8] = br#""crc32c":""#;
const CHECK_DIGITS: usize = 8;
const CHECK_END: &[u8] = br#"","#;
/// What follows in a mark of an older version.
const UNCHECKED: &[u8] = br#""step":"#;

/// Everything before it in one line: who opens a long log begins at the last of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogMark {
    /// The last step before it.
    pub step: u64,
    /// Where the marks are, this one included, as bytes from the beginning of the log.
    pub frames: Vec<Frame>,
    /// What all events before it amount to, without their spans.
    pub model: Box<Model>,
}

/// Where a mark is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// The byte at which its line begins.
    pub offset: u64,
    /// The last step before it.
    pub step: u64,
}

impl LogMark {
    /// Reads the line of a mark.
    ///
    /// # Errors
    /// It is not as it was written, or what it says is no mark.
    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        if !is_undamaged(line) {
            return Err(LineError::Damaged);
        }
        Ok(serde_json::from_slice(line)?)
    }

    /// The mark as a line of the log.
    ///
    /// # Errors
    /// Never for what a fold holds; the signature is that of the serializer.
    pub fn to_index(&self) -> Result<Index, serde_json::Error> {
        let mut line = Vec::new();
        self.write_line(&mut line)?;
        line.pop();
        Ok(Index::new(line))
    }

    /// Appends the line of the mark, with its checksum and the line feed.
    pub(crate) fn write_line(&self, into: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let start = into.len();
        into.extend_from_slice(HEAD);
        into.extend_from_slice(CHECK);
        into.extend_from_slice(&[b'0'; CHECK_DIGITS]);
        into.extend_from_slice(CHECK_END);
        // The object's own brace goes: its keys follow those that are there already.
        let body = into.len();
        if let Err(failed) = write_json(&mut *into, self) {
            into.truncate(start);
            return Err(failed);
        }
        into.remove(body);
        let check = check_of(&into[body..]);
        let digits = start + HEAD.len() + CHECK.len();
        into[digits..digits + CHECK_DIGITS].copy_from_slice(check.as_bytes());
        into.push(b'\n');
        Ok(())
    }

    /// Whether a log can be read from here on, if this is its line at that byte.
    pub(crate) fn is_sound_at(&self, offset: u64) -> bool {
        let here = Frame { offset, step: self.step };
        self.frames.last() == Some(&here)
            && self.frames.is_sorted_by(|a, b| a.offset < b.offset && a.step <= b.step)
            && self.step == self.model.step()
            && self.model.hello().is_some()
            && self.model.is_sound()
    }
}

/// Where the marks of a log are, by one of them: for whoever has a fold already.
pub(crate) fn frames_of(line: &[u8]) -> Option<Vec<Frame>> {
    #[derive(Deserialize)]
    struct Places {
        frames: Vec<Frame>,
    }
    let places: Option<Places> = serde_json::from_slice(line).ok().filter(|_| is_undamaged(line));
    places.map(|places| places.frames)
}

fn check_of(text: &[u8]) -> String {
    format!("{:08x}", crc32c::crc32c(text))
}

/// Whether the line of a mark is as it was written, as far as it says.
pub(crate) fn is_undamaged(line: &[u8]) -> bool {
    let Some(body) = line.strip_prefix(HEAD) else {
        return false;
    };
    let Some(checked) = body.strip_prefix(CHECK) else {
        return body.starts_with(UNCHECKED);
    };
    let Some((digits, rest)) = checked.split_at_checked(CHECK_DIGITS) else {
        return false;
    };
    rest.strip_prefix(CHECK_END).is_some_and(|text| digits == check_of(text).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Vec<u8> {
        let mark = LogMark { step: 7, frames: Vec::new(), model: Box::default() };
        mark.to_index().unwrap().line().to_vec()
    }

    #[test]
    fn a_mark_of_which_any_byte_is_another_is_none() {
        let line = mark();
        assert!(LogMark::parse(&line).is_ok());
        for at in 0..line.len() {
            for flip in [1, 2, 4, 32] {
                let mut damaged = line.clone();
                damaged[at] ^= flip;
                let read = LogMark::parse(&damaged);
                assert!(read.is_err(), "byte {at}: {read:?}");
            }
        }
    }

    #[test]
    fn a_mark_of_an_older_version_has_no_checksum() {
        let line = String::from_utf8(mark()).unwrap();
        let old = format!("{{\"ev\":\"index\",{}", &line[line.find("\"step\"").unwrap()..]);
        assert!(LogMark::parse(old.as_bytes()).is_ok());
        // One whose checksum stands elsewhere was written by nobody.
        let moved = old.replacen("\"step\"", "\"other\":1,\"crc32c\":\"00000000\",\"step\"", 1);
        assert!(matches!(LogMark::parse(moved.as_bytes()), Err(LineError::Damaged)));
    }
}
