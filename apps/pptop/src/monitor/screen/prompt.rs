//! A line that is typed: the number of a step, or a text to look for.

/// What a typed line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PromptKind {
    /// The number of a step.
    Step,
    /// A text that the log is searched for.
    Filter,
}

/// A line that is being typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) kind: PromptKind,
    pub(crate) text: String,
}

/// Characters of a typed line at most.
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

    /// What stands before it.
    pub(crate) fn label(&self) -> &'static str {
        match self.kind {
            PromptKind::Step => "go to step :",
            PromptKind::Filter => "search /",
        }
    }
}
