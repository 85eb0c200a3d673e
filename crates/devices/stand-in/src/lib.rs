//! A library that answers as NVML does, for tests on machines without a GPU.
//!
//! What it says stands in the file `nvml.txt` beside it, which it reads anew at every call, so that
//! a test can change a GPU while somebody watches it. A test makes a copy of the library in a
//! folder of its own: two copies are two machines. The names of the functions that were called are
//! appended to `calls.txt` in the same folder.
//!
//! ```text
//! init = error 9              what nvmlInit_v2 returns
//! init_hang_ms = 5000         it takes so long
//! driver = 580.95.05
//! gpu GPU-aaaa                from here on the keys of this GPU
//! pci = 00000000:10:00.0
//! name = H100
//! utilisation = 74
//! power = error 4             any key may be an error; an absent key is error 3, not supported
//! lost                        every call about this GPU is error 15
//! lost_until_init = 2         the same, until the library was initialised so many times
//! hang_ms = 5000              every call about this GPU takes so long, or until the line is gone
//! ```

mod functions;
mod script;

pub use script::{CALLS_FILE, SCRIPT_FILE};
