//! The two sides of a mark: a [`MarkMaker`] writes it into the log, a [`MarkReader`] checks it.
//!
//! A mark is an index record: the state that all lines before it lead to. That state is a fold of
//! the events, and this crate has no fold. `pp-telemetry` has one: it gives a [`MarkMaker`] to the
//! recorder and a [`MarkReader`] to the follower. A log needs no marks. A reader of a log without
//! marks starts at its first line.

use std::fmt;
use std::io;

use crate::event::Event;

/// Makes the marks of a log while it is written.
pub trait MarkMaker: Send + fmt::Debug {
    /// Takes an event that has been written to the log.
    fn note(&mut self, event: &Event);

    /// The least number of bytes from one mark to the next.
    fn every_bytes(&self) -> u64;

    /// Appends a mark of all events so far as one line with its line feed. The line starts at byte
    /// `offset` of the log. Returns the length of the line in bytes, without its line feed. If that
    /// is more than `bytes_max`, nothing is appended and the log has no mark here.
    ///
    /// # Errors
    /// The mark cannot be written; recording stops.
    fn write_mark(
        &mut self,
        offset: u64,
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> io::Result<usize>;

    /// The alarm that the events so far raise, in one line for the summary; `None` without one.
    fn alarm(&self) -> Option<String>;
}

/// Checks the marks of a log.
pub trait MarkReader: Send + Sync {
    /// Whether the line of a mark is undamaged. A damaged one counts as a bad line.
    fn is_intact(&self, line: &[u8]) -> bool;

    /// Whether a reader can begin at this line of a mark, found at the byte `offset` of the log.
    fn can_begin_at(&self, line: &[u8], offset: u64) -> bool;
}
