//! The configuration file: read within bounds, and turned into values that know their line.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustix::fs::{Mode, OFlags, open};
use serde::Deserialize;
use toml::Spanned;

use super::error::ConfigError;
use super::keys::Key;
use super::values::{
    ANY_NUMBER, AnsiColor, ColorMode, INTERVAL_MS, Refused, ThemeName, choice, excerpt, number,
    path_of, word,
};
use super::{COLORED, Keys};

/// Bytes that a configuration has at most.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Characters of what the parser says; there may be a whole file in it.
const WHY_CHARS_MAX: usize = 80;

/// What a file says. What it does not say is left to others.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct FileConfig {
    pub(crate) theme: Option<ThemeName>,
    pub(crate) ascii: Option<bool>,
    pub(crate) mouse: Option<bool>,
    pub(crate) color: Option<ColorMode>,
    pub(crate) interval_ms: Option<u64>,
    pub(crate) nvml_lib: Option<PathBuf>,
    pub(crate) nvml: Option<bool>,
    pub(crate) keep_runs: Option<u64>,
    pub(crate) keep_mb: Option<u64>,
    pub(crate) keep_days: Option<u64>,
    pub(crate) keys: Keys,
    /// In the order of [`COLORED`].
    pub(crate) colors: [Option<AnsiColor>; COLORED.len()],
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawFile {
    theme: Option<Spanned<String>>,
    ascii: Option<bool>,
    mouse: Option<bool>,
    color: Option<Spanned<String>>,
    interval_ms: Option<Spanned<i64>>,
    nvml_lib: Option<Spanned<String>>,
    nvml: Option<bool>,
    keep: RawKeep,
    keys: BTreeMap<String, Spanned<Vec<Spanned<String>>>>,
    colors: RawColors,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawKeep {
    runs: Option<Spanned<i64>>,
    mb: Option<Spanned<i64>>,
    days: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawColors {
    forward: Option<Spanned<String>>,
    backward: Option<Spanned<String>>,
    input_grad: Option<Spanned<String>>,
    weight_grad: Option<Spanned<String>>,
    copy: Option<Spanned<String>>,
    wait: Option<Spanned<String>>,
    optimizer: Option<Spanned<String>>,
    alarm: Option<Spanned<String>>,
    title: Option<Spanned<String>>,
}

/// A refusal, and the place in the text that it is about.
type Found = (Refused, Range<usize>);

/// Reads the file at `path`; `None` if it does not exist. `actions` are the names to which keys can
/// be bound.
pub(crate) fn read(path: &Path, actions: &[&str]) -> Result<Option<FileConfig>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    // Opening a pipe must not wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Ok(fd) => fs::File::from(fd),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        // A socket.
        Err(rustix::io::Errno::NXIO) => {
            return Err(ConfigError::NotAFile { path: path.to_owned() });
        }
        Err(errno) => return Err(unreadable(errno.into())),
    };
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(ConfigError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned(), most: FILE_BYTES_MAX });
    }
    parse(&bytes, actions).map(Some).map_err(|(refused, line)| ConfigError::Line {
        path: path.to_owned(),
        line,
        refused,
    })
}

/// The values of a text, or a refusal with its line.
pub(crate) fn parse(bytes: &[u8], actions: &[&str]) -> Result<FileConfig, (Refused, usize)> {
    // Some editors begin a text with a mark of its encoding.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let refused = Refused::new("a byte that is not UTF-8", "save the file as UTF-8");
        (refused, line_of(bytes, error.valid_up_to()))
    })?;
    let raw: RawFile = toml::from_str(text).map_err(|error| {
        (said(error.message()), line_of(bytes, error.span().map_or(0, |span| span.start)))
    })?;
    values(raw, actions).map_err(|(refused, span)| (refused, line_of(bytes, span.start)))
}

/// The line of a byte, counted from one.
fn line_of(bytes: &[u8], at: usize) -> usize {
    bytes.iter().take(at).filter(|&&byte| byte == b'\n').count() + 1
}

/// What the parser says, in the form of a refusal.
fn said(message: &str) -> Refused {
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let (why, wanted) = message.rsplit_once(", expected ").unwrap_or((&message, ""));
    let wanted = wanted.trim_start_matches("one of ").replace('`', "");
    let why = why.replace('`', "");
    let remedy = match (wanted.as_str(), why.strip_prefix("unknown field ")) {
        (_, Some(field)) => choice(field, wanted.split(", ")),
        ("", _) if why.starts_with("duplicate") => "write each key once".to_owned(),
        ("", _) => "write TOML, such as theme = \"dark\"".to_owned(),
        ("a sequence", _) => "use a list, such as [\"q\", \"Ctrl-c\"]".to_owned(),
        ("i64", _) => "use a whole number".to_owned(),
        ("a boolean", _) => "use true or false".to_owned(),
        (wanted, _) => format!("use {wanted}"),
    };
    let why = match why.char_indices().nth(WHY_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &why[..at]),
        None => why,
    };
    Refused::new(why, remedy)
}

