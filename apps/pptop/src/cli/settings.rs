//! The flags that every command with a screen has, over the environment, over the configuration file, over the default.

use std::path::PathBuf;

use pptop::config::{ColorMode, Config, ConfigError, ThemeName};

use super::CliError;

impl From<ConfigError> for CliError {
    fn from(refused: ConfigError) -> Self {
        Self::Usage(refused.to_string())
    }
}

/// What holds without flags.
///
/// # Errors
/// The configuration file or a variable is not accepted.
pub(crate) fn config() -> Result<Config, CliError> {
    Ok(Config::load(|name| std::env::var_os(name))?)
}

/// Flags of a screen.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct ScreenFlags {
    /// How the screen is coloured
    #[arg(long, value_name = "THEME")]
    theme: Option<ThemeName>,
    /// Whether colours are used
    #[arg(long, value_name = "WHEN")]
    color: Option<ColorMode>,
    /// ASCII characters alone
    #[arg(long)]
    ascii: bool,
    /// Leaves the mouse to the terminal, which selects text with it
    #[arg(long)]
    no_mouse: bool,
    /// Milliseconds between two looks at the run, 100 to 10000
    #[arg(short, long, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=10_000))]
    interval: Option<u64>,
    /// NVIDIA's library, where the system does not know it
    #[arg(long, value_name = "FILE")]
    nvml_lib: Option<PathBuf>,
    /// Does not ask NVIDIA's library
    #[arg(long)]
    no_nvml: bool,
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
            nvml_lib: config.nvml_lib.or_flag(self.nvml_lib.clone().map(Some)),
            nvml: config.nvml.or_flag(self.no_nvml.then_some(false)),
            ..config
        })
    }
}
