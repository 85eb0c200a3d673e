//! What stands before the tensors of a GGUF file, in bounded memory.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

/// The most bytes of what stands before the tensors. A vocabulary of 256 thousand tokens takes some
/// ten million.
const HEAD_BYTES: u64 = 64 << 20;

/// The first [`HEAD_BYTES`] of a file, as if it ended there. An entry of the head takes up to 32
/// times its bytes in memory, so a head of gigabytes would fill the memory.
pub(super) struct Head<'a> {
    reader: &'a mut BufReader<File>,
    /// The position in the file. Asking the system for it before each read would be slow.
    at: u64,
}

impl<'a> Head<'a> {
    /// That of a file which is read from its beginning.
    pub(super) fn of(reader: &'a mut BufReader<File>) -> Self {
        Self { reader, at: 0 }
    }
}

impl Read for Head<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(HEAD_BYTES.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let most = bytes.len().min(left);
        let n = self.reader.read(&mut bytes[..most])?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Head<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.at = self.reader.seek(to)?;
        Ok(if matches!(to, SeekFrom::End(_)) { self.at.min(HEAD_BYTES) } else { self.at })
    }

    fn stream_position(&mut self) -> std::io::Result<u64> {
        Ok(self.at)
    }
}
