//! Following a log with marks while it grows.

use std::path::Path;

use pp_trace::{Event, Poll, ReadError};

use crate::marks::KNOWN_MARKS;
use crate::ranks::RankFolder;

/// Reads a log from its beginning, or from one of its marks, and then what is added to it.
///
/// It is a [`pp_trace::Follower`] that knows the marks of this crate: a damaged mark counts as a
/// bad line. A folder with the files of ranks, or such a file, is read as one log: it has no marks,
/// so it is always read from its beginning.
#[derive(Debug)]
pub struct Follower(From);

#[derive(Debug)]
enum From {
    Log(pp_trace::Follower),
    Ranks(Box<RankFolder>),
}

impl Follower {
    /// A follower of the log at `path` from its beginning. A file whose name ends with `.zst` is
    /// decompressed.
    pub fn new(path: &Path) -> Self {
        Self::of(path, || pp_trace::Follower::with_marks(path, KNOWN_MARKS))
    }

    /// A follower that starts at the last mark that can be read and has some steps behind it. The
    /// mark holds everything before it except the spans. Without such a mark the follower starts at
    /// the first line.
    pub fn from_last_mark(path: &Path) -> Self {
        Self::of(path, || pp_trace::Follower::from_last_mark(path, KNOWN_MARKS))
    }

    /// A follower that starts at the first of these offsets, in their order, at which a mark can be
    /// read; without one it starts at the first line. Every mark is checked, so a wrong offset does
    /// no harm.
    pub fn from_first_mark(path: &Path, offsets: impl IntoIterator<Item = u64>) -> Self {
        Self::of(path, || pp_trace::Follower::from_first_mark(path, offsets, KNOWN_MARKS))
    }

    fn of(path: &Path, log: impl FnOnce() -> pp_trace::Follower) -> Self {
        if RankFolder::is_one(path) {
            Self(From::Ranks(Box::new(RankFolder::new(path))))
        } else {
            Self(From::Log(log()))
        }
    }

    /// Reads what is there, up to a limit, and hands over each event in order.
    ///
    /// # Errors
    /// The file cannot be read, has shrunk, or is of a newer format.
    pub fn poll(&mut self, on_event: impl FnMut(Event)) -> Result<Poll, ReadError> {
        match &mut self.0 {
            From::Log(log) => log.poll(on_event),
            From::Ranks(ranks) => ranks.poll(on_event),
        }
    }

    /// The file that is followed.
    pub fn path(&self) -> &Path {
        match &self.0 {
            From::Log(log) => log.path(),
            From::Ranks(ranks) => ranks.path(),
        }
    }

    /// The byte of the log up to which it was read.
    pub fn n_bytes(&self) -> u64 {
        match &self.0 {
            From::Log(log) => log.n_bytes(),
            From::Ranks(ranks) => ranks.n_bytes(),
        }
    }

    /// Lines that were no events, or too long.
    pub fn n_bad_lines(&self) -> u64 {
        match &self.0 {
            From::Log(log) => log.n_bad_lines(),
            From::Ranks(ranks) => ranks.n_bad_lines(),
        }
    }

    /// What is wrong with the first line that could not be used.
    pub fn first_refusal(&self) -> Option<String> {
        match &self.0 {
            From::Log(log) => log.first_refusal(),
            From::Ranks(ranks) => ranks.first_refusal(),
        }
    }

    /// Well-formed lines of a kind that is not known here.
    pub fn n_unknown_lines(&self) -> u64 {
        match &self.0 {
            From::Log(log) => log.n_unknown_lines(),
            From::Ranks(_) => 0,
        }
    }
}
