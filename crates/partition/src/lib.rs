#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod balance;
mod cut;
mod error;
mod layer;
mod profile;
mod ranks;
pub mod solve;
mod stack;
mod stage;

pub use cut::{Cut, Partition};
pub use error::PartitionError;
pub use layer::{Layer, Objective, chain, single};
pub use profile::{LayerProfile, Profile, ProfileConfig, profile, profile_with};
pub use ranks::Ranks;
pub use stack::LayerStack;
pub use stage::Stage;
