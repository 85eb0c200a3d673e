//! The half of `pptop` that watches, and what it is configured with: it needs the log of a run, and nothing of what trains it.

#![forbid(unsafe_code)]

pub mod ability;
pub mod config;
pub mod demo;
pub mod monitor;
pub mod signals;
