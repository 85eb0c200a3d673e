//! The bytes of a log: the file as it is written, or compressed after its run.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use memchr::memmem;
use rustix::fs::{Mode, OFlags, open};

use crate::files::{COMPRESSED_FILE, EVENTS_FILE};

/// How the line of a mark begins, behind the line feed before it.
const MARK: &[u8] = b"\n{\"ev\":\"index\",";
/// Bytes that have to follow the mark at which one begins: so that some steps are there to be drawn.
const TAIL_BYTES: u64 = 4 << 20;
/// How far back one looks for a mark.
const SEARCH_BYTES: u64 = 256 << 20;
const CHUNK_BYTES: usize = 4 << 20;

/// A log that is open.
pub(crate) enum Source {
    Plain(File),
    Compressed(Box<zstd::Decoder<'static, BufReader<File>>>),
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

/// Opens a regular file for reading; a symbolic link, a pipe or a device is refused, and nothing is waited for.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::LOOP) => {
            return Err(io::Error::other("it is a symbolic link, which is not followed"));
        }
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
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
        let mut decoder = zstd::Decoder::new(file)?;
        io::copy(&mut (&mut decoder).take(offset), &mut io::sink())?;
        Ok(Self::Compressed(Box::new(decoder)))
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

/// Where a reader should begin that wants to know what is now: at the last mark that has some steps behind it, else at the beginning.
pub(crate) fn last_mark(path: &Path) -> io::Result<u64> {
    let mut file = open_regular(path)?;
    if is_compressed(path) {
        return last_mark_of_stream(&mut zstd::Decoder::new(file)?);
    }
    let len = file.metadata()?.len();
    let mut end = len.saturating_sub(TAIL_BYTES);
    let lowest = len.saturating_sub(SEARCH_BYTES);
    let mut chunk = vec![0; CHUNK_BYTES];
    while end > lowest {
        let start = end.saturating_sub(CHUNK_BYTES as u64);
        let n_bytes = (end - start) as usize;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut chunk[..n_bytes])?;
        if let Some(at) = memmem::rfind(&chunk[..n_bytes], MARK) {
            return Ok(start + at as u64 + 1);
        }
        if start == 0 {
            break;
        }
        // A mark may lie across two chunks.
        end = start + MARK.len() as u64 - 1;
    }
    Ok(0)
}

/// The same where one cannot go back: of the marks those are kept that may still have enough behind them.
fn last_mark_of_stream(stream: &mut impl Read) -> io::Result<u64> {
    let finder = memmem::Finder::new(MARK);
    let mut marks: Vec<u64> = Vec::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    // Bytes before the chunk, and how many of the chunk are the end of the one before.
    let (mut before, mut kept) = (0_u64, 0);
    loop {
        let n_read = stream.read(&mut chunk[kept..])?;
        if n_read == 0 {
            break;
        }
        let filled = kept + n_read;
        marks.extend(finder.find_iter(&chunk[..filled]).map(|at| before + at as u64 + 1));
        // Of those with enough behind them the last one is all that matters.
        let n_behind = marks.partition_point(|mark| mark + TAIL_BYTES <= before + filled as u64);
        marks.drain(..n_behind.saturating_sub(1));
        kept = filled.min(MARK.len() - 1);
        chunk.copy_within(filled - kept..filled, 0);
        before += (filled - kept) as u64;
    }
    let len = before + kept as u64;
    marks.retain(|mark| mark + TAIL_BYTES <= len);
    Ok(marks.last().copied().unwrap_or(0))
}
