//! What settings can hold, and how text becomes it.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::ValueEnum;
use pp_schedule::did_you_mean;
use ratatui::style::Color;
use serde::Serialize;

/// A value that is refused: half of a message that knows the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The mistake.
    pub why: String,
    /// What to do instead.
    pub remedy: String,
}

impl Refused {
    pub(crate) fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { why: why.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.remedy)
    }
}

impl std::error::Error for Refused {}

/// How the screen is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ThemeName {
    /// Dark or light as COLORFGBG says; dark if it is not set.
    #[default]
    Auto,
    /// For a dark background.
    Dark,
    /// For a light background.
    Light,
    /// Without colours.
    Mono,
}

/// Whether colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ColorMode {
    /// On a terminal with colours, unless `NO_COLOR` is set.
    #[value(help = "On a terminal with colours, unless NO_COLOR is set")]
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// A colour of the terminal's own palette.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "a colour is its name")]
pub enum AnsiColor {
    Default,
    Black,
    Red,
    Green,
    Yellow,
    Blue,
    Magenta,
    Cyan,
    White,
    BrightBlack,
    BrightRed,
    BrightGreen,
    BrightYellow,
    BrightBlue,
    BrightMagenta,
    BrightCyan,
    BrightWhite,
}

impl AnsiColor {
    /// The colour as the screen knows it.
    pub fn color(self) -> Color {
        match self {
            Self::Default => Color::Reset,
            Self::Black => Color::Black,
            Self::Red => Color::Red,
            Self::Green => Color::Green,
            Self::Yellow => Color::Yellow,
            Self::Blue => Color::Blue,
            Self::Magenta => Color::Magenta,
            Self::Cyan => Color::Cyan,
            Self::White => Color::Gray,
            Self::BrightBlack => Color::DarkGray,
            Self::BrightRed => Color::LightRed,
            Self::BrightGreen => Color::LightGreen,
            Self::BrightYellow => Color::LightYellow,
            Self::BrightBlue => Color::LightBlue,
            Self::BrightMagenta => Color::LightMagenta,
            Self::BrightCyan => Color::LightCyan,
            Self::BrightWhite => Color::White,
        }
    }
}

/// A text that cannot move the terminal's cursor.
pub(crate) fn plain(text: &str) -> String {
    pp_schedule::clean(text).into_owned()
}

/// A text of the user's, within the room that a message has.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    match text.char_indices().nth(CHARS_MAX) {
        None => format!("\"{}\"", plain(text)),
        Some((at, _)) => format!("\"{}…\"", plain(&text[..at])),
    }
}

/// Words that can be written, all of them or the first: a message has room for one line.
pub(crate) fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    const CHARS_MAX: usize = 90;
    let mut list = String::new();
    for word in words {
        if list.len() + word.len() > CHARS_MAX {
            return list + ", … (see pptop config init)";
        }
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push_str(word);
    }
    list
}

/// What to write instead of a word that nothing knows: the one that was probably meant, and what
/// there is.
pub(crate) fn choice<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let all = listed(known.iter().copied());
    match did_you_mean(given, known) {
        Some(meant) => format!("{meant} Use {all}"),
        None => format!("use {all}"),
    }
}

/// A value of a closed list.
pub(crate) fn word<T: ValueEnum>(text: &str) -> Result<T, Refused> {
    T::from_str(text, false).map_err(|_| {
        let words: Vec<_> =
            T::value_variants().iter().filter_map(ValueEnum::to_possible_value).collect();
        let names = words.iter().map(clap::builder::PossibleValue::get_name);
        Refused::new(format!("unknown value {}", excerpt(text)), choice(text, names))
    })
}

/// Refresh interval in milliseconds.
pub const INTERVAL_MS: RangeInclusive<u64> = 100..=10_000;
/// Runs, megabytes and days that can be kept: as many as there are.
pub(crate) const ANY_NUMBER: RangeInclusive<u64> = 0..=u64::MAX;

fn range(bounds: &RangeInclusive<u64>) -> String {
    match (*bounds.start(), *bounds.end()) {
        (least, u64::MAX) => format!("use a whole number of at least {least}"),
        (least, most) => format!("use a whole number from {least} to {most}"),
    }
}

/// A whole number within a range, from a number that may be negative.
pub(crate) fn number(value: i64, bounds: &RangeInclusive<u64>) -> Result<u64, Refused> {
    u64::try_from(value)
        .ok()
        .filter(|value| bounds.contains(value))
        .ok_or_else(|| Refused::new(format!("{value} is out of range"), range(bounds)))
}

/// A whole number within a range, from text.
pub(crate) fn number_of(text: &str, bounds: &RangeInclusive<u64>) -> Result<u64, Refused> {
    let value = text.parse().map_err(|_| {
        Refused::new(format!("{} is not a whole number", excerpt(text)), range(bounds))
    })?;
    number(value, bounds)
}

/// Yes or no, from text.
pub(crate) fn switch_of(text: &str) -> Result<bool, Refused> {
    match text {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => {
            Err(Refused::new(format!("unknown value {}", excerpt(text)), "use 1, 0, true or false"))
        }
    }
}

/// The path of a file.
pub(crate) fn path_of(text: &str) -> Result<PathBuf, Refused> {
    if text.is_empty() || text.contains('\0') {
        return Err(Refused::new(
            format!("{} is not a path", excerpt(text)),
            "write the path of a library",
        ));
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_documentation() {
        assert_eq!(word::<ColorMode>("").unwrap_err().remedy, "use auto, always, never");
        assert_eq!(AnsiColor::value_variants().len(), 17);
        assert_eq!(word::<AnsiColor>("bright-black"), Ok(AnsiColor::BrightBlack));
        let refused = word::<ThemeName>("pink").unwrap_err();
        assert_eq!(refused.to_string(), "unknown value \"pink\"; use auto, dark, light, mono");
    }

    #[test]
    fn a_message_stays_a_line() {
        let refused = word::<AnsiColor>(&"ü".repeat(70_000)).unwrap_err().to_string();
        assert!(refused.chars().count() < 200, "{refused}");
        assert!(refused.ends_with(", … (see pptop config init)"), "{refused}");
    }

    #[test]
    fn every_colour_is_another() {
        let colors: Vec<Color> =
            AnsiColor::value_variants().iter().map(|color| color.color()).collect();
        for (at, color) in colors.iter().enumerate() {
            assert!(!colors[at + 1..].contains(color), "{color}");
        }
    }

    #[test]
    fn numbers_stay_in_their_range() {
        assert_eq!(number_of("100", &INTERVAL_MS), Ok(100));
        assert_eq!(number_of("10000", &INTERVAL_MS), Ok(10_000));
        for wrong in ["99", "10001", "-1", "1e3", "", "99999999999999999999"] {
            let refused = number_of(wrong, &INTERVAL_MS).unwrap_err();
            assert_eq!(refused.remedy, "use a whole number from 100 to 10000", "{wrong}");
        }
        assert_eq!(number_of("0", &ANY_NUMBER), Ok(0));
        assert_eq!(
            number_of("-1", &ANY_NUMBER).unwrap_err().remedy,
            "use a whole number of at least 0"
        );
    }
}
