//! Following a log with marks while it grows.

use std::path::Path;

use pp_trace::{Event, Poll, ReadError};

use crate::marks::KNOWN_MARKS;

/// Reads a log from its beginning, or from one of its marks, and then what is added to it.
///
/// It is a [`pp_trace::Follower`] that knows the marks of this crate: a damaged mark counts as a
/// bad line.
#[derive(Debug)]
pub struct Follower(pp_trace::Follower);

impl Follower {
    /// A follower of the log at `path` from its beginning. A file whose name ends with `.zst` is
    /// decompressed.
    pub fn new(path: &Path) -> Self {
        Self(pp_trace::Follower::with_marks(path, KNOWN_MARKS))
    }

    /// A follower that starts at the last mark that can be read and has some steps behind it. The
    /// mark holds everything before it except the spans. Without such a mark the follower starts at
    /// the first line.
    pub fn from_last_mark(path: &Path) -> Self {
        Self(pp_trace::Follower::from_last_mark(path, KNOWN_MARKS))
    }

    /// A follower that starts at the first of these offsets, in their order, at which a mark can be
    /// read; without one it starts at the first line. Every mark is checked, so a wrong offset does
    /// no harm.
    pub fn from_first_mark(path: &Path, offsets: impl IntoIterator<Item = u64>) -> Self {
        Self(pp_trace::Follower::from_first_mark(path, offsets, KNOWN_MARKS))
    }

    /// Reads what is there, up to a limit, and hands over each event in order.
    ///
    /// # Errors
    /// The file cannot be read, has shrunk, or is of a newer format.
    pub fn poll(&mut self, on_event: impl FnMut(Event)) -> Result<Poll, ReadError> {
        self.0.poll(on_event)
    }

    /// The file that is followed.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The byte of the log up to which it was read.
    pub fn n_bytes(&self) -> u64 {
        self.0.n_bytes()
    }

    /// Lines that were no events, or too long.
    pub fn n_bad_lines(&self) -> u64 {
        self.0.n_bad_lines()
    }

    /// What is wrong with the first line that could not be used.
    pub fn first_refusal(&self) -> Option<String> {
        self.0.first_refusal()
    }

    /// Well-formed lines of a kind that is not known here.
    pub fn n_unknown_lines(&self) -> u64 {
        self.0.n_unknown_lines()
    }
}
