//! The signal that every command handles: SIGXFSZ. It means the same as a full disk, and must reach
//! the writer as an error.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGXFSZ;

/// Makes a file that grows beyond its limit an error of the write (`EFBIG`), as a full disk is.
/// Without this the signal ends the process.
///
/// It installs a handler instead of ignoring the signal, so that programs that this one starts have
/// the default again.
///
/// # Errors
/// The handler cannot be installed.
pub fn survive_file_size_limit() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}
