//! Marks in a log from which one can begin to read.
//!
//! A mark holds the state that all lines before it lead to. A damaged mark would falsify everything
//! after it, so a mark has a checksum. A reader skips a mark with a wrong checksum or an unknown
//! version. Marks in older logs have no checksum; they are used if their content is consistent.
//!
//! The line has the format [`MarkV1`], which does not change with the model.

use pp_trace::{INDEX_HEAD as HEAD, Index, write_json};
use serde::Deserialize;
use thiserror::Error;

use super::Model;
use crate::mark_v1::{FrameV1, MarkV1, VERSION, first_version};

/// The key of the checksum. Eight hexadecimal digits, [`CHECK_END`] and the checked text follow.
const CHECK: &[u8] = br#""crc32c":""#;
const CHECK_DIGITS: usize = 8;
const CHECK_END: &[u8] = br#"","#;
/// The first key of a mark without a checksum.
const UNCHECKED: &[u8] = br#""step":"#;

/// A mark: the state before it in one line. A reader of a long log starts at the last one.
#[derive(Debug, Clone, PartialEq)]
pub struct LogMark {
    /// The last step before it.
    pub step: u64,
    /// The places of the marks so far, this one included.
    pub frames: Vec<Frame>,
    /// The state that all events before it lead to, without their spans.
    pub model: Box<Model>,
}

/// The place of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The byte at which its line begins.
    pub offset: u64,
    /// The last step before it.
    pub step: u64,
}

/// The reason why no reader starts at a mark.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MarkError {
    /// The line is damaged.
    #[error("a damaged index record")]
    Damaged,
    /// It is of another version.
    #[error("an index record of version {found}, but this program reads version {VERSION}")]
    Version {
        /// The version of the mark.
        found: u32,
    },
    /// A key is missing, or has another type.
    #[error("not an index record: {0}")]
    Malformed(#[from] serde_json::Error),
    /// No run can reach the state in it.
    #[error("an index record that contradicts itself")]
    Unsound,
}

impl LogMark {
    /// Reads the line of a mark.
    ///
    /// # Errors
    /// [`MarkError`] says why a reader cannot begin here.
    pub fn parse(line: &[u8]) -> Result<Self, MarkError> {
        if checked(line) == Checked::Wrong {
            return Err(MarkError::Damaged);
        }
        let found = version_of(line)?;
        if found != VERSION {
            return Err(MarkError::Version { found });
        }
        serde_json::from_slice::<MarkV1>(line)?.try_into()
    }

    /// The mark as a line of the log.
    ///
    /// # Errors
    /// Never for what a fold holds; the signature is that of the serializer.
    pub fn to_index(&self) -> Result<Index, serde_json::Error> {
        let mut line = Vec::new();
        write_mark(&saved(self.step, &self.frames, &self.model), &mut line)?;
        line.pop();
        Ok(Index::new(line))
    }

    /// Whether a reader can start at this mark, found at byte `offset` of its log.
    pub(crate) fn is_sound_at(&self, offset: u64) -> bool {
        let here = Frame { offset, step: self.step };
        self.frames.last() == Some(&here)
            && self.frames.is_sorted_by(|a, b| a.offset < b.offset && a.step <= b.step)
            && self.step == self.model.step()
            && self.model.hello().is_some()
    }
}

impl From<FrameV1> for Frame {
    fn from(saved: FrameV1) -> Self {
        Self { offset: saved.offset, step: saved.step }
    }
}

/// A mark as it is written.
pub(crate) fn saved(step: u64, frames: &[Frame], model: &Model) -> MarkV1 {
    let frame = |frame: &Frame| FrameV1 { offset: frame.offset, step: frame.step };
    MarkV1 {
        version: VERSION,
        step,
        frames: frames.iter().map(frame).collect(),
        model: Box::new(model.into()),
    }
}

impl TryFrom<MarkV1> for LogMark {
    type Error = MarkError;

    fn try_from(saved: MarkV1) -> Result<Self, MarkError> {
        Ok(Self {
            step: saved.step,
            frames: saved.frames.into_iter().map(Frame::from).collect(),
            model: Box::new((*saved.model).try_into()?),
        })
    }
}

