//! The settings, from the environment, from a file, or by default; a command's flags override them.
//!
//! ```text
//! flag > PPTOP_* > $XDG_CONFIG_HOME/pptop/config.toml > default
//! ```
//!
//! Each setting knows where it comes from, so that `pptop config print` can tell. A mistake
//! anywhere is an error with its line or its variable. Nothing is silently ignored.

mod error;
mod file;
pub mod keys;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pp_telemetry::Keep;
use serde::Serialize;

pub use error::ConfigError;
pub use keys::Key;
pub use values::{AnsiColor, ColorMode, INTERVAL_MS, Refused, ThemeName};

use file::FileConfig;
use values::{ANY_NUMBER, number_of, switch_of, word};

/// A file with every setting, each commented out with its default.
pub const TEMPLATE: &str = include_str!("template.toml");

/// What has a colour of its own, in the words of `[colors]`.
pub const COLORED: [&str; 9] = [
    "forward",
    "backward",
    "input_grad",
    "weight_grad",
    "copy",
    "wait",
    "optimizer",
    "alarm",
    "title",
];

/// The keys of actions that the configuration changes, by the names of
/// [`action_names`](crate::monitor::action_names).
pub type Keys = BTreeMap<String, Vec<Key>>;

/// Where a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Nobody has said anything.
    Default,
    /// The configuration file.
    File,
    /// A variable of the environment.
    Env,
    /// A flag of the command.
    Flag,
}

impl Source {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Env => "env",
            Self::Flag => "flag",
        }
    }
}

/// A value, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting<T> {
    /// What holds.
    pub value: T,
    /// The source of the setting.
    pub source: Source,
}

impl<T> Setting<T> {
    fn new(default: T, file: Option<T>, env: Option<T>) -> Self {
        let given = [(env, Source::Env), (file, Source::File)];
        let given = given.into_iter().find_map(|(value, source)| Some((value?, source)));
        let (value, source) = given.unwrap_or((default, Source::Default));
        Self { value, source }
    }

    /// A flag wins over everything.
    #[must_use]
    pub fn or_flag(self, flag: Option<T>) -> Self {
        match flag {
            Some(value) => Self { value, source: Source::Flag },
            None => self,
        }
    }
}

/// All settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file, if one was read.
    pub file: Option<PathBuf>,
    /// How the screen is coloured.
    pub theme: Setting<ThemeName>,
    /// Whether colours are used.
    pub color: Setting<ColorMode>,
    /// Whether only ASCII characters are used.
    pub ascii: Setting<bool>,
    /// Whether clicks and the wheel are taken.
    pub mouse: Setting<bool>,
    /// Refresh interval in milliseconds.
    pub interval_ms: Setting<u64>,
    /// Whether NVIDIA's library is asked.
    pub nvml: Setting<bool>,
    /// Where it is.
    pub nvml_lib: Setting<Option<PathBuf>>,
    /// Runs that are kept.
    pub keep_runs: Setting<u64>,
    /// Megabytes that are kept.
    pub keep_mb: Setting<u64>,
    /// Days after which a run goes.
    pub keep_days: Setting<u64>,
    /// Other keys than usual.
    pub keys: Keys,
    /// Other colours than the theme's, in the order of [`COLORED`].
    pub colors: [Option<AnsiColor>; COLORED.len()],
}

impl Config {
    /// Loads the settings for an environment. `actions` are the names to which keys can be bound.
    ///
    /// # Errors
    /// The file or a variable is refused.
    pub fn load(
        env: impl Fn(&str) -> Option<OsString>,
        actions: &[&str],
    ) -> Result<Self, ConfigError> {
        let (file, said) = match config_path(&env) {
            Ok(path) => match file::read(&path, actions)? {
                Some(said) => (Some(path), said),
                None => (None, FileConfig::default()),
            },
            Err(_) => (None, FileConfig::default()),
        };
        Self::over(file, said, &env)
    }

