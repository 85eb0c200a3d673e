//! Pipeline-parallel training that one can see: the command line and the terminal monitor.

mod cli;

use std::process::ExitCode;

/// Fresh large buffers fault page by page in the system's allocator, and training makes many of them. What each rank holds is
/// counted on the way.
#[cfg(feature = "train")]
#[global_allocator]
static ALLOCATOR: pp_nn::memory::CountingAllocator<mimalloc::MiMalloc> =
    pp_nn::memory::CountingAllocator(mimalloc::MiMalloc);

fn main() -> ExitCode {
    // A rank is one thread: the kernels of candle read this before each product, and must not share a pool between ranks.
    #[cfg(feature = "train")]
    // SAFETY: nothing has started a thread yet, so nobody reads the environment at the same time.
    unsafe {
        std::env::set_var("RAYON_NUM_THREADS", "1");
    }
    cli::main()
}
