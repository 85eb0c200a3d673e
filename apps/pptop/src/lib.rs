//! The half of `pptop` that watches: it needs the log of a run, and nothing of what trains it.

pub mod monitor;
