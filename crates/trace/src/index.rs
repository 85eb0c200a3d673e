//! A mark in a log: an index record that sums up all lines before it, so that a reader can begin
//! there.
//!
//! This crate keeps the line of a mark as it is. A [`MarkMaker`](crate::MarkMaker) defines its
//! content.

/// The first bytes of a mark's line.
pub const INDEX_HEAD: &[u8] = br#"{"ev":"index","#;

/// The line of a mark, without its line feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    line: Box<[u8]>,
}

impl Index {
    /// A mark of this line, which begins with [`INDEX_HEAD`] and has no line feed.
    pub fn new(line: impl Into<Box<[u8]>>) -> Self {
        Self { line: line.into() }
    }

    /// The line as it stands in the log, without its line feed.
    pub fn line(&self) -> &[u8] {
        &self.line
    }
}