    fn over(
        file: Option<PathBuf>,
        said: FileConfig,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let kept = Keep::default();
        let any_number = |name| variable(env, name, |text| number_of(text, &ANY_NUMBER));
        // A path need not be text.
        let library = env("PPTOP_NVML_LIB").filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Self {
            file,
            theme: Setting::new(ThemeName::Auto, said.theme, variable(env, "PPTOP_THEME", word)?),
            color: Setting::new(ColorMode::Auto, said.color, variable(env, "PPTOP_COLOR", word)?),
            ascii: Setting::new(false, said.ascii, variable(env, "PPTOP_ASCII", switch_of)?),
            mouse: Setting::new(true, said.mouse, variable(env, "PPTOP_MOUSE", switch_of)?),
            interval_ms: Setting::new(
                *INTERVAL_MS.start(),
                said.interval_ms,
                variable(env, "PPTOP_INTERVAL_MS", |text| number_of(text, &INTERVAL_MS))?,
            ),
            nvml: Setting::new(true, said.nvml, variable(env, "PPTOP_NVML", switch_of)?),
            nvml_lib: Setting::new(None, said.nvml_lib.map(Some), library.map(Some)),
            keep_runs: Setting::new(
                kept.runs as u64,
                said.keep_runs,
                any_number("PPTOP_KEEP_RUNS")?,
            ),
            keep_mb: Setting::new(
                kept.bytes / BYTES_A_MB,
                said.keep_mb,
                any_number("PPTOP_KEEP_MB")?,
            ),
            keep_days: Setting::new(
                kept.age.as_secs() / SECONDS_A_DAY,
                said.keep_days,
                any_number("PPTOP_KEEP_DAYS")?,
            ),
            keys: said.keys,
            colors: said.colors,
        })
    }

    /// Whether somebody wants ASCII characters alone, or all; `None` where the terminal decides.
    pub fn ascii_said(&self) -> Option<bool> {
        (self.ascii.source != Source::Default).then_some(self.ascii.value)
    }

    /// How much is kept of the runs.
    pub fn keep(&self) -> Keep {
        Keep {
            runs: usize::try_from(self.keep_runs.value).unwrap_or(usize::MAX),
            bytes: self.keep_mb.value.saturating_mul(BYTES_A_MB),
            age: Duration::from_secs(self.keep_days.value.saturating_mul(SECONDS_A_DAY)),
        }
    }

    /// The colour of one of [`COLORED`], where it is another than the theme's.
    pub fn color_of(&self, what: &str) -> Option<AnsiColor> {
        COLORED.iter().position(|name| *name == what).and_then(|at| self.colors[at])
    }
}

const BYTES_A_MB: u64 = 1_000_000;
const SECONDS_A_DAY: u64 = 86_400;