/// Appends the line of a mark, with its checksum and the line feed.
pub(crate) fn write_mark(mark: &MarkV1, into: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let start = into.len();
    into.extend_from_slice(HEAD);
    into.extend_from_slice(CHECK);
    into.extend_from_slice(&[b'0'; CHECK_DIGITS]);
    into.extend_from_slice(CHECK_END);
    // The object's own brace goes: its keys follow those that are there already.
    let body = into.len();
    if let Err(failed) = write_json(&mut *into, mark) {
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

fn version_of(line: &[u8]) -> Result<u32, serde_json::Error> {
    #[derive(Deserialize)]
    struct Versioned {
        #[serde(default = "first_version")]
        version: u32,
    }
    serde_json::from_slice(line).map(|versioned: Versioned| versioned.version)
}

/// The places in a mark, for a model that needs nothing else from it.
pub(crate) fn frames_of(line: &[u8]) -> Option<Vec<Frame>> {
    #[derive(Deserialize)]
    struct Places {
        #[serde(default = "first_version")]
        version: u32,
        frames: Vec<FrameV1>,
    }
    if checked(line) == Checked::Wrong {
        return None;
    }
    let places: Places = serde_json::from_slice(line).ok()?;
    (places.version == VERSION).then(|| places.frames.into_iter().map(Frame::from).collect())
}

fn check_of(text: &[u8]) -> String {
    format!("{:08x}", crc32c::crc32c(text))
}

/// The result of comparing a mark with its checksum.
#[derive(Debug, PartialEq, Eq)]
enum Checked {
    Fits,
    /// The mark has no checksum.
    Absent,
    Wrong,
}

fn checked(line: &[u8]) -> Checked {
    let Some(body) = line.strip_prefix(HEAD) else { return Checked::Wrong };
    let Some(rest) = body.strip_prefix(CHECK) else {
        return if body.starts_with(UNCHECKED) { Checked::Absent } else { Checked::Wrong };
    };
    let fits = rest.split_at_checked(CHECK_DIGITS).is_some_and(|(digits, rest)| {
        rest.strip_prefix(CHECK_END).is_some_and(|text| digits == check_of(text).as_bytes())
    });
    if fits { Checked::Fits } else { Checked::Wrong }
}

/// Whether the line of a mark is undamaged. A line without a checksum counts as undamaged if it can
/// be parsed.
pub(crate) fn is_intact(line: &[u8]) -> bool {
    match checked(line) {
        Checked::Fits => true,
        Checked::Wrong => false,
        Checked::Absent => serde_json::from_slice::<MarkV1>(line).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Vec<u8> {
        let mark = LogMark { step: 7, frames: Vec::new(), model: Box::default() };
        mark.to_index().unwrap().line().to_vec()
    }

    /// The same with another text in it and the checksum that belongs to that.
    fn changed(from: &str, to: &str) -> Vec<u8> {
        let line = String::from_utf8(mark()).unwrap();
        let body = HEAD.len() + CHECK.len() + CHECK_DIGITS + CHECK_END.len();
        assert!(line[body..].contains(from), "{line}");
        let text = line[body..].replacen(from, to, 1);
        let check = check_of(text.as_bytes());
        format!("{{\"ev\":\"index\",\"crc32c\":\"{check}\",{text}").into_bytes()
    }

    #[test]
    fn a_mark_of_which_any_byte_is_another_is_none() {
        let line = mark();
        assert!(LogMark::parse(&line).is_ok() && is_intact(&line));
        for at in 0..line.len() {
            for flip in [1, 2, 4, 32] {
                let mut damaged = line.clone();
                damaged[at] ^= flip;
                let read = LogMark::parse(&damaged);
                assert!(read.is_err() && !is_intact(&damaged), "byte {at}: {read:?}");
            }
        }
    }

    #[test]
    fn a_mark_of_an_older_version_has_no_checksum() {
        let line = String::from_utf8(mark()).unwrap();
        let old = format!("{{\"ev\":\"index\",{}", &line[line.find("\"step\"").unwrap()..]);
        assert!(LogMark::parse(old.as_bytes()).is_ok() && is_intact(old.as_bytes()));
        // No program writes the checksum in another place.
        let moved = old.replacen("\"step\"", "\"other\":1,\"crc32c\":\"00000000\",\"step\"", 1);
        assert!(matches!(LogMark::parse(moved.as_bytes()), Err(MarkError::Damaged)));
        // One of which a key is missing is a bad line.
        let less = old.replacen("\"n_events\":0,", "", 1);
        assert!(matches!(LogMark::parse(less.as_bytes()), Err(MarkError::Malformed(_))));
        assert!(!is_intact(less.as_bytes()));
    }

    #[test]
    fn a_mark_of_another_version_is_no_beginning_and_no_bad_line() {
        assert!(
            LogMark::parse(&changed("\"version\":1,", "")).is_ok(),
            "before there were versions"
        );
        for later in ["\"version\":2,", "\"version\":4000000000,"] {
            let line = changed("\"version\":1,", later);
            let refused = LogMark::parse(&line).unwrap_err();
            assert!(matches!(refused, MarkError::Version { found } if found > 1), "{refused}");
            assert!(is_intact(&line) && frames_of(&line).is_none());
        }
        // A layout that no longer parses, by whatever version it says it is.
        let other = changed("\"n_events\":0", "\"n_events\":[]");
        assert!(matches!(LogMark::parse(&other), Err(MarkError::Malformed(_))));
        assert!(is_intact(&other));
        // A key that a later program adds is no other version.
        assert!(LogMark::parse(&changed("\"n_events\":0", "\"n_events\":0,\"later\":[1]")).is_ok());
    }
}
