//! The flags that every command with a screen has, over the environment, over the configuration
//! file, over the default.

use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use pptop::ability::Ability;
use pptop::config::{ColorMode, Config, ConfigError, INTERVAL_MS, ThemeName};

use pptop::monitor::{self, Keymap, Launch, Theme, Watch};

use super::CliError;
use super::help::headings;

impl From<ConfigError> for CliError {
    fn from(refused: ConfigError) -> Self {
        Self::Usage(refused.to_string())
    }
}

/// What holds without flags.
///
/// # Errors
/// The configuration file or a variable is refused.
pub(crate) fn config() -> Result<Config, CliError> {
    let actions: Vec<_> = pptop::monitor::action_names().collect();
    Ok(Config::load(|name| std::env::var_os(name), &actions)?)
}

/// Whether a text on standard output has to do with ASCII: as configured, else where it is a
/// terminal that has no others. A file and a pipe get UTF-8.
///
/// # Errors
/// As [`config`].
pub(crate) fn wants_ascii() -> Result<bool, CliError> {
    let on_terminal = || stdout().is_terminal() && Ability::of_environment().ascii.is_some();
    Ok(config()?.ascii_said().unwrap_or_else(on_terminal))
}

/// Milliseconds within the bounds of a screen.
fn interval(text: &str) -> Result<u64, String> {
    let (least, most) = (INTERVAL_MS.start(), INTERVAL_MS.end());
    let within = text.parse().ok().filter(|ms| INTERVAL_MS.contains(ms));
    within.ok_or_else(|| format!("use a whole number from {least} to {most}"))
}

/// Flags of a screen.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct ScreenFlags {
    /// Theme of the screen [default: as configured, else auto]
    #[arg(long, value_name = "THEME", help_heading = headings::SCREEN)]
    theme: Option<ThemeName>,
    /// When to use colours [default: as configured, else auto]
    #[arg(long, value_name = "WHEN", help_heading = headings::SCREEN)]
    color: Option<ColorMode>,
    /// Draw with ASCII characters only [default: as configured, else if the locale (LC_ALL,
    /// LC_CTYPE, LANG) or TERM supports nothing else]
    #[expect(clippy::doc_markdown, reason = "it is printed as the help of the flag")]
    #[arg(long, help_heading = headings::SCREEN)]
    ascii: bool,
    /// Leave the mouse to the terminal, which can then select text
    #[arg(long, help_heading = headings::SCREEN)]
    no_mouse: bool,
    /// Refresh interval in milliseconds, 100 to 10000 [default: as configured, else 100]
    #[arg(short, long, value_name = "MS", value_parser = interval, help_heading = headings::SCREEN)]
    interval: Option<u64>,
}

impl ScreenFlags {
    /// What holds with these flags.
    ///
    /// # Errors
    /// As [`config`].
    pub(crate) fn config(&self) -> Result<Config, CliError> {
        let config = config()?;
        Ok(Config {
            theme: config.theme.or_flag(self.theme),
            color: config.color.or_flag(self.color),
            ascii: config.ascii.or_flag(self.ascii.then_some(true)),
            mouse: config.mouse.or_flag(self.no_mouse.then_some(false)),
            interval_ms: config.interval_ms.or_flag(self.interval),
            ..config
        })
    }
}

/// Colours, keys and the pace of a screen.
pub(crate) struct Look {
    pub(crate) theme: Theme,
    pub(crate) keymap: Keymap,
    pub(crate) mouse: bool,
    pub(crate) interval: Duration,
}

impl Look {
    /// What a configuration says.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            theme: Theme::from_config(config),
            keymap: Keymap::new(&config.keys),
            mouse: config.mouse.value,
            interval: Duration::from_millis(config.interval_ms.value),
        }
    }

    /// Watches runs in the terminal, and ends with their exit code.
    ///
    /// # Errors
    /// The terminal cannot be used, or the exit code is not 0.
    pub(crate) fn watch(self, runs: Vec<Watch>, read_only: bool) -> Result<(), CliError> {
        self.show(runs, read_only, monitor::run)
    }

    /// Lays the losses of two runs over each other.
    ///
    /// # Errors
    /// As [`Look::watch`].
    pub(crate) fn compare(self, runs: Vec<Watch>) -> Result<(), CliError> {
        self.show(runs, false, monitor::compare)
    }

    fn show(
        self,
        runs: Vec<Watch>,
        read_only: bool,
        how: fn(Launch) -> anyhow::Result<i32>,
    ) -> Result<(), CliError> {
        let launch = Launch {
            runs,
            theme: self.theme,
            keymap: self.keymap,
            mouse: self.mouse,
            interval: self.interval,
            read_only,
        };
        let code = how(launch)
            .map_err(|error| CliError::Failed(format!("the screen failed: {error:#}")))?;
        // An exit code is a byte.
        if code == 0 { Ok(()) } else { Err(CliError::Code(code as u8)) }
    }
}