fn values(raw: RawFile, actions: &[&str]) -> Result<FileConfig, Found> {
    let RawColors {
        forward,
        backward,
        input_grad,
        weight_grad,
        copy,
        wait,
        optimizer,
        alarm,
        title,
    } = raw.colors;
    let raw_colors =
        [forward, backward, input_grad, weight_grad, copy, wait, optimizer, alarm, title];
    let mut colors = [None; COLORED.len()];
    for (color, raw) in colors.iter_mut().zip(raw_colors) {
        *color = word_at(raw)?;
    }
    let any_number = |raw| with(raw, |value| number(value, &ANY_NUMBER));
    Ok(FileConfig {
        theme: word_at(raw.theme)?,
        ascii: raw.ascii,
        mouse: raw.mouse,
        color: word_at(raw.color)?,
        interval_ms: with(raw.interval_ms, |value| number(value, &INTERVAL_MS))?,
        nvml_lib: with(raw.nvml_lib, |text| path_of(&text))?,
        nvml: raw.nvml,
        keep_runs: any_number(raw.keep.runs)?,
        keep_mb: any_number(raw.keep.mb)?,
        keep_days: any_number(raw.keep.days)?,
        keys: keys(raw.keys, actions)?,
        colors,
    })
}

fn with<R, T>(
    raw: Option<Spanned<R>>,
    of: impl FnOnce(R) -> Result<T, Refused>,
) -> Result<Option<T>, Found> {
    let Some(raw) = raw else { return Ok(None) };
    let span = raw.span();
    of(raw.into_inner()).map(Some).map_err(|refused| (refused, span))
}

fn word_at<T: ValueEnum>(raw: Option<Spanned<String>>) -> Result<Option<T>, Found> {
    with(raw, |text| word(&text))
}

