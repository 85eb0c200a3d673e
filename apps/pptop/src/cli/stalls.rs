//! The flags of the watch for ranks that stall.

use std::sync::Arc;
use std::time::Duration;

use pp_train::{Notice, STALL_AFTER, StallOptions};

use super::help::headings;
use super::training::Output;
use super::{CliError, note};

/// What is done about ranks that stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnStall {
    /// Print what each rank is doing, and go on
    Warn,
    /// Print it, and end with exit code 1
    Stop,
}

/// The flags of the watch.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct StallArgs {
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = headings::CHECKPOINTS, help = format!("If no rank has moved for this long, print what each rank is doing; 0 turns this off [default: {}]", STALL_AFTER.as_secs()))]
    stall_after: Option<Duration>,
    /// What to do when the ranks stall [default: warn]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = headings::CHECKPOINTS)]
    on_stall: Option<OnStall>,
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    const MOST: f64 = 1e9;
    let number = text.parse::<f64>().ok().filter(|number| (0.0..=MOST).contains(number));
    let number = number.ok_or_else(|| "use a number of seconds from 0 to 1e9".to_owned())?;
    Ok(Duration::from_secs_f64(number))
}

impl StallArgs {
    /// Refuses flags that contradict each other.
    ///
    /// # Errors
    /// [`CliError::Usage`] with what to do instead.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        if self.on_stall == Some(OnStall::Stop) && self.stall_after == Some(Duration::ZERO) {
            let message = "--on-stall stop waits for a stall, which --stall-after 0 never finds; leave one of them out";
            return Err(CliError::Usage(message.to_owned()));
        }
        Ok(())
    }

    /// The options of the run.
    pub(crate) fn options(&self, output: Output) -> StallOptions {
        let after = self.stall_after.unwrap_or(STALL_AFTER);
        let told = move |notice: &Notice<'_>| match notice {
            Notice::Warning(message) => note(message),
            Notice::Event(event) => output.event(event),
            _ => {}
        };
        StallOptions {
            after: Some(after).filter(|after| !after.is_zero()),
            stops: self.on_stall == Some(OnStall::Stop),
            told: Some(Arc::new(told)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_a_number_of_seconds_and_zero_is_none() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["", "-1", "nan", "inf", "2e9", "1s"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        let of = |after: Option<u64>, on_stall| StallArgs {
            stall_after: after.map(Duration::from_secs),
            on_stall,
        };
        let options = |args: StallArgs| args.options(Output::Plain);
        assert_eq!(options(of(None, None)).after, Some(STALL_AFTER));
        assert_eq!(options(of(Some(0), None)).after, None);
        assert!(options(of(Some(5), Some(OnStall::Stop))).stops);
        assert!(of(Some(0), Some(OnStall::Stop)).check().is_err());
        assert!(of(Some(0), Some(OnStall::Warn)).check().is_ok());
    }
}
