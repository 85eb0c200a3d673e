#![doc = include_str!("../README.md")]
#![cfg_attr(feature = "mpi", deny(unsafe_code))]
#![cfg_attr(not(feature = "mpi"), forbid(unsafe_code))]

#[cfg(feature = "mpi")]
mod activity;
#[cfg(feature = "mpi")]
mod buffer;
#[cfg(feature = "mpi")]
mod head;
#[cfg(feature = "mpi")]
mod hosts;
#[cfg(feature = "mpi")]
mod port;
#[cfg(feature = "mpi")]
mod session;
#[cfg(feature = "mpi")]
mod watch;
#[cfg(feature = "mpi")]
mod world;

#[cfg(feature = "mpi")]
pub use session::{MpiError, Session};