/// The keys of each action. One that is bound twice is refused where it stands the second time.
fn keys(
    raw: BTreeMap<String, Spanned<Vec<Spanned<String>>>>,
    actions: &[&str],
) -> Result<Keys, Found> {
    let mut keys = Keys::new();
    let mut bound: Vec<(usize, Key, String)> = Vec::new();
    for (action, list) in raw {
        if !actions.contains(&action.as_str()) {
            let why = format!("unknown action {}", excerpt(&action));
            let refused = Refused::new(why, choice(&action, actions.iter().copied()));
            return Err((refused, list.span()));
        }
        let mut of_action = Vec::new();
        for text in list.into_inner() {
            let start = text.span().start;
            let key: Key = text.get_ref().parse().map_err(|refused| (refused, text.span()))?;
            bound.push((start, key, action.clone()));
            of_action.push(key);
        }
        keys.insert(action, of_action);
    }
    bound.sort_by_key(|(start, ..)| *start);
    for (at, (start, key, action)) in bound.iter().enumerate() {
        if let Some((_, _, first)) = bound[..at].iter().find(|(_, earlier, _)| earlier == key) {
            let refused = Refused::new(
                format!("{key} is bound to {first} and to {action}"),
                "bind each key once",
            );
            return Err((refused, *start..*start));
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::monitor::action_names;

    fn parse(bytes: &[u8]) -> Result<FileConfig, (Refused, usize)> {
        super::parse(bytes, &action_names().collect::<Vec<_>>())
    }

    fn refused(text: &str) -> String {
        let (refused, line) = parse(text.as_bytes()).unwrap_err();
        format!("{line}: {refused}")
    }

    #[test]
    fn everything_can_be_said() {
        let text = r#"
theme = "dark"
ascii = true
mouse = false
color = "never"
interval_ms = 250
nvml_lib = "/opt/libnvidia-ml.so"
nvml = false
keep = { runs = 3, mb = 4, days = 5 }
[keys]
quit = ["q", "Ctrl-c"]
zoom-in = ["+"]
help = []
[colors]
forward = "bright-blue"
title = "default"
"#;
        let config = parse(text.as_bytes()).unwrap();
        let key = |text: &str| text.parse::<Key>().unwrap();
        assert_eq!(config.theme, Some(ThemeName::Dark));
        assert_eq!(
            (config.ascii, config.mouse, config.nvml),
            (Some(true), Some(false), Some(false))
        );
        assert_eq!(config.color, Some(ColorMode::Never));
        assert_eq!(config.interval_ms, Some(250));
        assert_eq!(config.nvml_lib, Some(PathBuf::from("/opt/libnvidia-ml.so")));
        assert_eq!(
            (config.keep_runs, config.keep_mb, config.keep_days),
            (Some(3), Some(4), Some(5))
        );
        assert_eq!(config.keys["quit"], [key("q"), key("Ctrl-c")]);
        assert_eq!((config.keys["help"].len(), config.keys.len()), (0, 3));
        assert_eq!(config.colors[0], Some(AnsiColor::BrightBlue));
        assert_eq!(config.colors[8], Some(AnsiColor::Default));
        assert_eq!(config.colors[1], None);
        assert_eq!(parse(b"").unwrap(), FileConfig::default());
    }

    #[test]
    fn every_mistake_has_its_line_and_says_what_to_do() {
        for (text, said) in [
            ("theme = \"pink\"", "1: unknown value \"pink\"; use auto, dark, light, mono"),
            ("\n\ncolor = \"yes\"", "3: unknown value \"yes\"; use auto, always, never"),
            ("ascii = 1", "1: invalid type: integer 1; use true or false"),
            ("\ntheme = 1", "2: invalid type: integer 1; use a string"),
            ("interval_ms = 99", "1: 99 is out of range; use a whole number from 100 to 10000"),
            ("interval_ms = 0.5", "1: invalid type: floating point 0.5; use a whole number"),
            ("[keep]\nruns = -1", "2: -1 is out of range; use a whole number of at least 0"),
            ("nvml_lib = \"\"", "1: \"\" is not a path; write the path of a library"),
            ("[keep]\n\nrun = 1", "3: unknown field run; did you mean runs? Use runs, mb, days"),
            (
                "[keys]\nquit = \"q\"",
                "2: invalid type: string \"q\"; use a list, such as [\"q\", \"Ctrl-c\"]",
            ),
            (
                "[keys]\nquit = [\n \"q\",\n \"qq\"]",
                "4: \"qq\" is not a key; use a character, F1 to F24, Space, Enter, Esc, Tab, Left, PageUp and so on, with Ctrl-, Alt- or Shift- before it",
            ),
            (
                "[keys]\nstop = [\"q\"]\nquit = [\"q\"]",
                "3: q is bound to stop and to quit; bind each key once",
            ),
            (
                "[keys]\nquit = [\"Ctrl-c\", \"ctrl-C\"]",
                "2: Ctrl-c is bound to quit and to quit; bind each key once",
            ),
            (
                "[colors]\nwait = \"pink\"",
                "2: unknown value \"pink\"; use default, black, red, green, yellow, blue, magenta, cyan, white, bright-black, bright-red, … (see pptop config init)",
            ),
            ("ascii = true\nascii = false", "2: duplicate key; write each key once"),
        ] {
            assert_eq!(refused(text), said, "{text}");
        }
        assert!(
            refused("\nthem = 1")
                .starts_with("2: unknown field them; did you mean theme? Use theme, ascii, ")
        );
        assert!(
            refused("[keys]\nleave = []").starts_with("2: unknown action \"leave\"; use quit, ")
        );
        let long = "a".repeat(60_000);
        for text in [
            format!("{long} = 1"),
            format!("theme = \"{long}\""),
            format!("ascii = \"{long}\""),
            format!("[keys]\n{long} = []"),
            format!("[keys]\nquit = [\"{long}\"]"),
            format!("nvml_lib = \"\\u0000{long}\""),
            long,
        ] {
            let said = refused(&text);
            assert!(said.chars().count() <= 190 && said.contains("; "), "{said}");
        }
        for broken in ["theme", "theme = ", "[keep", "theme = \"dark", "\u{1}", "a.b.c = 1", "= 1"]
        {
            let said = refused(broken);
            assert!(said.starts_with("1: ") && said.contains("; "), "{said}");
            assert!(!said.contains('\n'), "{said}");
        }
        let (refused, line) = parse(b"\n# \xff").unwrap_err();
        assert_eq!((refused.remedy.as_str(), line), ("save the file as UTF-8", 2));
    }

    proptest! {
        #[test]
        fn whatever_a_file_holds_the_answer_is_a_line(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            at in 0..=crate::config::TEMPLATE.len(),
        ) {
            let mut spoilt = crate::config::TEMPLATE.replace("# ", "").into_bytes();
            let at = at.min(spoilt.len());
            spoilt.splice(at..at, bytes.iter().copied());
            for text in [bytes, spoilt] {
                if let Err((refused, line)) = parse(&text) {
                    prop_assert!(line >= 1 && line <= text.split(|&b| b == b'\n').count());
                    let said = refused.to_string();
                    prop_assert!(!said.contains('\n') && said.chars().count() <= 210, "{}", said);
                }
            }
        }
    }
}
