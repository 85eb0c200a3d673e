//! The terminal that the monitor would draw on.

use std::env;
use std::io::{IsTerminal as _, stdout};

use ratatui::crossterm::terminal::size;

use super::Check;

/// The smallest screen; below, one line is drawn.
const SIZE_MIN: (u16, u16) = (20, 5);
/// The smallest screen with every panel.
const SIZE_WHOLE: (u16, u16) = (80, 24);

/// What is known of the terminal.
#[derive(Debug, Clone, Default)]
pub(super) struct Screen {
    is_terminal: bool,
    term: String,
    has_no_color: bool,
    /// What the language of the user says, with its characters.
    locale: String,
    /// Columns and rows.
    size: Option<(u16, u16)>,
    /// Whether only ASCII characters are drawn anyway.
    ascii: bool,
}

impl Screen {
    /// The terminal that standard output is, if it is one.
    pub(super) fn look(ascii: bool) -> Self {
        let text = |name: &str| {
            env::var_os(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let is_terminal = stdout().is_terminal();
        let mut locales = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().map(text);
        Self {
            is_terminal,
            term: text("TERM"),
            has_no_color: !text("NO_COLOR").is_empty(),
            locale: locales.find(|value| !value.is_empty()).unwrap_or_default(),
            size: is_terminal.then(size).and_then(Result::ok),
            ascii,
        }
    }
}

/// What can be drawn.
pub(super) fn checks(screen: &Screen) -> Vec<Check> {
    if !screen.is_terminal {
        return vec![Check::pass("terminal", "standard output is none: plain lines are written")];
    }
    vec![terminal(screen), characters(screen), size_of(screen)]
}

fn terminal(screen: &Screen) -> Check {
    const NAME: &str = "terminal";
    const TODO: &str = "set TERM to what the terminal is, such as xterm-256color";
    match screen.term.as_str() {
        "" => Check::warn(NAME, "TERM is not set", TODO),
        "dumb" => Check::warn(NAME, "TERM=dumb: no colours, ASCII alone", TODO),
        term if screen.has_no_color => {
            Check::pass(NAME, format!("{term}, without colours since NO_COLOR is set"))
        }
        term => Check::pass(NAME, format!("{term}, with colours")),
    }
}

fn characters(screen: &Screen) -> Check {
    const NAME: &str = "characters";
    let locale = screen.locale.to_ascii_lowercase();
    if locale.contains("utf-8") || locale.contains("utf8") {
        return Check::pass(NAME, screen.locale.clone());
    }
    if screen.ascii {
        return Check::pass(NAME, "ASCII alone, as configured");
    }
    let found = match screen.locale.as_str() {
        "" => "neither LC_ALL, LC_CTYPE nor LANG is set; the screen is drawn in UTF-8".to_owned(),
        locale => format!("{locale} is not UTF-8; the screen is drawn in UTF-8"),
    };
    Check::warn(NAME, found, "set LANG to C.UTF-8 or another one in UTF-8, or PPTOP_ASCII=1")
}

fn size_of(screen: &Screen) -> Check {
    const NAME: &str = "size";
    let (least_columns, least_rows) = SIZE_MIN;
    let (columns, rows) = match screen.size {
        None | Some((0, _) | (_, 0)) => {
            return Check::warn(NAME, "not known", "set it: stty cols 80 rows 24");
        }
        Some(size) => size,
    };
    let found = format!("{columns}×{rows}");
    if columns < least_columns || rows < least_rows {
        let todo = format!("enlarge it to {least_columns}×{least_rows} and more");
        return Check::warn(NAME, format!("{found}: only one line is drawn"), todo);
    }
    let is_whole = columns >= SIZE_WHOLE.0 && rows >= SIZE_WHOLE.1;
    Check::pass(NAME, if is_whole { found } else { format!("{found}; 80×24 shows all panels") })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Pass, Warn};
    use super::*;

    fn good() -> Screen {
        Screen {
            is_terminal: true,
            term: "xterm-256color".to_owned(),
            locale: "de_DE.UTF-8".to_owned(),
            size: Some((80, 24)),
            ..Screen::default()
        }
    }

    fn verdicts(screen: &Screen) -> Vec<Verdict> {
        checks(screen).iter().map(|check| check.verdict).collect()
    }

    #[test]
    fn a_terminal_needs_a_name_characters_and_room() {
        assert_eq!(verdicts(&good()), [Pass, Pass, Pass]);
        for term in ["", "dumb"] {
            assert_eq!(verdicts(&Screen { term: term.to_owned(), ..good() }), [Warn, Pass, Pass]);
        }
        for (locale, verdict) in
            [("C.utf8", Pass), ("", Warn), ("C", Warn), ("de_DE.ISO-8859-1", Warn)]
        {
            let screen = Screen { locale: locale.to_owned(), ..good() };
            assert_eq!(verdicts(&screen), [Pass, verdict, Pass], "{locale}");
            assert_eq!(verdicts(&Screen { ascii: true, ..screen }), [Pass, Pass, Pass]);
        }
        for (size, verdict) in [
            (Some((20, 5)), Pass),
            (Some((19, 5)), Warn),
            (Some((20, 4)), Warn),
            (Some((0, 0)), Warn),
            (None, Warn),
        ] {
            assert_eq!(verdicts(&Screen { size, ..good() }), [Pass, Pass, verdict], "{size:?}");
        }
    }

    #[test]
    fn what_is_no_terminal_needs_nothing() {
        assert_eq!(verdicts(&Screen::default()), [Pass]);
    }

    #[test]
    fn colours_are_told() {
        let told = |has_no_color| checks(&Screen { has_no_color, ..good() })[0].found.clone();
        assert_eq!(told(false), "xterm-256color, with colours");
        assert_eq!(told(true), "xterm-256color, without colours since NO_COLOR is set");
    }
}
