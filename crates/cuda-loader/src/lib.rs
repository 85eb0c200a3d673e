#![doc = include_str!("../README.md")]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod calls;
mod library;
mod memory;
mod search;

pub use library::{Library, Missing};
pub use memory::count_memory;
pub use search::FOLDER_VARIABLE;
