//! A rank among those of other processes: its messages, and how a call ends on all of them.

mod answer;
mod clock;
mod label;
mod links;
mod lost;
mod trouble;

pub(crate) use answer::{Answer, Said};
pub(crate) use links::{Links, SharedLinks, WorldCopies};
pub use lost::lost_rank;
pub(crate) use trouble::{error_of, tell};
