//! Which signals this process ignores.
//!
//! A signal that was ignored when the program started stays ignored: `nohup` and the shell's
//! background jobs rely on that.

use std::fs;

/// Whether this process ignores a signal now: because it was started so, or because it chose to.
///
/// If the system does not report it, the answer is no.
pub fn is_ignored(signal: i32) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|text| is_ignored_by(&text, signal))
}

/// The same for the text of a process's `status` file.
fn is_ignored_by(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let Some(bit) = signal.checked_sub(1).and_then(|bit| u32::try_from(bit).ok()) else {
        return false;
    };
    mask.and_then(|mask| mask.checked_shr(bit)).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        // nohup in a background job: SIGHUP, SIGINT, SIGQUIT and, in Rust, SIGPIPE.
        let status =
            "Name:\tpptop\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001007\nSigCgt:\t0\n";
        let found = [SIGHUP, SIGINT, SIGQUIT, SIGTERM].map(|signal| is_ignored_by(status, signal));
        assert_eq!(found, [true, true, true, false]);
        for status in ["", "SigIgn:\tnone\n", "SigIgn:\n"] {
            assert!(!is_ignored_by(status, SIGHUP), "{status:?}");
        }
        for signal in [0, -1, 65, i32::MIN, i32::MAX] {
            assert!(!is_ignored_by(status, signal), "{signal}");
        }
    }

    #[test]
    fn a_program_in_rust_ignores_sigpipe() {
        assert!(is_ignored(signal_hook::consts::SIGPIPE));
    }
}
