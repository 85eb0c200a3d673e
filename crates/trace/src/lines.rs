//! A stream of bytes as lines, whatever pieces it comes in.

use std::io;

/// Bytes that one line may have; a longer one is skipped.
pub const LINE_BYTES_MAX: usize = 16 << 20;
/// Bytes without a line feed after which a file is no log: a writer that died leaves less.
const SKIPPED_BYTES_MAX: u64 = 256 << 20;

/// Cuts bytes into lines. What follows the last line feed is kept until the rest of it comes.
#[derive(Debug, Clone, Default)]
pub struct LineSplitter {
    partial: Vec<u8>,
    /// Bytes of a line that is too long, as far as it has come.
    skipping: Option<u64>,
    n_too_long: u64,
    /// Bytes before what is pushed next.
    n_bytes: u64,
}

impl LineSplitter {
    /// A splitter that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes more bytes, and calls `on_line` with every line that they complete, without its line
    /// feed; empty lines are left out.
    pub fn push(&mut self, bytes: &[u8], mut on_line: impl FnMut(&[u8])) {
        self.push_at(bytes, |_, line| on_line(line));
    }

    /// The same with the place of each line among all bytes that were pushed.
    pub(crate) fn push_at(&mut self, mut bytes: &[u8], mut on_line: impl FnMut(u64, &[u8])) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (head, rest) = (&bytes[..end], &bytes[end + 1..]);
            let began = self.n_bytes - self.partial.len() as u64;
            self.n_bytes += end as u64 + 1;
            bytes = rest;
            if self.skipping.take().is_some() {
                continue;
            }
            if self.partial.is_empty() {
                if !self.is_too_long(head.len()) && !head.is_empty() {
                    on_line(began, head);
                }
            } else {
                if !self.is_too_long(self.partial.len() + head.len()) {
                    self.partial.extend_from_slice(head);
                    on_line(began, &self.partial);
                }
                self.partial.clear();
            }
        }
        self.n_bytes += bytes.len() as u64;
        if let Some(skipped) = &mut self.skipping {
            *skipped += bytes.len() as u64;
        } else if self.is_too_long(self.partial.len() + bytes.len()) {
            self.skipping = Some((self.partial.len() + bytes.len()) as u64);
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    /// Whether there are lines at all.
    ///
    /// # Errors
    /// So many bytes have come without a line feed that they are no lines.
    pub fn has_lines(&self) -> io::Result<()> {
        match self.skipping {
            Some(skipped) if skipped > SKIPPED_BYTES_MAX => Err(io::Error::other(format!(
                "it has more than {} MiB without the end of a line; a line of a log has at most {} MiB",
                SKIPPED_BYTES_MAX >> 20,
                LINE_BYTES_MAX >> 20
            ))),
            _ => Ok(()),
        }
    }

    fn is_too_long(&mut self, n_bytes: usize) -> bool {
        let too_long = n_bytes > LINE_BYTES_MAX;
        self.n_too_long += u64::from(too_long);
        too_long
    }

    /// Lines that were skipped because they are longer than [`LINE_BYTES_MAX`].
    pub fn n_too_long(&self) -> u64 {
        self.n_too_long
    }

    /// Bytes of a line that is not complete yet.
    pub fn n_partial(&self) -> usize {
        self.partial.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines_of(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, usize) {
        let mut splitter = LineSplitter::new();
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |line| lines.push(line.to_vec()));
        }
        (lines, splitter.n_partial())
    }

    #[test]
    fn a_torn_last_line_waits_for_its_rest() {
        let (lines, n_partial) = lines_of(&[b"one\ntw"]);
        assert_eq!((lines, n_partial), (vec![b"one".to_vec()], 2));
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_the_next_is_read() {
        let mut splitter = LineSplitter::new();
        let long = vec![b'x'; LINE_BYTES_MAX / 2 + 1];
        let mut lines = Vec::new();
        for chunk in [&b"a\n"[..], &long, &long, &long, b"\nb\n"] {
            splitter.push(chunk, |line| lines.push(line.to_vec()));
        }
        assert_eq!(lines, [b"a".to_vec(), b"b".to_vec()]);
        assert_eq!((splitter.n_too_long(), splitter.n_partial()), (1, 0));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[a-c\n]{0,60}", cuts in prop::collection::vec(0_usize..60, 0..8)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let mut from = 0;
            let mut chunks = Vec::new();
            for cut in cuts {
                chunks.push(&bytes[from..cut]);
                from = cut;
            }
            prop_assert_eq!(lines_of(&chunks), lines_of(&[bytes]));
        }
    }
}
