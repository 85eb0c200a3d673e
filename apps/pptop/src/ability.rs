//! What the terminal can show: how many colours, and which characters.
//!
//! Everything that is drawn or written asks here. Which characters a terminal takes is said by the
//! locale, as for every other program (`LC_ALL` over `LC_CTYPE` over `LANG`); some terminals have
//! no others than ASCII whatever it says.

use std::ffi::OsString;

/// How many colours there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    /// None at all.
    None,
    /// The sixteen of old, by the sequences of old.
    Sixteen,
    /// At least 256.
    Many,
}

/// What a terminal can show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ability {
    /// How many colours it has.
    pub colours: Colours,
    /// Why only ASCII can be shown, in a few words; `None` where everything can.
    pub ascii: Option<String>,
}

/// Terminals that have more than sixteen colours, by a part of their name.
const MANY: [&str; 9] = [
    "256color",
    "direct",
    "truecolor",
    "kitty",
    "alacritty",
    "foot",
    "ghostty",
    "wezterm",
    "iterm",
];

/// Terminals with no colours and no characters but ASCII, by their name without what stands behind
/// a `-`.
const PLAIN: [&str; 12] = [
    "dumb", "unknown", "network", "dialup", "switch", "printer", "teletype", "sun", "ibm3151",
    "adm3a", "wy50", "wy60",
];

/// Terminals with colours whose characters are those of an old PC: neither dots nor small blocks
/// are there.
const OLD_GLYPHS: [&str; 5] = ["linux", "ansi", "cons25", "pcansi", "sco"];

