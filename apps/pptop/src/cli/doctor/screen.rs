//! The terminal that the monitor would draw on.

use std::env;
use std::io::{IsTerminal as _, stdout};

use crossterm::terminal::size;
use pptop::ability::{Ability, Colours};

use super::Check;

/// The smallest screen; below, one line is drawn.
const SIZE_MIN: (u16, u16) = (20, 5);
/// The smallest screen with every panel.
const SIZE_WHOLE: (u16, u16) = (80, 24);

/// What is known of the terminal.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    is_terminal: bool,
    term: String,
    has_no_color: bool,
    ability: Ability,
    /// Columns and rows.
    size: Option<(u16, u16)>,
    /// The setting for ASCII characters alone (true) or all (false), if there is one.
    ascii: Option<bool>,
}

impl Screen {
    /// The terminal that standard output is, if it is one.
    pub(super) fn look(ascii: Option<bool>) -> Self {
        let text = |name: &str| {
            env::var_os(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let is_terminal = stdout().is_terminal();
        Self {
            is_terminal,
            term: text("TERM"),
            has_no_color: !text("NO_COLOR").is_empty(),
            ability: Ability::of_environment(),
            size: is_terminal.then(size).and_then(Result::ok),
            ascii,
        }
    }
}

/// What can be drawn.
pub(super) fn checks(screen: &Screen) -> Vec<Check> {
    if !screen.is_terminal {
        return vec![Check::pass(
            "terminal",
            "standard output is not a terminal: plain lines are written",
        )];
    }
    vec![terminal(screen), characters(screen), size_of(screen)]
}

fn terminal(screen: &Screen) -> Check {
    const NAME: &str = "terminal";
    const TODO: &str = "set TERM to the type of the terminal, such as xterm-256color";
    let colours = match screen.ability.colours {
        Colours::None => "without colours",
        Colours::Sixteen => "with 16 colours",
        Colours::Many => "with colours",
    };
    match screen.term.as_str() {
        "" => Check::warn(NAME, "TERM is not set: no colours, ASCII only", TODO),
        "dumb" => Check::warn(NAME, "TERM=dumb: lines instead of a screen", TODO),
        term if screen.has_no_color => {
            Check::pass(NAME, format!("{term}, without colours because NO_COLOR is set"))
        }
        term => Check::pass(NAME, format!("{term}, {colours}")),
    }
}

fn characters(screen: &Screen) -> Check {
    const NAME: &str = "characters";
    const TODO: &str = "if the terminal supports UTF-8, set LANG to C.UTF-8 or another UTF-8 locale; otherwise set PPTOP_ASCII=1";
    match (&screen.ability.ascii, screen.ascii) {
        (_, Some(true)) => Check::pass(NAME, "ASCII only, as configured"),
        (Some(why), None) => Check::warn(NAME, format!("{why}: only ASCII is drawn"), TODO),
        (_, Some(false)) => Check::pass(NAME, "UTF-8, as configured"),
        (None, None) => Check::pass(NAME, "UTF-8"),
    }
}

fn size_of(screen: &Screen) -> Check {
    const NAME: &str = "size";
    let (least_columns, least_rows) = SIZE_MIN;
    let (columns, rows) = match screen.size {
        None | Some((0, _) | (_, 0)) => {
            return Check::warn(NAME, "unknown", "set it: stty cols 80 rows 24");
        }
        Some(size) => size,
    };
    let found = format!("{columns}×{rows}");
    if columns < least_columns || rows < least_rows {
        let todo = format!("enlarge it to at least {least_columns}×{least_rows}");
        return Check::warn(NAME, format!("{found}: only one line is drawn"), todo);
    }
    let is_whole = columns >= SIZE_WHOLE.0 && rows >= SIZE_WHOLE.1;
    Check::pass(NAME, if is_whole { found } else { format!("{found}; 80×24 shows all panels") })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Pass, Warn};
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Screen {
        let all = |name: &str| {
            let mut pairs = variables.iter().chain(&[("TERM", "xterm-256color")]);
            pairs.find(|pair| pair.0 == name).map(|pair| std::ffi::OsString::from(pair.1))
        };
        Screen {
            is_terminal: true,
            term: all("TERM").unwrap_or_default().to_string_lossy().into_owned(),
            has_no_color: false,
            ability: Ability::of(&all),
            size: Some((80, 24)),
            ascii: None,
        }
    }

    fn good() -> Screen {
        with(&[("LANG", "de_DE.UTF-8")])
    }

    fn verdicts(screen: &Screen) -> Vec<Verdict> {
        checks(screen).iter().map(|check| check.verdict).collect()
    }

    #[test]
    fn a_terminal_needs_a_name_characters_and_room() {
        assert_eq!(verdicts(&good()), [Pass, Pass, Pass]);
        for term in ["", "dumb"] {
            assert_eq!(verdicts(&with(&[("TERM", term)])), [Warn, Warn, Pass], "{term}");
        }
        assert_eq!(verdicts(&with(&[("TERM", "vt100")])), [Pass, Warn, Pass]);
        for (locale, verdict) in
            [("C.utf8", Pass), ("", Pass), ("C", Warn), ("de_DE.ISO-8859-1", Warn)]
        {
            let screen = with(&[("LANG", locale)]);
            assert_eq!(verdicts(&screen), [Pass, verdict, Pass], "{locale}");
            for ascii in [true, false] {
                let screen = Screen { ascii: Some(ascii), ..screen.clone() };
                assert_eq!(verdicts(&screen), [Pass, Pass, Pass]);
            }
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
        assert_eq!(verdicts(&Screen { is_terminal: false, ..good() }), [Pass]);
    }

    #[test]
    fn colours_are_told() {
        let told = |has_no_color| checks(&Screen { has_no_color, ..good() })[0].found.clone();
        assert_eq!(told(false), "xterm-256color, with colours");
        assert_eq!(told(true), "xterm-256color, without colours because NO_COLOR is set");
        let told = |term| checks(&with(&[("TERM", term)]))[0].found.clone();
        assert_eq!(told("linux"), "linux, with 16 colours");
        assert_eq!(told("vt100"), "vt100, without colours");
    }
}
