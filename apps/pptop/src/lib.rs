#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod ability;
pub mod config;
pub mod demo;
pub mod monitor;
pub mod signals;
