//! The bytes of a log: the file as it is written, or compressed after its run.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use memchr::memmem;
use rustix::fs::{Mode, OFlags, open};

use crate::files::{COMPRESSED_FILE, EVENTS_FILE};
use crate::lines::{LINE_BYTES_MAX, LineSplitter};
use crate::marks::MarkReader;

/// The line feed before a mark and the first bytes of its line, [`INDEX_HEAD`](crate::INDEX_HEAD).
const MARK: &[u8] = b"\n{\"ev\":\"index\",";
/// Marks that are tried at most before one begins at the beginning: each of them costs its length.
const MARKS_TRIED_MAX: usize = 32;
/// Marks of a compressed log that are tried: for each of them the log is decompressed up to there.
const MARKS_TRIED_MAX_COMPRESSED: usize = 2;
/// The fewest bytes behind the mark at which a reader starts, so that there are steps to draw.
const TAIL_BYTES: u64 = 4 << 20;
/// How far back one looks for a mark.
const SEARCH_BYTES: u64 = 256 << 20;
const CHUNK_BYTES: usize = 4 << 20;

/// A stream that is decompressed, up to a bound.
#[cfg(feature = "zstd")]
mod opened {
    use std::fs::File;
    use std::io::{self, BufReader, Read};

    /// How many times its own size a compressed log may open to, and what any may. A run's log
    /// opens to some ten times its size.
    const OPENS_TO_TIMES: u64 = 64;
    const OPENS_TO_BYTES_MIN: u64 = 64 << 20;

    pub(crate) struct Opened {
        decoder: zstd::Decoder<'static, BufReader<File>>,
        n_left: u64,
        bound: u64,
    }

    impl Opened {
        pub(super) fn new(file: File) -> io::Result<Self> {
            let len = file.metadata()?.len();
            let bound = len.saturating_mul(OPENS_TO_TIMES).max(OPENS_TO_BYTES_MIN);
            Ok(Self { decoder: zstd::Decoder::new(file)?, n_left: bound, bound })
        }
    }

    impl Read for Opened {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n_read = self.decoder.read(buffer)? as u64;
            self.n_left = self.n_left.checked_sub(n_read).ok_or_else(|| {
                io::Error::other(format!(
                    "it decompresses to more than {} MiB, {OPENS_TO_TIMES} times its size; if it really is a log, decompress it with zstd -d first",
                    self.bound >> 20
                ))
            })?;
            Ok(n_read as usize)
        }
    }
}

/// Built without the feature `zstd`, compressed logs are refused.
#[cfg(not(feature = "zstd"))]
mod opened {
    use std::fs::File;
    use std::io::{self, Read};

    pub(crate) enum Opened {}

    impl Opened {
        pub(super) fn new(_: File) -> io::Result<Self> {
            Err(io::Error::other("it is compressed; decompress it with zstd -d first"))
        }
    }

    impl Read for Opened {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            match *self {}
        }
    }
}

use opened::Opened;

/// A log that is open.
pub(crate) enum Source {
    Plain(File),
    Compressed(Box<Opened>),
}

/// The log of a run's directory: as it is written, or compressed.
pub fn log_of(run_dir: &Path) -> PathBuf {
    let plain = run_dir.join(EVENTS_FILE);
    let compressed = run_dir.join(COMPRESSED_FILE);
    // A file that is missing and one that may not be looked at are both told when it is opened.
    if plain.symlink_metadata().is_err() && compressed.symlink_metadata().is_ok() {
        compressed
    } else {
        plain
    }
}

/// The folder of links to the open files of this process.
const OPEN_FILES: &str = "/proc/self/fd/";

/// The one path of a file without a name that this process has open, such as a copy of what came
/// through a pipe.
pub fn path_of_open_file(fd: RawFd) -> PathBuf {
    PathBuf::from(format!("{OPEN_FILES}{fd}"))
}

fn is_open_file(path: &Path) -> bool {
    let number = path.to_str().and_then(|path| path.strip_prefix(OPEN_FILES));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Opens a regular file for reading; nothing is waited for.
///
/// # Errors
/// It cannot be opened, or is a symbolic link, a pipe or a device.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // A file without a name has no other path than the system's link to it.
    let nofollow = if is_open_file(path) { OFlags::empty() } else { OFlags::NOFOLLOW };
    let flags = OFlags::RDONLY | nofollow | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::LOOP) => {
            return Err(io::Error::other("it is a symbolic link, which is not followed"));
        }
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "zst")
}

impl Source {
    /// Opens a log at one of its bytes.
    pub(crate) fn open_at(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = open_regular(path)?;
        if !is_compressed(path) {
            file.seek(SeekFrom::Start(offset))?;
            return Ok(Self::Plain(file));
        }
        let mut opened = Opened::new(file)?;
        io::copy(&mut (&mut opened).take(offset), &mut io::sink())?;
        Ok(Self::Compressed(Box::new(opened)))
    }

