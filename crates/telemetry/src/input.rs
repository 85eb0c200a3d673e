//! Files that a user names. Devices, sockets and folders are refused, a silent pipe is given up
//! after some seconds, and no more bytes are read than the reader allows.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};

/// The longest wait for the next bytes of a pipe.
const PATIENCE: Duration = Duration::from_secs(5);
const CHUNK_BYTES: usize = 1 << 16;

/// A file that is open.
enum Opened {
    /// A regular file and its length in bytes.
    Regular(File, u64),
    Pipe(File),
}

/// The error text for a file that is not a regular one.
fn kind_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "it is a folder",
        FileType::CharacterDevice | FileType::BlockDevice => "it is a device",
        FileType::Socket => "it is a socket",
        FileType::Fifo => "it is a pipe",
        _ => "it is not a regular file",
    }
}

fn open_any(path: &Path) -> io::Result<Opened> {
    // Opening must not wait for the writer of a pipe, nor make a terminal the controlling one.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        // The system reports a socket by this error.
        Err(rustix::io::Errno::NXIO) => return Err(io::Error::other(kind_of(FileType::Socket))),
        Err(errno) => return Err(errno.into()),
    };
    let about = fstat(&file)?;
    match FileType::from_raw_mode(about.st_mode) {
        FileType::RegularFile => {
            Ok(Opened::Regular(file, u64::try_from(about.st_size).unwrap_or(0)))
        }
        FileType::Fifo => Ok(Opened::Pipe(file)),
        other => Err(io::Error::other(kind_of(other))),
    }
}

/// Opens a regular file, and gives its length in bytes.
///
/// # Errors
/// It cannot be opened, or is not a regular file; the error names its kind.
pub fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    match open_any(path)? {
        Opened::Regular(file, len) => Ok((file, len)),
        Opened::Pipe(_) => Err(io::Error::other(kind_of(FileType::Fifo))),
    }
}

fn too_long(len: u64, most: u64) -> io::Error {
    io::Error::other(format!("it has {len} bytes, and at most {most} are read"))
}

/// The content of a file or a pipe of at most `bytes_max` bytes.
///
/// # Errors
/// It cannot be read, is too long, or nothing comes through the pipe for some seconds.
pub fn read(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let most = bytes_max as u64;
    match open_any(path)? {
        Opened::Regular(_, len) if len > most => Err(too_long(len, most)),
        Opened::Regular(file, len) => {
            let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
            // The file may grow while it is read.
            file.take(most + 1).read_to_end(&mut bytes)?;
            if bytes.len() > bytes_max {
                Err(too_long(bytes.len() as u64, most))
            } else {
                Ok(bytes)
            }
        }
        Opened::Pipe(pipe) => read_pipe(pipe, bytes_max),
    }
}

fn read_pipe(mut pipe: File, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(n_read) => bytes.extend_from_slice(&chunk[..n_read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let fd = pipe.as_fd();
                let found = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience));
                if found == Ok(0) {
                    let seconds = PATIENCE.as_secs();
                    let message = format!("nothing came through the pipe for {seconds} s");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
            }
            Err(error) => return Err(error),
        }
        if bytes.len() > bytes_max {
            let message = format!("more than {bytes_max} bytes come through the pipe");
            return Err(io::Error::other(message));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// `/dev/zero` was once read up to the reader's bound, or until the memory was full.
    #[test]
    fn devices_folders_and_sockets_are_named_and_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let why = |path: &Path| read(path, 100).unwrap_err().to_string();
        for path in ["/dev/zero", "/dev/null", "/dev/full", "/dev/urandom"] {
            assert_eq!(why(Path::new(path)), "it is a device");
            assert_eq!(open_regular(Path::new(path)).unwrap_err().to_string(), "it is a device");
        }
        assert_eq!(why(folder.path()), "it is a folder");
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(why(&socket), "it is a socket");
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        let why = read(&path, 100).unwrap_err().to_string();
        assert_eq!(why, "it has 1099511627776 bytes, and at most 100 are read");
        file.set_len(100).unwrap();
        assert_eq!(read(&path, 100).unwrap().len(), 100);
    }

    #[test]
    fn a_pipe_is_read_while_something_comes_and_up_to_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap();
        // Nobody writes: that is an empty file.
        assert_eq!(read(&path, 100).unwrap(), b"");
        assert_eq!(open_regular(&path).unwrap_err().to_string(), "it is a pipe");
        // Both ends here, so that there is a writer before anybody reads.
        let mut writer = File::options().read(true).write(true).open(&path).unwrap();
        writer.write_all(&[b'x'; 200]).unwrap();
        let why = read(&path, 100).unwrap_err().to_string();
        assert_eq!(why, "more than 100 bytes come through the pipe");
    }
}
