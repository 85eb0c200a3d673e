//! The monitor as a user meets it: the real program in a real terminal, which tmux stands in for.
//!
//! Each test waits for what it wants to see, with a deadline, and never for a time. Without tmux
//! the tests say so and pass, unless `PPTOP_REQUIRE_TMUX=1`.
#![cfg(feature = "train")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod foreign;
mod harmless;
mod launched;
mod shell;
mod terminal;
mod watched;
