//! A log that is written all at once, from events that are there already.

use std::io::{self, Write};

use pp_trace::{Event, LINE_BYTES_MAX, MarkMaker as _};

use crate::marks::Marks;

/// The largest part of a log that marks may take, as one in this many bytes.
const MARK_PART: u64 = 8;
const BUFFER_BYTES: usize = 1 << 18;

/// Writes events as the lines of a log, with marks.
#[derive(Debug)]
pub struct LogFile<W: Write> {
    into: W,
    buffer: Vec<u8>,
    marks: Marks,
    n_bytes: u64,
    next_mark: u64,
    n_left_out: u64,
}

impl<W: Write> LogFile<W> {
    /// A log that is written into `into`, from its first byte.
    pub fn new(into: W) -> Self {
        let marks = Marks::default();
        let next_mark = marks.every_bytes();
        Self { into, buffer: Vec::new(), marks, n_bytes: 0, next_mark, n_left_out: 0 }
    }

    /// Adds an event. One that no line can hold is left out and counted.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn push(&mut self, event: &Event) -> io::Result<()> {
        let start = self.buffer.len();
        event.write_line(&mut self.buffer)?;
        let n_bytes = self.buffer.len() - start - 1;
        if n_bytes > LINE_BYTES_MAX {
            self.buffer.truncate(start);
            if let Event::Hello(hello) = event {
                return self.push(&Event::Hello(Box::new(hello.brief(n_bytes))));
            }
            self.n_left_out += 1;
            return Ok(());
        }
        self.marks.note(event);
        let offset = self.n_bytes + self.buffer.len() as u64;
        if matches!(event, Event::Step(_)) && offset >= self.next_mark {
            let n_bytes = self.marks.write_mark(offset, LINE_BYTES_MAX, &mut self.buffer)? as u64;
            self.next_mark =
                offset + n_bytes.saturating_mul(MARK_PART).max(self.marks.every_bytes());
        }
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.write_all(&self.buffer)?;
        self.n_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the rest, and gives back what was written to and how many events were left out.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        self.flush()?;
        self.into.flush()?;
        Ok((self.into, self.n_left_out))
    }
}