impl Ability {
    /// What the environment says.
    pub fn of(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let text = |name: &str| {
            variable(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let term = text("TERM");
        let (family, _) = term.split_once('-').unwrap_or((&term, ""));
        // vt100 to vt525; vte is another.
        let is_dec = family
            .strip_prefix("vt")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let is_plain = term.is_empty() || PLAIN.contains(&family) || is_dec;
        let is_mono = term.ends_with("-m") || term.ends_with("-mono");
        let has_many = MANY.iter().any(|part| term.contains(part)) || !text("COLORTERM").is_empty();
        let colours = match () {
            () if is_plain || is_mono => Colours::None,
            () if has_many && !OLD_GLYPHS.contains(&family) => Colours::Many,
            () => Colours::Sixteen,
        };
        let ascii = if term.is_empty() {
            Some("TERM is not set".to_owned())
        } else if is_plain || OLD_GLYPHS.contains(&family) {
            Some(format!("TERM={term}"))
        } else {
            other_locale(variable)
        };
        Self { colours, ascii }
    }

    /// That of the terminal of this process.
    pub fn of_environment() -> Self {
        Self::of(&|name| std::env::var_os(name))
    }
}

/// The variable that says which characters text has, where these are not those of UTF-8. Where
/// nothing says so, UTF-8 it is: that is what terminals have, and containers rarely say.
pub fn other_locale(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<String> {
    let mut said = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| {
        let value = variable(name).filter(|value| !value.is_empty())?;
        Some((name, value.to_string_lossy().into_owned()))
    });
    let (name, value) = said.next()?;
    let (_, characters) = value.split_once('.').unwrap_or(("", ""));
    let (characters, _) = characters.split_once('@').unwrap_or((characters, ""));
    let letters: String = characters
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    (letters != "utf8").then(|| format!("{name}={value}"))
}

/// A text for a terminal that has ASCII alone.
pub fn in_ascii(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            _ if letter.is_ascii() => plain.push(letter),
            '\u{2010}'..='\u{2015}' | '\u{2212}' | '─' | '━' => plain.push('-'),
            '·' | '•' | '∙' => plain.push('.'),
            '…' => plain.push_str("..."),
            '×' => plain.push('x'),
            '±' => plain.push_str("+-"),
            '≥' => plain.push_str(">="),
            '≤' => plain.push_str("<="),
            '≈' => plain.push('~'),
            '→' | '▸' | '▶' => plain.push('>'),
            '←' => plain.push('<'),
            'µ' | 'μ' => plain.push('u'),
            '²' => plain.push('2'),
            '│' | '┃' | '▏' | '▕' => plain.push('|'),
            '┌'..='╿' => plain.push('+'),
            '▀'..='▟' => plain.push('#'),
            '●' | '◆' | '✓' | '✔' => plain.push('*'),
            '▼' => plain.push('v'),
            '▲' => plain.push('^'),
            '‘' | '’' => plain.push('\''),
            '“' | '”' => plain.push('"'),
            '\u{a0}' => plain.push(' '),
            _ => plain.push('?'),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> (Colours, bool) {
        let found = Ability::of(&|name| {
            pairs.iter().find(|pair| pair.0 == name).map(|pair| OsString::from(pair.1))
        });
        (found.colours, found.ascii.is_some())
    }

    #[test]
    fn the_terminal_decides_about_colours_and_glyphs() {
        for (term, wanted) in [
            ("xterm-256color", (Colours::Many, false)),
            ("tmux-256color", (Colours::Many, false)),
            ("vte-256color", (Colours::Many, false)),
            ("xterm-kitty", (Colours::Many, false)),
            ("xterm", (Colours::Sixteen, false)),
            ("screen", (Colours::Sixteen, false)),
            ("linux", (Colours::Sixteen, true)),
            ("linux-16color", (Colours::Sixteen, true)),
            ("ansi", (Colours::Sixteen, true)),
            ("xterm-mono", (Colours::None, false)),
            ("vt52", (Colours::None, true)),
            ("vt100", (Colours::None, true)),
            ("vt102-nsgr", (Colours::None, true)),
            ("vt220", (Colours::None, true)),
            ("dumb", (Colours::None, true)),
            ("unknown", (Colours::None, true)),
            ("", (Colours::None, true)),
        ] {
            assert_eq!(of(&[("TERM", term), ("LANG", "de_DE.UTF-8")]), wanted, "{term}");
        }
        assert_eq!(of(&[]), (Colours::None, true));
        assert_eq!(of(&[("TERM", "xterm"), ("COLORTERM", "truecolor")]).0, Colours::Many);
        assert_eq!(of(&[("TERM", "linux"), ("COLORTERM", "1")]).0, Colours::Sixteen);
    }

    #[test]
    fn the_locale_decides_about_characters() {
        for (pairs, is_ascii) in [
            (&[("LC_ALL", "C")] as &[(&str, &str)], true),
            (&[("LC_ALL", "POSIX")], true),
            (&[("LC_ALL", "C"), ("LC_CTYPE", "C.UTF-8"), ("LANG", "C.UTF-8")], true),
            (&[("LC_ALL", "C.UTF-8"), ("LC_CTYPE", "C"), ("LANG", "C")], false),
            (&[("LC_ALL", ""), ("LC_CTYPE", "C"), ("LANG", "C.UTF-8")], true),
            (&[("LC_CTYPE", "en_US.utf8"), ("LANG", "C")], false),
            (&[("LANG", "de_DE.ISO-8859-1")], true),
            (&[("LANG", "de_DE.ISO-8859-15@euro")], true),
            (&[("LANG", "de_DE.UTF-8@euro")], false),
            (&[("LANG", "de_DE@euro")], true),
            (&[("LANG", "en_US")], true),
            (&[("LANG", "ja_JP.eucJP")], true),
            (&[("LANG", "")], false),
            (&[], false),
        ] {
            let all = [&[("TERM", "xterm")], pairs].concat();
            assert_eq!(of(&all).1, is_ascii, "{pairs:?}");
        }
    }

    #[test]
    fn nothing_but_ascii_is_left() {
        let text = "a·b — 3 × 4 ± 1 … ≥ µs ▏█▌│┌─┐ ● ▼ é 漢";
        let plain = in_ascii(text);
        assert!(plain.is_ascii(), "{plain}");
        assert_eq!(plain, "a.b - 3 x 4 +- 1 ... >= us |##|+-+ * v ? ?");
    }
}
