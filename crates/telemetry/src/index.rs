//! Marks in a log from which one can begin to read.

use serde::{Deserialize, Serialize};

use crate::model::Model;

/// Everything before it in one line: who opens a long log begins at the last of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// The last step before it.
    pub step: u64,
    /// Where the marks are, this one included, as bytes from the beginning of the log.
    pub frames: Vec<Frame>,
    /// What all events before it amount to, without their spans.
    pub model: Box<Model>,
}

/// Where a mark is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// The byte at which its line begins.
    pub offset: u64,
    /// The last step before it.
    pub step: u64,
}
