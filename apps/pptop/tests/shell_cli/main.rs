//! What surrounds the work: completions, manual pages, the configuration and the doctor, run as a
//! user runs them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod config;
mod doctor;
#[path = "../common/folder.rs"]
mod folder;
mod generated;
mod home;
mod pages;
#[path = "../common/ran.rs"]
mod ran;
mod words;
