//! Following a log while it grows.

use std::io;
use std::path::Path;

use crate::event::{Event, Line, LineError};
use crate::marks::MarkReader;
use crate::poll::{Poll, ReadError};
use crate::source::{Source, first_mark, last_mark};
use crate::tail::Tail;

/// Bytes read by one [`Follower::poll`]: a reader with a long log behind it stays responsive.
const POLL_BYTES: usize = 1 << 20;

/// Where a reader begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Start {
    Beginning,
    LastMark,
    /// The first of these places at which there is a mark that can be read.
    FirstMark(Vec<u64>),
}

/// Reads a log from its beginning, or from one of its marks, and then what is added to it.
///
/// The file need not exist yet. A last line without its line feed is read when the rest of it has
/// come; a line that is no event is counted and skipped. A follower without a [`MarkReader`] hands
/// over every mark unread.
pub struct Follower {
    tail: Tail,
    start: Start,
    marks: Option<&'static dyn MarkReader>,
    buffer: Vec<u8>,
}

impl Follower {
    /// A follower of the log at `path` from its beginning. A file whose name ends with `.zst` is
    /// decompressed.
    pub fn new(path: &Path) -> Self {
        Self::starting(path, Start::Beginning, None)
    }

    /// The same with a reader of marks: a damaged mark counts as a bad line.
    pub fn with_marks(path: &Path, marks: &'static dyn MarkReader) -> Self {
        Self::starting(path, Start::Beginning, Some(marks))
    }

    /// A follower that starts at the last mark that can be read and has some steps behind it. The
    /// mark holds everything before it except the spans. Without such a mark the follower starts at
    /// the first line.
    pub fn from_last_mark(path: &Path, marks: &'static dyn MarkReader) -> Self {
        Self::starting(path, Start::LastMark, Some(marks))
    }

    /// A follower that starts at the first of these offsets, in their order, at which a mark can be
    /// read; without one it starts at the first line. Every mark is checked, so a wrong offset does
    /// no harm.
    pub fn from_first_mark(
        path: &Path,
        offsets: impl IntoIterator<Item = u64>,
        marks: &'static dyn MarkReader,
    ) -> Self {
        Self::starting(path, Start::FirstMark(offsets.into_iter().collect()), Some(marks))
    }

    fn starting(path: &Path, start: Start, marks: Option<&'static dyn MarkReader>) -> Self {
        Self { tail: Tail::new(path), start, marks, buffer: vec![0; POLL_BYTES] }
    }

    /// Reads what is there, up to a limit, and hands over each event in order.
    ///
    /// # Errors
    /// The file cannot be read, has shrunk, or is of a newer format.
    pub fn poll(&mut self, on_event: impl FnMut(Event)) -> Result<Poll, ReadError> {
        let (start, marks) = (&self.start, self.marks);
        self.tail.poll(
            &mut self.buffer,
            |path| open(path, start, marks),
            |line| read(line, marks),
            on_event,
        )
    }

    /// The file that is followed.
    pub fn path(&self) -> &Path {
        self.tail.path()
    }

    /// The byte of the log up to which it was read.
    pub fn n_bytes(&self) -> u64 {
        self.tail.n_bytes()
    }

    /// Lines that were no events, or too long.
    pub fn n_bad_lines(&self) -> u64 {
        self.tail.n_bad_lines()
    }

    /// What is wrong with the first line that could not be used.
    pub fn first_refusal(&self) -> Option<String> {
        self.tail.first_refusal()
    }

    /// Well-formed lines of a kind that is not known here.
    pub fn n_unknown_lines(&self) -> u64 {
        self.tail.n_unknown_lines()
    }
}

/// Opens a log at the place where the reader starts, and gives its offset.
fn open(path: &Path, start: &Start, marks: Option<&dyn MarkReader>) -> io::Result<(Source, u64)> {
    let offset = match (start, marks) {
        (Start::Beginning, _) | (_, None) => 0,
        (Start::LastMark, Some(marks)) => last_mark(path, marks)?,
        (Start::FirstMark(offsets), Some(marks)) => {
            first_mark(path, offsets.iter().copied(), marks)?
        }
    };
    Ok((Source::open_at(path, offset)?, offset))
}

/// Reads one line; `None` is a line of an unknown kind, and a damaged mark is refused.
fn read(line: &[u8], marks: Option<&dyn MarkReader>) -> Result<Option<Event>, LineError> {
    match (Event::parse(line)?, marks) {
        (Line::Event(Event::Index(index)), Some(marks)) if !marks.is_intact(index.line()) => {
            Err(LineError::Damaged)
        }
        (Line::Event(event), _) => Ok(Some(event)),
        (Line::Unknown, _) => Ok(None),
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("path", &self.path())
            .field("start", &self.start)
            .field("n_bytes", &self.n_bytes())
            .finish_non_exhaustive()
    }
}
