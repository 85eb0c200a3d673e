//! The views that fill the screen, one file each.

pub(crate) mod bubble;
mod detail;
pub(crate) mod devices;
pub(crate) mod log;
pub(crate) mod loss;
pub(crate) mod timeline;
