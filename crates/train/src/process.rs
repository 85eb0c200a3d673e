//! The environment of a process that trains on CPU ranks.

use std::env;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The variable that candle reads before each product.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Makes this process ready for CPU ranks. Call it first thing in `main`.
///
/// A CPU rank is one thread, so the kernels of candle must not share a pool between ranks. They
/// read `RAYON_NUM_THREADS` before each product, and it has to be 1. If it is 1, this returns at
/// once. Otherwise it replaces the process by the same program with the variable set (`execve`).
/// Process number, arguments, working directory and open files stay, and `main` begins anew:
/// everything before the call runs twice. The environment of the running process is not written,
/// which would be unsound if it has threads.
///
/// # Errors
/// The program cannot be found or started again.
pub fn init() -> io::Result<()> {
    if env::var_os(THREADS).is_some_and(|threads| threads == "1") {
        return Ok(());
    }
    let mut args = env::args_os();
    let mut again = Command::new(env::current_exe()?);
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    Err(again.args(args).env(THREADS, "1").exec())
}
