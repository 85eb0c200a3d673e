//! A line that the user types: the number of a step, or a text to search for.

/// The purpose of a typed line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PromptKind {
    /// The number of a step.
    Step,
    /// A text to search for in the log.
    Filter,
}

/// A line that is being typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) kind: PromptKind,
    pub(crate) text: String,
}

/// The most characters of a typed line.
const PROMPT_MAX: usize = 80;

impl Prompt {
    pub(crate) fn new(kind: PromptKind) -> Self {
        Self { kind, text: String::new() }
    }

    pub(crate) fn push(&mut self, letter: char) {
        if self.text.chars().count() < PROMPT_MAX && !pp_schedule::is_obeyed(letter) {
            self.text.push(letter);
        }
    }

    /// Takes the first line of pasted text that is not empty.
    pub(crate) fn paste(&mut self, text: &str) {
        let line = text.split(['\n', '\r']).map(str::trim).find(|line| !line.is_empty());
        line.unwrap_or_default().chars().for_each(|letter| self.push(letter));
    }

    pub(crate) fn pop(&mut self) {
        self.text.pop();
    }

    /// The label before the line.
    pub(crate) fn label(&self) -> &'static str {
        match self.kind {
            PromptKind::Step => "go to step :",
            PromptKind::Filter => "search /",
        }
    }
}
