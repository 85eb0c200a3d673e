//! The one signal that this program handles whatever it does: SIGXFSZ means the same as a full disk,
//! and must reach the writer as an error.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGXFSZ;

/// From now on a file that grows beyond its limit is an error of the write (`EFBIG`), as a full
/// disk is, and kills nobody.
///
/// A handler does that, and not the disposition to ignore: programs that this one starts begin with
/// the default again.
///
/// # Errors
/// The system takes no handler.
pub fn survive_file_size_limit() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}
