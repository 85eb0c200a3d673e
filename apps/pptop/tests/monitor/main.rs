//! The screens of the monitor, drawn without a terminal.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod any_size;
mod bubble;
mod common;
mod devices;
mod log;
mod loss;
mod overview;
mod phases;
mod runs;
mod screens;
mod themes;
mod timeline;
mod understood;
