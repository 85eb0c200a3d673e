//! Following a log while it grows.

use std::io;
use std::path::Path;

use crate::event::{Event, Line, LineError};
use crate::lines::LINE_BYTES_MAX;
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
    n_malformed: u64,
    n_unknown: u64,
    /// Why the first bad line was rejected.
    refusal: Option<String>,
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
        Self {
            tail: Tail::new(path),
            start,
            marks,
            buffer: vec![0; POLL_BYTES],
            n_malformed: 0,
            n_unknown: 0,
            refusal: None,
        }
    }

    /// Reads what is there, up to a limit, and hands over each event in order.
    ///
    /// # Errors
    /// The file cannot be read, has shrunk, or is of a newer format.
    pub fn poll(&mut self, mut on_event: impl FnMut(Event)) -> Result<Poll, ReadError> {
        let mut poll = Poll { n_events: 0, at_end: true };
        let mut newer = None;
        let (n_malformed, n_unknown) = (&mut self.n_malformed, &mut self.n_unknown);
        let (refusal, marks, start) = (&mut self.refusal, self.marks, &self.start);
        let n_read = self.tail.poll(
            &mut self.buffer,
            |path| open(path, start, marks),
            |line| match read(line, marks) {
                Ok(Line::Event(event)) if newer.is_none() => {
                    poll.n_events += 1;
                    on_event(event);
                }
                Ok(Line::Event(_)) => {}
                Ok(Line::Unknown) => *n_unknown += 1,
                Err(error @ LineError::NewerSchema { .. }) => newer = newer.take().or(Some(error)),
                Err(error @ (LineError::Malformed(_) | LineError::Damaged)) => {
                    *n_malformed += 1;
                    refusal.get_or_insert_with(|| error.to_string());
                }
            },
        )?;
        poll.at_end = n_read.is_none_or(|n_read| n_read < self.buffer.len());
        match newer {
            Some(source) => Err(ReadError::Newer { path: self.path().to_owned(), source }),
            None => Ok(poll),
        }
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
        self.n_malformed + self.tail.n_too_long()
    }

    /// What is wrong with the first line that could not be used.
    pub fn first_refusal(&self) -> Option<String> {
        let too_long = || {
            let most = LINE_BYTES_MAX >> 20;
            (self.tail.n_too_long() > 0).then(|| format!("a line has more than {most} MiB"))
        };
        self.refusal.clone().or_else(too_long)
    }

    /// Well-formed lines of a kind that is not known here.
    pub fn n_unknown_lines(&self) -> u64 {
        self.n_unknown
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

/// Reads one line; a damaged mark is refused.
fn read(line: &[u8], marks: Option<&dyn MarkReader>) -> Result<Line, LineError> {
    let read = Event::parse(line)?;
    match (&read, marks) {
        (Line::Event(Event::Index(index)), Some(marks)) if !marks.is_intact(index.line()) => {
            Err(LineError::Damaged)
        }
        _ => Ok(read),
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
