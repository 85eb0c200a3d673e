//! Waiting for keys on a terminal that may go away.
//!
//! When a terminal is closed under a program (a lost connection, a killed tmux), the library that
//! reads keys reads the end of the file again and again, and its wait never returns. So the wait is
//! ours: it polls the terminal itself, and a terminal that has hung up ends the monitor. The run
//! goes on.

use std::fs::File;
use std::io::{self, IsTerminal as _, stdin};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What the wait has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Keys may be there, or the time is over.
    Maybe,
    /// The terminal is gone.
    Gone,
}

/// The terminal that keys come from.
#[derive(Debug)]
pub(crate) struct Tty {
    /// Where standard input is something else.
    own: Option<File>,
}

impl Tty {
    /// Finds the terminal in the same order as the library that reads the keys: standard input,
    /// else the controlling terminal.
    pub(crate) fn open() -> io::Result<Self> {
        let own = if stdin().is_terminal() { None } else { Some(File::open("/dev/tty")?) };
        Ok(Self { own })
    }

    /// Whether this process may use the terminal now: the shell gives it to one group of processes
    /// at a time.
    ///
    /// A terminal that does not say, such as one that controls no process, is taken for ours.
    pub(crate) fn is_foreground(&self) -> bool {
        let stdin = stdin();
        let fd: BorrowedFd<'_> = self.own.as_ref().map_or_else(|| stdin.as_fd(), File::as_fd);
        rustix::termios::tcgetpgrp(fd).map_or(true, |group| group == rustix::process::getpgrp())
    }

    /// Waits for keys, a signal, or the end of `time`.
    pub(crate) fn wait(&self, time: Duration) -> io::Result<Found> {
        self.poll(PollFlags::IN, time)
    }

    /// Waits for the end of the terminal, a signal, or the end of `time`; keys are for somebody
    /// else.
    pub(crate) fn wait_gone(&self, time: Duration) -> io::Result<Found> {
        self.poll(PollFlags::empty(), time)
    }

    fn poll(&self, for_what: PollFlags, time: Duration) -> io::Result<Found> {
        let stdin = stdin();
        let fd: BorrowedFd<'_> = self.own.as_ref().map_or_else(|| stdin.as_fd(), File::as_fd);
        let mut fds = [PollFd::new(&fd, for_what)];
        let time = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&time)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Found::Maybe),
            Err(error) => return Err(error.into()),
        }
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        Ok(if fds[0].revents().intersects(gone) { Found::Gone } else { Found::Maybe })
    }
}
