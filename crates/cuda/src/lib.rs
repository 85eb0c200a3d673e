#![doc = include_str!("../README.md")]
#![cfg(feature = "cuda")]

mod copying;
mod devices;
mod mark;
mod stream;

pub use devices::{DRIVER_NEEDED, Gpu, count_memory, devices, gpu};
pub use mark::Mark;
pub use stream::{KeptShapes, Stream};
