//! A mark in a log: all lines before it in one, so that a reader can begin there.
//!
//! What a mark says is the business of whoever makes marks, see
//! [`MarkMaker`](crate::MarkMaker). Here it is a line that is kept as it stands.

/// How the line of a mark begins.
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
