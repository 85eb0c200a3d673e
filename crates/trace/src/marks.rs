//! Marks: who makes them while a run is recorded, and who understands them when it is read.
//!
//! A mark says what all lines before it amount to. So it takes a fold of the events, which this
//! crate has not: `pp-telemetry` has one, and gives a [`MarkMaker`] to the recorder and a
//! [`MarkReader`] to the follower. A log without marks is as good a log; a reader only has to begin
//! at its beginning.

use std::fmt;
use std::io;

use crate::event::Event;

/// Makes the marks of a log while it is written.
pub trait MarkMaker: Send + fmt::Debug {
    /// Takes an event that is in the log by now.
    fn note(&mut self, event: &Event);

    /// Bytes of a log from one mark to the next, at least.
    fn every_bytes(&self) -> u64;

    /// Appends a mark of all events so far as one line with its line feed, which will begin at the
    /// byte `offset` of the log. Returns how many bytes the line has without its line feed; if
    /// these are more than `bytes_max`, nothing is appended and the log has no mark here.
    ///
    /// # Errors
    /// The mark cannot be written; recording stops.
    fn write_mark(
        &mut self,
        offset: u64,
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> io::Result<usize>;

    /// What is wrong with the training by the events so far, in one line for the summary.
    fn alarm(&self) -> Option<String>;
}

/// Understands the marks of a log.
pub trait MarkReader: Send + Sync {
    /// Whether this line of a mark is as it was written; one that is not counts as a bad line.
    fn is_intact(&self, line: &[u8]) -> bool;

    /// Whether a reader can begin at this line of a mark, found at the byte `offset` of the log.
    fn can_begin_at(&self, line: &[u8], offset: u64) -> bool;
}
