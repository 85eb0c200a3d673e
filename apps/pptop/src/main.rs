//! Pipeline-parallel training that one can see: the command line and the terminal monitor.

mod cli;

use std::process::ExitCode;

/// Fresh large buffers fault page by page in the system's allocator, and training makes many of
/// them. What each rank holds is counted on the way.
#[cfg(feature = "train")]
#[global_allocator]
static ALLOCATOR: pp_nn::memory::CountingAllocator<mimalloc::MiMalloc> =
    pp_nn::memory::CountingAllocator(mimalloc::MiMalloc);

/// Pages that were free for so long go back to the system, in milliseconds. The allocator's own
/// second is shorter than many a step, so that each step of `gpt` took 7,000 page faults to get
/// back what the one before had freed. With a minute a large buffer that comes once does not stay,
/// and steps that are alike fault next to never.
#[cfg(feature = "train")]
const PURGE_DELAY_MS: std::ffi::c_long = 60_000;

/// The number of mimalloc's `mi_option_purge_delay`, and its default value.
#[cfg(feature = "train")]
const PURGE_DELAY: (std::ffi::c_int, std::ffi::c_long) = (15, 1000);

#[cfg(feature = "train")]
// SAFETY: these are the declarations of mimalloc.h, of the library that the global allocator comes
// with. Both take any number, and none that the library does not know changes anything.
unsafe extern "C" {
    safe fn mi_option_get(option: std::ffi::c_int) -> std::ffi::c_long;
    safe fn mi_option_set(option: std::ffi::c_int, value: std::ffi::c_long);
}

/// Lets the allocator keep free pages for longer, unless the environment (`MIMALLOC_PURGE_DELAY`)
/// says for how long.
#[cfg(feature = "train")]
fn keep_pages() {
    let (option, by_default) = PURGE_DELAY;
    if mi_option_get(option) == by_default {
        mi_option_set(option, PURGE_DELAY_MS);
    }
}

fn main() -> ExitCode {
    #[cfg(feature = "train")]
    keep_pages();
    // A rank is one thread: the kernels of candle read this before each product, and must not share
    // a pool between ranks.
    #[cfg(feature = "train")]
    // SAFETY: no thread has been started yet, so none reads the environment at the same time.
    unsafe {
        std::env::set_var("RAYON_NUM_THREADS", "1");
    }
    cli::main()
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;

    #[test]
    fn free_pages_stay_for_a_minute() {
        let (option, by_default) = PURGE_DELAY;
        // Another number here is another version of mimalloc, whose options may have other places.
        // Cargo's environment has the minute.
        let before = mi_option_get(option);
        assert!(before == by_default || before == PURGE_DELAY_MS, "{before}");
        mi_option_set(option, by_default);
        keep_pages();
        assert_eq!(mi_option_get(option), PURGE_DELAY_MS);
        mi_option_set(option, 17);
        keep_pages();
        assert_eq!(mi_option_get(option), 17, "what somebody chose stays");
    }
}