    /// How long the log is now; `None` for one that is compressed, which does not change any more.
    pub(crate) fn len(&self) -> io::Result<Option<u64>> {
        match self {
            Self::Plain(file) => Ok(Some(file.metadata()?.len())),
            Self::Compressed(_) => Ok(None),
        }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Compressed(decoder) => decoder.read(buffer),
        }
    }
}

/// The offset at which a reader of the present state starts: the last mark that can be read and has
/// some steps behind it, else 0.
pub(crate) fn last_mark(path: &Path, marks: &dyn MarkReader) -> io::Result<u64> {
    let mut file = open_regular(path)?;
    if is_compressed(path) {
        return last_mark_of_stream(&mut Opened::new(file)?, marks);
    }
    let len = file.metadata()?.len();
    let mut end = len.saturating_sub(TAIL_BYTES);
    let lowest = len.saturating_sub(SEARCH_BYTES);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut n_tried = 0;
    while end > lowest {
        let start = end.saturating_sub(CHUNK_BYTES as u64);
        let n_bytes = (end - start) as usize;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut chunk[..n_bytes])?;
        for at in memmem::rfind_iter(&chunk[..n_bytes], MARK) {
            let offset = start + at as u64 + 1;
            if is_mark(&mut file, offset, marks)? {
                return Ok(offset);
            }
            n_tried += 1;
            if n_tried == MARKS_TRIED_MAX {
                return Ok(0);
            }
        }
        if start == 0 {
            break;
        }
        // A mark may lie across two chunks.
        end = start + MARK.len() as u64 - 1;
    }
    Ok(0)
}

/// The first of these offsets at which a mark can be read, else 0.
pub(crate) fn first_mark(
    path: &Path,
    offsets: impl Iterator<Item = u64>,
    marks: &dyn MarkReader,
) -> io::Result<u64> {
    let is_compressed = is_compressed(path);
    let n_tried_max = if is_compressed { MARKS_TRIED_MAX_COMPRESSED } else { MARKS_TRIED_MAX };
    for offset in offsets.filter(|&offset| offset > 0).take(n_tried_max) {
        let is_mark = match Source::open_at(path, offset - 1)? {
            Source::Plain(mut file) => is_mark(&mut file, offset, marks)?,
            Source::Compressed(mut opened) => is_mark_next(&mut opened, offset, marks)?,
        };
        if is_mark {
            return Ok(offset);
        }
    }
    Ok(0)
}

/// Whether the line at this byte of a file is a mark that can be read.
fn is_mark(file: &mut File, offset: u64, marks: &dyn MarkReader) -> io::Result<bool> {
    // With the line feed before it: a match inside another line is not a mark.
    file.seek(SeekFrom::Start(offset - 1))?;
    is_mark_next(file, offset, marks)
}

/// Whether the next bytes are a line feed and a mark that can be read at this offset.
fn is_mark_next(from: &mut impl Read, offset: u64, marks: &dyn MarkReader) -> io::Result<bool> {
    let mut head = [0; MARK.len()];
    let mut n_read = 0;
    while n_read < head.len() {
        match from.read(&mut head[n_read..])? {
            0 => return Ok(false),
            n => n_read += n,
        }
    }
    if head != MARK {
        return Ok(false);
    }
    let mut line = head[1..].to_vec();
    let mut lines = BufReader::with_capacity(1 << 16, from.take(LINE_BYTES_MAX as u64 + 1));
    lines.read_until(b'\n', &mut line)?;
    Ok(line.pop() == Some(b'\n') && is_mark_line(&line, offset, marks))
}

fn is_mark_line(line: &[u8], offset: u64, marks: &dyn MarkReader) -> bool {
    line.len() <= LINE_BYTES_MAX && marks.can_begin_at(line, offset)
}

/// [`last_mark`] of a stream, which is read once from its start. Marks that may still get enough
/// bytes behind them are kept.
fn last_mark_of_stream(stream: &mut impl Read, reader: &dyn MarkReader) -> io::Result<u64> {
    let mut last = 0;
    let mut marks: VecDeque<u64> = VecDeque::new();
    let mut splitter = LineSplitter::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut read = 0_u64;
    loop {
        let n_read = stream.read(&mut chunk)?;
        if n_read == 0 {
            break;
        }
        splitter.push_at(&chunk[..n_read], |offset, line| {
            if line.starts_with(&MARK[1..]) && offset > 0 && is_mark_line(line, offset, reader) {
                marks.push_back(offset);
            }
        });
        read += n_read as u64;
        splitter.has_lines()?;
        while let Some(&mark) = marks.front().filter(|&&mark| mark + TAIL_BYTES <= read) {
            last = mark;
            marks.pop_front();
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_by_the_head_of_its_line() {
        assert_eq!(MARK, [b"\n", crate::INDEX_HEAD].concat());
    }
}