/// A variable that is set to something.
fn variable<T>(
    env: &dyn Fn(&str) -> Option<OsString>,
    name: &'static str,
    of: impl FnOnce(&str) -> Result<T, Refused>,
) -> Result<Option<T>, ConfigError> {
    let Some(value) = env(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let text =
        value.to_str().ok_or_else(|| Refused::new("a byte that is not UTF-8", "use text in UTF-8"));
    text.and_then(of).map(Some).map_err(|refused| ConfigError::Variable { name, refused })
}

/// Where the configuration file is, or would be. As for the state, a relative path in a variable is
/// ignored.
///
/// # Errors
/// [`ConfigError::NoDirectory`] if no variable names a directory.
pub fn config_path(env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, ConfigError> {
    let absolute = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|dir| dir.join("pptop/config.toml"))
        .ok_or(ConfigError::NoDirectory)
}

/// Checks a file, and returns whether it exists. `actions` are the names to which keys can be
/// bound.
///
/// # Errors
/// It is refused.
pub fn check_file(path: &Path, actions: &[&str]) -> Result<bool, ConfigError> {
    Ok(file::read(path, actions)?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::action_names;

    fn parse(text: &str) -> Result<FileConfig, (Refused, usize)> {
        file::parse(text.as_bytes(), &action_names().collect::<Vec<_>>())
    }

    fn with(
        file: &str,
        variables: &'static [(&'static str, &'static str)],
    ) -> Result<Config, ConfigError> {
        let env = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        Config::over(None, parse(file).unwrap(), &env)
    }

    #[test]
    fn a_flag_is_over_the_environment_over_the_file_over_the_default() {
        let file = "theme = \"dark\"\n[keep]\nruns = 7\nmb = 3";
        let config = with(file, &[("PPTOP_THEME", "light"), ("PPTOP_KEEP_RUNS", "")]).unwrap();
        assert_eq!(config.theme, Setting { value: ThemeName::Light, source: Source::Env });
        assert_eq!(config.keep_runs, Setting { value: 7, source: Source::File });
        assert_eq!(config.mouse, Setting { value: true, source: Source::Default });
        assert_eq!(config.keep().bytes, 3_000_000);
        let flagged = config.theme.clone().or_flag(Some(ThemeName::Mono));
        assert_eq!(flagged, Setting { value: ThemeName::Mono, source: Source::Flag });
        assert_eq!(config.theme.clone().or_flag(None), config.theme);
    }

    #[test]
    fn every_variable_is_read_and_checked() {
        let config = with(
            "",
            &[
                ("PPTOP_THEME", "mono"),
                ("PPTOP_COLOR", "always"),
                ("PPTOP_ASCII", "1"),
                ("PPTOP_MOUSE", "false"),
                ("PPTOP_INTERVAL_MS", "2000"),
                ("PPTOP_NVML", "0"),
                ("PPTOP_NVML_LIB", "/lib/n.so"),
                ("PPTOP_KEEP_RUNS", "1"),
                ("PPTOP_KEEP_MB", "2"),
                ("PPTOP_KEEP_DAYS", "3"),
            ],
        )
        .unwrap();
        assert_eq!((config.theme.value, config.color.value), (ThemeName::Mono, ColorMode::Always));
        assert_eq!(
            (config.ascii.value, config.mouse.value, config.nvml.value),
            (true, false, false)
        );
        assert_eq!(config.interval_ms.value, 2000);
        assert_eq!(config.nvml_lib.value, Some(PathBuf::from("/lib/n.so")));
        let keep = Keep { runs: 1, bytes: 2_000_000, age: Duration::from_hours(3 * 24) };
        assert_eq!(config.keep(), keep);
        for (variables, said) in [
            (
                &[("PPTOP_MOUSE", "yes")] as &'static [(&str, &str)],
                "PPTOP_MOUSE: unknown value \"yes\"; use 1, 0, true or false",
            ),
            (
                &[("PPTOP_INTERVAL_MS", "1")],
                "PPTOP_INTERVAL_MS: 1 is out of range; use a whole number from 100 to 10000",
            ),
            (
                &[("PPTOP_KEEP_DAYS", "many")],
                "PPTOP_KEEP_DAYS: \"many\" is not a whole number; use a whole number of at least 0",
            ),
        ] {
            assert_eq!(with("", variables).unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn the_template_holds_the_defaults_and_every_setting() {
        assert_eq!(parse(TEMPLATE).unwrap(), FileConfig::default());
        // A line that is a setting behind its `# `.
        let is_setting = |line: &str| {
            line.split_once(" = ")
                .is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        };
        let lines = TEMPLATE.lines().map(|line| match line.strip_prefix("# ") {
            Some(setting) if is_setting(setting) => setting,
            _ => line,
        });
        let said = parse(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        assert!(said.colors.iter().all(Option::is_some) && said.keys.len() == 1);
        let config = Config::over(None, said, &|_| None).unwrap();
        let default = with("", &[]).unwrap();
        for (source, same) in [
            (config.theme.source, config.theme.value == default.theme.value),
            (config.color.source, config.color.value == default.color.value),
            (config.ascii.source, config.ascii.value == default.ascii.value),
            (config.mouse.source, config.mouse.value == default.mouse.value),
            (config.interval_ms.source, config.interval_ms.value == default.interval_ms.value),
            (config.nvml.source, config.nvml.value == default.nvml.value),
            (config.nvml_lib.source, true),
            (config.keep_runs.source, config.keep() == default.keep()),
            (config.keep_mb.source, config.keep() == default.keep()),
            (config.keep_days.source, config.keep() == default.keep()),
        ] {
            assert_eq!((source, same), (Source::File, true));
        }
        for action in action_names() {
            assert!(TEMPLATE.contains(action), "{action}");
        }
    }

    #[test]
    fn the_file_is_below_the_first_absolute_variable() {
        let at = |pairs: &'static [(&str, &str)]| {
            config_path(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            })
            .ok()
        };
        assert_eq!(
            at(&[("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")]),
            Some("/c/pptop/config.toml".into())
        );
        assert_eq!(
            at(&[("XDG_CONFIG_HOME", "c"), ("HOME", "/h")]),
            Some("/h/.config/pptop/config.toml".into())
        );
        assert_eq!(at(&[]), None);
        assert_eq!(Config::load(|_| None, &[]).unwrap().file, None);
    }
}
